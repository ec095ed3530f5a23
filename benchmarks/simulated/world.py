"""Hidden tasks, and the production model that knows one only as far as its prompt tells it."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Slots = Mapping[str, str]
Shape = Literal["labels", "json", "text"]
T = TypeVar("T")

VISIBLE, SEALED = 150, 150
"""Cases that may be shown to an optimizer, and cases that may not, unless a world is asked for others."""
_WINDOW = 600
"""Characters behind an input in which its output and what is said of it are looked for; the next input ends them."""
_MOST_DILUTED = 0.3
"""The most that a prompt's length costs, as a probability."""
_SENTENCE = re.compile(r"\n+|(?<=[.!?;])\s+")
_SURROUNDING = " \t\r\n\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb.,;:!?*_()[]{}<>"
_PROBLEM = "I can't tell from this message."
"""What the model says when it fails for no reason that a prompt could cure, where a wrong label is no option."""


def dice(*parts: object) -> float:
    """A number in [0, 1) that only depends on ``parts``: the same in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def pick(options: Sequence[T], *parts: object) -> T:
    """One of ``options``, decided by ``parts``."""
    return options[int(dice(*parts) * len(options))]


def tokens(text: str) -> int:
    """About how many tokens ``text`` has, as promptsmith estimates it: four ASCII characters each."""
    plain = len(text.encode("ascii", "ignore"))
    return -(-plain // 4) + -(-2 * (len(text) - plain) // 3)


@dataclass(frozen=True)
class Facet:
    """One thing that a prompt may tell: a rule, a definition, a form, a way to work.

    A sentence that matches ``about`` and ``right`` tells it; one that matches ``about`` and ``astray`` only gets it
    wrong. ``says`` and ``wrong`` are such sentences, as the meta-model writes them; a facet without ``says`` is tacit,
    nobody can put it into words, and only examples show it. ``alone`` is the probability that the model does it right
    unaided. ``key_of_json`` is the key of a JSON answer that it decides; empty: the whole answer.
    ``spoil`` makes the answer that a model gives who does not know it.
    """

    name: str
    about: str
    right: str
    astray: str
    says: tuple[str, ...]
    wrong: tuple[str, ...]
    alone: float = 0.25
    key_of_json: str = ""
    approach: bool = False
    """Whether it is a way to work, of which a prompt takes one: no case points to the right one, only scores do."""
    spoil: Callable[[str, Slots], str] = lambda expected, slots: expected


@dataclass(frozen=True)
class Kind:
    """One stratum of the inputs: how they are worded, what is right, and which facets decide it.

    ``needs`` maps the name of a facet to the answer without it; an empty text leaves that to the facet's ``spoil``.
    """

    name: str
    weight: float
    texts: tuple[str, ...]
    output: Callable[[Slots], str]
    needs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A hidden task. Probabilities and penalties are those of its production model."""

    name: str
    character: str
    held_out: bool
    description: str
    """The task as its user describes it: the bare prompt that every contender starts from."""
    shape: Shape
    facets: tuple[Facet, ...]
    kinds: tuple[Kind, ...]
    slots: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    openers: tuple[str, ...] = ("",)
    closers: tuple[str, ...] = ("",)
    ceiling: float = 0.97
    """What the best prompt can reach on a case that needs nothing."""
    obeys: float = 0.97
    """The probability that a stated facet is followed."""
    power: float = 0.3
    """How much one right example teaches of each facet that it shows (the rest is left for the next one)."""
    most: float = 0.7
    """How well a facet can be known from examples alone, however many they are; 1 is as well as when it is told."""
    free: int = 400
    """Tokens of a prompt that cost nothing."""
    dilution: float = 0.03
    """What each further 1,000 tokens cost, as a probability."""
    crowd: int = 12
    """Statements that can be followed without loss."""
    crowding: float = 0.01
    """What each further statement costs each of them."""
    recency: float = 0.0
    """How strongly the output of a run of equal outputs at the end of the examples is repeated."""
    contrast: float = 0.0
    """How much more an example teaches beside one with another output."""
    churn: float = 0.15
    """The share of outcomes that are drawn anew for each prompt; the rest only depends on the case's own difficulty."""


