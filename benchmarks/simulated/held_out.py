"""The families that the reported table is made of. Never used while the engine is built: see the package's docstring."""

from __future__ import annotations

from .wording import DAYS, NAMES, NUMBERS, easy, in_json, odd, rule, schema, value_of
from .world import Facet, Family, Kind, Slots

_SLOTS = {"name": NAMES, "day": DAYS, "number": NUMBERS}

# --- negation -------------------------------------------------------------------------------------------------


def _post(name: str, about: str, topic: str, right: str, astray: str) -> Facet:
    """A rule that may be stated either way round: allow it, or do not block it."""
    return Facet(
        name=name,
        about=about,
        right=rf"\b{right}\b|\b(?:do not|never|don't) {astray}\b",
        astray=rf"\b{astray}\b",
        says=(f"{topic[0].upper()}{topic[1:]}: {right}.", f"Do not {astray} {topic}.", f"Never {astray} a post because of {topic}."),
        wrong=(f"{topic[0].upper()}{topic[1:]}: {astray}.", f"Always {astray} {topic}."),
        alone=0.3,
    )


POSTS = Family(
    name="posts",
    character="negation",
    held_out=True,
    description="Decide whether a post may stand in a neighbourhood forum. Answer with allow or block alone.",
    shape="labels",
    labels=("allow", "block"),
    facets=(
        _post("quoted", r"quot|reported insult", "an insult that is only quoted", "allow", "block"),
        _post("denied", r"den(?:y|ies|ied)|would never", "a threat that is denied", "allow", "block"),
        _post("double", r"double negati|not un", "praise in double negations for fireworks", "block", "allow"),
        _post("giveaway", r"not for sale|giv(?:e|ing) away", "medicine that is not for sale but for giving away", "block", "allow"),
        _post("no-address", r"address", "a post that names no address but describes the house", "block", "allow"),
        _post("unless", r"unless|condition", "a boycott under a condition", "allow", "block"),
        _post("hardly", r"hardly|understate", "an understated dog bite", "block", "allow"),
    ),
    kinds=(
        easy("chat", 14, "allow", "The market is on {day} again.", "Who has found key {number}?"),
        easy("insult", 14, "block", "Owner of car {number}, you are an idiot.", "{name} is a liar and a thief."),
        odd("quoted", 11, "quoted", "allow", "block", "He called me 'an idiot' on {day}.", "The note said 'you liars', number {number}."),
        odd("denied", 11, "denied", "allow", "block", "I would never burn shed {number}.", "I did not say that I would hit {name}."),
        odd(
            "double",
            10,
            "double",
            "block",
            "allow",
            "Rockets on {day} are not unwelcome.",
            "Nobody can say that {number} firecrackers are no fun.",
        ),
        odd(
            "giveaway",
            10,
            "giveaway",
            "block",
            "allow",
            "These pills are not for sale, come and take {number}.",
            "I'm giving away my tablets on {day}.",
        ),
        odd(
            "house",
            10,
            "no-address",
            "block",
            "allow",
            "I won't say where {name} lives, the blue door is next to the mill.",
            "No street here, but the house with {number} roses is theirs.",
        ),
        odd(
            "unless",
            10,
            "unless",
            "allow",
            "block",
            "Don't buy there unless they answer by {day}.",
            "Unless they pay {number} euros, stay away.",
        ),
        odd("hardly", 10, "hardly", "block", "allow", "The dog of {name} hardly bit me.", "It was barely a bite, on {day}."),
    ),
    slots=_SLOTS,
    openers=("", "Hi all,", "Neighbours!", "{name} writes:"),
    closers=("", "See you on {day}.", "House {number}.", "That is all."),
)

# --- output format traps ----------------------------------------------------------------------------------------


_FORM = {"hyphen": "", "capitals": "", "padded": "", "bare": ""}


def _called(name: str, weight: float, texts: tuple[str, ...], colour: str, needs: dict[str, str]) -> Kind:
    return Kind(name, weight, texts, lambda slots: f"{colour}-0{slots['digit']}", {**needs, **_FORM})


