"""The task file: every key, every mistake with its line, and the same task in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from promptsmith import Task, compile_task
from promptsmith.compiler.writeback import write_contract
from promptsmith.contract import JsonShape, Labels, TextShape
from promptsmith.errors import InputError, SourceError
from promptsmith.task import load_task
from promptsmith.task.schema import schema_text, task_schema

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that messages name files as ``t.yaml``."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(folder: Path, text: str | bytes, **data: str) -> Task:
    """The task of ``text`` written to ``t.yaml``; ``data`` are files beside it, ``__`` in their names is a dot."""
    for name, content in data.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    path = folder / "t.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_task(path)


def problems(folder: Path, text: str | bytes, **data: str) -> list[str]:
    """The lines of the error that ``text`` gives."""
    with pytest.raises(SourceError) as caught:
        load(folder, text, **data)
    return str(caught.value).splitlines()


# --- every key --------------------------------------------------------------------------------------------

EVERYTHING = """\
task: Answer a customer.
inputs:
  question: text
  order: {default: none, max_chars: 40, about: the order number}
output:
  labels: [yes, no, "maybe so"]
  allow_other: true
constraints:
  - Be kind.
  - {say: Stay short., check: {max_words: 3}}
  - {check: {not_contains: "!"}}
models:
  production: {use: builtin/nearest, temperature: 0.25, seed: 7, fast: true}
  meta: acme/large
compile:
  {level: 0, seed: 3, candidates: 2, example_tokens: 500, engine: promptsmith, prefer: cost,
  budget: {usd: 1.5, calls: 9, tokens: 10, seconds: 2.5}}
scorers:
  - exact
  - judge: {rubric: "Is it kind?", scale: [1, 5]}
gate: {require: {pass_rate: ">= 0.9", latency: {p95: 2}}, versus: production, margin: 0.05, must_pass: [vip]}
serve: {on_contract_break: escalate, fallback: [builtin/nearest], escalate: acme/large, cache: true}
prompt: Answer yes, no or maybe so.
examples:
  - {input: {question: "Is it here?", order: A1}, output: yes, id: first, tags: [vip, de]}
  - {input: {question: "Is it late?"}, output: no}
holdout:
  - {input: {question: "Is it red?"}, output: maybe so, id: h1}
"""


def test_every_key_of_the_format_is_read(folder: Path) -> None:
    """A file that uses all keys gives a task that holds all of them."""
    task = load(folder, EVERYTHING)
    assert (task.name, task.description, task.prompt) == ("t", "Answer a customer.", "Answer yes, no or maybe so.")
    assert [(v.name, v.default, v.max_chars, v.about) for v in task.inputs] == [
        ("question", None, None, ""),
        ("order", "none", 40, "the order number"),
    ]
    assert task.contract.shape == Labels(("yes", "no", "maybe so"), allow_other=True)
    assert not task.contract.inferred
    assert [(c.say, c.check and c.check.kind, c.check and c.check.value) for c in task.constraints] == [
        ("Be kind.", None, None),
        ("Stay short.", "max_words", 3),
        ("", "not_contains", "!"),
    ]
    assert task.production is not None
    assert task.meta is not None
    assert (task.production.name, dict(task.production.parameters)) == ("builtin/nearest", {"temperature": 0.25, "seed": 7, "fast": True})
    assert task.meta.name == "acme/large"
    options = task.options
    assert (options.level, options.seed, options.candidates, options.example_tokens) == (0, 3, 2, 500)
    assert (options.engine, options.prefer, dict(options.budget)) == (
        "promptsmith",
        "cost",
        {"usd": 1.5, "calls": 9, "tokens": 10, "seconds": 2.5},
    )
    assert [(s.name, dict(s.options)) for s in task.scorers] == [("exact", {}), ("judge", {"rubric": "Is it kind?", "scale": [1, 5]})]
    assert dict(task.gate) == {
        "require": {"pass_rate": ">= 0.9", "latency": {"p95": 2}},
        "versus": "production",
        "margin": 0.05,
        "must_pass": ["vip"],
    }
    assert (task.serve.on_contract_break, task.serve.fallback, task.serve.escalate, task.serve.cache) == (
        "escalate",
        ("builtin/nearest",),
        "acme/large",
        True,
    )
    first, second = task.examples
    assert (first.id, first.tags, dict(first.inputs), first.output) == (
        "first",
        ("vip", "de"),
        {"question": "Is it here?", "order": "A1"},
        "yes",
    )
    assert second.inputs["order"] == "none"
    assert len(second.id) == 12
    assert [case.id for case in task.holdout] == ["h1"]
    assert (first.where.file, first.where.line) == ("t.yaml", 25)
    assert set(task.sources) == {str(folder / "t.yaml")}


def test_five_lines_are_enough(folder: Path) -> None:
    """The smallest useful file needs a task and examples; everything else has a default."""
    task = load(folder, "task: Sort.\noutput: [a, b]\nexamples:\n  - {input: x, output: a}\n  - {input: y, output: b}\n")
    assert task.contract.shape == Labels(("a", "b"))
    assert (task.inputs, task.holdout, task.constraints, task.production, task.prompt) == ((), (), (), None, None)


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        ("[a, b]", Labels(("a", "b"))),
        ("{labels: [a, b]}", Labels(("a", "b"))),
        ("text", TextShape()),
        (
            "{text: {max_words: 5, min_chars: 1, max_lines: 2, regex: '^[a-z]'}}",
            TextShape(max_words=5, min_chars=1, max_lines=2, regex="^[a-z]"),
        ),
        ("{json: {type: string}}", JsonShape('{"type": "string"}')),
        ("{json: shape.json}", JsonShape('{"type": "string"}')),
    ],
)
def test_every_form_of_output(folder: Path, output: str, shape: object) -> None:
    """A contract is declared as labels, as text with limits, or as a JSON Schema, in the file or beside it."""
    task = load(folder, f"task: x\noutput: {output}\n", shape__json='{"type": "string"}')
    assert task.contract.shape == shape
    assert (str(folder / "shape.json") in task.sources) == ("shape.json" in output)


# --- mistakes ---------------------------------------------------------------------------------------------

MISTAKEN = """\
task: Sort a ticket.
taks: again
output: [billing, delivery]
compile:
  levle: 1
  seed: -4
