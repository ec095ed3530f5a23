"""The vocabulary of a task file: every key, what may stand there, and how it becomes a task.

The JSON Schema that editors use is generated from the same tables (``task/schema.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .. import canonical
from ..contract import (
    CHECKS,
    TEXT_LIMITS,
    Check,
    Contract,
    JsonShape,
    Labels,
    Shape,
    TextShape,
    bad_regex,
    infer,
    normalise_label,
    schema_problem,
    validator,
)
from ..errors import InputError, did_you_mean
from ..prompt import Serve, Variable, bind
from .document import MappingNode, Node, Problems, ScalarNode, typed
from .fields import BAD, ByKey, ByKind, Choice, Convert, Flag, Key, ListOf, MapOf, Number, Plain, Record, Setting, Share, Written, kind_of
from .rows import dedupe, map_rows, read_rows, split_side
from .values import ENGINES, PREFERENCES, CompileOptions, Constraint, Example, ModelSpec, ScorerSpec, Vocabulary, Where

POLICIES = ("error", "pass", "repair", "escalate")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MOST_SHOWN = 20
"""Wrong rows of one file that are listed; the rest is counted."""


class _Raw:
    """Keeps the node for later: examples can only be read once inputs and contract are known."""

    def read(self, node: Node, problems: Problems) -> Any:  # noqa: ARG002 - the protocol's signature
        return node

    def schema(self) -> dict[str, Any]:
        row = {
            "type": "object",
            "properties": {
                "input": {"description": "the input: one text, or a mapping of the named inputs"},
                "output": {"description": "the right answer"},
                "id": {"type": ["string", "number"], "description": "a name of your own for the row"},
                "tags": {"type": "array", "items": {"type": "string"}, "description": "groups that reports break down by"},
            },
            "required": ["input", "output"],
            "additionalProperties": False,
        }
        return {"anyOf": [{"type": "array", "items": row}, DATA_FILE.schema()]}


# --- small readers ----------------------------------------------------------------------------------------


def _check_labels(labels: Sequence[str], node: Node, problems: Problems) -> Any:
    assert not isinstance(node, ScalarNode)
    seen: dict[str, str] = {}
    for label, item in zip(labels, node.items, strict=True):  # type: ignore[union-attr]  # ListOf has read a sequence
        name = normalise_label(label)
        if name in seen:
            problems.add(item, f"the labels {seen[name]!r} and {label!r} are the same but for case and punctuation", "keep one of them")
        seen.setdefault(name, label)
        if "\n" in label.strip() or "\r" in label.strip():
            problems.add(item, f"the label {label!r} has several lines", "write each label on one line")
    return tuple(label.strip() for label in labels)


def _model(value: Any, node: Node, problems: Problems) -> Any:
    if isinstance(value, str):
        value = {"use": value}
    name = value.pop("use", None)
    if not isinstance(name, str) or "/" not in name.strip("/"):
        problems.add(node, f"a model is named {name!r}", "write endpoint/model, such as builtin/nearest, or {use: endpoint/model, …}")
        return BAD
    return ModelSpec(name, dict(sorted(value.items())))


def _regex(value: str, node: Node, problems: Problems) -> Any:
    if problem := bad_regex(value):
        problems.add(node, f"{value!r} is no regular expression ({problem})", "see Python's re for the syntax")
        return BAD
    return value


def _bounds(value: Mapping[str, Any], node: Node, problems: Problems) -> Any:
    for unit in ("words", "chars", "lines"):
        low, high = value.get(f"min_{unit}"), value.get(f"max_{unit}")
        if low is not None and high is not None and low > high:
            problems.add(node, f"min_{unit} {low} is more than max_{unit} {high}", "swap them")
            return BAD
    return TextShape(**value)


def _one_check(value: Mapping[str, Any], node: Node, problems: Problems) -> Any:
    if len(value) != 1:
        problems.add(node, f"a check names {len(value)} rules", f"write exactly one of {', '.join(CHECKS)}")
        return BAD
    ((kind, wanted),) = value.items()
    return msgspec.convert({"kind": kind, "value": wanted}, Check)


def _constraint(value: Any, node: Node, problems: Problems) -> Any:
    if isinstance(value, str):
        return Constraint(value)
    check, say = value.get("check"), value.get("say", "")
    if not say and check is None:
        problems.add(node, "a constraint says nothing", "write a line of text, or {say: …, check: {…}}")
        return BAD
    if check is not None:
        check = msgspec.structs.replace(check, say=say)
    return Constraint(say, check)


def _variable_name(name: str, node: Node, problems: Problems) -> bool:
    if _NAME.fullmatch(name):
        return True
    problems.add(node, f"{name!r} can't be an input's name", "use letters, digits, '_' and '-', starting with a letter")
    return False


def _input_list(names: Sequence[str], node: Node, problems: Problems) -> Any:
    good = [_variable_name(name, node, problems) for name in names]
    if len(set(names)) < len(names):
        problems.add(node, "an input is named twice", "name each once")
        return BAD
    return tuple(map(Variable, names)) if all(good) else BAD


def _input_map(values: Mapping[str, Any], node: Node, problems: Problems) -> Any:
    good = [_variable_name(name, node, problems) for name in values]
    if not values:
        problems.add(node, "inputs names no input", "name at least one, or leave inputs out for one free text")
        return BAD
    if not all(good):
        return BAD
    return tuple(Variable(name, **value) if isinstance(value, dict) else Variable(name) for name, value in values.items())


def _scorer(value: Any, node: Node, problems: Problems) -> Any:
    where = problems.where(node)
    if isinstance(value, str):
        return ScorerSpec(value, {}, where)
    if len(value) != 1:
        problems.add(node, f"a scorer names {len(value)} things", "write one name, or one name: {options}")
        return BAD
    ((name, options),) = value.items()
    if options is None:
        options = {}
    # A bare value stands for the scorer's main option: "- contains: refund", "- python: checks.py:polite".
    return ScorerSpec(name, options if isinstance(options, dict) else {"value": options}, where)


def _probability(value: Mapping[str, float], node: Node, problems: Problems) -> Any:
    if sum(value.values()) > 1 + 1e-9:
        problems.add(node, f"the parts of the split add up to {sum(value.values()):g}", "write shares that add up to 1 or less")
        return BAD
    return value


def _level(what: str) -> Number:
    return Number(what, low=0, high=3)


# --- the tables -------------------------------------------------------------------------------------------

_TEXT = Written
_MODEL = ByKind(
    "a model",
    "write endpoint/model",
    scalar=Convert(Written("a model"), _model),
    mapping=Convert(MapOf("a model", Setting("a parameter")), _model),
)
_LABELS = Convert(ListOf("the label list", Written("a label"), least=2), _check_labels)
_LIMITS = Record(
    "text",
    {
        **{name: Key(Number(name, low=0), f"{name.replace('_', ' ')} of an answer") for name in TEXT_LIMITS},
        "regex": Key(Convert(Written("regex"), _regex), "a pattern that an answer must contain a match of"),
    },
)
_CHECK = Convert(
    Record(
        "a check",
        {
            "max_words": Key(Number("max_words", low=0), "at most so many words"),
            "min_words": Key(Number("min_words", low=0), "at least so many words"),
            "regex": Key(Convert(Written("regex"), _regex), "a pattern that the answer must contain a match of"),
            "contains": Key(Written("contains"), "a text that the answer must contain, case aside"),
            "not_contains": Key(Written("not_contains"), "a text that the answer must not contain, case aside"),
        },
    ),
    _one_check,
)
_CONSTRAINT = Convert(
    ByKind(
        "a constraint",
        "write a line of text, or {say: …, check: {…}}",
        scalar=Written("a constraint"),
        mapping=Record(
            "a constraint",
            {
                "say": Key(Written("say"), "the constraint in words"),
                "check": Key(_CHECK, "a rule that a program can decide: " + ", ".join(CHECKS)),
            },
        ),
    ),
    _constraint,
)
_INPUTS = ByKind(
    "inputs",
    "write a list of names, or a mapping of names to {default, max_chars, about}",
    sequence=Convert(ListOf("inputs", Written("an input's name"), least=1), _input_list),
    mapping=Convert(
        MapOf(
            "inputs",
            ByKind(
                "an input",
                "write text, or {default: …, max_chars: …, about: …}",
                scalar=Choice("an input's type", ("text",)),
                mapping=Record(
                    "an input",
                    {
                        "default": Key(Written("default", empty=True), "used when a call leaves the input out"),
                        "max_chars": Key(Number("max_chars", low=1), "longer texts are refused"),
                        "about": Key(Written("about"), "what the input is, for the prompt"),
                    },
                ),
            ),
        ),
        _input_map,
    ),
)
OUTPUT = ByKind(
    "output",
    "write a list of labels, text, {text: {limits}}, or {json: schema}",
    scalar=Choice("output", ("text",)),
    sequence=_LABELS,
    mapping=ByKey(
        "output",
        {
            "labels": Record(
                "output",
                {
                    "labels": Key(_LABELS, "the labels", required=True),
                    "allow_other": Key(Flag("allow_other"), "whether another answer may stand for what fits none"),
                },
            ),
            "text": Record("output", {"text": Key(_LIMITS, "limits of the text", required=True)}),
            "json": Record(
                "output",
                {"json": Key(Plain(), "a JSON Schema, or the path of a file with one", required=True)},
            ),
        },
    ),
)
DATA_FILE = Record(
    "a data file",
    {
        "file": Key(Written("file"), "a .jsonl, .csv or .tsv file, relative to the task file", required=True),
        "map": Key(MapOf("map", Written("a column")), "which column holds which input, the output, id and tags"),
        "split": Key(
            Convert(
                Record(
                    "split",
                    {
                        "examples": Key(Number("examples", low=0, high=1, whole=False), "the share of rows that become examples"),
                        "holdout": Key(Number("holdout", low=0, high=1, whole=False), "the share of rows that are sealed"),
                    },
                ),
                _probability,
            ),
            "shares of the rows that become examples and holdout; a row's side depends on nothing but its input and the seed",
        ),
        "seed": Key(Number("seed", low=0), "another seed puts rows on other sides, of the split and of the dev part"),
    },
)
_BUDGET = Record(
    "budget",
    {
        "usd": Key(Number("usd", low=0, whole=False), "US dollars"),
        "calls": Key(Number("calls", low=0), "calls"),
        "tokens": Key(Number("tokens", low=0), "tokens"),
        "seconds": Key(Number("seconds", low=0, whole=False), "seconds"),
    },
)
_SCORERS = ListOf(
    "scorers",
    Convert(
        ByKind("a scorer", "write a name, or name: {options}", scalar=Written("a scorer"), mapping=MapOf("a scorer", Plain())), _scorer
    ),
)
_GATE = Record(
    "gate",
    {
        "require": Key(MapOf("require", Plain()), "thresholds by metric, such as pass_rate: '>= 0.92'"),
        "versus": Key(Written("versus"), "the alias to compare with (production)"),
        "margin": Key(Number("margin", low=0, high=1, whole=False), "the drop in pass rate that may go unseen, 0.1 is 10 points"),
        "metric": Key(Choice("metric", ("pass_rate", "score")), "what is compared with the alias (pass_rate)"),
        "must_pass": Key(ListOf("must_pass", Written("a tag")), "tags whose cases may not regress"),
    },
)
_SERVE = Record(
    "serve",
    {
        "on_contract_break": Key(Choice("on_contract_break", POLICIES), "what to do with an answer that breaks the contract"),
        "fallback": Key(ListOf("fallback", Written("a model")), "models to ask when the first can't answer"),
        "escalate": Key(Written("escalate"), "the stronger model that escalate asks"),
        "cache": Key(Flag("cache"), "whether replies may come from the reply cache"),
        "capture": Key(Share("capture"), "the share of live calls whose redacted inputs and outputs are kept for review"),
    },
)
_COMPILE = Record(
    "compile",
    {
        "level": Key(_level("level"), "0 to 3: how much is spent on the prompt"),
        "seed": Key(Number("seed", low=0), "decides ties; never moves a row"),
        "example_tokens": Key(Number("example_tokens", low=0), "about how many tokens of examples the prompt may hold"),
        "candidates": Key(Number("candidates", low=1), "drafts to compare, from level 2"),
        "budget": Key(_BUDGET, "what a compile may spend"),
        "engine": Key(Choice("engine", ENGINES), "the optimizer, from level 3"),
        "prefer": Key(Choice("prefer", PREFERENCES), "which prompt of the front is taken"),
    },
)
TASK = Record(
    "the task file",
    {
        "task": Key(Written("task"), "what to do, in plain words", required=True),
        "inputs": Key(_INPUTS, "named inputs; without them there is one free text"),
        "output": Key(OUTPUT, "what a right answer looks like; without it the examples decide"),
        "examples": Key(_Raw(), "solved inputs that the compiler may use"),
        "holdout": Key(_Raw(), "sealed cases that only the gate reads"),
        "constraints": Key(ListOf("constraints", _CONSTRAINT), "rules in words, each optionally with a check that proves it"),
        "models": Key(
            Record(
                "models",
                {
                    "production": Key(_MODEL, "the cheap model that serves"),
                    "meta": Key(_MODEL, "the strong model that writes the prompt"),
                },
            ),
            "which models to use",
        ),
        "compile": Key(_COMPILE, "how to compile"),
        "scorers": Key(_SCORERS, "how answers are graded"),
        "gate": Key(_GATE, "what a promotion must prove"),
        "serve": Key(_SERVE, "how answers are served"),
        "prompt": Key(Written("prompt"), "a system prompt written by hand; the rest keeps working"),
    },
)


# --- from nodes to a task ---------------------------------------------------------------------------------


class Reading:
    """One task being read: collects problems and the files that were read on the way."""

    def __init__(self, problems: Problems, folder: Path, vocabulary: Vocabulary | None = None) -> None:
        self.problems = problems
        self.folder = folder
        self._vocabulary = vocabulary
        self.sources: dict[str, str] = {}
        self.notes: list[str] = []
        self._seeds: dict[str, int] = {}
        """The seeds that data files name, by ``examples`` and ``holdout``."""

    def task(self, root: Node) -> dict[str, Any]:
        """The fields of a task. Raises :class:`SourceError` with everything that is wrong."""
        found = TASK.parts(root, self.problems)
        # A part that can't be read does not hide what is wrong with the others.
        raw = {name: value for name, value in found.items() if value is not BAD}
        inputs = None if found.get("inputs") is BAD else raw.get("inputs", ())
        shape = self.shape(raw["output"], _child(root, "output")) if "output" in raw else None
        visible, holdout = self._examples(raw, inputs, shape)
        constraints = tuple(raw.get("constraints", ()))
        checks = tuple(constraint.check for constraint in constraints if constraint.check)
        contract = self._contract(shape, checks, visible)
        if shape is not None or not self.problems:
            self._judge(contract, [*visible, *holdout])
            self._check_suite(root, raw, contract, holdout)
        self.problems.raise_if_any()
        return {
            "inputs": inputs,
            "contract": contract,
            "examples": tuple(visible),
            "holdout": tuple(holdout),
            "data_seed": self._seeds.get("examples", self._seeds.get("holdout", 0)),
            "constraints": constraints,
            **self._settings(raw),
        }

    def _check_suite(self, root: Node, raw: Mapping[str, Any], contract: Contract, holdout: Sequence[Example]) -> None:
        """What is wrong with scorers and gate, as far as the vocabulary knows them."""
        if self._vocabulary is None:
            return
        scorers = raw.get("scorers", ())
        for spec in scorers:
            for mistake in self._vocabulary.scorer(spec, contract):
                self.problems.at(spec.where, mistake.what, mistake.right)
            for name in self._vocabulary.files(spec):
                path = self.folder / name
                if path.is_file():  # one that is missing is told by what reads it
                    self.sources[str(path)] = source_digest(path.read_bytes())
        if "gate" in raw:
            tags = sorted({tag for row in holdout for tag in row.tags})
            for mistake in self._vocabulary.gate(raw["gate"], scorers, contract, tags):
                self.problems.add(_found_below(_child(root, "gate"), mistake.at), mistake.what, mistake.right)

    def _settings(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        models = raw.get("models", {})
        return {
            "description": raw["task"],
            "production": models.get("production"),
            "meta": models.get("meta"),
            "options": CompileOptions(**raw.get("compile", {})),
            "scorers": tuple(raw.get("scorers", ())),
            "gate": raw.get("gate", {}),
            "serve": _serve(raw.get("serve", {})),
            "prompt": raw.get("prompt"),
            "sources": self.sources,
            "notes": tuple(self.notes),
        }

    # --- the contract ---------------------------------------------------------------------------------

    def shape(self, value: Any, node: Node) -> Shape | None:
        """The shape of an ``output:`` as :data:`OUTPUT` read it; ``None`` after a problem was noted."""
        if isinstance(value, tuple):
            return Labels(value)
        if value == "text":
            return TextShape()
        if "labels" in value:
            return Labels(value["labels"], value.get("allow_other", False))
        if "text" in value:
            shape = _bounds(value["text"], node, self.problems)
            return None if shape is BAD else shape
        return self._json_shape(value["json"], node)

    def _json_shape(self, schema: Any, node: Node) -> Shape | None:
        if isinstance(schema, str):
            schema = self._schema_file(schema, node)
            if schema is None:
                return None
        if not isinstance(schema, dict | bool):
            self.problems.add(node, "the JSON Schema is no mapping", "write a JSON Schema such as {type: object, properties: {…}}")
            return None
        try:
            text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            self.problems.add(node, f"the JSON Schema holds a number that JSON has not ({error})", "write a finite number")
            return None
        if problem := schema_problem(schema):
            self.problems.add(node, f"is no JSON Schema: {problem}", "see json-schema.org")
            return None
        return JsonShape(text)

    def _schema_file(self, name: str, node: Node) -> Any:
        path = self.folder / name
        try:
            data = path.read_bytes()
            self.sources[str(path)] = source_digest(data)
            return json.loads(data)
        except OSError as error:
            self.problems.add(node, f"the schema file {name!r} can't be read: {error.strerror}", "give a path relative to the task file")
        except (ValueError, RecursionError) as error:
            self.problems.add(node, f"the schema file {name!r} is not JSON: {error}", "")
        return None

    def _contract(self, shape: Shape | None, checks: tuple[Check, ...], visible: Sequence[Example]) -> Contract:
        if shape is not None:
            return Contract(shape, checks)
        if not visible:
            return Contract(TextShape(), checks, inferred=True)
        inferred = infer([example.output for example in visible])
        return msgspec.structs.replace(inferred, checks=checks)

    def _judge(self, contract: Contract, examples: Sequence[Example]) -> None:
        """Every example must satisfy the contract that the task declares, in the label's own spelling."""
        judge = validator(contract)
        declared = isinstance(contract.shape, Labels) and not contract.inferred and not contract.shape.allow_other
        wrong = 0
        for example in examples:
            verdict = judge(example.output)
            reason = "; ".join(verdict.reasons)
            if not reason and declared and verdict.value != example.output:
                reason = f"{example.output!r} is written differently from the label {verdict.value!r}"
            if reason:
                wrong += 1
                if wrong <= _MOST_SHOWN:
                    near = did_you_mean(example.output, contract.shape.labels) if isinstance(contract.shape, Labels) else ""
                    self.problems.at(example.where, f"the output breaks the contract: {reason}", near)
        if wrong > _MOST_SHOWN:
            self.problems.at(Where(examples[0].where.file), f"{wrong - _MOST_SHOWN} more outputs break the contract")

    # --- examples -------------------------------------------------------------------------------------

    def _examples(
        self, raw: Mapping[str, Any], inputs: Sequence[Variable] | None, shape: Shape | None
    ) -> tuple[list[Example], list[Example]]:
        """Visible and holdout rows. Without ``inputs`` (they can't be read) rows are only looked at for mistakes."""
        typed_outputs = isinstance(shape, JsonShape)
        visible, extra = self._side(raw.get("examples"), "examples", inputs, typed_outputs)
        holdout, more = self._side(raw.get("holdout"), "holdout", inputs, typed_outputs)
        if extra and "holdout" in raw:
            self.problems.add(raw["holdout"], "holdout is given, and the split of the examples' file makes one too", "keep one of them")
        visible, holdout, notes = dedupe([*visible, *more], [*holdout, *extra], self.problems)
        self.notes += notes
        self._unique_ids([*visible, *holdout])
        return visible, holdout

    def _unique_ids(self, examples: Sequence[Example]) -> None:
        seen: dict[str, Example] = {}
        for example in examples:
            other = seen.setdefault(example.id, example)
            if other is not example and canonical.input_digest(other.inputs) != canonical.input_digest(example.inputs):
                place = other.where.path or f"{other.where.file}:{other.where.line}"
                what = f"the id {example.id!r} is also that of the row at {place}"
                self.problems.at(example.where, what, "give each row an id of its own")

    def _side(
        self, node: Node | None, side: str, inputs: Sequence[Variable] | None, typed_outputs: bool
    ) -> tuple[list[Example], list[Example]]:
        """The rows of one key, and those that its split puts on the other side."""
        if node is None:
            return [], []
        if isinstance(node, MappingNode):
            return self._data_file(node, side, inputs, typed_outputs)
        if isinstance(node, ScalarNode):
            self.problems.add(node, f"{side} is {kind_of(node)}", "write a list of {input: …, output: …} rows, or {file: rows.jsonl}")
            return [], []
        rows = [self._row(item, inputs, typed_outputs) for item in node.items]
        return [row for row in rows if row is not None], []

    def _data_file(
        self, node: MappingNode, side: str, inputs: Sequence[Variable] | None, typed_outputs: bool
    ) -> tuple[list[Example], list[Example]]:
        spec = DATA_FILE.read(node, self.problems)
        if spec is BAD or inputs is None:
            return [], []
        if "seed" in spec:
            self._seeds[side] = spec["seed"]
        path = self.folder / spec["file"]
        rows = read_rows(path, self.problems, node)
        examples = list(map_rows(rows, self.problems, node, mapping=spec.get("map", {}), inputs=inputs, json_outputs=typed_outputs))
        if path.is_file():
            self.sources[str(path)] = source_digest_of(path)
        split = spec.get("split")
        if split is None:
            return examples, []
        shares = {"examples": split.get("examples", 0.0), "holdout": split.get("holdout", 0.0)}
        sides: dict[str | None, list[Example]] = {"examples": [], "holdout": [], None: []}
        for example in examples:
            sides[split_side(example.inputs, spec.get("seed", 0), **shares)].append(example)
        other = "holdout" if side == "examples" else "examples"
        return sides[side], sides[other]

    def _row(self, node: Node, inputs: Sequence[Variable] | None, typed_outputs: bool) -> Example | None:
        if not isinstance(node, MappingNode):
            self.problems.add(node, "a row is no mapping", "write {input: …, output: …}")
            return None
        known = ("input", "output", "id", "tags")
        parts = {key.text: child for key, child in node.pairs}
        for key, _ in node.pairs:
            if key.text not in known:
                right = did_you_mean(key.text, known) or f"the keys are {', '.join(known)}"
                self.problems.add(key, f"unknown key {key.text!r} in a row", right)
        for name in ("input", "output"):
            if name not in parts:
                self.problems.add(node, f"a row has no {name!r}", "write {input: …, output: …}")
        if "input" not in parts or "output" not in parts:
            return None
        values = self._inputs(parts["input"], inputs) if inputs is not None else None
        output = self._output(parts["output"], typed_outputs)
        row_id: Any = Written("id").read(parts["id"], self.problems) if "id" in parts else ""
        tags = ListOf("tags", Written("a tag")).read(parts["tags"], self.problems) if "tags" in parts else []
        if values is None or output is None or row_id is BAD or tags is BAD:
            return None
        return Example(
            id=row_id or canonical.case_id(values),
            inputs=values,
            output=output[0],
            json=output[1],
            tags=tuple(tags),
            where=self.problems.where(node),
        )

    def _inputs(self, node: Node, inputs: Sequence[Variable]) -> dict[str, str] | None:
        if isinstance(node, ScalarNode):
            given: str | dict[str, str] = node.text
        elif isinstance(node, MappingNode) and inputs:
            if any(not isinstance(child, ScalarNode) for _, child in node.pairs):
                self.problems.add(node, "an input variable is no text", "write one text for each input")
                return None
            given = {key.text: child.text for key, child in node.pairs if isinstance(child, ScalarNode)}
        else:
            names = ", ".join(key.text for key, _ in node.pairs) if isinstance(node, MappingNode) else ""
            right = f"declare them: inputs: [{names}]" if names else "write one text"
            self.problems.add(node, "an input has several parts, but the task declares no inputs", right)
            return None
        try:
            return bind(inputs, given)
        except InputError as error:
            self.problems.add(node, error.message, error.hint)
            return None

    def _output(self, node: Node, typed_outputs: bool) -> tuple[str, bool] | None:
        if isinstance(node, ScalarNode) and not typed_outputs:
            if not node.text.strip():
                self.problems.add(node, "an output is empty", "write the right answer")
                return None
            return node.text, False
        if isinstance(node, ScalarNode) and not node.plain:
            return _json_text(node.text)
        try:
            return json.dumps(typed(node), ensure_ascii=False, allow_nan=False), True
        except ValueError:
            self.problems.add(node, "an output holds a number that JSON has not (.inf or .nan)", "write a finite number")
            return None