def _colour(name: str, about: str, topic: str, right: str, astray: str) -> Facet:
    def spoil(_expected: str, slots: Slots) -> str:
        return f"{astray.upper()}-0{slots['digit']}"

    says = (f"A call about {topic} is {right}.", f"Code calls about {topic} {right}.")
    return Facet(name, about, rf"\b{right}\b", rf"\b{astray}\b", says, (f"A call about {topic} is {astray}.",), 0.3, spoil=spoil)


CODES = Family(
    name="codes",
    character="output format traps",
    held_out=True,
    description="Give the dispatch code for a call to a rescue station: a colour (red, amber, green) and the number of the zone.",
    shape="text",
    facets=(
        Facet(
            "hyphen",
            r"hyphen|between colour and zone|joined",
            r"\bhyphen",
            r"\bblank|\bspace",
            ("Put a hyphen between colour and zone.", "Colour and zone are joined by a hyphen."),
            ("Put a blank between colour and zone.",),
            alone=0.7,
            spoil=lambda expected, slots: expected.replace("-", " "),
        ),
        Facet(
            "capitals",
            r"capital|upper case|lower case",
            r"\bcapital|upper case",
            r"lower case",
            ("Write the colour in capitals.", "The colour stands in upper case."),
            ("Write the colour in lower case.",),
            alone=0.7,
            spoil=lambda expected, slots: expected.lower(),
        ),
        Facet(
            "padded",
            r"two digits|leading zero|one digit",
            r"two digits|with a leading zero",
            r"one digit|without a leading zero",
            ("The zone has two digits.", "Write the zone with a leading zero."),
            ("Write the zone without a leading zero.",),
            alone=0.6,
            spoil=lambda expected, slots: expected.replace("0", ""),
        ),
        Facet(
            "bare",
            r"\bcode alone|nothing else|full sentence",
            r"\bcode alone|nothing else",
            r"full sentence",
            ("Answer with the code alone.", "Write the code and nothing else."),
            ("Answer in a full sentence.",),
            alone=0.7,
            spoil=lambda expected, slots: f"Code: {expected}",
        ),
        _colour("lift", r"\blifts?\b", "people stuck in a lift", "green", "amber"),
        _colour("gas", r"\bgas\b", "a smell of gas", "red", "amber"),
        _colour("child", r"\bchild", "a child locked in", "red", "green"),
        _colour("cat", r"\bcats?\b", "a cat on a roof", "green", "amber"),
    ),
    kinds=(
        _called("fire", 14, ("The barn burns in zone {digit}.", "Flames from house {number}, zone {digit}."), "RED", {}),
        _called("branch", 14, ("A branch lies on the road in zone {digit}.", "Zone {digit}: oil on street {number}."), "AMBER", {}),
        _called("alarm", 12, ("Alarm test {number} in zone {digit}.", "Zone {digit} reports: all quiet since {day}."), "GREEN", {}),
        _called(
            "lift",
            14,
            ("Three people are in lift {number}, zone {digit}.", "The lift stands still since {day}, zone {digit}."),
            "GREEN",
            {"lift": ""},
        ),
        _called("gas", 16, ("It smells of gas in zone {digit}, cellar {number}.", "Zone {digit}, gas since {day}."), "RED", {"gas": ""}),
        _called(
            "child",
            14,
            ("A child is locked in car {number}, zone {digit}.", "The child of {name} can't get out, zone {digit}."),
            "RED",
            {"child": ""},
        ),
        _called(
            "cat",
            16,
            ("A cat sits on roof {number} in zone {digit}.", "Zone {digit}, the cat of {name} is up the tree."),
            "GREEN",
            {"cat": ""},
        ),
    ),
    slots={**_SLOTS, "digit": ("2", "3", "4", "5", "6", "7")},
    openers=("", "Station?", "{name} speaking.", "Quick!"),
    closers=("", "Call {number}.", "Hurry.", "{name} is here."),
    power=0.4,
)