models: {production: nearest}
constraints:
  - {say: Short., chek: {max_words: 3}}
  - {check: {max_word: 3}}
serve: {on_contract_break: repiar}
examples:
  - {input: Where is it?, output: delivry}
  - {input: Too much money, outptu: billing}
  - {input: Paid twice, output: billing}
  - {input: Paid twice, output: delivery}
gate: {marign: 0.1}
scorers: exact
task: Sort it again.
"""


def test_a_file_with_a_dozen_mistakes_gives_just_those_lines(folder: Path) -> None:
    """All mistakes of a file are told at once: in settings, constraints, rows, outputs and doubled keys alike."""
    found = problems(folder, MISTAKEN)
    assert [line.split(": ")[0] for line in found] == [f"t.yaml:{line}" for line in (2, 5, 6, 7, 9, 10, 11, 13, 14, 14, 16, 17, 18, 19)]
    wanted = [
        (2, "unknown key 'taks'", "did you mean 'task'?"),
        (5, "unknown key 'levle' in compile", "did you mean 'level'?"),
        (6, "seed is '-4'", "a whole number, 0 or more"),
        (7, "a model is named 'nearest'", "endpoint/model"),
        (9, "unknown key 'chek' in a constraint", "did you mean 'check'?"),
        (10, "unknown key 'max_word' in a check", "did you mean 'max_words'?"),
        (11, "on_contract_break is 'repiar'", "did you mean 'repair'?"),
        (13, "'delivry' is none of the labels", "did you mean 'delivery'?"),
        (14, "unknown key 'outptu' in a row", "did you mean 'output'?"),
        (14, "a row has no 'output'", "write {input: …, output: …}"),
        (16, "this input has another output (line 15)", "keep the right one"),
        (17, "unknown key 'marign' in gate", "did you mean 'margin'?"),
        (18, "scorers is 'exact'", "write a list"),
        (19, "the key 'task' stands twice (first in line 1)", "keep one of them"),
    ]
    for line, (number, what, right) in zip(found, wanted, strict=True):
        assert line.startswith(f"t.yaml:{number}: ")
        assert what in line
        assert right in line


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("taks: x\n", 1, "did you mean 'task'?"),
        ("task: x\ninputs: {q: {abuot: x}}\n", 2, "did you mean 'about'?"),
        ("task: x\noutput: {jsno: {}}\n", 2, "did you mean 'json'?"),
        ("task: x\noutput: txt\n", 2, "did you mean 'text'?"),
        ("task: x\noutput: {labels: [a, b], alow_other: true}\n", 2, "did you mean 'allow_other'?"),
        ("task: x\noutput:\n  text:\n    max_wrods: 3\n", 4, "did you mean 'max_words'?"),
        ("task: x\nexamples:\n  fiel: rows.jsonl\n", 3, "did you mean 'file'?"),
        ("task: x\nexamples:\n  - inptu: a\n    output: b\n", 3, "did you mean 'input'?"),
        ("task: x\nexamples: {file: r.jsonl, split: {exmples: 0.5}}\n", 2, "did you mean 'examples'?"),
        ("task: x\nconstraints: [{sya: hello}]\n", 2, "did you mean 'say'?"),
        ("task: x\nconstraints: [{check: {contain: a}}]\n", 2, "did you mean 'contains'?"),
        ("task: x\nmodels: {prodcution: a/b}\n", 2, "did you mean 'production'?"),
        ("task: x\ncompile: {sed: 3}\n", 2, "did you mean 'seed'?"),
        ("task: x\ncompile:\n  budget:\n    cals: 3\n", 4, "did you mean 'calls'?"),
        ("task: x\ncompile: {prefer: scores}\n", 2, "did you mean 'score'?"),
        ("task: x\ngate: {requir: {}}\n", 2, "did you mean 'require'?"),
        ("task: x\nserve: {fallbak: [a/b]}\n", 2, "did you mean 'fallback'?"),
        ("task: x\nholdot: []\n", 2, "did you mean 'holdout'?"),
    ],
)
def test_did_you_mean_at_every_level(folder: Path, text: str, line: int, said: str) -> None:
    """A misspelled key or name is answered with the right one and its line, wherever it stands."""
    assert any(found.startswith(f"t.yaml:{line}: ") and said in found for found in problems(folder, text))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("- a\n- b\n", 1, "the task file is a list"),
        ("just words\n", 1, "the task file is 'just words'"),
        ("output: [a, b]\n", 1, "the task file has no 'task', add it"),
        ("task:\n", 1, "task is empty"),
        ("task: [a]\n", 1, "task is a list"),
        ("task: x\noutput:\n", 2, "output is nothing"),
        ("task: x\noutput: [a]\n", 2, "at least 2"),
        ("task: x\noutput: [a, [b]]\n", 2, "a label is a list"),
        ("task: x\noutput:\n  - Yes\n  - no\n  - 'yes!'\n", 5, "the same but for case and punctuation"),
        ("task: x\noutput: {json: {type: objekt}}\n", 2, "is no JSON Schema"),
        ("task: x\noutput: {json: missing.json}\n", 2, "'missing.json' can't be read: No such file"),
        ("task: x\noutput: {json: {minimum: .inf}}\n", 2, "write a finite number"),
        ("task: x\noutput: {text: {min_words: 5, max_words: 4}}\n", 2, "min_words 5 is more than max_words 4"),
        ("task: x\noutput: {text: {regex: '('}}\n", 2, "no regular expression"),
        ("task: x\noutput: {text: {max_words: 1.5}}\n", 2, "max_words is '1.5', write a whole number, 0 or more"),
        ("task: x\noutput: {text: {max_words: true}}\n", 2, "max_words is 'true'"),
        ("task: x\ninputs: []\n", 2, "at least 1"),
        ("task: x\ninputs: {}\n", 2, "inputs names no input"),
        ("task: x\ninputs: [a, a]\n", 2, "named twice"),
        ("task: x\ninputs: [1a]\n", 2, "'1a' can't be an input's name"),
        ("task: x\ninputs: {a: number}\n", 2, "write one of text"),
        ("task: x\nconstraints: [{}]\n", 2, "a constraint says nothing"),
        ("task: x\nconstraints: [{check: {max_words: 1, min_words: 1}}]\n", 2, "write exactly one of max_words"),
        ("task: x\nconstraints: [{check: {regex: '['}}]\n", 2, "no regular expression"),
        ("task: x\nmodels: builtin/nearest\n", 2, "models is 'builtin/nearest'"),
        ("task: x\nmodels: {production: {temperature: 1}}\n", 2, "a model is named None"),
        ("task: x\ncompile: {level: 4}\n", 2, "from 0 to 3"),
        ("task: x\ncompile: {budget: {usd: -1}}\n", 2, "usd is '-1'"),
        ("task: x\nserve: {cache: yes}\n", 2, "cache is 'yes', write true or false"),
        ("task: x\ngate: {margin: 2}\n", 2, "from 0 to 1"),
        ("task: x\nscorers: [{a: 1, b: 2}]\n", 2, "a scorer names 2 things"),
        ("task: x\nexamples: rows.jsonl\n", 2, "examples is 'rows.jsonl', write a list"),
        ("task: x\nexamples:\n", 2, "examples is nothing"),
        ("task: x\nexamples: [a]\n", 2, "a row is no mapping"),
        ("task: x\nexamples: [{input: a, output: ''}]\n", 2, "an output is empty"),
        ("task: x\nexamples: [{input: {q: a}, output: b}]\n", 2, "declare them: inputs: [q]"),
        ("task: x\nexamples: [{input: [a], output: b}]\n", 2, "write one text"),
        ("task: x\ninputs: [q]\nexamples: [{input: {p: a}, output: b}]\n", 3, "unknown input 'p'"),
        ("task: x\ninputs: [q, r]\nexamples: [{input: {q: a}, output: b}]\n", 3, "input 'r' is missing"),
        ("task: x\ninputs: {q: {max_chars: 2}}\nexamples: [{input: {q: abc}, output: b}]\n", 3, "more than its limit of 2"),
        ("task: x\nexamples: {file: none.jsonl}\n", 2, "none.jsonl: there is no such file"),
        ("task: x\nexamples: {file: rows.xlsx}\n", 2, "save it as .jsonl, .csv, .tsv"),
        ("task: x\nexamples: {map: {input: a}}\n", 2, "a data file has no 'file'"),
        ("task: x\nexamples: {file: r.jsonl, split: {examples: 0.8, holdout: 0.4}}\n", 2, "add up to 1.2"),
        (
            "task: x\nexamples:\n- {input: a, output: b, id: i}\n- {input: c, output: b, id: i}\n",
            4,
            "the id 'i' is also that of the row at t.yaml:3",
        ),
        ("task: x\nexamples:\n- {input: a, output: b}\n- {input: ' A ', output: b}\n", 4, "this input stands here already (line 3)"),
        ("task: x\nexamples:\n- {input: a, output: b}\nholdout:\n- {input: a, output: b}\n", 5, "this input is visible already (line 3)"),
        ("task: !!str x\n", 1, "the tag '!!str' has no meaning here"),
        ("task: x\n? [a]\n: b\n", 2, "a key is a list or a mapping"),
    ],
)
def test_each_mistake_has_its_line_and_says_what_would_be_right(folder: Path, text: str, line: int, said: str) -> None:
    """One mistake gives one error, at its line, in words that say what to write."""
    found = problems(folder, text)
    assert len(found) == 1
    assert found[0].startswith(f"t.yaml:{line}: ")
    assert said in found[0]


def test_an_unreadable_part_does_not_hide_mistakes_elsewhere(folder: Path) -> None:
    """With inputs, output or constraints wrong, rows are still looked at, and give no errors that follow from it."""
    text = "task: x\ninputs: [1a]\noutput: {text: {max_words: x}}\nexamples:\n  - {input: {q: a}, output: b}\n  - {input: {q: a}}\n"
    assert [line.split(": ")[0] for line in problems(folder, text)] == ["t.yaml:2", "t.yaml:3", "t.yaml:6"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "t.yaml: the file is empty"),
        (b"# only a comment\n", "t.yaml: the file is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "t.yaml:1: byte 0x89 (at offset 0) is not UTF-8"),
        (b"task: a\0b\n", "t.yaml:1: there is a NUL byte"),
        (b"task: x\noutput: caf\xe9\n", "t.yaml:2: byte 0xe9 (at offset 19) is not UTF-8, save the file as UTF-8"),
        ("task: x\n".encode("utf-16"), "t.yaml:1: the file is UTF-16"),
        (b"task: x\noutput:\n\t- a\n", "t.yaml:3: a tab stands in the indentation"),
        (b"task: 'x\n", "t.yaml:1: the quote that opens here is never closed"),
        (b"task: a: b\n", "t.yaml:1: a ': ' stands where no key can be"),
        (b"task: x\n---\ntask: y\n", "t.yaml:2: a second document begins here"),
        (b"task: *nowhere\n", "t.yaml:1: the alias *nowhere names no anchor"),
        ("task: a\u2028b\nnext: x\n".encode(), "t.yaml:1: the character U+2028 shifts the lines after it"),
        (b"a: " + b"[" * 150 + b"]" * 150, "t.yaml:1: lists and mappings are nested more than 100 deep"),
        (
            (
                b"task: x\na: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
                b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
            ),
            "t.yaml:6: the file has more than 100,000 nodes once its aliases are expanded",
        ),
    ],
    ids=["empty", "comment", "binary", "nul", "latin1", "utf16", "tab", "quote", "colon", "two", "alias", "u2028", "deep", "bomb"],
)
def test_a_file_that_is_no_yaml_gives_one_error(folder: Path, data: bytes, said: str) -> None:
    """What hides the structure stands alone, with its line."""
    found = problems(folder, data)
    assert len(found) == 1
    assert found[0].startswith(said)


def test_a_huge_file_is_refused_unread(folder: Path) -> None:
    """100 MB (sparse) are refused for their size; the words say where such data belongs."""
    path = folder / "t.yaml"
    with path.open("wb") as file:
        file.write(b"task: x\n")
        file.truncate(100 * 1024 * 1024)
    with pytest.raises(SourceError, match=r"t\.yaml: the file is larger than 16 MB, put the examples into a JSONL or CSV file"):
        load_task(path)


# --- scalars ----------------------------------------------------------------------------------------------


def test_labels_and_outputs_are_written_text(folder: Path) -> None:
    """What YAML 1.1 turns into booleans, null and numbers stays the label as written."""
    labels = ["yes", "no", "on", "off", "null", "~", "true", "1.10", "010", "0x1F", "1e3", "2024-01-01", "12:30:00", ".inf", "=", "<<"]
    rows = "".join(f"  - {{input: {label}, output: {label}}}\n" for label in labels)
    task = load(folder, f"task: x\noutput: [{', '.join(labels)}]\nexamples:\n{rows}")
    assert task.contract.shape == Labels(tuple(labels))
    assert [example.output for example in task.examples] == labels
    assert [example.inputs["input"] for example in task.examples] == labels


def test_json_outputs_are_typed_by_yaml_1_2(folder: Path) -> None:
    """Only the outputs of a JSON task are typed: true is a boolean, yes is text, 010 is ten, quotes make text."""
    rows = ["{a: true}", "{a: yes}", "{a: 010}", "{a: '1'}", "{a: null}", "{a: 0x1F}", "{a: 1.10}"]
    text = "task: x\noutput: {json: {type: object}}\nexamples:\n" + "".join(
        f"  - {{input: i{number}, output: {row}}}\n" for number, row in enumerate(rows)
    )
    values = [json.loads(example.output)["a"] for example in load(folder, text).examples]
    assert values == [True, "yes", 10, "1", None, 31, 1.1]
    assert [type(value) for value in values] == [bool, str, int, str, type(None), int, float]


def test_64_bit_integers_keep_every_digit(folder: Path) -> None:
    """Integers beyond 2^53 pass unharmed as labels, inputs and JSON values."""
    big = 2**63 - 1
    task = load(folder, f"task: x\noutput: {{json: {{type: integer}}}}\nexamples:\n  - {{input: {big}, output: {big}}}\n")
    assert task.examples[0].inputs["input"] == str(big)
    assert json.loads(task.examples[0].output) == big


# --- rows -------------------------------------------------------------------------------------------------


def test_named_inputs_from_a_mapping_in_each_row(folder: Path) -> None:
    """Declared inputs are given by name; one with a default may be left out."""
    task = load(folder, "task: x\ninputs: {a: text, b: {default: ''}}\nexamples:\n  - {input: {a: 1.10}, output: k}\n")
    assert dict(task.examples[0].inputs) == {"a": "1.10", "b": ""}


JSONL = "".join(json.dumps({"input": f"text number {n}", "output": "ab"[n % 2]}) + "\n" for n in range(200))


def test_a_data_file_with_a_split_gives_both_sides(folder: Path) -> None:
    """Every row lands on exactly one side, by its input and the data seed alone; adding a row moves no other."""
    text = "task: x\noutput: [a, b]\nexamples: {{file: rows.jsonl, split: {{examples: 0.6, holdout: 0.4}}, seed: {}}}\n"
    one = load(folder, text.format(0), rows__jsonl=JSONL)
    shown, sealed = ({example.inputs["input"] for example in side} for side in (one.examples, one.holdout))
    assert not shown & sealed
    assert len(shown | sealed) == 200
    assert 60 <= len(sealed) <= 100
    more = load(folder, text.format(0), rows__jsonl=JSONL + '{"input": "a new row", "output": "a"}\n')
    assert {e.inputs["input"] for e in more.examples} - {"a new row"} == shown
    other = load(folder, text.format(5), rows__jsonl=JSONL)
    assert {e.inputs["input"] for e in other.examples} != shown
    assert str(folder / "rows.jsonl") in one.sources


def test_a_split_below_one_leaves_rows_out(folder: Path) -> None:
    """Shares that add up to less than one drop the rest."""
    task = load(folder, "task: x\nexamples: {file: rows.jsonl, split: {examples: 0.2, holdout: 0.2}}\n", rows__jsonl=JSONL)
    assert 40 <= len(task.examples) + len(task.holdout) <= 120


def test_holdout_beside_a_split_is_an_error(folder: Path) -> None:
    """Two sources of holdout rows contradict each other."""
    text = "task: x\nexamples: {file: rows.jsonl, split: {examples: 0.5, holdout: 0.5}}\nholdout:\n  - {input: z, output: a}\n"
    assert "the split of the examples' file makes one too" in problems(folder, text, rows__jsonl=JSONL)[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows__csv", 'Text,Kind,Nr\n"hello, ""you""",a,7\nbye,b,8\n'),
        ("rows__tsv", 'Text\tKind\tNr\n"hello, ""you"""\ta\t7\nbye\tb\t8\n'),
        ("rows__jsonl", '{"Text": "hello, \\"you\\"", "Kind": "a", "Nr": 7}\n{"Text": "bye", "Kind": "b", "Nr": 8}\n'),
    ],
)
def test_map_names_columns_in_every_kind_of_file(folder: Path, name: str, content: str) -> None:
    """The same rows from CSV, TSV and JSONL, their columns named by map."""
    file = name.replace("__", ".")
    task = load(
        folder, f"task: x\noutput: [a, b]\nexamples: {{file: {file}, map: {{input: Text, output: Kind, id: Nr}}}}\n", **{name: content}
    )
    assert [(e.id, e.inputs["input"], e.output) for e in task.examples] == [("7", 'hello, "you"', "a"), ("8", "bye", "b")]
    assert [(e.where.file, e.where.line) for e in task.examples] == [
        (file, 1 if "jsonl" in file else 2),
        (file, 2 if "jsonl" in file else 3),
    ]


