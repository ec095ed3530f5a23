"""The vocabulary of a plan: every key, what may stand there, and the names that published designs have for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from ...contract import Contract
from ...errors import InputError, SourceError
from ...registry.emit import key as yaml_key
from ...task.document import MappingNode, Node, Problems, ScalarNode, SequenceNode, parse_document, typed
from ...task.fields import BAD, ByKind, Choice, Flag, Key, Number, Record, Schema, Written, kind_of
from ...task.reader import OUTPUT, Reading
from ..values import CONDUCTOR, GROWS
from .known import BOUNDS, MOST_PROBLEMS, MOST_STEPS, Rules

ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")
INPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
FAILURES = ("fail", "skip", "fallback", "replan")
_DEEPEST_VALUE = 50
_MOST_SECONDS = 86_400
_MOST_INPUTS = 100
_MOST_KEYS = 100

PLAN_NAMES = {"subtasks": "steps", "tasks": "steps"}
"""Lists of published designs. Their tasks are short: an id, who does it and what it sees may be left to the reader."""
STEP_NAMES = {"description": "instructions", "instruction": "instructions", "depends_on": "needs", "context_needed": "context"}
"""Keys of published designs, and ours."""


class Named(NamedTuple):
    """A name and where it stands."""

    text: str
    node: Node


class Id:
    """An id or a reference to one; a whole number ``n`` is the id ``step-n``. ``form`` is kept by what defines it."""

    def __init__(self, what: str, form: re.Pattern[str] | None = None) -> None:
        self.what, self.form = what, form

    def read(self, node: Node, problems: Problems) -> Any:
        text = Written(self.what).read(node, problems)
        if text is BAD:
            return BAD
        name = step_id(text)
        if self.form and not self.form.fullmatch(name):
            problems.add(node, f"{self.what} is {text[:80]!r}", "write a small letter, then at most 63 small letters, digits, '_' and '-'")
            return BAD
        return Named(name, node)

    def schema(self) -> Schema:
        return {"type": "string"}


def step_id(text: str) -> str:
    """The id that a text names."""
    return f"step-{int(text)}" if text.isascii() and text.isdigit() and len(text) < 7 else text


class Reference(Id):
    """A name that is looked up as it stands."""

    def read(self, node: Node, problems: Problems) -> Any:
        text = Written(self.what).read(node, problems)
        return BAD if text is BAD else Named(text.strip(), node)


class Ids:
    """A list of ids, or one; with ``flag`` also ``true`` (all that it needs) and ``false`` (none)."""

    def __init__(self, what: str, one: str, *, flag: bool = False) -> None:
        self.what, self.one, self.flag = what, Id(one), flag

    def read(self, node: Node, problems: Problems) -> Any:
        if isinstance(node, ScalarNode):
            if self.flag and node.plain and node.text in ("true", "false"):
                return node.text == "true"
            found = self.one.read(node, problems)
            return BAD if found is BAD else [found]
        if isinstance(node, MappingNode):
            problems.add(node, f"{self.what} is {kind_of(node)}", "write a list of names")
            return BAD
        if _too_many(self.what, node, MOST_STEPS, problems):
            return BAD
        before = len(problems)
        items = (item for item in node.items if len(problems) - before < MOST_PROBLEMS)
        return [found for item in items if (found := self.one.read(item, problems)) is not BAD]

    def schema(self) -> Schema:
        return {"type": "array", "items": self.one.schema()}


def _too_many(what: str, node: SequenceNode | MappingNode, most: int, problems: Problems) -> bool:
    """Whether a list or mapping has more than ``most`` entries, which is then told."""
    count = len(node.items if isinstance(node, SequenceNode) else node.pairs)
    if count > most:
        problems.add(node, f"there are {count:,} {what}", f"the most is {most:,}")
    return count > most


class Text(Written):
    """A text that is not blank and not too long."""

    def __init__(self, what: str, most: int) -> None:
        super().__init__(what)
        self.most = most

    def read(self, node: Node, problems: Problems) -> Any:
        text = super().read(node, problems)
        if text is not BAD and len(text) > self.most:
            problems.add(node, f"{self.what} has {len(text):,} characters", f"write at most {self.most:,}")
            return BAD
        return text


class Model(Reference):
    """The full name of a model, or one of the words in ``also``."""

    def __init__(self, what: str, also: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.also = also

    def read(self, node: Node, problems: Problems) -> Any:
        found = super().read(node, problems)
        if found is not BAD and found.text not in self.also and "/" not in found.text.strip("/"):
            problems.add(node, f"{self.what} is {found.text!r}", "write endpoint/model")
            return BAD
        return found


class Value:
    """Any JSON value that YAML can hold; the reader of arguments wants a ``mapping``."""

    def __init__(self, what: str, *, mapping: bool = False, embedded: bool = False) -> None:
        self.what, self.mapping, self.embedded = what, mapping, embedded

    def read(self, node: Node, problems: Problems) -> Any:
        if self.embedded and isinstance(node, ScalarNode):
            held = inside(node, problems)
            if held is None:
                return BAD
            node = held
        if self.mapping and not isinstance(node, MappingNode):
            problems.add(node, f"{self.what} is {kind_of(node)}", "write a mapping of names to values")
            return BAD
        value = typed(node)
        if wrong := _unfit(value, 0):
            problems.add(node, f"{self.what} holds {wrong}", "write a JSON value")
            return BAD
        return value

    def schema(self) -> Schema:
        return {"type": "string"}


def _unfit(value: Any, depth: int) -> str:
    """What in a value could not be written as YAML and JSON; empty when all could."""
    if depth > _DEEPEST_VALUE:
        return f"lists and mappings more than {_DEEPEST_VALUE} deep"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that JSON has not (.inf or .nan)"
    if isinstance(value, list):
        return next(filter(None, (_unfit(item, depth + 1) for item in value)), "")
    if isinstance(value, dict):
        try:
            for name in value:
                yaml_key(name)
        except InputError as error:
            return f"a key that can't be written: {error.message}"
        return next(filter(None, (_unfit(item, depth + 1) for item in value.values())), "")
    return ""


class Output:
    """An ``output`` as in a task file, as a contract."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def read(self, node: Node, problems: Problems) -> Any:
        held: Node | None = node
        if self.rules.embedded and isinstance(node, ScalarNode) and node.text.strip() != "text":
            held = inside(node, problems)
        value = BAD if held is None else OUTPUT.read(held, problems)
        if held is None or value is BAD or not self._allowed(value, node, problems):
            return BAD
        shape = Reading(problems, self.rules.folder).shape(value, held)
        return BAD if shape is None else Contract(shape)

    def _allowed(self, value: Any, node: Node, problems: Problems) -> bool:
        """A model opens no file and brings no pattern: one that backtracks for ever would hang whoever checks an answer."""
        if self.rules.trusted or not isinstance(value, dict):
            return True
        if isinstance(value.get("json"), str):
            problems.add(node, "output names a schema file", "write the schema itself: only a plan that a person wrote may name a file")
            return False
        if "regex" in value.get("text", {}):
            problems.add(node, "output has a regex", "say it in the instructions: only a plan that a person wrote may have a pattern")
            return False
        return True

    def schema(self) -> Schema:
        return {"type": "string"}


