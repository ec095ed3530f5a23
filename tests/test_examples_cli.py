"""``promptsmith examples``: review captured calls, add rows, count them; a task file is never changed."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result as Ended

from promptsmith import Runtime, canonical
from promptsmith.config import Project
from promptsmith.errors import InputError
from promptsmith.evals.labelling import Labelling
from promptsmith.store.captures import Capture
from promptsmith.store.folder import open_store
from promptsmith.task import load_task

Make = Callable[..., Project]
Invoke = Callable[..., Ended]

HEAD = "task: Classify the sentiment of a customer message.\noutput: [positive, negative, neutral]\n"
INLINE = f"""{HEAD}examples:
  - {{input: "This product is amazing!", output: positive}}
  - {{input: "It broke after a day.", output: negative, tags: [early]}}
"""
FILE = f"{HEAD}examples: {{file: data/rows.jsonl}}\nholdout: {{file: data/sealed.jsonl}}\n"
ROWS: list[object] = [{"input": "This product is amazing!", "output": "positive"}, {"input": "It broke.", "output": "negative"}]
SEALED: list[object] = [{"input": "sealed one", "output": "neutral"}]


@pytest.fixture
def inline(make_project: Make) -> Project:
    return make_project({"sentiment": INLINE})


@pytest.fixture
def filed(make_project: Make) -> Project:
    return make_project({"sentiment": FILE}, {"data/rows.jsonl": ROWS, "data/sealed.jsonl": SEALED})


def capture(project: Project, *given: str, output: str = "positive", task: str = "sentiment", **more: Any) -> None:
    with open_store(project) as store:
        for text in given:
            inputs = {"input": text}
            fields = {"time": time.time(), "prompt": "ab" * 32, "model": "openai/small", "ok": True} | more
            store.captures.add(task, Capture(id=canonical.case_id(inputs), inputs=inputs, output=output, **fields))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# --- add: where a row goes --------------------------------------------------------------------------------


def test_a_row_goes_into_the_file_that_the_task_names(filed: Project, invoke: Invoke) -> None:
    task_file = filed.task_file("sentiment").read_bytes()
    ended = invoke("examples", "add", "sentiment", "--input", "fine I guess", "--output", "neutral", "--tag", "hard", project=filed)
    assert "evals/data/rows.jsonl" in ended.stdout
    assert "put this line" not in ended.output
    added = {"input": "fine I guess", "output": "neutral", "tags": ["hard"]}
    assert lines(filed.evals / "data/rows.jsonl") == [*ROWS, added]
    task = load_task(filed.task_file("sentiment"))
    assert [(row.inputs, row.output, row.tags) for row in task.examples][-1] == ({"input": "fine I guess"}, "neutral", ("hard",))
    assert filed.task_file("sentiment").read_bytes() == task_file


def test_the_holdout_is_touched_only_when_that_is_said(filed: Project, invoke: Invoke) -> None:
    sealed = filed.evals / "data/sealed.jsonl"
    before = sealed.read_bytes()
    invoke("examples", "add", "sentiment", "--input", "one", "--output", "neutral", project=filed)
    assert sealed.read_bytes() == before
    ended = invoke("examples", "add", "sentiment", "--input", "two", "--output", "neutral", "--to", "holdout", "--json", project=filed)
    assert json.loads(ended.stdout)["file"] == "evals/data/sealed.jsonl"
    assert lines(sealed)[-1] == {"input": "two", "output": "neutral"}


def test_without_a_file_a_new_one_holds_all_rows_and_the_line_to_name_it_is_said(inline: Project, invoke: Invoke) -> None:
    source = inline.task_file("sentiment").read_text()
    ended = invoke("examples", "add", "sentiment", "--input", "so so", "--output", "neutral", project=inline)
    path = inline.evals / "data/sentiment.reviewed.jsonl"
    assert "examples: {file: data/sentiment.reviewed.jsonl}" in ended.stderr
    assert "in place of its examples (2 rows" in ended.stderr
    assert lines(path)[1:] == [
        {"input": "It broke after a day.", "output": "negative", "tags": ["early"]},
        {"input": "so so", "output": "neutral"},
    ]
    assert inline.task_file("sentiment").read_text() == source
    # What it says works: the line takes the rows' place and loses none of them.
    before = load_task(inline.task_file("sentiment")).examples
    inline.task_file("sentiment").write_text(f"{HEAD}examples: {{file: data/sentiment.reviewed.jsonl}}\n")
    after = load_task(inline.task_file("sentiment")).examples
    assert [(row.id, row.output, row.tags) for row in after][:2] == [(row.id, row.output, row.tags) for row in before]
    assert len(after) == 3
    assert "put this line" not in invoke("examples", "add", "sentiment", "--input", "meh", "--output", "neutral", project=inline).output


def test_a_side_that_the_task_does_not_have_gets_a_file_of_its_own(inline: Project, invoke: Invoke) -> None:
    ended = invoke("examples", "add", "sentiment", "--input", "sealed", "--output", "neutral", "--to", "holdout", project=inline)
    assert "holdout: {file: data/sentiment.reviewed-holdout.jsonl}" in ended.stderr
    assert "in place of" not in ended.stderr
    assert lines(inline.evals / "data/sentiment.reviewed-holdout.jsonl") == [{"input": "sealed", "output": "neutral"}]


def test_a_task_in_a_folder_names_its_file_from_there(make_project: Make, invoke: Invoke) -> None:
    project = make_project({"support/triage": INLINE})
    ended = invoke("examples", "add", "support/triage", "--input", "x", "--output", "neutral", project=project)
    assert "examples: {file: ../data/support/triage.reviewed.jsonl}" in ended.stderr
    assert (project.evals / "data/support/triage.reviewed.jsonl").is_file()


def test_csv_stays_as_it_is_and_its_rows_begin_the_new_file(make_project: Make, invoke: Invoke) -> None:
    project = make_project(
        {"sentiment": f"{HEAD}examples: {{file: rows.csv, map: {{input: said, output: is}}}}\n"},
        {"rows.csv": 'said,is\ngood,positive\n"bad, really",negative\n'},
    )
    before = (project.evals / "rows.csv").read_bytes()
    ended = invoke("examples", "add", "sentiment", "--input", "hm", "--output", "neutral", project=project)
    assert "in place of its examples (2 rows" in ended.stderr
    assert [row["input"] for row in lines(project.evals / "data/sentiment.reviewed.jsonl")] == ["good", "bad, really", "hm"]
    assert (project.evals / "rows.csv").read_bytes() == before


def test_a_mapped_file_gets_its_own_columns(make_project: Make, invoke: Invoke) -> None:
    mapping = "map: {input: said, output: is, tags: groups}"
    project = make_project(
        {"sentiment": f"{HEAD}examples: {{file: rows.jsonl, {mapping}}}\n"},
        {"rows.jsonl": [{"said": "good", "is": "positive", "groups": "a"}]},
    )
    invoke("examples", "add", "sentiment", "--input", "bad", "--output", "negative", "--tag", "b", project=project)
    assert lines(project.evals / "rows.jsonl")[1] == {"said": "bad", "is": "negative", "groups": ["b"]}
    assert [row.tags for row in load_task(project.task_file("sentiment")).examples] == [("a",), ("b",)]


def test_a_file_of_texts_and_labels_keeps_its_columns(make_project: Make, invoke: Invoke) -> None:
    project = make_project(
        {"sentiment": f"{HEAD}examples: {{file: rows.jsonl}}\n"}, {"rows.jsonl": [{"text": "good", "label": "positive"}]}
    )
    invoke("examples", "add", "sentiment", "--input", "bad", "--output", "negative", project=project)
    assert lines(project.evals / "rows.jsonl")[1] == {"text": "bad", "label": "negative"}


def test_in_a_split_file_the_input_alone_decides(make_project: Make, invoke: Invoke) -> None:
    split = "split: {examples: 0.5, holdout: 0.5}"
    rows: list[object] = [{"input": f"message {n}", "output": "neutral"} for n in range(20)]
    project = make_project({"sentiment": f"{HEAD}examples: {{file: rows.jsonl, {split}}}\n"}, {"rows.jsonl": rows})
    task = load_task(project.task_file("sentiment"))
    place = Labelling(project, task, "examples")
    mine = next(f"new {n}" for n in range(100) if not place.misplaced({"input": f"new {n}"}))
    other = next(f"new {n}" for n in range(100) if place.misplaced({"input": f"new {n}"}))
    invoke("examples", "add", "sentiment", "--input", mine, "--output", "neutral", project=project)
    ended = invoke("examples", "add", "sentiment", "--input", other, "--output", "neutral", project=project, code=2)
    assert "falls on the holdout side" in ended.output
    assert "--to holdout" in ended.output
    invoke("examples", "add", "sentiment", "--input", other, "--output", "neutral", "--to", "holdout", project=project)
    after = load_task(project.task_file("sentiment"))
    assert (len(after.examples) - len(task.examples), len(after.holdout) - len(task.holdout)) == (1, 1)


def test_a_split_csv_is_refused_with_what_to_do(make_project: Make, invoke: Invoke) -> None:
    split = "split: {examples: 0.5, holdout: 0.5}"
    csv = "input,output\n" + "".join(f"m{n},neutral\n" for n in range(20))
    project = make_project({"sentiment": f"{HEAD}examples: {{file: rows.csv, {split}}}\n"}, {"rows.csv": csv})
    for more in ([], ["--file", "x.jsonl"], ["--to", "holdout"]):
        ended = invoke("examples", "add", "sentiment", "--input", "x", "--output", "neutral", *more, project=project, code=2)
        assert "is split: no second file can stand beside it" in ended.output
        assert "saved as JSONL" in ended.output


def test_a_named_file_is_used_and_the_line_for_it_said(inline: Project, invoke: Invoke, tmp_path: Path) -> None:
    path = inline.root / "more rows.jsonl"
    args = ("examples", "add", "sentiment", "--output", "neutral", "--file", path)
    ended = invoke(*args, "--input", "one", project=inline)
    assert 'examples: {file: "../more rows.jsonl"}' in ended.stderr
    invoke(*args, "--input", "two", project=inline)
    assert [row["input"] for row in lines(path)][2:] == ["one", "two"]
    assert "go into a .jsonl file" in invoke(*args[:-1], tmp_path / "x.csv", "--input", "x", project=inline, code=2).output


def test_the_other_sides_file_is_refused(filed: Project, invoke: Invoke) -> None:
    path = filed.evals / "data/sealed.jsonl"
    ended = invoke("examples", "add", "sentiment", "--input", "x", "--output", "neutral", "--file", path, project=filed, code=2)
    assert "holds the holdout of sentiment" in ended.output


# --- add: what may be added -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--input", "x", "--output", "postive"], "did you mean 'positive'?"),
        (["--input", "x", "--output", ""], "the answer is empty"),
        (["--input", "  ", "--output", "neutral"], "the input is empty"),
        (["--input", "this PRODUCT is  amazing!", "--output", "positive"], "rows.jsonl:1 already, with this output"),
        (["--input", "This product is amazing!", "--output", "negative"], "has another output at"),
        (["--input", "Sealed one", "--output", "neutral"], "sealed.jsonl:1 already"),
        (["--input", "x", "--output", "neutral", "--tag", " "], "a tag is empty"),
        (["--var", "locale=en", "--output", "neutral"], "unknown input 'locale'"),
        (["--output", "neutral"], "give --input TEXT, or --var"),
        (["--input", "x", "--var", "input=x", "--output", "neutral"], "give --input TEXT, or --var"),
    ],
)
def test_what_can_not_be_a_row_is_refused_and_nothing_written(filed: Project, invoke: Invoke, args: list[str], said: str) -> None:
    before = {path: path.read_bytes() for path in (filed.evals / "data").iterdir()}
    ended = invoke("examples", "add", "sentiment", *args, project=filed, code=2)
    assert said in ended.output
    assert {path: path.read_bytes() for path in (filed.evals / "data").iterdir()} == before


def test_rows_that_wait_in_an_unnamed_file_count_as_rows(inline: Project, invoke: Invoke) -> None:
    add = ("examples", "add", "sentiment", "--input", "so so")
    invoke(*add, "--output", "neutral", project=inline)
    assert "reviewed.jsonl:3 already" in invoke(*add, "--output", "neutral", project=inline, code=2).output
    assert "another output" in invoke(*add, "--output", "negative", "--to", "holdout", project=inline, code=2).output


def test_a_label_is_written_as_the_task_writes_it(filed: Project, invoke: Invoke) -> None:
    invoke("examples", "add", "sentiment", "--input", "x", "--output", " NEUTRAL. ", project=filed)
    assert lines(filed.evals / "data/rows.jsonl")[-1]["output"] == "neutral"


ORDER = """\
task: Find the order.
inputs: {ticket: text, locale: {default: en}}
output: {json: {type: object, properties: {sku: {type: string}, count: {type: integer}}, required: [sku]}}
examples: {file: rows.jsonl}
"""


def test_json_answers_are_values_and_named_inputs_stand_together(make_project: Make, invoke: Invoke) -> None:
    project = make_project({"order": ORDER}, {"rows.jsonl": [{"input": {"ticket": "one A", "locale": "en"}, "output": {"sku": "A"}}]})
    add = ("examples", "add", "order", "--var", "ticket=three B2")
    ended = invoke(*add, "--output", '{"sku": "B2", "count": "three"}', project=project, code=2)
    assert "breaks the contract" in ended.output
    invoke(*add, "--output", '{"sku": "B2", "count": 3}', project=project)
    assert lines(project.evals / "rows.jsonl")[1] == {"input": {"ticket": "three B2", "locale": "en"}, "output": {"sku": "B2", "count": 3}}
    assert json.loads(load_task(project.task_file("order")).examples[1].output) == {"sku": "B2", "count": 3}


def test_a_json_string_comes_back_as_the_string_it_is(make_project: Make, invoke: Invoke) -> None:
    project = make_project(
        {"t": "task: Say it.\noutput: {json: {type: string}}\nexamples: {file: r.jsonl}\n"}, {"r.jsonl": [{"input": "a", "output": '"x"'}]}
    )
    invoke("examples", "add", "t", "--input", "b", "--output", '"true"', project=project)
    assert [row.output for row in load_task(project.task_file("t")).examples] == ['"x"', '"true"']


def test_an_output_outside_an_inferred_contract_is_noted(make_project: Make, invoke: Invoke) -> None:
    rows: list[object] = [{"input": f"m{n}", "output": ["yes", "no"][n % 2]} for n in range(12)]
    project = make_project({"t": "task: Say it.\nexamples: {file: r.jsonl}\n"}, {"r.jsonl": rows})
    assert "note:" in invoke("examples", "add", "t", "--input", "new", "--output", "perhaps", project=project).stderr


def test_line_ends_of_a_file_are_kept_and_a_cut_last_line_is_ended(filed: Project, invoke: Invoke) -> None:
    path = filed.evals / "data/rows.jsonl"
    path.write_bytes(b'{"input": "a", "output": "neutral"}\r\n')
    invoke("examples", "add", "sentiment", "--input", "b", "--output", "neutral", project=filed)
    assert path.read_bytes().count(b"\r\n") == 2
    path.write_bytes(b'{"input": "a", "output": "neutral"}')
    invoke("examples", "add", "sentiment", "--input", "b\u2028c", "--output", "neutral", project=filed)
    assert [row.inputs["input"] for row in load_task(filed.task_file("sentiment")).examples] == ["a", "b\u2028c"]


def test_a_linked_file_stays_a_link_and_keeps_its_rights(filed: Project, invoke: Invoke, tmp_path: Path) -> None:
    path = filed.evals / "data/rows.jsonl"
    target = tmp_path / "elsewhere.jsonl"
    target.write_bytes(path.read_bytes())
    target.chmod(0o640)
    path.unlink()
    path.symlink_to(target)
    invoke("examples", "add", "sentiment", "--input", "b", "--output", "neutral", project=filed)
    assert path.is_symlink()
    assert len(lines(target)) == 3
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in path.parent.iterdir()) == ["rows.jsonl", "sealed.jsonl"]


def test_a_broken_data_file_is_told_and_left_alone(inline: Project, invoke: Invoke) -> None:
    path = inline.evals / "data/sentiment.reviewed.jsonl"
    path.parent.mkdir()
    path.write_text('{"input": "a"\n')
    ended = invoke("examples", "add", "sentiment", "--input", "b", "--output", "neutral", project=inline, code=2)
    assert "sentiment.reviewed.jsonl:1: this is not valid JSON" in ended.output
    assert path.read_text() == '{"input": "a"\n'


def test_writers_at_the_same_time_lose_no_row(filed: Project) -> None:
    task = load_task(filed.task_file("sentiment"), name="sentiment")

    def work(mine: int) -> None:
        for number in range(20):
            Labelling(filed, task, "examples").add(f"thread {mine} says {number}", "neutral")

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(filed.evals / "data/rows.jsonl")) == 82


def test_kill_9_leaves_whole_lines(filed: Project) -> None:
    """Killed at ten moments while it writes lines of 100 kB."""
    code = f"""