def test_a_promptfoo_csv_keeps_its_assertions(folder: Path) -> None:
    """``contains:X`` gives output X and keeps the assertion, a plain value is the output."""
    content = "input,__expected\nfirst,contains:refund\nsecond,equals: paid\nthird,thanks\n"
    task = load(folder, "task: x\noutput: text\nexamples: {file: rows.csv}\n", rows__csv=content)
    assert [(e.output, [(c.kind, c.value) for c in e.checks]) for e in task.examples] == [
        ("refund", [("contains", "refund")]),
        ("paid", []),
        ("thanks", []),
    ]
    found = problems(folder, "task: x\nexamples: {file: rows.csv}\n", rows__csv="input,__expected\nq,a\nr,llm-rubric:is it kind\n")
    assert found[0].startswith("rows.csv:3: the assertion 'llm-rubric' can't be read yet")


def test_mistakes_in_data_files_name_the_data_files_line(folder: Path) -> None:
    """A bad row is named by its own file and line, next to the mistakes of the task file."""
    rows = '{"input": "a", "output": "x"}\nno json\n{"input": "b", "output": "z"}\n{"input": "c"}\n'
    found = problems(folder, "task: x\noutput: [x, y]\nexamples: {file: rows.jsonl}\ngate: {margni: 1}\n", rows__jsonl=rows)
    assert [line.split(": ")[0] for line in found] == ["rows.jsonl:2", "rows.jsonl:3", "rows.jsonl:4", "t.yaml:4"]
    assert "did you mean 'margin'?" in found[-1]