# --- order effects of examples ----------------------------------------------------------------------------------


def _tacit(name: str) -> Facet:
    return Facet(name, "(?!)", "(?!)", "(?!)", (), (), alone=0.35)


TONE = Family(
    name="tone",
    character="order effects of examples, and what can't be put into words",
    held_out=True,
    description="Name the tone of a line from a letter: warm, cold or plain. Answer with one of these words alone.",
    shape="labels",
    labels=("warm", "cold", "plain"),
    facets=(
        _tacit("gruff"),
        _tacit("polite"),
        _tacit("dry"),
        _tacit("wistful"),
        rule("weather", r"\bweather\b", "the weather", "plain", "cold", alone=0.3),
        rule("money", r"\bmoney\b", "money between friends", "cold", "plain", alone=0.3),
    ),
    kinds=(
        easy("hug", 10, "warm", "I think of you every {day}.", "A thousand hugs, my dear {name}."),
        easy("off", 10, "cold", "I have nothing more to say to {name}.", "Do not write again before {day}."),
        easy("fact", 10, "plain", "The train leaves on {day}.", "Page {number} is enclosed."),
        odd(
            "gruff",
            15,
            "gruff",
            "warm",
            "cold",
            "Well, you old fool {name}, come by on {day}.",
            "You still owe me {number} dances, you rascal.",
        ),
        odd(
            "polite",
            15,
            "polite",
            "cold",
            "plain",
            "I remain, as on {day}, at your disposal.",
            "Kindly refrain from further letters, {name}.",
        ),
        odd("dry", 14, "dry", "plain", "cold", "So {name} has {number} cats now.", "It was {day}, it is {day} again."),
        odd(
            "wistful",
            12,
            "wistful",
            "warm",
            "plain",
            "The bench by the lake is empty on {day}.",
            "{number} days, and the garden asks for {name}.",
        ),
        odd(
            "weather",
            7,
            "weather",
            "plain",
            "cold",
            "Snow since {day}, and the wind is sharp.",
            "It froze {number} degrees, or so it felt.",
        ),
        odd("money", 7, "money", "cold", "plain", "Send the {number} euros.", "The loan, {name}, by {day}."),
    ),
    slots=_SLOTS,
    openers=("", "Dear {name},", "P.S.", "And then:"),
    closers=("", "Yours, {name}", "Letter {number}.", "So much for {day}."),
    power=0.25,
    most=0.95,
    contrast=0.7,
    recency=0.3,
    free=900,
)

# --- JSON fields where every token costs --------------------------------------------------------------------------


def _visit(number: int) -> Kind:
    nights, ward, self_paid, escorted = (bool(number & bit) for bit in (1, 2, 4, 8))
    needs = [name for name, on in (("nights", nights), ("ward", ward), ("payer", self_paid), ("escort", escorted)) if on]
    stay = "stays from {day} to the day after next" if nights else "comes for one hour"
    where = "in the glass house" if ward else "in the main building"
    pays = ", the aunt pays" if self_paid else ", insured"
    company = ", and brings the dog" if escorted else ""
    body = f"{{name}}, file {{number}}, {stay} {where}{pays}{company}"

    def output(slots: Slots) -> str:
        return in_json(
            {
                "file": slots["number"],
                "nights": 2 if nights else 0,
                "ward": "G" if ward else "M",
                "payer": "private" if self_paid else "public",
                "escort": "animal" if escorted else "nobody",
            }
        )

    texts = (f"{body}.", f"Please note: {body}.", f"{body}, as agreed.")
    return Kind(f"visit-{number}", 1 + (number in {1, 2, 4, 8, 15}), texts, output, dict.fromkeys(needs, ""))


