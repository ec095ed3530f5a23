"""Bad input to a search, as a user meets it: an honest answer each time, no gain that is not there, the best prompt so far kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from click.testing import Result as Ended

from promptsmith.compiler.material import Options, material
from promptsmith.config import Config, Project
from promptsmith.evals.vocabulary import load_suite_task
from promptsmith.prompt import Prompt, read_examples
from tests.provider import KEY, Ask, Fault, Provider, Said

from .searching import LABELS, SOL, WORDS, a_task, drafted, endpoint, label_of, rows, served, task_file, text_of

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
LEVELS = ("-O2", "-O3")


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider(served) as running:
        yield running


@pytest.fixture
def make(make_project: Make, provider: Provider) -> Make:
    def made(given: Sequence[object] | None = None, more: str = "", data: dict[str, Any] | None = None, config: str = "") -> Project:
        files: dict[str, Any] = {"rows.jsonl": rows(50) if given is None else list(given), **(data or {})}
        return make_project({"notes": task_file(more)}, files, config=endpoint(provider) + config)

    return made


class Told(NamedTuple):
    """What a compile at the command line came to."""

    row: dict[str, Any]
    prompt: Prompt
    record: dict[str, Any] | None
    said: str
    """All that was written, on one line."""

    @property
    def is_template(self) -> bool:
        """Whether the -O0 prompt is what was kept, and said so."""
        return self.record is not None and self.kind(self.record["chosen"]) == "template"

    def kind(self, name: str) -> str:
        assert self.record is not None
        return str(next(one["origin"]["kind"] for one in self.record["candidates"] if one["id"] == name))


Compile = Callable[..., Told]


@pytest.fixture
def compile_notes(invoke: Invoke) -> Compile:
    """``promptsmith compile notes``, with what it told and what it left."""

    def run(project: Project, *options: str, code: int = 0) -> Told:
        ended = invoke("compile", "notes", "--yes", *options, project=project, code=code)
        assert "Traceback" not in ended.output
        shown = json.loads(invoke("show", "notes@latest", "--provenance", "--format", "json", project=project).stdout)
        full = json.loads(invoke("show", "notes@latest", "--format", "json", project=project).stdout)
        row = {"line": " ".join(ended.stdout.split())}
        names = Prompt.__struct_fields__
        prompt = msgspec.convert({name: value for name, value in full.items() if name in names}, Prompt)
        return Told(row, prompt, shown["record"], " ".join(ended.output.split()))

    return run


def no_gain_is_claimed(told: Told) -> None:
    """Neither in words nor in the artifact."""
    assert "no measurable gain over -O0" in told.said or "no gain over -O0: it is what was chosen" in told.said, told.said
    search = told.prompt.provenance.search
    assert search is not None
    assert search.gain is None or search.gain[1] <= 0


# --- too little, or too much of one thing -----------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_two_examples_are_drafted_from_and_not_scored(make: Make, provider: Provider, compile_notes: Compile, level: str) -> None:
    told = compile_notes(make(rows(2)), level)
    assert "unscored: 2 examples, and a dev part needs 20" in told.said
    made = told.prompt.provenance
    assert (made.level, made.search, told.record) == (1, None, None)
    assert "unscored: 2 examples" in made.level_why
    assert len(provider.records.all()) == 1, "the meta-model's draft, and no call to score by"
    assert "gain" not in told.said


def test_without_a_meta_model_too_few_examples_are_an_error(make_project: Make, provider: Provider, invoke: Invoke) -> None:
    text = task_file().replace(f", meta: {SOL}", "")
    project = make_project({"notes": text}, {"rows.jsonl": rows(2)}, config=endpoint(provider))
    assert "needs a meta-model" in invoke("compile", "notes", "-O2", "--yes", project=project, code=2).output
    assert provider.records.all() == []


def test_a_dev_part_that_would_be_too_small_is_none(make: Make, compile_notes: Compile) -> None:
    """Twenty rows and more, but fewer than eight of them in one part."""
    for seed in range(400):
        given = rows(20, seed % 20, first=100 * seed)
        task = a_task(examples=given)
        if material(task, Config(), Options(level=2)).level == 1:
            break
    told = compile_notes(make(given), "-O2")
    assert "unscored: 20 examples, which data seed 0 does not part into 8 to show and 8 to score" in told.said
    assert told.prompt.provenance.level == 1


@pytest.mark.parametrize("level", LEVELS)
def test_one_label_only(make: Make, compile_notes: Compile, provider: Provider, level: str) -> None:
    """What answers that label always is right always, from the first prompt on: there is nothing to gain."""
    given = [{"input": row["input"], "output": "bug"} for row in rows(50)]
    provider.answer = lambda ask: served(ask) if ask.model in SOL else "bug"
    told = compile_notes(make(given), level)
    assert told.is_template and told.record is not None and told.record["reason"] == "perfect"
    no_gain_is_claimed(told)


@pytest.mark.parametrize("level", LEVELS)
def test_one_label_that_the_models_do_not_see(make: Make, compile_notes: Compile, level: str) -> None:
    """The rules that the models believe in are wrong for this task; whatever is chosen is no worse than the template."""
    given = [{"input": row["input"], "output": "bug"} for row in rows(50)]
    told = compile_notes(make(given), level)
    search = told.prompt.provenance.search
    assert search is not None and search.score is not None and search.template is not None
    assert search.score >= search.template
    if search.gain is None or search.gain[1] <= 0:
        no_gain_is_claimed(told)


@pytest.mark.parametrize("level", LEVELS)
def test_all_examples_identical(make: Make, compile_notes: Compile, level: str) -> None:
    """Fifty equal rows are one."""
    told = compile_notes(make([rows(1)[0]] * 50), level)
    assert told.prompt.provenance.level == 1
    assert "49 exact duplicates left out" in told.said
    assert "unscored: 1 example, and a dev part needs 20" in told.said


@pytest.mark.parametrize("level", LEVELS)
def test_examples_that_contradict_are_told(make: Make, compile_notes: Compile, level: str) -> None:
    """In a file they are counted and named, not hidden; no prompt can be right on both."""
    given = rows(40)
    twins = [{"input": row["input"], "output": next(label for label in LABELS if label != row["output"])} for row in given[:20]]
    told = compile_notes(make([*given, *twins]), level)
    assert "contradict" in told.said, told.said
    assert told.record is not None
    assert told.record["reason"] != "perfect"
    dev = told.record["dev_cases"]
    assert len(set(dev)) == len(dev), "each of both is a case of its own"
    assert any(case.endswith("-2") for case in dev)


# --- a meta-model that is no help -------------------------------------------------------------------------

RUSSIAN = "Ты помощник, который сортирует заметки клиентов по темам. " * 4 + ", ".join(LABELS)
META: dict[str, Callable[[Ask], Any]] = {
    "refuses": lambda ask: Said("I can't help with that.", "refused"),
    "refuses in words": lambda ask: "I'm sorry, but I can't help with that.",
    "200 kB": lambda ask: "Sort the note. " * 14_000,
    "the task text": lambda ask: "Sort customer notes by what they are about.",
    "another language": lambda ask: RUSSIAN,
    "a tool call": lambda ask: Said('{"question": "what now?"}', "tool"),
    "JSON": lambda ask: json.dumps({"labels": list(LABELS), "rules": ["be kind"]}),
    "JSON with a list": lambda ask: json.dumps([{"prompt": 7}]),
    "an empty text": lambda ask: "",
    "blanks": lambda ask: " \n\n\t ",
    "null": lambda ask: Said(None),
    "cut off": lambda ask: Said("Sort the note into billing, bug, pra", "length"),
    "a filter": lambda ask: Said("Sort", "filtered"),
    "its own prompt": lambda ask: ask.system,
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", META)
def test_a_meta_model_that_is_no_help_leaves_the_template(
    make: Make, provider: Provider, compile_notes: Compile, level: str, kind: str
) -> None:
    provider.answer = lambda ask: META[kind](ask) if ask.model in SOL else served(ask)
    told = compile_notes(make(), level)
    assert told.is_template, told.said
    assert "the -O0 prompt" in told.said and "no gain over -O0: it is what was chosen" in told.said
    no_gain_is_claimed(told)
    assert told.record is not None
    notes = " ".join(told.record["notes"])
    assert "of the meta-model could not be used" in notes, notes
    asked = [record for record in provider.records.all() if record.json["model"] in SOL]
    assert len(asked) <= 200, "and it is not asked for ever"


def test_dev_text_in_a_draft_is_a_fault(make: Make, provider: Provider, compile_notes: Compile) -> None:
    """What could only have been guessed or leaked would make its score worthless."""
    project = make()
    task = load_suite_task(project.task_file("notes"), "notes")
    dev = [row.inputs["input"] for row in material(task, project.config, Options(level=2)).dev]
    leaky = drafted(list(WORDS), *(f"The answer to “{text}” is {label_of(text)}." for text in dev[:3]))
    provider.answer = lambda ask: leaky if ask.model in SOL else served(ask)
    told = compile_notes(project, "-O2")
    assert told.is_template
    assert not any(text in told.prompt.system for text in dev)
    (asked,) = [record for record in provider.records.all() if record.json["model"] in SOL and "not shown" in record.body.decode()][:1]
    assert "state the rule instead" in asked.body.decode(), "and it is told, once"


def test_a_meta_model_that_repeats_what_it_is_given(make: Make, provider: Provider, compile_notes: Compile) -> None:
    """That is a prompt like any other, with the compile part's examples in it; it gains nothing that the template has not."""
    project = make()
    provider.answer = lambda ask: ask.text if ask.model in SOL else served(ask)
    told = compile_notes(project, "-O2")
    task = load_suite_task(project.task_file("notes"), "notes")
    dev = [row.inputs["input"] for row in material(task, project.config, Options(level=2)).dev]
    assert not any(text in told.prompt.system for text in dev)
    no_gain_is_claimed(told)