def test_contradictions_in_files_are_counted_not_refused(folder: Path) -> None:
    """Real data has duplicates and contradictions: exact ones leave, the others are counted with their places."""
    rows = "".join(
        json.dumps({"input": text, "output": output}) + "\n"
        for text, output in [("a", "x"), ("a", "x"), ("b", "x"), ("b", "y"), ("c", "y")]
    )
    held = json.dumps({"input": "C", "output": "y"}) + "\n" + json.dumps({"input": "d", "output": "y"}) + "\n"
    task = load(folder, "task: x\noutput: [x, y]\nexamples: {file: r.jsonl}\nholdout: {file: h.jsonl}\n", r__jsonl=rows, h__jsonl=held)
    assert [e.inputs["input"] for e in task.holdout] == ["d"]
    assert [note.split(":")[0] for note in task.notes] == [
        "1 exact duplicate left out",
        "1 holdout row left out because its input is visible",
        "1 contradiction (same input, two outputs)",
    ]
    assert "r.jsonl:4 and r.jsonl:3" in task.notes[2]


# --- constraints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "good", "bad", "reason"),
    [
        ("max_words: 2", "two words", "three whole words", "3 words, more than 2"),
        ("min_words: 2", "two words", "one", "1 word, fewer than 2"),
        ("regex: '^[a-z]+$'", "abc", "ABC", "does not match the pattern"),
        ("contains: sorry", "So Sorry", "no regret", "does not contain 'sorry'"),
        ("not_contains: sorry", "no regret", "so sorry", "contains 'sorry', which it must not"),
    ],
)
def test_a_check_is_proved_on_every_example(folder: Path, check: str, good: str, bad: str, reason: str) -> None:
    """Each kind of check passes an example that keeps it and names the line of one that breaks it."""
    text = f"task: x\noutput: text\nconstraints:\n  - {{check: {{{check}}}}}\nexamples:\n  - {{input: i, output: {good}}}\n"
    assert load(folder, text).constraints[0].check is not None
    found = problems(folder, text + f"  - {{input: j, output: {bad}}}\n")
    assert len(found) == 1
    assert found[0].startswith("t.yaml:7: the output breaks the contract: ")
    assert reason in found[0]