from promptsmith.config import find_project
from promptsmith.evals.labelling import Labelling
from promptsmith.task import load_task
import sys
project = find_project({str(filed.root)!r})
task = load_task(project.task_file("sentiment"), name="sentiment")
labelling = Labelling(project, task, "examples")
for number in range(int(sys.argv[1]), 10**6):
    labelling.add(f"{{number}} " + "x" * 100_000, "neutral")
    print(number, flush=True)
"""
    path = filed.evals / "data/rows.jsonl"
    for begun in range(0, 1000, 100):
        process = subprocess.Popen([sys.executable, "-c", code, str(begun)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        last = [process.stdout.readline() for _ in range(begun // 300 + 1)][-1]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = lines(path)
        assert path.read_bytes().endswith(b"\n")
        # What was said to be written is there.
        assert any(row["input"].startswith(f"{int(last)} ") for row in kept)


def test_an_unknown_task_or_none_that_has_a_file_is_clear(filed: Project, invoke: Invoke) -> None:
    assert "error:" in invoke("examples", "add", "sentimnt", "--input", "x", "--output", "y", project=filed, code=2).output
    with pytest.raises(InputError):
        filed.task_file("../x")


# --- review -----------------------------------------------------------------------------------------------


def test_each_key_does_what_it_says(filed: Project, invoke: Invoke) -> None:
    capture(filed, "one", "two", "three", "four", "five", output="positive")
    ended = invoke("examples", "review", "sentiment", project=filed, given="a\n2\ns\nd\nneutral\n")
    assert "[1/5]" in ended.stderr
    assert "[5/5]" in ended.stderr
    assert "1 positive  2 negative  3 neutral" in ended.stderr
    assert "3 labelled, 1 dropped, 1 skipped, 0 not seen" in ended.stdout
    assert lines(filed.evals / "data/rows.jsonl")[2:] == [
        {"input": "one", "output": "positive"},
        {"input": "two", "output": "negative"},
        {"input": "five", "output": "neutral"},
    ]
    # Only what was skipped comes again.
    again = invoke("examples", "review", "sentiment", project=filed, given="q\n")
    assert "[1/1]" in again.stderr
    assert "three" in again.stderr
    assert "0 labelled, 0 dropped, 0 skipped, 1 not seen" in again.stdout


def test_what_was_labelled_or_dropped_does_not_come_again_when_it_is_captured_again(filed: Project, invoke: Invoke) -> None:
    capture(filed, "one", "two")
    invoke("examples", "review", "sentiment", project=filed, given="a\nd\n")
    capture(filed, "one", "ONE ", "two")
    assert "no captured call of sentiment waits" in invoke("examples", "review", "sentiment", project=filed).stderr


def test_what_stands_in_the_data_already_is_not_asked_for(filed: Project, invoke: Invoke) -> None:
    capture(filed, "this product is amazing!", "Sealed one", "new")
    ended = invoke("examples", "review", "sentiment", project=filed, given="q\n")
    assert "[1/1]" in ended.stderr


def test_an_input_that_came_often_is_shown_once_with_its_last_answer(filed: Project, invoke: Invoke) -> None:
    capture(filed, "one", "two")
    capture(filed, "one", output="negative")
    ended = invoke("examples", "review", "sentiment", project=filed, given="a\na\n")
    assert "[1/2]" in ended.stderr
    assert "2 calls" in ended.stderr
    assert lines(filed.evals / "data/rows.jsonl")[2] == {"input": "one", "output": "negative"}


def test_an_answer_that_breaks_the_contract_can_not_be_accepted(filed: Project, invoke: Invoke) -> None:
    capture(filed, "one", output="great", ok=False, reasons=("'great' is none of the labels",))
    ended = invoke("examples", "review", "sentiment", project=filed, given="a\nx\n9\n\n1\n")
    assert "breaks the contract: 'great' is none of the labels" in ended.stderr
    assert "not written: the output 'great' breaks the contract" in ended.stderr
    assert "'x' is no choice here" in ended.stderr
    assert "1 labelled" in ended.stdout


def test_the_end_of_input_quits_and_keeps_what_was_labelled(filed: Project, invoke: Invoke) -> None:
    capture(filed, "one", "two", "three")
    ended = invoke("examples", "review", "sentiment", project=filed, given="a\n")
    assert "1 labelled, 0 dropped, 0 skipped, 2 not seen" in ended.stdout
    assert len(lines(filed.evals / "data/rows.jsonl")) == 3


def test_labels_go_to_the_holdout_with_a_tag_when_that_is_said(filed: Project, invoke: Invoke) -> None:
    capture(filed, "one")
    invoke("examples", "review", "sentiment", "--to", "holdout", "--tag", "live", project=filed, given="a\n")
    assert lines(filed.evals / "data/sealed.jsonl")[-1] == {"input": "one", "output": "positive", "tags": ["live"]}
    assert len(lines(filed.evals / "data/rows.jsonl")) == 2


def test_many_labels_are_numbered_and_numbers_as_labels_are_their_own_names(make_project: Make, invoke: Invoke) -> None:
    names = [f"intent {chr(97 + n)}" for n in range(12)]
    project = make_project({"many": f"task: x\noutput: [{', '.join(names)}]\n", "stars": "task: x\noutput: [5, 4, 3, 2, 1]\n"})
    capture(project, "one", "two", task="many", output="intent a")
    assert "12 intent l" in invoke("examples", "review", "many", project=project, given="12\nc\nIntent B\n").stderr
    assert [row["output"] for row in lines(project.evals / "data/many.reviewed.jsonl")] == ["intent l", "intent b"]
    capture(project, "one", "two", task="stars", output="5")
    invoke("examples", "review", "stars", project=project, given="4\n1\n")
    assert [row["output"] for row in lines(project.evals / "data/stars.reviewed.jsonl")] == ["4", "1"]


@pytest.fixture
def editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Sets an editor that replaces one text by another, and leaves what it was given beside it."""

    def make(old: str, new: str) -> None:
        program = tmp_path / "editor"
        seen = tmp_path / "seen"
        program.write_text(
            f"#!{sys.executable}\nimport sys\npath = sys.argv[1]\ntext = open(path).read()\n"
            f"open({str(seen)!r}, 'w').write(path + chr(10) + text)\nopen(path, 'w').write(text.replace({old!r}, {new!r}) + chr(10))\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("EDITOR", str(program))
        monkeypatch.delenv("VISUAL", raising=False)

    return make


def test_text_is_typed_or_edited(make_project: Make, invoke: Invoke, editor: Any) -> None:
    project = make_project({"say": "task: Answer.\noutput: {text: {max_words: 3}}\n"})
    editor("ok", "all is well")
    capture(project, "one", "two", task="say", output="ok")
    ended = invoke("examples", "review", "say", project=project, given="t\nfar too many words\nt\njust right\ne\n")
    assert "has 4 words, more than 3" in ended.stderr
    assert [row["output"] for row in lines(project.evals / "data/say.reviewed.jsonl")] == ["just right", "all is well"]


def test_json_is_edited_as_indented_json(make_project: Make, invoke: Invoke, editor: Any, tmp_path: Path) -> None:
    project = make_project({"order": "task: x\noutput: {json: {type: object, required: [sku]}}\n"})
    editor("A", "B")
    capture(project, "one", task="order", output='{"sku": "A"}')
    invoke("examples", "review", "order", project=project, given="e\n")
    assert lines(project.evals / "data/order.reviewed.jsonl") == [{"input": "one", "output": {"sku": "B"}}]
    path, _, text = (tmp_path / "seen").read_text().partition("\n")
    assert path.endswith(".json")
    assert text == '{\n  "sku": "A"\n}\n'


def test_control_characters_of_users_do_not_reach_the_terminal(filed: Project, invoke: Invoke) -> None:
    capture(filed, "\x1b[2Jgone\nsecond line")
    ended = invoke("examples", "review", "sentiment", project=filed, given="q\n")
    assert "\x1b" not in ended.output
    assert "\\x1b[2Jgone" in ended.stderr
    assert "\x1b" not in invoke("examples", "list", "sentiment", "--captured", project=filed).output


def test_calls_whose_inputs_no_longer_fit_are_counted(filed: Project, invoke: Invoke) -> None:
    capture(filed, "one")
    with open_store(filed) as store:
        other = Capture(id="0" * 12, time=time.time(), prompt="", model="m", inputs={"ticket": "x"}, output="a", ok=True)
        store.captures.add("sentiment", other)
    ended = invoke("examples", "review", "sentiment", project=filed, given="q\n")
    assert "1 captured calls are left out: their inputs are not those that the task takes today" in ended.stderr
    assert "[1/1]" in ended.stderr


def test_of_a_split_file_only_the_rows_of_this_side_are_offered(make_project: Make, invoke: Invoke) -> None:
    rows: list[object] = [{"input": f"message {n}", "output": "neutral"} for n in range(20)]
    split = "split: {examples: 0.5, holdout: 0.5}"
    project = make_project({"sentiment": f"{HEAD}examples: {{file: rows.jsonl, {split}}}\n"}, {"rows.jsonl": rows})
    capture(project, *(f"new {n}" for n in range(30)))
    keys = "a\n" * 30
    one = invoke("examples", "review", "sentiment", project=project, given=keys)
    assert "falls on the holdout side" in one.stderr
    two = invoke("examples", "review", "sentiment", "--to", "holdout", project=project, given=keys)
    labelled = [int(ended.stdout.split()[0]) for ended in (one, two)]
    assert sum(labelled) == 30
    assert min(labelled) > 0
    task = load_task(project.task_file("sentiment"))
    assert len(task.examples) + len(task.holdout) == 50


def test_a_live_call_becomes_an_example(promoted: Make, invoke: Invoke) -> None:
    project = promoted({"sentiment": FILE + "serve: {capture: 100 %}\n"}, {"data/rows.jsonl": ROWS, "data/sealed.jsonl": SEALED})
    with Runtime(project) as runtime:
        runtime.run("sentiment", "It broke on the first day")
    invoke("examples", "review", "sentiment", project=project, given="2\n")
    assert lines(project.evals / "data/rows.jsonl")[-1] == {"input": "It broke on the first day", "output": "negative"}
    assert "stale" in invoke("compile", "--check", project=project, code=1).output


class Screen:
    """``examples review`` on a terminal of its own."""

    def __init__(self, project: Project) -> None:
        pid, self.fd = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "dumb"
            os.execv(
                sys.executable, [sys.executable, "-m", "promptsmith", "--project", str(project.root), "examples", "review", "sentiment"]
            )
        self.pid, self.seen = pid, ""

    def until(self, text: str, *, times: int = 1) -> None:
        while self.seen.count(text) < times:
            try:
                found = os.read(self.fd, 4096)
            except OSError:
                found = b""
            assert found, self.seen
            self.seen += found.decode()

    def press(self, key: bytes) -> None:
        """Types ``key`` once the terminal gives single keys: what is typed before is thrown away when it changes over."""
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            time.sleep(0.005)
        os.write(self.fd, key)

    def end(self) -> int:
        try:
            while found := os.read(self.fd, 4096):
                self.seen += found.decode()
        except OSError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_on_a_terminal_one_key_is_enough_and_ctrl_c_loses_nothing(filed: Project) -> None:
    capture(filed, "one", "two", "three")
    screen = Screen(filed)
    screen.until("q quit >")
    screen.press(b"2")
    screen.until("q quit >", times=2)
    screen.press(b"a")
    screen.until("q quit >", times=3)
    screen.press(b"\x03")
    assert screen.end() == 0, screen.seen
    assert "2 labelled, 0 dropped, 0 skipped, 1 not seen" in screen.seen
    assert "Traceback" not in screen.seen
    assert [row["output"] for row in lines(filed.evals / "data/rows.jsonl")[2:]] == ["negative", "positive"]


# --- list -------------------------------------------------------------------------------------------------


def test_list_counts_rows_by_label_and_what_waits(inline: Project, invoke: Invoke) -> None:
    capture(inline, "one", "two", "two", "It broke after a day.")
    invoke("examples", "add", "sentiment", "--input", "three", "--output", "neutral", project=inline)
    said = invoke("examples", "list", "sentiment", project=inline).stdout
    assert "examples: 2 (positive 1, negative 1)" in said
    assert "holdout: 0" in said
    assert "evals/data/sentiment.reviewed.jsonl: 3 labelled rows, which the task file does not name" in said
    assert "captured: 2 to label, 1 labelled or dropped" in said
    found = json.loads(invoke("examples", "list", "sentiment", "--json", project=inline).stdout)
    assert (found["examples"], found["holdout"], found["captured"], found["settled"]) == (2, 0, 2, 1)
    rows = json.loads(invoke("examples", "list", "sentiment", "--captured", "--json", project=inline).stdout)["captured"]
    assert [(row["inputs"], row["times"], row["output"]) for row in rows] == [
        ({"input": "one"}, 1, "positive"),
        ({"input": "two"}, 2, "positive"),
    ]
    shown = invoke("examples", "list", "sentiment", "--captured", project=inline).stdout
    assert shown.count("\n") == 3
    assert "'two'" in shown


def test_list_of_a_task_with_nothing_captured(inline: Project, invoke: Invoke) -> None:
    assert "captured: 0 to label" in invoke("examples", "list", "sentiment", project=inline).stdout
    assert "no captured call" in invoke("examples", "list", "sentiment", "--captured", project=inline).stderr
    assert not (inline.cache / "captures").exists()