def inside(node: ScalarNode, problems: Problems) -> Node | None:
    """The YAML in a text, every node of it at the text's place; ``None`` after what is wrong was noted."""
    own = Problems()
    try:
        held = parse_document(node.text, "", own, BOUNDS)
        own.raise_if_any()
    except SourceError as error:
        for problem in error.problems:
            problems.add(node, f"the YAML in this text can't be read: {problem.what}", problem.right)
        return None
    return _placed(held, node.line, node.path)


def _placed(node: Node, line: int, path: str) -> Node:
    if isinstance(node, ScalarNode):
        return msgspec.structs.replace(node, line=line, path=path)
    if isinstance(node, SequenceNode):
        return SequenceNode(tuple(_placed(item, line, path) for item in node.items), line, path)
    pairs = tuple((msgspec.structs.replace(key, line=line, path=path), _placed(value, line, path)) for key, value in node.pairs)
    return MappingNode(pairs, line, path)


class Found(NamedTuple):
    """One record of a list: its node, and what could be read of it."""

    node: Node
    values: dict[str, Any]


class Records:
    """A list of records, each read as far as it can be; stops when too much is wrong."""

    def __init__(self, what: str, record: Record, most: int) -> None:
        self.what, self.record, self.most = what, record, most

    def read(self, node: Node, problems: Problems) -> Any:
        if not isinstance(node, SequenceNode):
            problems.add(node, f"{self.what} is {kind_of(node)}", "write a list")
            return BAD
        if _too_many(self.what, node, self.most, problems):
            return BAD
        before, found = len(problems), []
        for item in node.items:
            found.append(Found(item, self.record.parts(item, problems)))
            if len(problems) - before >= MOST_PROBLEMS:
                problems.add(item, f"too much is wrong: the {self.what} after this one are not looked at", "mend these first")
                return BAD
        return found

    def schema(self) -> Schema:
        return {"type": "array", "items": self.record.schema()}