def test_a_holdout_row_that_breaks_the_contract_is_an_error_too(folder: Path) -> None:
    """The sealed rows are judged by the same contract, by the file that holds them."""
    found = problems(folder, "task: x\noutput: [a, b]\nholdout: {file: h.jsonl}\n", h__jsonl='{"input": "q", "output": "c"}\n')
    assert found == ["h.jsonl:1: the output breaks the contract: 'c' is none of the labels a, b"]


def test_many_wrong_rows_are_listed_in_part_and_counted(folder: Path) -> None:
    """A wrong label list does not bury the reader under a thousand lines."""
    rows = "".join(json.dumps({"input": f"n {n} {'x' * n}", "output": "c"}) + "\n" for n in range(50))
    found = problems(folder, "task: x\noutput: [a, b]\nexamples: {file: r.jsonl}\n", r__jsonl=rows)
    assert len(found) == 21
    assert any("30 more outputs break the contract" in line for line in found)


def test_a_label_in_another_spelling_is_refused_in_an_example(folder: Path) -> None:
    """An example teaches its spelling, so it must be the label's own."""
    assert (
        "is written differently from the label 'Billing'"
        in problems(folder, "task: x\noutput: [Billing, other]\nexamples: [{input: a, output: billing}]\n")[0]
    )