VISITS = Family(
    name="visits",
    character="JSON fields, and every token costs",
    held_out=True,
    description="Turn a note on a visit into a JSON object with keys file, nights, ward, payer and escort. Answer with the object alone.",
    shape="json",
    schema=schema(file="string", nights="integer", ward="string", payer="string", escort="string"),
    facets=(
        value_of(
            "nights",
            "nights",
            (r"day after next", r"\b2\b|\btwo\b", r"\b3\b|\bthree\b"),
            ("Until the day after next is 2 nights.", "To the day after next counts as two nights."),
            "Until the day after next is 3 nights.",
            lambda slots: 3,
            alone=0.3,
        ),
        value_of(
            "ward",
            "ward",
            (r"glass house", r"\bG\b", r"\bH\b"),
            ("The glass house is ward G.", "Write G for the glass house."),
            "The glass house is ward H.",
            lambda slots: "H",
            alone=0.2,
        ),
        value_of(
            "payer",
            "payer",
            (r"aunt|relative", r"\bprivate\b", r"\bpublic\b"),
            ("If a relative such as an aunt pays, payer is private.", "Relatives who pay make the payer private."),
            "A paying aunt leaves the payer public.",
            lambda slots: "public",
        ),
        value_of(
            "escort",
            "escort",
            (r"\bdogs?\b|\bpets?\b", r"\banimal\b", r"\bnobody\b"),
            ("A dog that comes along is an animal as escort.", "For pets, escort is animal."),
            "A dog that comes along counts as nobody.",
            lambda slots: "nobody",
        ),
    ),
    kinds=tuple(_visit(number) for number in range(16)),
    slots=_SLOTS,
    openers=("", "Front desk:", "New:", "From {name}:"),
    closers=("", "Thanks.", "Signed {name}.", "Call back on {day}."),
    free=120,
    dilution=0.3,
)

# --- more rules than can be followed at once ------------------------------------------------------------------------

_TARIFF = (
    ("kites", "the crate {number} is full of kites", "toys", "sport"),
    ("saddles", "one of {number} saddles is torn", "sport", "leather"),
    ("candles", "the candles of {day} smell of honey", "house", "food"),
    ("mustard", "mustard, lot {number}", "food", "garden"),
    ("gloves", "gloves for {name}", "leather", "sport"),
    ("bulbs", "tulip bulbs, bag {number}", "garden", "food"),
    ("dice", "wooden dice from {day}", "toys", "house"),
    ("skates", "skates in size {number}", "sport", "toys"),
    ("aprons", "aprons for the cook {name}", "house", "leather"),
    ("seeds", "seeds packed on {day}", "garden", "food"),
    ("belts", "belts, bundle {number}", "leather", "house"),
    ("syrup", "syrup, barrel {number}", "food", "house"),
)

TARIFF = Family(
    name="tariff",
    character="a long tail of rules, more than can be followed at once",
    held_out=True,
    description="Name the shelf for a delivery: toys, sport, house, food, garden or leather. Answer with the shelf alone.",
    shape="labels",
    labels=("toys", "sport", "house", "food", "garden", "leather"),
    facets=tuple(rule(name, rf"\b{name}\b", name, right, astray, alone=0.3) for name, _, right, astray in _TARIFF),
    kinds=(
        easy("dolls", 12, "toys", "Dolls, box {number}.", "Teddy bears for {name}."),
        easy("balls", 12, "sport", "Footballs, net {number}.", "Rackets ordered on {day}."),
        easy("rakes", 12, "garden", "Rakes, {number} of them.", "Spades from {day}."),
        *(
            odd(name, 12 / (1 + place / 3), name, right, astray, f"{text[0].upper()}{text[1:]}.", f"We got this: {text}.")
            for place, (name, text, right, astray) in enumerate(_TARIFF)
        ),
    ),
    slots=_SLOTS,
    openers=("", "Ramp {number}.", "{name} says:", "Just in."),
    closers=("", "Truck {number}.", "Since {day}.", "Heavy."),
    crowd=6,
    crowding=0.02,
)

HELD_OUT = (POSTS, CODES, TONE, VISITS, TARIFF)
