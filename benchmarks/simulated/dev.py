"""The families that the engine may be built with. See the package's docstring for those that it may not."""

from __future__ import annotations

from .wording import DAYS, NAMES, NUMBERS, easy, in_json, odd, rule, schema, value_of
from .world import Facet, Family, Kind, Slots

# --- label boundaries -----------------------------------------------------------------------------------------

_OPENERS = ("", "Hello,", "Hi team,", "Good morning.", "To whom it may concern:", "{name} here.")
_CLOSERS = ("", "Order {number}.", "Please help.", "My reference is {number}.", "Regards, {name}", "I wrote on {day} already.")
_SLOTS = {"name": NAMES, "day": DAYS, "number": NUMBERS}

SUPPORT = Family(
    name="support",
    character="label boundaries",
    held_out=False,
    description="Sort a message to an online shop into a queue: billing, account, shipping or product. Answer with the queue alone.",
    shape="labels",
    labels=("billing", "account", "shipping", "product"),
    facets=(
        rule("locked", r"\block(?:ed|s)?\b|suspended", "access that is locked for an unpaid invoice", "billing", "account"),
        rule("gift", r"gift cards?|vouchers?", "a gift card that is refused", "account", "billing"),
        rule("damaged", r"damaged|broken on arrival", "goods damaged when they arrive", "product", "shipping"),
        rule("customs", r"customs|import dut", "customs fees", "shipping", "billing"),
        rule("address", r"\baddress", "a change of the delivery address", "account", "shipping"),
        rule("missing", r"missing (?:part|piece)|(?:part|piece)s? (?:is|are) missing", "a missing part in the box", "shipping", "product"),
        rule("cancel", r"cancel|subscription", "cancelling a subscription", "billing", "account"),
    ),
    kinds=(
        easy("bill", 8, "billing", "Why was I charged {number} cents on {day}?", "The invoice from {day} has the wrong sum."),
        easy("login", 8, "account", "I forgot my password.", "I can't sign in since {day}."),
        easy("late", 8, "shipping", "My parcel has not come since {day}.", "When will order {number} be delivered?"),
        easy("how", 8, "product", "Does model {number} work with batteries?", "How do I clean lamp {number}?"),
        odd(
            "locked",
            12,
            "locked",
            "billing",
            "account",
            "You locked me out because invoice {number} is open.",
            "I am suspended over an unpaid bill of {day}.",
        ),
        odd(
            "gift",
            12,
            "gift",
            "account",
            "billing",
            "Gift card {number} is not accepted at checkout.",
            "The voucher I got on {day} is refused.",
        ),
        odd(
            "damaged",
            12,
            "damaged",
            "product",
            "shipping",
            "Lamp {number} was damaged when the courier came.",
            "Broken on arrival: vase {number}.",
        ),
        odd("customs", 8, "customs", "shipping", "billing", "I had to pay customs on {day}.", "Who pays the import duty for {number}?"),
        odd("address", 10, "address", "account", "shipping", "Please send {number} to my new address.", "My address changes on {day}."),
        odd(
            "missing",
            8,
            "missing",
            "shipping",
            "product",
            "A missing piece: the screw of shelf {number}.",
            "In box {number} two parts are missing.",
        ),
        odd(
            "cancel",
            10,
            "cancel",
            "billing",
            "account",
            "I want to cancel my subscription {number}.",
            "Cancel the monthly box from {day} on.",
        ),
    ),
    slots=_SLOTS,
    openers=_OPENERS,
    closers=_CLOSERS,
)

# --- JSON fields ----------------------------------------------------------------------------------------------

_ITEMS = ("lamp", "chair", "kettle", "blanket", "mirror", "basket", "teapot", "shelf")
_MONTHS = {"March": "03", "April": "04", "May": "05", "June": "06", "July": "07"}
_WORDS = {"a dozen": 12, "half a dozen": 6, "a couple of": 2, "a score of": 20}


def _order(slots: Slots, *, amount: bool, dated: bool, urgent: bool, gift: bool) -> str:
    return in_json(
        {
            "item": slots["item"],
            "quantity": _WORDS[slots["words"]] if amount else 1,
            "due": f"{slots['month_number']}-{slots['date']}" if dated else "none",
            "priority": "high" if urgent else "normal",
            "wrap": "yes" if gift else "no",
        }
    )