# --- scorers and gate, prompt by hand ---------------------------------------------------------------------


def test_scorers_and_gate_are_checked_for_shape_only(folder: Path) -> None:
    """Names that no scorer has yet are kept as written: part of the source, judged by the eval."""
    task = load(folder, "task: x\nscorers: [no-such-scorer, {other: {deep: {er: [1]}}}]\ngate: {require: {anything: '> 3'}}\n")
    assert [scorer.name for scorer in task.scorers] == ["no-such-scorer", "other"]
    assert task.scorers[1].where.line == 2


def test_a_prompt_by_hand_is_used_to_the_byte(folder: Path) -> None:
    """``prompt:`` skips the template and keeps contract, inputs and serving."""
    task = load(
        folder, "task: x\noutput: [a, b]\nprompt: |\n  You are {kind}.\n    Answer <a> or <b>.\nexamples: [{input: i, output: a}]\n"
    )
    compiled = compile_task(task, project=_project(folder))
    assert compiled.system == "You are {kind}.\n  Answer <a> or <b>.\n"
    assert compiled.contract.shape == Labels(("a", "b"))


def _project(folder: Path) -> Path:
    (folder / "promptsmith.toml").touch()
    (folder / "evals").mkdir(exist_ok=True)
    return folder


# --- the same task in Python ------------------------------------------------------------------------------