class Inputs:
    """A list of names or ``{name, about, default, required}``, or a mapping of names to ``text`` or the rest of it."""

    def __init__(self, most: int) -> None:
        keys = {
            "about": Key(Text("about", most), "what the input is"),
            "default": Key(Value("default"), "used when a call leaves it out"),
            "required": Key(Flag("required"), "whether a call must give it; without this, one with no default is required"),
        }
        name = Key(Reference("an input's name"), "the input's name", required=True)
        self.rest = ByKind(
            "an input", "write text, or {about, default, required}", scalar=Choice("an input", ("text",)), mapping=Record("an input", keys)
        )
        self.whole = Record("an input", {"name": name, **keys})

    def read(self, node: Node, problems: Problems) -> Any:
        if isinstance(node, ScalarNode):
            problems.add(node, f"inputs is {kind_of(node)}", "write a list of names, or a mapping of names to {about, default, required}")
            return BAD
        if _too_many("inputs", node, _MOST_INPUTS, problems):
            return BAD
        if isinstance(node, SequenceNode):
            return [found for item in node.items if (found := self._item(item, problems)) is not None]
        return [found for key, value in node.pairs if (found := self._pair(key, value, problems)) is not None]

    def _item(self, node: Node, problems: Problems) -> tuple[Named, dict[str, Any]] | None:
        if isinstance(node, ScalarNode):
            name = Reference("an input's name").read(node, problems)
            return None if name is BAD else (name, {})
        values = self.whole.read(node, problems)
        return None if values is BAD else (values.pop("name"), values)

    def _pair(self, key: ScalarNode, node: Node, problems: Problems) -> tuple[Named, dict[str, Any]] | None:
        values = self.rest.read(node, problems)
        return None if values is BAD else (Named(key.text, key), {} if values == "text" else values)

    def schema(self) -> Schema:
        return {"type": "array", "items": self.whole.schema()}


def plan_table(rules: Rules) -> Record:
    """Every key of a plan."""
    return Record(
        "the plan",
        {
            "name": Key(Id("the plan's name", ID), "the plan's name"),
            "about": Key(Text("about", rules.text), "what the plan is for"),
            "analysis": Key(Text("analysis", rules.text), "what the problem is and how it is split"),
            "inputs": Key(Inputs(rules.text), "the named values that steps may see"),
            "experts": Key(Records("experts", expert_table(rules), rules.steps), "the roles that models play"),
            "steps": Key(Records("steps", step_table(rules), rules.steps), "what is to be done", required=True),
            "result": Key(
                Ids("result", "a result"), "ids of the steps whose results are the plan's; without it, the steps that no step needs"
            ),
            "synthesis": Key(Text("synthesis", rules.text), "how a conductor is to put the results together"),
            "limits": Key(_LIMITS, "what a run may spend"),
            **({"grows": Key(Choice("grows", GROWS), "the rule that adds steps as results come in")} if rules.trusted else {}),
        },
    )


def expert_table(rules: Rules) -> Record:
    """Every key of an expert."""
    return Record(
        "an expert",
        {
            "name": Key(Id("an expert's name", ID), "the name that steps use", required=True),
            "task": Key(Reference("task"), "a task of the project that it is, in place of a role"),
            "role": Key(Text("role", rules.text), "who it is"),
            "scope": Key(Text("scope", rules.text), "what it is responsible for, and what it is not"),
            "instructions": Key(Text("instructions", rules.text), "how it works"),
            "model": Key(Model("model", (CONDUCTOR,) if rules.trusted else ()), "the model that plays it, as endpoint/model"),
            "level": Key(Number("level", low=0, high=3), "of its compile, 0 to 3"),
        },
    )


