"""promptfoo: a config (YAML or JSON), a list of tests, or a table of them (CSV, TSV, JSONL).

After promptfoo.dev: configuration reference, "Test cases" (special columns such as ``__expected``), "Prompts".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..canonical import Scalar
from ..contract import JsonShape, Labels, infer, shorten
from ..errors import SourceError
from ..prompt import TEXT_INPUT, Prompt, Variable, read_examples
from ..registry.emit import emit
from ..task import Where
from ..task.document import MappingNode, Node, ScalarNode, SequenceNode, from_python, typed
from ..task.rows import EXPECTED, NotJson, Row, assertion, parse_json, written_value
from .assertions import Assertion, from_checks, graded
from .carried import example_inputs, model_left, parameters_as, settings_left
from .github import messages
from .source import Source, row_node
from .templates import Folded, Message, fold, jinja_names, jinja_text, turn_template
from .values import Case, Foreign, Here, Notes, Outgoing, Part, model_name, parameters

_TABLES = (".csv", ".tsv", ".jsonl")
_CONFIG_KEYS = frozenset({"prompts", "tests", "providers", "defaultTest", "scenarios"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_OUTPUTS = ("expected", "output", "label")
"""Columns of a table without ``__expected`` that hold the right answer, as in our own data files."""
_PARAMETERS = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "effort": "reasoning_effort",
}


class _Test(msgspec.Struct, frozen=True, kw_only=True):
    """One test: its variables, its assertions, and where it stands."""

    values: Mapping[str, str]
    asserted: tuple[Assertion, ...]
    where: Where


def accepts(source: Source) -> bool:
    """Whether it is a config, a list of tests, or a table."""
    if source.is_table:
        return True
    tree = source.tree
    if isinstance(tree, SequenceNode):
        return any(isinstance(item, MappingNode) and {key.text for key, _ in item.pairs} & {"vars", "assert"} for item in tree.items)
    return isinstance(tree, MappingNode) and bool({key.text for key, _ in tree.pairs} & _CONFIG_KEYS)


def read(source: Source, notes: Notes, here: Here) -> Foreign:
    """The first prompt and provider that can be carried, the tests as cases, the assertions as scorers."""
    reading = _Reading(source, notes, here)
    if source.is_table:
        return reading.foreign(None, "", {}, [*_table(source, notes, here)], ())
    if isinstance(source.tree, SequenceNode):
        return reading.foreign(None, "", {}, reading.tests(source.tree, notes), ())
    return reading.config()


class _Reading:
    """One config being read."""

    def __init__(self, source: Source, notes: Notes, here: Here) -> None:
        self.source, self.notes, self.here = source, notes, here
        self.folder = source.path.absolute().parent

    def config(self) -> Foreign:
        with Part(self.source.tree, self.notes, "the config") as part:
            model, chosen = self._provider(part.take("providers", "targets"))
            prompt = self._prompt(part.take("prompts"))
            shared: list[Assertion] = []
            defaults: dict[str, str] = {}
            node = part.take("defaultTest")
            if node is not None:
                with Part(node, self.notes, "defaultTest") as default:
                    grader = self._grader(default)
                    shared = self._asserted(default, grader, self.notes)
                    defaults = self._values(default.take("vars"), self.notes)
            tests = self.tests(part.take("tests"), self.notes)
            found = self.foreign(prompt, model, chosen, tests, shared, defaults)
            return msgspec.structs.replace(found, description=part.text("description") or found.description)

    def foreign(
        self,
        prompt: Sequence[Message] | None,
        model: str,
        chosen: Mapping[str, Scalar],
        tests: list[_Test],
        shared: Sequence[Assertion],
        defaults: Mapping[str, str] | None = None,
    ) -> Foreign:
        """Everything together. Without a prompt the variables of the tests are the inputs."""
        folded = fold(prompt, "jinja", self.notes) if prompt else None
        filled = dict(defaults or {})
        if folded is not None:
            folded = folded._replace(inputs=self._with_defaults(folded.inputs, tests, filled))
            filled |= {v.name: v.default for v in folded.inputs if v.default is not None}
        tests = [msgspec.structs.replace(test, values={**filled, **test.values}) for test in tests]
        result = graded([test.asserted for test in tests], shared, self.notes)
        answers = list(result.expected)
        inputs = folded.inputs if folded else self._inputs(tests, answers)
        names = [variable.name for variable in inputs] or [TEXT_INPUT]
        cases = [case for test, answer in zip(tests, answers, strict=True) if (case := self._case(test, answer, names, folded))]
        return Foreign(
            description=folded.words if folded else "",
            prompt=folded.prompt if folded else "",
            inputs=inputs,
            output=_output(cases, result.scorers),
            cases=(*(folded.cases if folded else ()), *cases),
            model=model,
            parameters=chosen,
            scorers=result.scorers,
        )

    def _inputs(self, tests: Sequence[_Test], answers: list[Any]) -> tuple[Variable, ...]:
        """The variables of tests that come without a prompt. One that tells the answer is no input."""
        names = list(dict.fromkeys(name for test in tests for name in test.values))
        if all(answer is None for answer in answers):
            told = next((name for name in _OUTPUTS if tests and len(names) > 1 and all(name in test.values for test in tests)), None)
            if told:
                answers[:] = [test.values[told] for test in tests]
        telling = [
            name
            for name in names
            if len(names) > 1
            and all(answer is None or test.values.get(name) == answer for test, answer in zip(tests, answers, strict=True))
        ]
        for name in telling:
            self.notes.left(None, f"the variable {name!r} holds the expected output of every test; it is no input")
        names = [name for name in names if name not in telling]
        for name in [name for name in names if not _NAME.fullmatch(name)]:
            self.notes.left(None, f"the variable {shorten(name)} can't be an input's name; it is left out")
            names.remove(name)
        return () if names == [TEXT_INPUT] else tuple(map(Variable, names))

    def _with_defaults(self, inputs: Sequence[Variable], tests: Sequence[_Test], defaults: Mapping[str, str]) -> tuple[Variable, ...]:
        """Inputs with the values of ``defaultTest``; one that some tests leave out is empty there, as promptfoo renders it."""
        found = []
        for variable in inputs:
            default = defaults.get(variable.name)
            without = [test for test in tests if variable.name not in test.values]
            if default is None and without and len(without) < len(tests):
                default = ""
                for test in without:
                    self.notes.left(test.where, f"the variable {variable.name!r} is not given; it is empty, as promptfoo renders it")
            found.append(msgspec.structs.replace(variable, default=default))
        return tuple(found)

    def _case(self, test: _Test, answer: Any, names: Sequence[str], folded: Folded | None) -> Case | None:
        if folded is not None:
            for name in [name for name in test.values if name not in names]:
                self.notes.left(test.where, f"the variable {name!r} stands in no message of the prompt; it is left out")
        missing = [name for name in names if name not in test.values]
        if missing or answer is None:
            what = f"has no {missing[0]!r}" if missing else "has no expected output that could be carried"
            self.notes.left(test.where, f"the test {what}; it is left out")
            return None
        return Case(inputs={name: test.values[name] for name in names}, output=answer, where=test.where)

    # --- prompts and providers ------------------------------------------------------------------------

    def _prompt(self, node: Node | None) -> list[Message] | None:
        """The messages of the first prompt that can be read; the others are noted."""
        taken: list[Message] | None = None
        title = ""
        for item in _each(node):
            label, found = self._one_prompt(item)
            if found and taken is None:
                taken, title = found, label
            elif found:
                self.notes.left(item, f"the prompt {label} is left out: {title} was taken; import makes one task of one prompt")
        return taken

    def _one_prompt(self, item: Node) -> tuple[str, list[Message]]:
        if isinstance(item, MappingNode):
            with Part(item, self.notes, "a prompt") as part:
                inner = part.take("raw") or part.take("file", "path") or part.take("id")
                label = part.text("label", "id")
            found = self._one_prompt(inner)[1] if isinstance(inner, ScalarNode) else []
            return shorten(label or "without a label"), found
        if not isinstance(item, ScalarNode):
            self.notes.left(item, "a prompt is neither a text nor a mapping; it is left out")
            return "", []
        title = shorten(" ".join(item.text.split()), 40)
        path = _file(item.text)
        return title, self._prompt_file(path, item) if path else self._chat(item.text, self.notes.where(item), self.notes)

    def _prompt_file(self, path: str, item: Node) -> list[Message]:
        if Path(path).suffix.lower() not in (".txt", ".md", ".json", ".yaml", ".yml", ".j2"):
            self.notes.left(item, f"the prompt {shorten(path)} is left out: only texts and chat messages are read, never code")
            return []
        source = self._open(path, item)
        if source is None:
            return []
        notes = self.notes.of(source.file)
        if source.name.endswith((".yaml", ".yml")):
            return messages(getattr(source.tree, "items", ()), notes)
        pieces = re.split(r"(?m)^---[ \t]*$", source.text)
        for piece in pieces[1:]:
            if piece.strip():
                line = source.text[: source.text.index(piece)].count("\n") + 1
                notes.left(Where(source.file, line), "another prompt begins here; it is left out: the first was taken")
        return self._chat(pieces[0], Where(source.file, 1), notes)

    def _chat(self, text: str, where: Where, notes: Notes) -> list[Message]:
        """A prompt's text: chat messages as JSON, else one user message."""
        if text.lstrip().startswith("["):
            try:
                tree = from_python(parse_json(text), where.file)
            except (NotJson, SourceError):
                tree = None
            if isinstance(tree, SequenceNode) and all(isinstance(item, MappingNode) for item in tree.items):
                inner = notes.of(where.file)
                return [msgspec.structs.replace(one, where=where) for one in messages(tree.items, inner)]
        return [Message("user", text.strip(), where)] if text.strip() else []

    def _provider(self, node: Node | None) -> tuple[str, dict[str, Scalar]]:
        taken, chosen = "", dict[str, Scalar]()
        for item in _each(node):
            if taken:
                self.notes.left(item, f"the provider is left out: {taken} was taken; a task has one production model")
            else:
                taken, chosen = self._one_provider(item)
        return taken, chosen

    def _one_provider(self, item: Node) -> tuple[str, dict[str, Scalar]]:
        if isinstance(item, ScalarNode):
            return model_name(item.text, self.here, self.notes, item), {}
        if isinstance(item, MappingNode) and len(item.pairs) == 1 and item.pairs[0][0].text != "id":
            key, value = item.pairs[0]
            item = MappingNode((*(value.pairs if isinstance(value, MappingNode) else ()), (ScalarNode("id", plain=True), key)), item.line)
        with Part(item, self.notes, "a provider") as part:
            written = part.take("id")
            name = model_name(written.text, self.here, self.notes, written) if isinstance(written, ScalarNode) else ""
            with Part(part.take("config"), self.notes, "the provider's config") as config:
                config.take("omitDefaults")  # what promptfoo would add by itself is no part of the prompt
                with Part(config.take("passthrough"), self.notes, "what is passed through") as passed:
                    return name, {**parameters(config, name), **parameters(passed, name)}

    def _grader(self, default: Part) -> str:
        with Part(default.take("options"), self.notes, "options") as options:
            return self._grader_name(options)

    def _grader_name(self, part: Part) -> str:
        node = part.take("provider")
        if isinstance(node, MappingNode):
            return self._one_provider(node)[0]
        return model_name(node.text, self.here, self.notes, node) if isinstance(node, ScalarNode) else ""

    # --- tests ----------------------------------------------------------------------------------------

    def tests(self, node: Node | None, notes: Notes) -> list[_Test]:
        """The tests of a list, and of the files it names."""
        found: list[_Test] = []
        for item in _each(node):
            if not isinstance(item, ScalarNode):
                found.append(self.test(item, notes))
                continue
            path = _file(item.text) or item.text
            source = self._open(path, item) if Path(path).suffix.lower() in (*_TABLES, ".yaml", ".yml", ".json") else None
            if source is None:
                notes.left(item, f"the tests in {shorten(path)} are left out: only tables, YAML and JSON beside the config are read")
            elif source.is_table:
                found += _table(source, self.notes.of(source.file), self.here)
            else:
                found += self.tests(source.tree, self.notes.of(source.file))
        return found

    def test(self, item: Node, notes: Notes) -> _Test:
        """One test of a list."""
        with Part(item, notes, "a test") as part:
            values = self._values(part.take("vars"), notes)
            asserted = self._asserted(part, "", notes)
            return _Test(values=values, asserted=tuple(asserted), where=notes.where(item))

    def _values(self, node: Node | None, notes: Notes) -> dict[str, str]:
        values = {}
        for key, value in node.pairs if isinstance(node, MappingNode) else ():
            if not isinstance(value, ScalarNode):
                notes.left(value if value.line else key, f"the variable {key.text!r} is no text; it is left out")
            elif _file(value.text):
                notes.left(key, f"the variable {key.text!r} stands in a file, which is not read; it is left out")
            else:
                values[key.text] = value.text
        if node is not None and not isinstance(node, MappingNode):
            notes.left(node, "vars is no mapping; it is left out")
        return values

    def _asserted(self, part: Part, grader: str, notes: Notes) -> list[Assertion]:
        found = []
        for item in part.items("assert"):
            with Part(item, notes, "an assertion") as one:
                kind = one.text("type")
                if kind == "assert-set":
                    notes.left(item, "the assertion assert-set is not carried over: scorers have no groups; its members stand alone")
                    found += self._asserted(one, grader, notes)
                    continue
                value, threshold, weight = one.take("value"), one.take("threshold"), one.take("weight")
                found.append(
                    Assertion(
                        type=kind.removeprefix("not-"),
                        value=None if value is None else _value(kind.removeprefix("not-"), value),
                        negated=kind.startswith("not-"),
                        threshold=_number(threshold),
                        weight=_number(weight),
                        metric=one.text("metric"),
                        grader=self._grader_name(one) or grader or self.here.judge,
                        where=notes.where(item),
                    )
                )
        return found

    def _open(self, path: str, node: Node) -> Source | None:
        """A file that the config names, if it lies beside or below it; ``None`` (and noted) otherwise."""
        full = (self.folder / path).resolve()
        if not full.is_relative_to(self.folder.resolve()) or not full.is_file():
            why = "there is no such file" if full.is_relative_to(self.folder.resolve()) else "it lies outside the config's folder"
            self.notes.left(node, f"{shorten(path)} is not read: {why}")
            return None
        return Source(full)