SAME: list[tuple[str, dict[str, Any]]] = [
    (
        "task: Sort.\noutput: [yes, no]\nexamples:\n  - {input: a, output: yes}\n  - {input: b, output: no}\n",
        {"description": "Sort.", "output": ["yes", "no"], "examples": [("a", "yes"), ("b", "no")]},
    ),
    (
        (
            "task: Read.\ninputs: {q: text, r: {default: x}}\noutput: {json: {type: object, properties: {n: {type: integer}}}}\n"
            "examples:\n  - {input: {q: a}, output: {n: 1}}\nconstraints:\n  - Be kind.\n  - {say: Short., check: {max_words: 3}}\n"
            "models: {production: {use: builtin/nearest, temperature: 0.5}}\ncompile: {seed: 4, example_tokens: 99}\n"
        ),
        {
            "description": "Read.",
            "inputs": {"q": "text", "r": {"default": "x"}},
            "output": {"json": {"type": "object", "properties": {"n": {"type": "integer"}}}},
            "examples": [{"input": {"q": "a"}, "output": {"n": 1}}],
            "constraints": ["Be kind.", {"say": "Short.", "check": {"max_words": 3}}],
            "models": {"production": {"use": "builtin/nearest", "temperature": 0.5}},
            "compile": {"seed": 4, "example_tokens": 99},
        },
    ),
    (
        "task: Shorten.\noutput: {text: {max_words: 9}}\nexamples:\n  - {input: long, output: short}\nprompt: Shorten it.\n",
        {"description": "Shorten.", "output": {"text": {"max_words": 9}}, "examples": [("long", "short")], "prompt": "Shorten it."},
    ),
    ("task: Guess.\nexamples:\n  - {input: a, output: x}\n", {"description": "Guess.", "examples": [("a", "x")]}),
]


@pytest.mark.parametrize(("text", "arguments"), SAME, ids=["labels", "json", "prompt", "inferred"])
def test_file_and_python_are_the_same_task(folder: Path, text: str, arguments: dict[str, Any]) -> None:
    """A task compiles to the same prompt id whether it is a file or made with ``Task(...)``."""
    project = _project(folder)
    from_file = compile_task(load(folder, text), project=project)
    from_python = compile_task(Task(**arguments), project=project)
    assert from_file.id == from_python.id
    assert from_file.provenance.build.key == from_python.provenance.build.key


def test_a_task_in_python_may_name_data_files(folder: Path) -> None:
    """``examples={"file": …}`` is relative to ``folder``."""
    (folder / "rows.jsonl").write_text(JSONL)
    task = Task("x", output=["a", "b"], examples={"file": "rows.jsonl"}, folder=folder)
    assert len(task.examples) == 200


def test_errors_of_a_task_in_python_name_the_place(folder: Path) -> None:
    """There are no lines in Python: each mistake names its argument, key and index."""
    with pytest.raises(SourceError) as caught:
        Task(
            "x",
            name="ticket",
            output=["a", "b"],
            examples=[("q", "a"), ("r", "c"), ("Q", "b"), {"input": "z"}],
            constraints=["fine", {"say": "x", "check": {"max_word": 3}}],
            compile={"levle": 1},
            models={"production": "nearest"},
        )
    found = str(caught.value).splitlines()
    assert {line.split(": ")[1] for line in found} == {
        "constraints[1].check.max_word",
        "compile.levle",
        "models.production",
        "examples[1]",
        "examples[2]",
        "examples[3]",
    }
    assert all(line.startswith("Task('ticket'): ") for line in found)
    assert any("did you mean 'max_words'?" in line for line in found)
    assert any("this input has another output (examples[0])" in line for line in found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"examples": [{"input": "a", "output": "b", "id": "i"}, {"input": "c", "output": "b", "id": "i"}]},
            "examples[1]: the id 'i' is also that of the row at examples[0]",
        ),
        ({"examples": [(b"bytes", "a")]}, "examples[0].input: a value of type bytes can't stand in a task"),
        ({"examples": [("\ud800", "a")]}, "examples[0].input: the text has a lone surrogate (U+D800) at character 1"),
        ({"gate": {"require": {1: "x"}}}, "gate.require: the key '1' is int"),
        ({"output": {"labels"}}, "output: a value of type set can't stand in a task"),
    ],
)
def test_mistakes_in_python_values_are_placed(arguments: dict[str, Any], said: str) -> None:
    """Also what no file could hold (bytes, lone surrogates, keys that are no text) is refused with its place."""
    with pytest.raises(SourceError) as caught:
        Task("x", **arguments)
    assert said in str(caught.value)


# --- the schema for editors -------------------------------------------------------------------------------


def test_the_committed_schema_is_the_generated_one() -> None:
    """Editors see just the format that is read."""
    assert (ROOT / "promptsmith" / "task.schema.json").read_text(encoding="utf-8") == schema_text()