@pytest.mark.parametrize("level", LEVELS)
def test_a_meta_model_that_is_refused_each_time(make: Make, provider: Provider, compile_notes: Compile, level: str) -> None:
    """A 400 each call is an outcome: the search goes on without drafts, and says so."""
    project = make()
    path = project.task_file("notes")
    path.write_text(path.read_text().replace(SOL, f"{SOL}!400"))
    told = compile_notes(project, level)
    assert told.is_template
    no_gain_is_claimed(told)
    assert "of the meta-model could not be used" in told.said and "never came" in told.said


# --- a production model that is no help -------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("fault", ["400", "empty", "garbage"])
def test_a_production_model_that_always_fails(make: Make, provider: Provider, compile_notes: Compile, level: str, fault: str) -> None:
    """What would fail every time is an outcome: each candidate scores nothing, the template stays, and why is told."""
    project = make()
    path = project.task_file("notes")
    path.write_text(path.read_text().replace("gpt-6-luna", f"gpt-6-luna!{fault}"))
    told = compile_notes(project, level)
    assert told.is_template
    no_gain_is_claimed(told)
    assert told.prompt.provenance.search is not None and told.prompt.provenance.search.score == 0
    assert re.search(r"(\d+) of \1 calls of the production model failed for good and count 0: ", told.said), told.said


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("answer", ["", "   ", "0xdeadbeef \x00 ???", "positive and also bug and billing", "{}"])
def test_a_production_model_whose_answers_are_worthless(
    make: Make, provider: Provider, compile_notes: Compile, level: str, answer: str
) -> None:
    provider.answer = lambda ask: served(ask) if ask.model in SOL else answer
    told = compile_notes(make(), level)
    assert told.is_template, told.said
    no_gain_is_claimed(told)
    assert told.record is not None and all(score == 0 for one in told.record["candidates"] for score in one.get("scores", {}).values())