@dataclass(frozen=True)
class Case:
    """One input with its right output."""

    text: str
    expected: str
    kind: Kind
    slots: Slots


@dataclass(frozen=True)
class Shown:
    """An example as it stands in a prompt. ``start`` and ``end`` bound it there; ``right`` says whether its output is."""

    case: Case
    start: int
    end: int
    right: bool


@dataclass(frozen=True)
class Knowledge:
    """What a production model reads out of a prompt."""

    told: Mapping[str, bool]
    """Facets by name: told (true), or told wrong (false)."""
    disputed: frozenset[str]
    """Facets that are told both ways."""
    shown: tuple[Shown, ...]
    tokens: int


class World:
    """A family with its cases, drawn by ``seed``; the same seed is the same world in every process.

    Raises :class:`ValueError` when a family's templates can't make enough different inputs.
    """

    def __init__(self, family: Family, seed: int = 0, *, visible: int = VISIBLE, sealed: int = SEALED) -> None:
        self.family, self.seed = family, seed
        self._facets = {facet.name: facet for facet in family.facets}
        self._patterns = [(one.name, _pattern(one.about), _pattern(one.right), _pattern(one.astray)) for one in family.facets]
        drawn = self.draw("cases", visible + sealed)
        self.visible, self.sealed = drawn[:visible], drawn[visible:]
        self._known = {case.text: case for case in drawn}
        self.knowledge = functools.lru_cache(maxsize=512)(self._read)
        self._chances = functools.lru_cache(maxsize=4096)(self._chances_of)

    def draw(self, stream: str, count: int) -> tuple[Case, ...]:
        """``count`` cases with different inputs, by their kinds' weights."""
        found: dict[str, Case] = {}
        for number in range(40 * count):
            case = self._case(stream, number)
            found.setdefault(case.text, case)
            if len(found) == count:
                return tuple(found.values())
        raise ValueError(f"the templates of {self.family.name} make only {len(found)} different inputs, not {count}")

    def _case(self, stream: str, number: int) -> Case:
        family, parts = self.family, (self.family.name, self.seed, stream, number)
        kind = self._kind(dice(*parts, "kind"))
        slots = {name: pick(options, *parts, name) for name, options in family.slots.items()}
        body = pick(kind.texts, *parts, "text").format_map(slots)
        opener, closer = pick(family.openers, *parts, "opener"), pick(family.closers, *parts, "closer")
        text = " ".join(part for part in (opener.format_map(slots), body, closer.format_map(slots)) if part)
        return Case(text, kind.output(slots), kind, slots)

    def _kind(self, at: float) -> Kind:
        left = at * sum(kind.weight for kind in self.family.kinds)
        for kind in self.family.kinds:
            left -= kind.weight
            if left < 0:
                return kind
        return self.family.kinds[-1]

    def find(self, text: str) -> Case | None:
        """The case whose input ``text`` is, or holds."""
        found = self._known.get(text)
        return found or max((case for case in self._known.values() if case.text in text), key=lambda case: len(case.text), default=None)

    def facet(self, name: str) -> Facet:
        """The facet called ``name``."""
        return self._facets[name]

    # --- reading a text -----------------------------------------------------------------------------------

    def examples(self, text: str) -> list[Shown]:
        """The known inputs in ``text``, in order, each with whether its right output follows before the next one."""
        found: list[Shown] = []
        places = self._places(text)
        for number, (start, case) in enumerate(places):
            after = start + len(case.text)
            follows = places[number + 1][0] if number + 1 < len(places) else len(text)
            end = min(follows, after + _WINDOW)
            found.append(Shown(case, start, end, _holds(text[after:end], case.expected)))
        return found

    def _places(self, text: str) -> list[tuple[int, Case]]:
        places = [(start, case) for case in self._known.values() for start in _starts(case.text, text)]
        kept: list[tuple[int, Case]] = []
        # One input may be a part of another: the longer one is meant.
        for start, case in sorted(places, key=lambda place: (place[0], -len(place[1].text))):
            if not kept or start >= kept[-1][0] + len(kept[-1][1].text):
                kept.append((start, case))
        return kept

    def statements(self, text: str) -> Iterator[tuple[str, bool]]:
        """What the sentences of ``text`` tell, examples left out: a facet's name, and whether it is told right."""
        for sentence in _SENTENCE.split(self._without_examples(text)):
            for name, about, right, astray in self._patterns:
                if about.search(sentence):
                    if right.search(sentence):
                        yield name, True
                    elif astray.search(sentence):
                        yield name, False

    def _without_examples(self, text: str) -> str:
        kept, at = [], 0
        for shown in self.examples(text):
            line = text.find("\n", shown.start + len(shown.case.text))
            kept.append(text[at : shown.start])
            at = max(at, min(shown.end, line if line >= 0 else shown.end))
        return "".join([*kept, text[at:]])

    def _read(self, system: str) -> Knowledge:
        right, wrong = set[str](), set[str]()
        for name, holds in self.statements(system):
            (right if holds else wrong).add(name)
        told = {name: name in right for name in sorted(right | wrong)}
        return Knowledge(told, frozenset(right & wrong), tuple(self.examples(system)), tokens(system))

    # --- what a prompt is worth ---------------------------------------------------------------------------

    def level(self, known: Knowledge, name: str) -> float:
        """How well a facet is known: 1 told, 0 unknown, -1 told wrong; between 0 and 1 what examples teach."""
        if name in known.disputed:
            return 0.4
        if name in known.told:
            return 1.0 if known.told[name] else -1.0
        missing, family = 1.0, self.family
        for number, shown in enumerate(known.shown):
            if name in shown.case.kind.needs:
                taught = family.power * (1.0 + family.contrast * self._contrasts(known, number))
                # A wrong output does not teach; it takes back what another example taught.
                missing = missing * (1.0 - min(0.95, taught)) if shown.right else min(1.0, missing + taught)
        return self.family.most * (1.0 - missing)

    @staticmethod
    def _contrasts(known: Knowledge, number: int) -> bool:
        near = [known.shown[at].case.expected for at in (number - 1, number + 1) if 0 <= at < len(known.shown)]
        return any(expected != known.shown[number].case.expected for expected in near)

    def _chances_of(self, system: str, kind_name: str) -> Mapping[str, float]:
        """The probability that each facet of a kind is got right, and (under the empty name) that nothing else goes wrong."""
        family, known = self.family, self.knowledge(system)
        kind = next(one for one in family.kinds if one.name == kind_name)
        obeys = family.obeys - family.crowding * max(0, len(known.told) - family.crowd)
        chances = {}
        for name in kind.needs:
            alone, level = self._facets[name].alone, self.level(known, name)
            chances[name] = alone * (1 + 0.8 * level) if level < 0 else alone + max(0.0, obeys - alone) * level
        diluted = min(_MOST_DILUTED, family.dilution * max(0, known.tokens - family.free) / 1000)
        chances[""] = (family.ceiling - diluted) * self._ordered(known, kind)
        return chances

    def _ordered(self, known: Knowledge, kind: Kind) -> float:
        """The factor for a run of equal outputs at the end of the examples: others are answered less often."""
        outputs = [shown.case.expected for shown in known.shown]
        if not self.family.recency or not outputs:
            return 1.0
        run = next((n for n, output in enumerate(reversed(outputs)) if output != outputs[-1]), len(outputs))
        return 1.0 if kind.output({}) == outputs[-1] else 1.0 - self.family.recency * min(1.0, (run - 1) / 2)

    def truth(self, system: str) -> float:
        """The true score of a prompt, 0 to 1: its expected score over all inputs that the family can make."""
        kinds = self.family.kinds
        return sum(kind.weight * self._worth(system, kind) for kind in kinds) / sum(kind.weight for kind in kinds)

    def _worth(self, system: str, kind: Kind) -> float:
        chances = self._chances(system, kind.name)
        whole, by_key = chances[""], dict.fromkeys(self._keys(), 1.0)
        for name in kind.needs:
            key = self._facets[name].key_of_json
            if key:
                by_key[key] *= chances[name]
            else:
                whole *= chances[name]
        return whole * (sum(by_key.values()) / len(by_key) if by_key else 1.0)

    def _keys(self) -> tuple[str, ...]:
        return tuple(self.family.schema["properties"]) if self.family.schema else ()

    def best(self) -> float:
        """The true score of a prompt that states every facet that can be told, and nothing else."""
        return self.truth(self.ideal())

    def ideal(self) -> str:
        """The description with every facet stated in its first wording."""
        return self.written([facet.says[0] for facet in self.family.facets if facet.says])

    def written(self, sentences: Sequence[str]) -> str:
        """The description with ``sentences`` under it, one a line."""
        return "\n".join([self.family.description, *(f"- {sentence}" for sentence in sentences)])

    # --- answering ----------------------------------------------------------------------------------------

    def answer(self, system: str, user: str, sample: int = 0) -> str:
        """What the production model answers; the same for the same prompt, input and sample."""
        case = self.find(user)
        return _PROBLEM if case is None else self.reply(system, case, sample)

    def reply(self, system: str, case: Case, sample: int = 0) -> str:
        """As :meth:`answer`, for a case."""
        chances = self._chances(system, case.kind.name)
        if self._fails("", chances[""], system, case, sample):
            others = [label for label in self.family.labels if label != case.expected]
            return pick(others, self.seed, case.text, "other") if others else _PROBLEM
        answer = case.expected
        for name, instead in case.kind.needs.items():
            if self._fails(name, chances[name], system, case, sample):
                facet = self._facets[name]
                answer = instead or facet.spoil(answer, case.slots)
                if not facet.key_of_json:
                    return answer
        return answer

    def without(self, name: str, case: Case) -> str:
        """What is answered when only the facet ``name`` is not known."""
        return case.kind.needs[name] or self._facets[name].spoil(case.expected, case.slots)

    def _fails(self, name: str, chance: float, system: str, case: Case, sample: int) -> bool:
        own = (self.family.name, self.seed, case.text, name)
        here = (*own, system, sample)
        fresh = dice(*here, "churn") < self.family.churn
        return (dice(*here, "outcome") if fresh else dice(*own, "difficulty")) >= chance

    # --- grading ------------------------------------------------------------------------------------------

    def grade(self, case: Case, output: str) -> tuple[float, str]:
        """The score, 0 to 1, and the feedback: what promptsmith's own default scorers say of the same answer."""
        if self.family.shape == "json":
            return _grade_json(case.expected, output)
        if output == case.expected:
            return 1.0, ""
        near = _bare(output) == _bare(case.expected)
        foreign = self.family.labels and _bare(output) not in {_bare(label) for label in self.family.labels}
        broken = f"{_quoted(output)} is none of the labels {', '.join(self.family.labels)}; " if foreign else ""
        note = "; only case or punctuation differ" if near else ""
        return 0.0, f"{broken}expected {_quoted(case.expected)}, got {_quoted(output)}{note}"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


def _starts(part: str, text: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + len(part))


def _holds(text: str, expected: str) -> bool:
    if expected.startswith("{"):
        return re.sub(r"\s|\\", "", expected) in re.sub(r"\s|\\", "", text)
    return re.search(rf"(?<![\w-]){re.escape(expected)}(?![\w-])", text) is not None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _bare(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().strip()
    return folded.strip(_SURROUNDING) or folded


def _grade_json(expected: str, output: str) -> tuple[float, str]:
    """The share of keys that are right; both are flat objects with the same keys, or the output is no JSON."""
    wanted: dict[str, Any] = json.loads(expected)
    try:
        got = json.loads(output)
    except ValueError:
        return 0.0, f"{_quoted(output)} is not JSON"
    differ = [key for key in wanted if type(got[key]) is not type(wanted[key]) or got[key] != wanted[key]]
    said = [f"{key}: expected {json.dumps(wanted[key])}, got {json.dumps(got[key])}" for key in differ]
    return 1.0 - len(differ) / len(wanted), "; ".join(said)