def _each(node: Node | None) -> Sequence[Node]:
    if isinstance(node, SequenceNode):
        return node.items
    return () if node is None else (node,)


def _file(text: str) -> str:
    """The path in ``file://path``, or of a text that is a path to a prompt; empty for any other text."""
    if text.startswith("file://"):
        return text.removeprefix("file://").partition("#")[0]
    return text if re.fullmatch(r"[\w./-]+\.(txt|md|json|ya?ml|j2|py|js|mjs|ts)", text) else ""


def _value(kind: str, node: Node) -> Any:
    """What an assertion is about: texts as written, so that ``yes`` and ``1.10`` stay these texts."""
    if isinstance(node, ScalarNode):
        return node.text
    if isinstance(node, SequenceNode) and kind != "equals":
        return [item.text if isinstance(item, ScalarNode) else typed(item) for item in node.items]
    return typed(node)


def _number(node: Node | None) -> float | None:
    value = typed(node) if isinstance(node, ScalarNode) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _output(cases: Sequence[Case], scorers: Sequence[Any]) -> Any:
    """``text`` where the expected outputs are pieces of an answer; else the cases decide."""
    name = next(iter(scorers[0])) if scorers and isinstance(scorers[0], dict) else scorers[0] if scorers else "exact"
    if not cases or name in ("exact", "json_diff") or not all(isinstance(case.output, str) for case in cases):
        return None
    shape = infer([case.output for case in cases]).shape
    labels = isinstance(shape, Labels) and name == "contains" and 2 * len(shape.labels) <= len(cases)
    return None if labels else "text"