@pytest.mark.parametrize("level", LEVELS)
def test_a_provider_that_is_down_ends_it_unfinished(make: Make, provider: Provider, invoke: Invoke, level: str) -> None:
    project = make()
    provider.faults.every(Fault("status", status=500, retry_after_ms="1"))
    ended = invoke("compile", "notes", level, "--yes", project=project, code=4)
    told = " ".join(ended.output.split())
    assert "Traceback" not in told
    assert "provider" in told and "unfinished" in told and "the -O0 prompt" in told
    # It is not under the build key: the same compile goes on, once the provider is back.
    provider.faults.clear()
    again = invoke("compile", "notes", level, "--yes", project=project)
    assert "compiled" in again.stdout and "from the cache" not in again.stdout


# --- a scorer that is no help -----------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [0, 1, 0.5])
def test_a_constant_scorer_gains_nothing(make: Make, compile_notes: Compile, level: str, value: float) -> None:
    grader = f"def same(output):\n    return {{'score': {value}, 'passed': {value >= 1}}}\n"
    project = make(more="scorers: [{python: 'mine.py:same'}]", data={"mine.py": grader})
    # Of a text, which has no form to break.
    path = project.task_file("notes")
    path.write_text(path.read_text().replace(f"output: [{', '.join(LABELS)}]", "output: text"))
    told = compile_notes(project, level)
    no_gain_is_claimed(told)
    assert told.is_template
    assert told.record is not None
    assert told.record["reason"] == ("perfect" if value == 1 else "plateau" if level == "-O3" else "done")
    if value != 1:
        assert "every answer of every candidate was scored" in told.said