def _order_kind(number: int) -> Kind:
    amount, dated, urgent, gift = (bool(number & bit) for bit in (1, 2, 4, 8))
    needs = [
        name for name, on in (("dozen", amount), ("dates", dated), ("nodate", not dated), ("urgent", urgent), ("wrapping", gift)) if on
    ]
    many = "{words} {item}s" if amount else "one {item}"
    by = ", due on {date} {month}" if dated else ""
    hurry = ", my shop opens tomorrow" if urgent else ""
    present = ", it is a birthday present" if gift else ""
    bodies = (
        f"I'd like {many}{by}{hurry}{present}",
        f"Please put down {many} for {{name}}{by}{hurry}{present}",
        f"We need {many}{by}{hurry}{present}",
    )
    return Kind(
        f"order-{number}",
        weight=1 + (number in {0, 1, 2, 4}),
        texts=tuple(f"{body}." for body in bodies),
        output=lambda slots: _order(_dated(slots), amount=amount, dated=dated, urgent=urgent, gift=gift),
        needs=dict.fromkeys(needs, ""),
    )


def _dated(slots: Slots) -> Slots:
    return {**slots, "month_number": _MONTHS[slots["month"]]}


ORDERS = Family(
    name="orders",
    character="JSON fields",
    held_out=False,
    description="Turn an order into a JSON object with the keys item, quantity, due, priority and wrap. Answer with the object alone.",
    shape="json",
    schema=schema(item="string", quantity=("integer", "string"), due="string", priority="string", wrap="string"),
    facets=(
        value_of(
            "dozen",
            "quantity",
            (r"dozen|couple|score|amounts? in words", r"\bnumbers?\b|\bdigits?\b|\binteger", r"as (?:it is )?written|\bquote"),
            ("Write amounts in words, such as a dozen, as a number in digits.", "A dozen or a couple becomes an integer in quantity."),
            "Copy amounts in words, such as a dozen, as written.",
            lambda slots: slots["words"],
            alone=0.3,
        ),
        value_of(
            "dates",
            "due",
            (r"\bdates?\b|\bdue days?\b", r"MM-DD|month first", r"as written|day first"),
            ("Write dates as MM-DD.", "A due day is written month first with two digits each, MM-DD."),
            "Copy dates as written, day first.",
            lambda slots: f"{slots['date']} {slots['month']}",
        ),
        value_of(
            "nodate",
            "due",
            (r"no (?:due )?day|without a (?:due )?day|nothing is said about when", r"\bnone\b", r"\bempty\b|\bnull\b"),
            ("If no due day is given, due is none.", "Orders without a due day have none in due."),
            "If no due day is given, leave due empty.",
            lambda slots: "",
            alone=0.4,
        ),
        value_of(
            "urgent",
            "priority",
            (r"opens? tomorrow|opening", r"\bhigh\b", r"\bnormal\b"),
            ("Where something opens tomorrow, priority is high.", "An opening makes the priority high."),
            "An opening keeps the priority normal.",
            lambda slots: "normal",
        ),
        value_of(
            "wrapping",
            "wrap",
            (r"\bpresents?\b|birthday", r"\byes\b", r"\bno\b"),
            ("For a present, wrap is yes.", "A birthday means yes in wrap."),
            "For a present, wrap stays no unless wrapping is ordered.",
            lambda slots: "no",
        ),
    ),
    kinds=tuple(_order_kind(number) for number in range(16)),
    slots={
        "item": _ITEMS,
        "words": tuple(_WORDS),
        "month": tuple(_MONTHS),
        "date": ("11", "14", "17", "22", "28"),
        "name": NAMES,
        "number": NUMBERS,
    },
    openers=("", "Hello!", "Hi, {name} here.", "Dear shop,"),
    closers=("", "Thanks, {name}", "Customer {number}.", "Bye!"),
)

# --- a long tail of rare rules --------------------------------------------------------------------------------

_CLAIMS = (
    ("hail", "hail", "the hail tore a hole in my roof", "pay", "deny"),
    ("flood", "floods?", "the flood of {day} ruined my cellar", "deny", "pay"),
    ("bicycle", "bicycles?", "my bicycle {number} was stolen from the yard", "review", "pay"),
    ("aquarium", "aquariums?", "the aquarium burst over the carpet", "pay", "deny"),
    ("lightning", "lightning", "lightning killed the router {number}", "pay", "review"),
    ("rental car", "rental cars?", "somebody scratched my rental car", "deny", "review"),
    ("jewels", "jewel(?:s|lery)?", "the jewellery in drawer {number} is gone", "review", "pay"),
    ("marten", "martens?", "a marten bit through the cables", "pay", "deny"),
    ("rust", "rust", "rust ate the gate {number}", "deny", "pay"),
    ("glasses", "glasses", "the dog sat on my glasses", "deny", "pay"),
    ("drone", "drones?", "my drone {number} fell into a window", "review", "deny"),
    ("frost", "frost", "the frost of {day} broke a pipe", "pay", "deny"),
    ("moss", "moss", "moss lifted the tiles on {number} stones", "deny", "review"),
    ("piano", "pianos?", "the movers dropped my piano on {day}", "review", "pay"),
)