# --- tables -----------------------------------------------------------------------------------------------


def _table(source: Source, notes: Notes, here: Here) -> Iterator[_Test]:
    """The tests of a CSV, TSV or JSONL file: columns are variables, those with ``__`` are promptfoo's own."""
    for row in source.rows():
        values = row.values
        if row.typed and isinstance(values.get("vars"), dict):
            yield _typed_test(row, source, notes, here)
            continue
        asserted = []
        metric = written_value(values.get("__metric") or "")
        for name in values:
            if name.startswith(EXPECTED) and values[name] is not None:
                found = _cell(written_value(values[name]), metric, row.where, here.judge)
                asserted += [found] if found else []
            elif name.startswith("__") and name != "__metric" and str(values[name] or "").strip():
                notes.left(row.where, f"the column {name} has no equivalent; it is left out")
        given = {name: value for name, value in values.items() if not name.startswith("__")}
        for name in [name for name, value in given.items() if isinstance(value, dict | list) or value is None]:
            notes.left(row.where, f"the variable {name!r} is no text; it is left out")
            del given[name]
        yield _Test(values={name: written_value(value) for name, value in given.items()}, asserted=tuple(asserted), where=row.where)


def _plain(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _schema(text: str) -> Any:
    try:
        value = parse_json(text)
    except NotJson:
        return None
    return value if isinstance(value, dict) else None


def _typed_test(row: Row, source: Source, notes: Notes, here: Here) -> _Test:
    """One test a line, as in a config."""
    return _Reading(source, notes, here).test(row_node(row), notes)


def _cell(cell: str, metric: str, where: Where, judge: str) -> Assertion | None:
    """A cell of ``__expected``: ``type:value``, ``type(threshold):value``, or a plain value that the answer equals.

    In a table ``similar`` passes from 0.8 (promptfoo's ``csv.ts``), and ``grade`` is the old name of ``llm-rubric``.
    """
    if not cell.strip():
        return None
    found = assertion(cell.strip())
    if found is None:
        return Assertion(type="equals", value=cell, metric=metric, where=where)
    name, value = found
    kind, _, own = name.partition("(")
    plain = kind.removeprefix("not-")
    listed = [part.strip() for part in value.split(",")] if plain.endswith(("-all", "-any")) else value
    schema = _schema(value) if plain in ("is-json", "contains-json") else None
    return Assertion(
        type="llm-rubric" if plain == "grade" else plain,
        value=schema or listed or None,
        negated=kind.startswith("not-"),
        threshold=_plain(own.rstrip(")")) if own else 0.8 if plain == "similar" else None,
        metric=metric,
        grader=judge,
        where=where,
    )


# --- the other way ----------------------------------------------------------------------------------------


def write(outgoing: Outgoing, notes: Notes) -> str:
    """A config: the prompt as chat messages, its model as provider, the visible examples as tests; no sealed case."""
    prompt = outgoing.prompt
    rename = jinja_names(outgoing.names)
    for name, other in rename.items():
        notes.left(None, f"the input {name!r} is called {other!r} there: Nunjucks reads '-' as minus")
    chat = [
        {"role": "system", "content": jinja_text(prompt.system)},
        {"role": "user", "content": turn_template(prompt.inputs, rename)},
    ]
    document: dict[str, Any] = {
        "description": f"{outgoing.title}, exported by promptsmith",
        "prompts": [{"id": outgoing.title, "label": outgoing.title, "raw": json.dumps(chat, ensure_ascii=False, indent=2)}],
    }
    config = _config(prompt, notes)
    if not model_left(prompt, notes, "providers"):
        provider = _provider_id(prompt.model)
        document["providers"] = [{"id": provider, "config": config} if config else provider]
    shared = _contract(outgoing, notes)
    defaults = {rename.get(v.name, v.name): v.default for v in prompt.inputs if v.default is not None}
    if shared or defaults:
        document["defaultTest"] = {**({"vars": defaults} if defaults else {}), **({"assert": shared} if shared else {})}
    if outgoing.examples:
        document["tests"] = [
            {"vars": example_inputs(outgoing, example, rename), "assert": [_expected(example.output, example.json)]}
            for example in outgoing.examples
        ]
    shown = {repr(sorted(pair.inputs.items())) for pair in read_examples(prompt.system)}
    known = sum(repr(sorted(example.inputs.items())) in shown for example in outgoing.examples)
    notes.left(
        None, f"the tests are the {len(outgoing.examples)} visible examples of the task, {known} of which stand in the prompt itself"
    )
    notes.left(None, "the holdout is sealed and left out, so these tests say little of how good the prompt is")
    settings_left(prompt, notes)
    return emit(document)


def _config(prompt: Prompt, notes: Notes) -> dict[str, Any]:
    """The provider's config. For OpenAI the limit is passed through by its newer name, and promptfoo's own defaults are off.

    promptfoo sends ``max_tokens`` (and 1024 where none is set) to every model that it does not know as a reasoning one,
    which the newer models refuse.
    """
    config: dict[str, Any] = dict(parameters_as(prompt, _PARAMETERS, notes))
    if prompt.model.startswith("openai/"):
        limit = config.pop("max_tokens", None)
        config = {"omitDefaults": True, **config, **({} if limit is None else {"passthrough": {"max_completion_tokens": limit}})}
    return config


def _provider_id(model: str) -> str:
    maker, _, name = model.partition("/")
    return {"openai": f"openai:chat:{name}", "anthropic": f"anthropic:messages:{name}"}.get(maker, f"{maker}:{name}")


def _contract(outgoing: Outgoing, notes: Notes) -> list[dict[str, Any]]:
    """What every answer must satisfy, as assertions for all tests."""
    contract = outgoing.prompt.contract
    found = from_checks(contract.checks)
    shape = contract.shape
    if isinstance(shape, JsonShape):
        return [{"type": "is-json", "value": json.loads(shape.schema)}, *found]
    if isinstance(shape, Labels):
        if not contract.inferred and not shape.allow_other:
            pattern = "|".join(map(re.escape, shape.labels))
            return [{"type": "regex", "value": f"^(?:{pattern})$"}, *found]
    elif not contract.inferred:
        limits = {"min": shape.min_words, "max": shape.max_words}
        if given := {name: value for name, value in limits.items() if value is not None}:
            found.insert(0, {"type": "word-count", "value": given})
        if shape.regex:
            found.insert(0, {"type": "regex", "value": shape.regex})
        for name in ("min_chars", "max_chars", "min_lines", "max_lines"):
            if getattr(shape, name) is not None:
                notes.left(None, f"the limit {name} is told in the prompt and enforced by promptsmith only")
    return found


def _expected(output: str, is_json: bool) -> dict[str, Any]:
    return {"type": "equals", "value": json.loads(output) if is_json else output}