@pytest.mark.parametrize("level", LEVELS)
def test_a_scorer_that_raises_scores_nothing_and_is_named(make: Make, compile_notes: Compile, level: str) -> None:
    grader = "def broken(output):\n    raise KeyError('no such column')\n"
    told = compile_notes(make(more="scorers: [{python: 'mine.py:broken'}]", data={"mine.py": grader}), level)
    assert told.is_template
    no_gain_is_claimed(told)
    assert "no such column" in told.said and "mine.py" in told.said, told.said


@pytest.mark.parametrize("said", ["I like it.", "", '{"reason": "", "score": "pass"}', '{"score": 11}'])
def test_a_judge_that_talks_nonsense_scores_nothing_and_is_named(make: Make, provider: Provider, compile_notes: Compile, said: str) -> None:
    judge = "openai/gpt-6-astra"
    provider.answer = lambda ask: said if ask.model in judge else served(ask)
    told = compile_notes(make(more=f"scorers: [{{judge: {{model: {judge}, criteria: Is it right?}}}}]"), "-O2")
    assert told.is_template
    no_gain_is_claimed(told)
    assert "answers could not be graded and count 0" in told.said and "gpt-6-astra" in told.said, told.said


# --- budgets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("budget", [("--max-calls", "0"), ("--max-tokens", "0"), ("--max-calls", "1"), ("--max-tokens", "50")])
def test_budgets_of_nothing_and_of_one_call(
    make: Make, provider: Provider, compile_notes: Compile, level: str, budget: tuple[str, str]
) -> None:
    told = compile_notes(make(), level, *budget)
    calls = len(provider.records.all())
    assert calls == (1 if budget == ("--max-calls", "1") else 0)
    assert told.record is not None and told.record["reason"] == "budget"
    assert told.is_template
    assert "budget" in told.said and "the -O0 prompt" in told.said
    assert "nothing is known of a gain" in told.said or "no gain over -O0: it is what was chosen" in told.said
    assert told.prompt.provenance.search is not None and told.prompt.provenance.search.gain is None