CLAIMS = Family(
    name="claims",
    character="a long tail of rare rules",
    held_out=False,
    description="Decide on a report of damage to an insurer: pay, deny or review. Answer with one of these words alone.",
    shape="labels",
    labels=("pay", "deny", "review"),
    facets=tuple(rule(name, rf"\b(?:{about})\b", name, right, astray, alone=0.2) for name, about, _, right, astray in _CLAIMS),
    kinds=(
        easy("theft", 22, "pay", "My bag was stolen on {day}.", "Thieves took my phone {number}."),
        easy("wear", 22, "deny", "The sofa {number} is worn out.", "My shoes are old and torn since {day}."),
        easy("unclear", 16, "review", "Something happened on {day} and I need {number} euros.", "I have a damage, number {number}."),
        *(
            odd(name, 10 / (1 + place / 3), name, right, astray, f"{text[0].upper()}{text[1:]}.", f"On {{day}}, we saw that {text}.")
            for place, (name, _, text, right, astray) in enumerate(_CLAIMS)
        ),
    ),
    slots=_SLOTS,
    openers=("", "Dear sirs,", "Hello.", "{name} writing."),
    closers=("", "Contract {number}.", "Regards, {name}", "Please answer soon."),
    crowd=14,
)

# --- every prompt is worth the same ---------------------------------------------------------------------------

FLAT = Family(
    name="flat",
    character="every prompt is truly worth 0.70",
    held_out=False,
    description="Say whether a note from a warehouse is urgent or calm. Answer with one of these words alone.",
    shape="labels",
    labels=("urgent", "calm"),
    facets=(),
    kinds=(
        easy("urgent", 1, "urgent", "Gate {number} is open and nobody is there.", "Truck {number} has waited since {day}."),
        easy("calm", 1, "calm", "Shelf {number} was dusted on {day}.", "Pallet {number} is in its place."),
    ),
    slots=_SLOTS,
    openers=("", "{name}:", "Note.", "From {name} on {day}:"),
    closers=("", "Shift {number}.", "Signed {name}."),
    ceiling=0.7,
    dilution=0.0,
    churn=1.0,
)

# --- one of eight ways to work is better ----------------------------------------------------------------------

_WAYS = (
    ("backwards", "last sentence", "Start from the last sentence of the note."),
    ("numbers", "numbers first", "Look at the numbers first."),
    ("verbs", r"\bverbs\b", "Judge by the verbs alone."),
    ("reader", "reader", "Picture the reader of the note and what they would do."),
    ("twice", "twice", "Go through the note twice and answer the second time."),
    ("opposite", "opposite", "Ask what the opposite note would say and compare."),
    ("people", "who is meant", "First settle who is meant."),
    ("place", r"where it happens", "First settle where it happens."),
)
BEST_WAY = "opposite"

ONE_OF_EIGHT = Family(
    name="one-of-eight",
    character="one of eight ways to work is truly 15 points better",
    held_out=False,
    description="Say whether a note from a ward is for the doctor or for the nurse. Answer with doctor or nurse alone.",
    shape="labels",
    labels=("doctor", "nurse"),
    facets=tuple(Facet(name, about, ".", "(?!)", (says,), (), alone=0.7, approach=True) for name, about, says in _WAYS),
    kinds=(
        odd("doctor", 1, BEST_WAY, "doctor", "nurse", "Room {number} has a new rash.", "The dose for bed {number} is unclear."),
        odd("nurse", 1, BEST_WAY, "nurse", "doctor", "Bed {number} needs fresh sheets.", "Room {number} rang on {day}."),
    ),
    slots=_SLOTS,
    openers=("", "{name}:", "Note.", "From {name} on {day}:"),
    closers=("", "Ward {number}.", "Signed {name}."),
    ceiling=1.0,
    obeys=0.85,
    power=0.0,
    dilution=0.0,
    churn=0.08,
)


def one_of_eight() -> tuple[str, ...]:
    """The eight prompts of :data:`ONE_OF_EIGHT`, one for each way to work; only one is truly better than the others."""
    return tuple(f"{ONE_OF_EIGHT.description}\n- {says}" for _, _, says in _WAYS)


DEV = (SUPPORT, ORDERS, CLAIMS, FLAT, ONE_OF_EIGHT)