SHIPPED = [*sorted((ROOT / "evals").rglob("*.yaml")), ROOT / "promptsmith" / "templates" / "sentiment.yaml"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_schema_accepts_what_is_shipped(path: Path) -> None:
    """Every shipped task and what ``init`` writes satisfy the schema."""
    jsonschema_rs.validator_for(task_schema()).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_there_are_shipped_tasks_to_check() -> None:
    """The test above would pass on nothing."""
    assert len(SHIPPED) >= 5


@pytest.mark.parametrize("path", SHIPPED[:-1], ids=lambda path: path.stem)
def test_shipped_tasks_name_the_schema_that_is_there(path: Path) -> None:
    """The first line points the editor at the committed schema."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("=")[2]).resolve() == ROOT / "promptsmith" / "task.schema.json"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (EVERYTHING, True),
        ("task: x\ntaks: y\n", False),
        ("output: [a, b]\n", False),
        ("task: x\ncompile: {levle: 1}\n", False),
        ("task: x\nconstraints: [{check: {max_word: 1}}]\n", False),
        ("task: x\nexamples: [{input: a, outptu: b}]\n", False),
        ("task: x\nexamples: {file: a.csv, splt: {}}\n", False),
        ("task: x\nserve: {on_contract_break: explode}\n", False),
        ("task: x\noutput: {text: {max_words: many}}\n", False),
    ],
)
def test_schema_and_reader_agree(folder: Path, text: str, good: bool) -> None:
    """What the schema marks in the editor is what the reader refuses."""
    assert (
        jsonschema_rs.validator_for(task_schema()).is_valid(yaml.load(text, Loader=yaml.BaseLoader) if not good else yaml.safe_load(text))
        == good
    )
    if good:
        load(folder, text)
    else:
        problems(folder, text)


# --- writing the contract back ----------------------------------------------------------------------------


def written(folder: Path, text: bytes, **data: str) -> bytes:
    """The file after the inferred contract was written into it."""
    task = load(folder, text, **data)
    assert task.contract.inferred
    write_contract(folder / "t.yaml", task)
    return (folder / "t.yaml").read_bytes()


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([("a", "yes"), ("b", "no"), ("c", "yes"), ("d", "no")], 'output: ["yes", "no"]'),
        ([("a", '{"n": 1}'), ("b", '{"n": 2}')], 'output: {"json": {"type": "object"'),
        ([(c, f"{c} long answer of several words") for c in "abcdefgh"], 'output: {"text": {"'),
    ],
    ids=["labels", "json", "text"],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_inferred_contract_goes_into_the_file(folder: Path, rows: list[tuple[str, str]], line: str, newline: str) -> None:
    """One line is added before the examples; every other byte, comments and line ends included, stays."""
    body = "".join(f"  - {{input: {i}, output: {json.dumps(o)}}}  # why\n" for i, o in rows)
    text = f"# a comment\ntask: x   # more\n\nexamples:\n{body}".replace("\n", newline).encode()
    after = written(folder, text)
    added = [one for one in after.splitlines(keepends=True) if one.startswith(b"output:")]
    assert len(added) == 1
    assert added[0].decode().startswith(line)
    assert added[0].endswith(newline.encode())
    assert after.replace(added[0], b"") == text
    assert not load_task(folder / "t.yaml").contract.inferred


def test_writing_the_contract_keeps_a_byte_order_mark(folder: Path) -> None:
    """A mark at the beginning is a byte like the others."""
    text = (
        b"\xef\xbb\xbftask: x\nexamples:\n  - {input: a, output: k}\n"
        b"  - {input: b, output: l}\n  - {input: c, output: k}\n  - {input: d, output: l}\n"
    )
    assert written(folder, text).startswith(b"\xef\xbb\xbftask: x\noutput: ")


def test_labels_with_characters_that_yaml_refuses_are_escaped(folder: Path) -> None:
    """Labels from a data file may hold what YAML can't; emoji stay themselves."""
    labels = ["a\ufeffb\x9fc", "🙂 ok"]
    rows = "".join(json.dumps({"input": f"{n} {'q' * n}", "output": labels[n % 2]}) + "\n" for n in range(8))
    written(folder, b"task: x\nexamples: {file: r.jsonl}\n", r__jsonl=rows)
    assert load_task(folder / "t.yaml").contract.shape == Labels(("a\ufeffb\x9fc", "🙂 ok"))


def test_a_declared_contract_is_not_written_again(folder: Path) -> None:
    """Nothing changes when the file says it already."""
    task = load(folder, "task: x\noutput: [a, b]\n")
    assert "declares its contract already" in write_contract(folder / "t.yaml", task)
    assert (folder / "t.yaml").read_text() == "task: x\noutput: [a, b]\n"


def test_a_form_that_can_not_take_a_line_is_left_alone(folder: Path) -> None:
    """A file in flow style is refused with what to do, and keeps its bytes."""
    text = "{task: x, examples: [{input: a, output: k}, {input: b, output: l}, {input: c, output: k}, {input: d, output: l}]}\n"
    task = load(folder, text)
    with pytest.raises(InputError, match="add an output: key by hand"):
        write_contract(folder / "t.yaml", task)
    assert (folder / "t.yaml").read_text() == text
    assert [path.name for path in folder.iterdir()] == ["t.yaml"]