def test_a_dollar_budget_of_nothing(make: Make, provider: Provider, compile_notes: Compile) -> None:
    told = compile_notes(make(), "-O2", "--max-cost", "0")
    assert provider.records.all() == []
    assert told.is_template and "budget" in told.said


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("calls", [5, 20, 45, 60, 100, 137, 200])
def test_no_budget_is_overshot_and_its_end_is_told(make: Make, provider: Provider, compile_notes: Compile, level: str, calls: int) -> None:
    told = compile_notes(make(), level, "--max-calls", str(calls))
    assert len(provider.records.all()) <= calls
    assert told.record is not None
    assert told.record["spent"]["calls"] <= calls
    assert told.record["reason"] in ("budget", "done", "perfect", "plateau")
    chosen = next(one for one in told.record["candidates"] if one["id"] == told.record["chosen"])
    if len(chosen["scores"]) < len(told.record["dev_cases"]):
        assert "dev cases: it is the" in told.record["chosen_why"] or "nothing could be scored" in told.record["chosen_why"]
        assert told.prompt.provenance.search is not None and told.prompt.provenance.search.gain is None


# --- odd sizes and texts ----------------------------------------------------------------------------------


def test_five_thousand_rows(make: Make, compile_notes: Compile, provider: Provider) -> None:
    """Within a budget of calls: the first rungs take what there is, and nothing is claimed from a part."""
    told = compile_notes(make(rows(5000)), "-O2", "--max-calls", "400")
    assert len(provider.records.all()) <= 400
    assert told.record is not None and told.record["reason"] == "budget"
    assert len(told.record["dev_cases"]) > 1500


@pytest.mark.parametrize("level", LEVELS)
def test_one_giant_input(make: Make, compile_notes: Compile, provider: Provider, level: str) -> None:
    """It is scored like any other where it is dev, and is not shown whole to the meta-model where it is not."""
    giant = {"input": "start " + "lorem ipsum crash " * 20_000 + " end", "output": "bug"}
    for extra in ("", " more"):  # one of both sides, or the other
        row = {**giant, "input": giant["input"] + extra}
        told = compile_notes(make([*rows(50), row]), level)
        assert told.record is not None and told.record["reason"] != "provider"
        largest = max(len(record.body) for record in provider.records.all() if record.json["model"] in SOL)
        assert largest < 200_000
        assert len(told.prompt.system) < 100_000


@pytest.mark.parametrize("level", LEVELS)
def test_unicode(make: Make, compile_notes: Compile, level: str) -> None:
    odd = [
        "🧨🧨",
        "ﷺ",
        "ｆｕｌｌ",
        "ä̈ö̤",
        "שלום",
        "日本語の",
        "\u202eabc",
        "line\nbreak",
        "tab\t",
        "</examples>",
        '"q"',
        "{braces}",
        "\\u0000",
    ]
    given = [{"input": f"{odd[n % len(odd)]} {text_of(n)}", "output": label_of(text_of(n))} for n in range(60)]
    told = compile_notes(make(given), level)
    assert told.record is not None and told.record["reason"] in ("done", "perfect", "plateau")
    texts = {row["input"] for row in given}
    assert {pair.inputs["input"] for pair in read_examples(told.prompt.system)} <= texts


def test_labels_in_another_script(make_project: Make, provider: Provider, compile_notes: Compile) -> None:
    labels = ["счёт", "ошибка", "похвала", "аккаунт"]
    given = [{"input": text_of(n), "output": labels[LABELS.index(label_of(text_of(n)))]} for n in range(50)]
    text = task_file().replace(", ".join(LABELS), ", ".join(labels))
    project = make_project({"notes": text}, {"rows.jsonl": given}, config=endpoint(provider))
    provider.answer = lambda ask: served(ask) if ask.model in SOL else labels[LABELS.index(label_of(ask.text))]
    told = compile_notes(project, "-O2")
    assert told.is_template and told.record is not None and told.record["reason"] == "perfect"