def _json_text(text: str) -> tuple[str, bool]:
    """A quoted output of a JSON task: the JSON object or list that it spells, else that very string."""
    try:
        if isinstance(json.loads(text), dict | list):
            return text, True
    except (ValueError, RecursionError):
        pass
    return json.dumps(text, ensure_ascii=False), True


def _serve(values: Mapping[str, Any]) -> Serve:
    kept = dict(values)
    if "fallback" in kept:
        kept["fallback"] = tuple(kept["fallback"])
    return Serve(**kept)


def _child(node: Node, name: str) -> Node:
    assert isinstance(node, MappingNode)
    return next(child for key, child in node.pairs if key.text == name)


def _found_below(node: Node, name: str) -> Node:
    """The value of the first key called ``name`` below ``node``; ``node`` itself when there is none."""
    waiting = [node]
    while waiting:
        at = waiting.pop()
        if isinstance(at, MappingNode):
            for key, child in at.pairs:
                if key.text == name:
                    return child
                waiting.append(child)
    return node


def source_digest(data: bytes) -> str:
    """sha256 of a source file's bytes with line ends normalised to LF."""
    return canonical.sha256(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))


def source_digest_of(path: Path) -> str:
    """:func:`source_digest` of a file."""
    return source_digest(path.read_bytes())