def step_table(rules: Rules) -> Record:
    """Every key of a step."""
    return Record(
        "a step",
        {
            "id": Key(Id("an id", ID), "the step's name"),
            "type": Key(Text("type", 200), "a word for its kind"),
            "expert": Key(Reference("expert"), "the expert that does it"),
            "worker": Key(Reference("worker"), "the worker that does it, in place of an expert"),
            "instructions": Key(Text("instructions", rules.text), "what is to be done"),
            "needs": Key(Ids("needs", "a need"), "ids of the steps that must have ended before it starts"),
            "context": Key(Ids("context", "a context entry", flag=True), "the inputs, and the steps among its needs, that it sees"),
            "problem": Key(Flag("problem"), "whether it sees the original problem"),
            "output": Key(Output(rules), "what its result must be: text, [labels], {text: {max_words: 60}} or {json: schema}"),
            "arguments": Key(Value("arguments", mapping=True, embedded=rules.embedded), "a worker's constant arguments"),
            "on_failure": Key(Choice("on_failure", FAILURES), "what becomes of the plan when the step fails"),
            "fallback": Key(Model("fallback"), "the model of on_failure: fallback"),
            "max_tokens": Key(Number("max_tokens", low=1, high=10_000_000), "the most tokens of its answer"),
            "timeout": Key(Number("timeout", low=0.001, high=_MOST_SECONDS, whole=False), "seconds of one attempt"),
            "retries": Key(Number("retries", low=0, high=10), "further attempts after one that failed"),
        },
    )


_LIMITS = Record(
    "limits",
    {
        "usd": Key(Number("usd", low=0, high=1e9, whole=False), "US dollars"),
        "calls": Key(Number("calls", low=0, high=1e9), "calls"),
        "tokens": Key(Number("tokens", low=0, high=1e12), "tokens"),
        "seconds": Key(Number("seconds", low=0, high=1e9, whole=False), "seconds"),
    },
)


# --- the names of published designs -----------------------------------------------------------------------


class InOurNames(NamedTuple):
    """A plan's node in our own names. ``short``: its list is one of a published design."""

    root: Node
    short: bool


def in_our_names(root: Node, problems: Problems, *, blanks: bool) -> InOurNames:
    """``root`` with the names of published designs replaced; ``blanks``: null and empty values count as left out."""
    if isinstance(root, MappingNode) and len(root.pairs) == 1 and root.pairs[0][0].text == "plan":
        root = root.pairs[0][1]
    if isinstance(root, SequenceNode):
        root = MappingNode(((ScalarNode("tasks", plain=True, line=root.line, path=root.path), root),), root.line, root.path)
    if not isinstance(root, MappingNode):
        return InOurNames(root, False)
    short = any(key.text in PLAN_NAMES for key, _ in root.pairs)

    def tidy(node: Node) -> Node:
        return _without_blanks(_few_keys(node, problems)) if blanks else _few_keys(node, problems)

    each: dict[str, Callable[[Node], Node]] = {
        "steps": lambda node: _each(node, lambda item: _renamed(tidy(item), STEP_NAMES, problems)),
        "experts": lambda node: _each(node, tidy),
        "inputs": lambda node: _each(node, tidy),
        "limits": tidy,
    }
    renamed = _renamed(tidy(root), PLAN_NAMES, problems)
    assert isinstance(renamed, MappingNode)
    pairs = tuple((key, each[key.text](value) if key.text in each else value) for key, value in renamed.pairs)
    return InOurNames(MappingNode(pairs, root.line, root.path), short)


def _each(node: Node, change: Callable[[Node], Node]) -> Node:
    if not isinstance(node, SequenceNode):
        return node
    return SequenceNode(tuple(change(item) for item in node.items), node.line, node.path)


def _few_keys(node: Node, problems: Problems) -> Node:
    """A mapping without its keys beyond the most that are looked at: each unknown one costs a comparison with the known."""
    if isinstance(node, MappingNode) and _too_many("keys", node, _MOST_KEYS, problems):
        return MappingNode(node.pairs[:_MOST_KEYS], node.line, node.path)
    return node


def _without_blanks(node: Node) -> Node:
    if not isinstance(node, MappingNode):
        return node
    return MappingNode(tuple((key, value) for key, value in node.pairs if not _is_blank(key.text, value)), node.line, node.path)


def _is_blank(key: str, node: Node) -> bool:
    if not isinstance(node, ScalarNode):
        return False
    return (node.plain and node.text == "null") or (key != "default" and not node.text.strip())


def _renamed(node: Node, names: dict[str, str], problems: Problems) -> Node:
    if not isinstance(node, MappingNode):
        return node
    pairs: dict[str, tuple[ScalarNode, Node]] = {}
    for key, value in node.pairs:
        ours = names.get(key.text, key.text)
        if ours in pairs:
            problems.add(key, f"{pairs[ours][0].text!r} and {key.text!r} mean the same", "keep one of them")
        pairs.setdefault(ours, (key, value))
    changed = tuple((key if key.text == ours else msgspec.structs.replace(key, text=ours), value) for ours, (key, value) in pairs.items())
    return MappingNode(changed, node.line, node.path)
