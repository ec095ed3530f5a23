"""Plans from YAML, JSON and XML: one checked type, every mistake at once with its place, and back to YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.budget import Limits
from promptsmith.contract import Check, Contract, JsonShape, Labels, TextShape
from promptsmith.errors import InputError, SourceError
from promptsmith.orchestration.reading import Form, Known, load_plan, plan_schema, plan_yaml, read_plan, without_places
from promptsmith.orchestration.reading.known import MOST_ANSWER, MOST_PROBLEMS
from promptsmith.orchestration.reading.tables import PLAN_NAMES, STEP_NAMES
from promptsmith.orchestration.values import Author, Expert, Input, Plan, Step

KNOWN = Known(workers=frozenset(["fetch", "web_search"]), tasks=frozenset(["triage"]))


def read(text: str, form: Form = "yaml", author: Author = "person", known: Known = KNOWN) -> Plan:
    return read_plan(text, form=form, author=author, known=known)


def wrong(text: str, form: Form = "yaml", author: Author = "person", known: Known = KNOWN) -> list[str]:
    with pytest.raises(SourceError) as error:
        read(text, form, author, known)
    return [str(problem) for problem in error.value.problems]


def one_wrong(text: str, form: Form = "yaml", author: Author = "person", known: Known = KNOWN) -> str:
    (problem,) = wrong(text, form, author, known)
    return problem


def by_model(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


WHOLE = """\
name: code-review
about: four eyes
analysis: split by concern
inputs:
  code: text
  requirements: {about: what it must do, default: [fast, 1]}
  style: {default: pep8}
experts:
  - {name: security, role: a security reviewer, scope: holes alone, instructions: Be strict., model: strong/model, level: 1}
  - {name: sorter, task: triage}
steps:
  - {id: look, expert: security, instructions: Look., context: [code], output: [fine, broken], max_tokens: 900, timeout: 30, retries: 2}
  - {id: sort, expert: sorter, needs: [look], context: [look, requirements], on_failure: fallback, fallback: best/model}
  - {id: page, worker: fetch, type: get, arguments: {url: "https://example.com", deep: {n: 1.5, all: [true, null]}}, on_failure: skip}
  - {id: count, worker: "tools.lines:count", needs: [page, sort], output: {json: {type: object, required: [n]}}, problem: true}
  - {id: tell, expert: triage, needs: [count], context: [count], output: {text: {max_words: 60, regex: "^[A-Z]"}}, on_failure: replan}
result: tell
synthesis: one page
limits: {usd: 0.5, calls: 20, tokens: 9000, seconds: 60}
"""


def test_the_full_form_in_yaml() -> None:
    plan = read(WHOLE)
    assert (plan.name, plan.about, plan.analysis, plan.synthesis, plan.result) == (
        "code-review",
        "four eyes",
        "split by concern",
        "one page",
        ("tell",),
    )
    assert plan.inputs == (
        Input(name="code"),
        Input(name="requirements", about="what it must do", default=["fast", 1], required=False),
        Input(name="style", default="pep8", required=False),
    )
    assert plan.experts == (
        Expert(name="security", role="a security reviewer", scope="holes alone", instructions="Be strict.", model="strong/model", level=1),
        Expert(name="sorter", task="triage"),
    )
    assert plan.limits == Limits(usd=0.5, calls=20, tokens=9000, seconds=60.0)
    look, sort, page, count, tell = plan.steps
    assert (look.context, look.output, look.max_tokens, look.timeout, look.retries) == (
        ("code",),
        Contract(Labels(("fine", "broken"))),
        900,
        30.0,
        2,
    )
    assert (sort.needs, sort.context, sort.on_failure, sort.fallback) == (("look",), ("look", "requirements"), "fallback", "best/model")
    assert page.arguments == {"url": "https://example.com", "deep": {"n": 1.5, "all": [True, None]}}
    assert (count.worker, count.problem, count.output) == (
        "tools.lines:count",
        True,
        Contract(JsonShape('{"type": "object", "required": ["n"]}')),
    )
    assert tell.output == Contract(TextShape(max_words=60, regex="^[A-Z]"))
    assert [step.where.line for step in plan.steps] == [12, 13, 14, 15, 16]


def test_a_file_gives_its_name_its_place_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "shape.json").write_text('{"type": "array"}')
    path = tmp_path / "my-plan.yaml"
    path.write_text("steps:\n- {id: a, worker: fetch, output: {json: shape.json}}\n")
    plan = load_plan(path, KNOWN)
    assert (plan.name, plan.author, plan.steps[0].output) == ("my-plan", "person", Contract(JsonShape('{"type": "array"}')))
    path.write_text("steps:\n- {id: a, worker: fetsh}\n")
    with pytest.raises(SourceError, match=r"my-plan\.yaml:2: there is no worker 'fetsh', did you mean 'fetch'\?"):
        load_plan(path, KNOWN)
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="the file is empty, write at least 'steps:'"):
        load_plan(path, KNOWN)


def test_the_result_is_the_sinks_unless_it_is_said() -> None:
    steps = "steps:\n- {id: a, worker: fetch}\n- {id: b, worker: fetch, needs: [a]}\n- {id: c, worker: fetch, needs: a}\n"
    assert read(steps).result == ("b", "c")
    assert read(steps + "result: [a, c]\n").result == ("a", "c")
    assert one_wrong(steps + "result: [bb]\n") == "the plan:5: the result is 'bb', which is no step, did you mean 'b'?"


def test_all_problems_are_told_at_once_with_their_lines() -> None:
    problems = wrong(
        "inputs: [code, code, 1x]\n"
        "experts:\n"
        "- {name: sec, role: r, task: triage, model: nomodel}\n"
        "- {name: sec}\n"
        "steps:\n"
        "- {id: a, expert: sek, instructions: Look, needs: [b]}\n"
        "- {id: b, worker: fetc, needs: [a, a], context: [zz, a, c]}\n"
        "- {id: c, worker: fetch, needs: [c], bogus: 1}\n"
        "- {id: c, worker: fetch, expert: sec, instructions: x}\n"
        "- {id: D d, worker: 'x y:z', retries: 99, timeout: 0, max_tokens: 1.5}\n"
        "- {id: e, instructions: x, on_failure: fallback}\n"
        "- {id: f, expert: triage, arguments: {a: 1}, fallback: a/b, on_failure: later}\n"
        "- {id: code, worker: fetch, context: [problem], needs: [code]}\n"
        "limits: {usd: -1}\n"
        "steps2: 1\n"
    )
    told = "\n".join(problems)
    for part in (
        "1: the input 'code' is named twice",
        "1: '1x' can't be an input's name",
        "3: model is 'nomodel', write endpoint/model",
        "3: the expert 'sec' has a task and role",
        "4: the expert 'sec' is described twice",
        "4: the expert 'sec' has no role",
        "6: the expert is 'sek', which is not an expert of the plan or a task of the project, did you mean 'sec'?",
        "6: the steps need each other in a cycle: a -> b -> a",
        "7: there is no worker 'fetc', did you mean 'fetch'?",
        "7: the step 'b' is to see 'zz', which is no input and no step",
        "7: the step 'b' is to see the result of 'c' but does not need it, add 'c' to its needs",
        "8: unknown key 'bogus' in a step",
        "8: the step 'c' needs itself, take it out of its needs",
        "9: the id 'c' stands twice (first in line 8)",
        "9: the step '#4' has an expert and a worker",
        "10: an id is 'D d'",
        "10: retries is '99', write a whole number from 0 to 10",
        "10: timeout is '0'",
        "10: max_tokens is '1.5'",
        "10: the worker 'x y:z' is no function",
        "11: the step 'e' has neither an expert nor a worker",
        "11: the step 'e' falls back on no model",
        "12: on_failure is 'later', write one of fail, skip, fallback, replan",
        "12: the step 'f' has arguments, which only a worker takes",
        "13: 'code' is a step and an input",
        "13: the step 'code' is to see 'problem', which is no input and no step, write problem: true",
        "14: usd is '-1'",
        "15: unknown key 'steps2' in the plan, did you mean 'steps'?",
    ):
        assert f"the plan:{part}" in told, part
    lines = [int(problem.split(":")[1]) for problem in problems]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ({"a": ["b"], "b": ["a"]}, ["a -> b -> a"]),
        ({"a": [], "b": ["d"], "c": ["b"], "d": ["c"]}, ["b -> d -> c -> b"]),
        ({"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}, ["a -> b -> a", "c -> d -> c"]),
        ({"a": ["b", "c"], "b": ["a"], "c": ["a"]}, ["a -> b -> a", "a -> c -> a"]),
    ],
)
def test_cycles_are_named_at_the_need_that_closes_them(needs: dict[str, list[str]], told: list[str]) -> None:
    text = "steps:\n" + "".join(f"- {{id: {step}, worker: fetch, needs: {json.dumps(need)}}}\n" for step, need in needs.items())
    assert [problem.partition("cycle: ")[2].partition(", take")[0] for problem in wrong(text)] == told


@given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=8))
def test_a_plan_is_read_exactly_when_it_has_an_order(needs: list[list[int]]) -> None:
    from graphlib import CycleError, TopologicalSorter

    named = {f"s{i}": [f"s{need % len(needs)}" for need in row] for i, row in enumerate(needs)}
    text = by_model({"steps": [{"id": step, "worker": "fetch", "needs": need} for step, need in named.items()]})
    try:
        TopologicalSorter(named).prepare()
    except CycleError:
        assert all("cycle" in problem or "needs itself" in problem for problem in wrong(text, "json", "model"))
    else:
        assert {step.id: set(step.needs) for step in read(text, "json", "model").steps} == {step: set(need) for step, need in named.items()}


# --- who may name what ------------------------------------------------------------------------------------


def test_only_a_person_names_functions() -> None:
    text = by_model({"steps": [{"id": "a", "worker": "os:system"}]})
    assert read(text, "json", "person").steps[0].worker == "os:system"
    problem = one_wrong(text, "json", "model")
    assert "the worker 'os:system' is a function, and a plan that a model wrote may run none" in problem
    assert "name a registered worker: fetch, web_search" in problem
    assert "no worker is registered" in one_wrong(text, "json", "model", Known())


def test_only_a_person_names_files_and_patterns() -> None:
    for output, told in (({"json": "/etc/passwd"}, "names a schema file"), ({"text": {"regex": "(a+)+$"}}, "has a regex")):
        text = by_model({"steps": [{"id": "a", "worker": "fetch", "output": output}]})
        assert f"output {told}" in one_wrong(text, "json", "model")
    assert "can't be read" in one_wrong('steps: [{id: a, worker: fetch, output: {json: "no/such.json"}}]')


def test_a_plan_runs_no_plan() -> None:
    known = Known(workers=frozenset(["fetch"]), plans=frozenset(["research"]))
    steps = "- {id: a, expert: self, instructions: x}\n- {id: b, worker: self}\n- {id: c, worker: research}\n"
    text = f"name: self\nexperts: [{{name: x, task: self}}]\nsteps:\n{steps}"
    problems = wrong(text, known=known)
    assert sum("'self' is this plan itself, and a plan runs no plan" in problem for problem in problems) == 3
    assert "the plan:6: 'research' is a plan, and a plan runs no plan" in problems[-1]
    assert "unknown key 'plan' in a step" in one_wrong("steps: [{id: a, worker: fetch, plan: other.yaml}]")


def test_models_are_those_that_are_known() -> None:
    known = Known(tasks=frozenset(["triage"]), models=frozenset(["a/small", "a/large"]))
    step = "{id: a, expert: x, instructions: y, on_failure: fallback, fallback: a/large}"
    good = f"experts: [{{name: x, role: r, model: a/small}}]\nsteps: [{step}]"
    assert read(good, known=known).experts[0].model == "a/small"
    assert "there is no model 'a/smal' here, did you mean 'a/small'?" in one_wrong(good.replace("a/small", "a/smal"), known=known)
    assert "there is no model 'b/l' here" in one_wrong(good.replace("a/large", "b/l"), known=known)


def test_experts_and_inputs_that_the_caller_gives_are_in_the_plan_that_is_read() -> None:
    known = Known(experts=(Expert(name="code", role="a programmer"), Expert(name="math", role="a mathematician")), inputs=("spec",))
    plan = read("steps: [{id: a, expert: code, instructions: x, context: [spec]}]", known=known)
    assert plan.experts == (known.experts[0],)
    assert plan.inputs == (Input(name="spec"),)
    assert without_places(read(plan_yaml(plan), known=Known())) == without_places(plan)


def test_an_experts_step_says_what_to_do_unless_the_expert_does() -> None:
    assert "the step 'a' has no instructions" in one_wrong("experts: [{name: x, role: r}]\nsteps: [{id: a, expert: x}]")
    assert read("experts: [{name: x, role: r, instructions: i}]\nsteps: [{id: a, expert: x}]").steps[0].instructions == ""
    assert read("steps: [{id: a, expert: triage}]").steps[0].expert == "triage"


# --- caps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["steps: []", "name: x", "tasks: []", "plan: []"])
def test_no_steps_is_an_error(text: str) -> None:
    assert "steps" in one_wrong(text)


@pytest.mark.parametrize("text", ["[]", "{}", '{"steps": []}', '{"steps": null}', '{"tasks": []}', '{"plan": {}}'])
def test_no_steps_in_json_is_an_error(text: str) -> None:
    assert "steps" in one_wrong(text, "json", "model")


@pytest.mark.parametrize("text", ["<tasks></tasks>", "<tasks/>", "<plan/>", "<plan><steps></steps></plan>", "<tasks>\n</tasks>"])
def test_no_steps_in_xml_is_an_error(text: str) -> None:
    assert "steps" in one_wrong(text, "xml", "model")


def many(count: int, **more: Any) -> str:
    return by_model({"steps": [{"id": f"s{i}", "worker": "fetch", **more} for i in range(count)]})


def test_the_count_of_steps_has_a_cap_by_author() -> None:
    assert len(read(many(50), "json", "model").steps) == 50
    assert one_wrong(many(51), "json", "model") == "the plan: steps: there are 51 steps, the most is 50"
    assert len(read(many(51), "json", "person").steps) == 51
    few = Known(workers=KNOWN.workers, most_steps=3)
    assert "there are 4 steps, the most is 3" in one_wrong(many(4), "json", "model", few)
    endless = Known(workers=KNOWN.workers, most_steps=10**9)
    assert "there are 10,001 steps, the most is 10,000" in one_wrong(many(10_001), "json", "model", endless)


def test_ten_thousand_steps_are_read() -> None:
    lines = [
        f"- {{id: s{i}, worker: fetch, needs: [{f's{i - 1}' if i else ''}], context: [{f's{i - 1}' if i else ''}]}}" for i in range(10_000)
    ]
    plan = read("steps:\n" + "\n".join(lines))
    assert (len(plan.steps), plan.result) == (10_000, ("s9999",))
    assert "s0 -> s9999 -> s9998" in one_wrong("steps:\n" + "\n".join(lines).replace("needs: []", "needs: [s9999]"))


def test_ten_thousand_mistakes_are_cut_short() -> None:
    for more in ({"bogus": 1}, {"needs": ["nobody"]}, {"context": ["nothing"]}, {"id": "same"}, {"id": "Not An Id"}):
        problems = wrong(many(10_000, **more), "json", "person")
        assert len(problems) <= MOST_PROBLEMS + 1, more
        assert any("too much is wrong: the steps after this one are not looked at" in problem for problem in problems)


def test_long_lists_and_many_keys_are_cut_short() -> None:
    lists = [f"n{i}" for i in range(9_000)]
    for value in (
        {"steps": [{"id": "a", "worker": "fetch", "needs": lists, "context": lists}], "result": lists},
        {"steps": [{"id": "a", "worker": "fetch", "needs": [[]] * 9_000}]},
        {"steps": [{"id": "a", "worker": "fetch", "needs": lists * 2}], "inputs": lists},
        {"steps": [{"id": "a", "worker": "fetch", **dict.fromkeys(lists, 1)}], **dict.fromkeys(lists, 1)},
    ):
        assert len(wrong(by_model(value), "json", "model")) <= 2 * MOST_PROBLEMS + 4


def test_texts_have_a_cap_by_author() -> None:
    assert "instructions has 20,001 characters, write at most 20,000" in one_wrong(many(1, instructions="x" * 20_001), "json", "model")
    assert read(many(1, instructions="x" * 20_001), "json", "person")
    assert "the answer has" in one_wrong("x" * (MOST_ANSWER + 1), "json", "model")


# --- replies of conductors in JSON ------------------------------------------------------------------------

# The meta-prompter's subtasks, in the shape that its design publishes.
SUBTASKS = [
    {"id": 1, "description": "Derive the recurrence.", "expert": "math", "depends_on": [], "context_needed": []},
    {"id": 2, "description": "Write the function.", "expert": "code", "depends_on": [1], "context_needed": [1]},
    {"id": 3, "description": "Explain it.\nIn two lines.", "expert": "writing", "depends_on": [1, 2], "context_needed": True},
]
EXPERTS = Known(experts=tuple(Expert(name=name, role=f"an expert for {name}") for name in ("code", "math", "analysis", "writing")))


def test_the_meta_prompters_subtasks() -> None:
    plan = read(by_model(SUBTASKS), "json", "model", EXPERTS)
    assert [step.id for step in plan.steps] == ["step-1", "step-2", "step-3"]
    assert [step.needs for step in plan.steps] == [(), ("step-1",), ("step-1", "step-2")]
    assert [step.context for step in plan.steps] == [(), ("step-1",), ("step-1", "step-2")]
    assert plan.steps[2].instructions == "Explain it.\nIn two lines."
    assert all(step.problem for step in plan.steps)
    assert [one.name for one in plan.experts] == ["math", "code", "writing"]
    assert without_places(read(by_model({"subtasks": SUBTASKS}), "json", "model", EXPERTS)) == without_places(plan)


def test_names_of_published_designs_mean_ours() -> None:
    assert PLAN_NAMES == {"subtasks": "steps", "tasks": "steps"}
    for theirs, ours in STEP_NAMES.items():
        value = {"instructions": "x", "needs": ["a"], "context": ["a"]}[ours]
        steps = [{"id": "a", "worker": "fetch"}, {"id": "b", "worker": "fetch", "needs": ["a"], "context": ["a"], "instructions": "x"}]
        plain = read(by_model({"steps": steps}), "json", "model")
        steps[1] = {**{key: said for key, said in steps[1].items() if key != ours}, theirs: value}
        assert without_places(read(by_model({"steps": steps}), "json", "model")) == without_places(plain)
    assert "'description' and 'instructions' mean the same" in one_wrong(many(1, description="x", instructions="y"), "json")


def test_bug_6_cyclic_unknown_and_duplicate_ids_end_in_an_error() -> None:
    first, second, _ = SUBTASKS
    assert "cycle: step-1 -> step-2 -> step-1" in one_wrong(by_model([{**first, "depends_on": [2]}, second]), "json", "model", EXPERTS)
    assert "needs 'step-9', which is no step" in one_wrong(by_model([first, {**second, "depends_on": [1, 9]}]), "json", "model", EXPERTS)
    assert "the id 'step-1' stands twice" in one_wrong(by_model([first, {**first}]), "json", "model", EXPERTS)
    assert "needs itself" in one_wrong(by_model([{**first, "depends_on": [1]}]), "json", "model", EXPERTS)


@pytest.mark.parametrize(
    "around",
    [
        "```json\n{}\n```",
        "Here you are:\n\n```\n{}\n```\nGood luck!",
        "Sure! {} Anything else?",
        "{}",
        "Use [1] and {{braces}}: {}\n- [x]",
        "\n\n  {}",
    ],
)
def test_bug_7_fences_and_prose_around_json_are_no_matter(around: str) -> None:
    before, after = around.replace("{{", "\0").replace("}}", "\1").split("{}")
    text = before.replace("\0", "{").replace("\1", "}") + by_model(SUBTASKS) + after
    assert [step.id for step in read(text, "json", "model", EXPERTS).steps] == ["step-1", "step-2", "step-3"]


def test_bug_10_an_unknown_expert_type_is_named() -> None:
    problem = one_wrong(by_model([{**SUBTASKS[0], "expert": "maths"}]), "json", "model", EXPERTS)
    assert "[0].expert: the expert is 'maths', which is not an expert of the plan or a task of the project, did you mean 'math'?" in problem


def test_a_quoted_json_before_the_real_one_does_not_win() -> None:
    quoted = by_model({"steps": [{"id": "quoted", "worker": "fetch"}]})
    real = {"analysis": f"not {quoted}", "steps": [{"id": "real", "worker": "fetch"}]}
    for text in (f"<analysis>e.g. {quoted}</analysis>\n{by_model(real)}", f'I might say {quoted}. No:\n{by_model(real)}\nNot {{"a": 1}}.'):
        assert [step.id for step in read(text, "json", "model").steps] == ["real"]


def test_json_that_is_cut_anywhere_is_never_half_a_plan() -> None:
    whole = json.dumps(
        {"analysis": 'it\'s "so"', "experts": [{"name": "x", "role": "r"}], "steps": [{"id": "a", "worker": "fetch"}] * 1, "n": [1.5, True]}
    )
    for text in (whole, f"```json\n{whole}", f"Plan: {whole}"):
        start = text.index("{") + 2
        for end in range(start, len(text)):
            assert "cut off" in one_wrong(text[:end], "json", "model"), text[:end]


@pytest.mark.parametrize("before", ['{"analysis" "x", ', '{"a": {"b": 1,}, '])
def test_json_that_is_broken_and_cut_is_never_half_a_plan(before: str) -> None:
    steps = '"steps": [{"id": "a", "worker": "fetch"}]'
    assert wrong(f'{before}{steps}, "result', "json", "model")
    assert wrong(f"{before}{steps}", "json", "model")


def test_json_that_is_no_json_says_what_and_where() -> None:
    assert one_wrong('{"steps": [{"id": "a"},]}', "json", "model").startswith("the plan:1: the JSON can't be read: ")
    later = '{"steps": [{"id": "a", "worker": "fetch"}]}\nBetter:\n{"steps": [{"id": "b" "worker": "fetch"}]}'
    assert one_wrong(later, "json", "model").startswith("the plan:3: the JSON can't be read: expecting ',' delimiter")
    assert "NaN is not a JSON number" in one_wrong('{"steps": [{"id": "a", "retries": NaN}]}', "json", "model")
    assert "steps[0].id: the key stands twice" in one_wrong('{"steps": [{"id": "a", "id": "b", "worker": "fetch"}]}', "json", "model")
    assert read('{"steps": [{"id": "a", "worker": "fetch", "instructions": "two\nlines"}]}', "json").steps[0].instructions == "two\nlines"


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize(
    "text", ["", "  \n", "I can't do that.", "## Expert 1: the coder\nWrite code.\n## Synthesis Plan\nMerge.", '"steps"', "42"]
)
def test_prose_and_nothing_are_errors(form: Form, text: str) -> None:
    problem = one_wrong(text, form, "model")
    assert "the answer is empty" in problem if not text.strip() else "there is no" in problem
    assert "answer with one" in problem


def test_null_and_blank_in_json_and_xml_are_left_out() -> None:
    step = {
        "id": "a",
        "worker": "fetch",
        "expert": None,
        "instructions": "",
        "output": None,
        "arguments": None,
        "timeout": None,
        "fallback": " ",
    }
    plan = read(by_model({"steps": [step], "result": None, "synthesis": ""}), "json", "model")
    assert without_places(plan) == Plan(steps=(Step(id="a", worker="fetch"),), result=("a",), author="model")


def test_output_and_arguments_may_be_texts_that_hold_yaml() -> None:
    def output(said: Any) -> Contract | None:
        return read(many(1, output=said), "json", "model").steps[0].output

    assert output("text") == Contract(TextShape())
    assert output("[yes, no]") == output(["yes", "no"]) == Contract(Labels(("yes", "no")))
    assert output('{"json": {"type": "object"}}') == output({"json": {"type": "object"}}) == Contract(JsonShape('{"type": "object"}'))
    assert output("{text: {max_words: 60}}") == Contract(TextShape(max_words=60))
    assert read(many(1, arguments='{"n": 1, "t": "1"}'), "json", "model").steps[0].arguments == {"n": 1, "t": "1"}
    assert "steps[0].output: the YAML in this text can't be read" in one_wrong(many(1, output="[a, "), "json", "model")
    assert "steps[0].arguments: arguments is 'x', write a mapping" in one_wrong(many(1, arguments="x"), "json", "model")


# --- replies of conductors in XML -------------------------------------------------------------------------

# The flexible orchestrator's answer in the shape that its design publishes: several lines, an analysis before it.
TASKS = """\
<analysis>
Two voices: one for engineers, one for shoppers.
</analysis>

<tasks>
  <task>
    <type>formal</type>
    <description>Write a precise version:
materials, certifications,
specifications</description>
  </task>
  <task>
    <type>conversational</type>
    <description>Write a warm version.</description>
  </task>
</tasks>
"""


def test_the_flexible_orchestrators_tasks() -> None:
    plan = read(TASKS, "xml", "model")
    assert plan.analysis == "Two voices: one for engineers, one for shoppers."
    assert [(step.id, step.type, step.expert, step.problem) for step in plan.steps] == [
        ("formal", "formal", "formal", True),
        ("conversational", "conversational", "conversational", True),
    ]
    assert plan.experts == (Expert(name="formal", role="formal"), Expert(name="conversational", role="conversational"))
    assert plan.result == ("formal", "conversational")


def test_bug_12_a_description_of_several_lines_is_whole() -> None:
    assert read(TASKS, "xml", "model").steps[0].instructions == "Write a precise version:\nmaterials, certifications,\nspecifications"


def test_bug_13_no_character_of_a_description_is_off() -> None:
    assert read(TASKS, "xml", "model").steps[1].instructions == "Write a warm version."


@pytest.mark.parametrize(
    "task",
    [
        "<task><type>a</type><description>x &lt;b&gt; &amp; &quot;y&quot; &#65;</description></task>",
        '<task type="a"><description>x &lt;b&gt; &amp; "y" A</description></task>',
        "<task type='a' description='x &lt;b&gt; &amp; &quot;y&quot; A'/>",
        '<task type="a">x &lt;b> &amp; "y" A</task>',
        '<task><type>a</type><description><![CDATA[x <b> & "y" A]]></description></task>',
        '<task>\n<!-- <task> --><type>\n  a\n</type>\r\n<description>\n  x &lt;b&gt; &amp; "y" A\n</description></task>',
    ],
)
def test_bug_14_one_line_attributes_entities_and_cdata(task: str) -> None:
    for text in (
        f"<tasks>{task}</tasks>",
        f'<?xml version="1.0"?><answer><tasks\n>{task}</tasks ></answer>',
        f"```xml\n<plan><tasks>{task}</tasks></plan>\n```",
    ):
        (step,) = read(text, "xml", "model").steps
        assert (step.type, step.instructions) == ("a", 'x <b> & "y" A')


def test_bug_15_a_missing_description_is_told_and_nothing_is_dropped() -> None:
    problem = one_wrong(
        "<tasks>\n<task><type>a</type><description>x</description></task>\n<task><type>b</type></task>\n</tasks>", "xml", "model"
    )
    assert problem == "the plan:3: the step 'b' has no instructions, say what is to be done"


def test_bug_19_a_tag_quoted_in_the_analysis_does_not_win() -> None:
    quoted = "<tasks><task><type>quoted</type><description>no</description></task></tasks>"
    for before in (
        f"<analysis>As {quoted} & so on</analysis>",
        f"First idea: {quoted}\n",
        "I answer in <tasks>, as asked. ",
        f"<!-- {quoted} -->",
    ):
        plan = read(f"{before}\n{TASKS.partition('</analysis>')[2]} bye <task>", "xml", "model")
        assert [step.type for step in plan.steps] == ["formal", "conversational"], before
    assert read(f"<analysis>As {quoted}</analysis>{quoted}", "xml", "model").analysis == f"As {quoted}"


def test_xml_that_is_cut_anywhere_is_never_half_a_plan() -> None:
    quoted = "<analysis>a <tasks><task type='q'>x</task></tasks></analysis>"
    experts = '<experts><expert name="x"><role>r</role></expert></experts>'
    whole = f'<plan>{experts}<steps><step id="a" worker="fetch">do</step></steps><result>a</result></plan>'
    for text, start in ((whole, 6), (quoted + whole, len("<analysis>a ")), (f"Well. {TASKS}", TASKS.index("<tasks>") + 14)):
        for end in range(start, len(text.rstrip())):
            problem = one_wrong(text[:end], "xml", "model")
            assert "cut off" in problem or "there is no <plan>" in problem, text[:end]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<tasks>\n<task type='a'>R&D</task></tasks>", "the plan:2: this is not XML"),
        ("<tasks>\n<task type='a'>if a < b</task></tasks>", "the plan:2: this is not XML"),
        ("<tasks>\n<task type='a'>a&nbsp;b</task></tasks>", "the plan:2: an entity that XML does not know"),
        ("<tasks>\n<task type='a'>a <b> c</task></tasks>", "the plan:2: an element is closed that is not the last one opened"),
        ("<tasks>\n<task><description>a <b>c</b></description></task></tasks>", "the plan:2: <b> stands in the text of <description>"),
        ("<tasks>\n<task><type>a</type>text<description>x</description></task></tasks>", "the plan:2: the text 'text' stands in <task>"),
        ("<tasks>\n<thing/></tasks>", "the plan:2: <thing> stands in <tasks>"),
    ],
)
def test_xml_that_is_no_xml_says_what_would_be_right(text: str, told: str) -> None:
    problem = wrong(text, "xml", "model")[0]
    assert problem.startswith(told)
    assert "in a text write &lt; for < and &amp; for &, or put the text into <![CDATA[…]]>" in problem


def test_no_entity_is_expanded_and_nothing_is_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    bomb = (
        "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>"
        + "".join(f"<!ENTITY {n} '{'&' + m + ';' * 1}'>" for m, n in zip("abc", "bcd", strict=True))
        + "]>"
    )
    outside = f"<!DOCTYPE x [<!ENTITY d SYSTEM '{secret.as_uri()}'>]>"
    for declared in (bomb, outside):
        for text in (f"{declared}<tasks><task type='a'>&d;</task></tasks>", f"<tasks>{declared}<task type='a'>&d;</task></tasks>"):
            problem = one_wrong(text, "xml", "model")
            assert "an entity that XML does not know" in problem if text.startswith("<!") else "not XML" in problem
            assert "SECRET" not in problem


def test_the_full_form_in_xml() -> None:
    text = """\
Here is the plan.
<plan name="review">
  <analysis>Two views</analysis>
  <inputs><input>code</input><input name="spec" required="false">what it must do</input></inputs>
  <experts>
    <expert name="sec" model="strong/model"><role>a security reviewer</role><scope>holes</scope></expert>
  </experts>
  <steps>
    <step id="a" expert="sec" context="code, spec" problem="true">
      <instructions>Look.</instructions><output>[fine, broken]</output><max_tokens>900</max_tokens>
    </step>
    <step id="b" worker="fetch"><needs><step>a</step></needs><context>a</context>
      <arguments><url>https://example.com</url><n>2</n><tags><item>x</item><item>y</item></tags></arguments></step>
    <step id="c" worker="fetch" needs="a b"><arguments>{"n": "2"}</arguments><on_failure>skip</on_failure>
      <context_needed>true</context_needed></step>
  </steps>
  <result>b c</result>
  <synthesis>Merge.</synthesis>
  <limits usd="0.5"><calls>9</calls></limits>
</plan>"""
    plan = read(text, "xml", "model")
    assert without_places(plan) == Plan(
        name="review",
        author="model",
        analysis="Two views",
        synthesis="Merge.",
        limits=Limits(usd=0.5, calls=9),
        inputs=(Input(name="code"), Input(name="spec", about="what it must do", required=False)),
        experts=(Expert(name="sec", model="strong/model", role="a security reviewer", scope="holes"),),
        result=("b", "c"),
        steps=(
            Step(
                id="a",
                expert="sec",
                instructions="Look.",
                context=("code", "spec"),
                problem=True,
                output=Contract(Labels(("fine", "broken"))),
                max_tokens=900,
            ),
            Step(
                id="b", worker="fetch", needs=("a",), context=("a",), arguments={"url": "https://example.com", "n": 2, "tags": ["x", "y"]}
            ),
            Step(id="c", worker="fetch", needs=("a", "b"), context=("a", "b"), arguments={"n": "2"}, on_failure="skip"),
        ),
    )
    assert [step.where.line for step in plan.steps] == [9, 12, 14]
    assert wrong(text.replace("fetch", "fetsh"), "xml", "model")[0].startswith("the plan:12: there is no worker 'fetsh'")


def test_typed_tasks_are_routed_by_type_to_workers_experts_and_tasks() -> None:
    known = Known(workers=frozenset(["web_search"]), tasks=frozenset(["triage"]), experts=(Expert(name="write_report", role="a writer"),))
    tasks = [
        {"type": "web_search", "instruction": "Find figures."},
        {"type": "web_search", "instruction": "Find prices."},
        {"type": "triage", "instruction": "Sort them."},
        {"type": "Analyze findings!", "instruction": "Compare them."},
        {"instruction": "Anything."},
        {"type": "write_report", "instruction": "Write.", "depends_on": ["web_search", "web_search-2"]},
    ]
    plan = read(by_model(tasks), "json", "model", known)
    assert [(step.id, step.worker or step.expert, step.type) for step in plan.steps] == [
        ("web_search", "web_search", "web_search"),
        ("web_search-2", "web_search", "web_search"),
        ("triage", "triage", "triage"),
        ("analyze-findings", "analyze-findings", "Analyze findings!"),
        ("step-5", "general", "general"),
        ("write_report", "write_report", "write_report"),
    ]
    assert plan.steps[-1].context == ("web_search", "web_search-2")
    assert {one.name: one.role for one in plan.experts} == {
        "analyze-findings": "Analyze findings!",
        "general": "general",
        "write_report": "a writer",
    }


# --- structured output ------------------------------------------------------------------------------------


def test_the_schema_is_one_that_providers_enforce() -> None:
    schema = plan_schema(Known(workers=frozenset(["fetch"]), models=frozenset(["a/b"])))

    def look(part: Any) -> None:
        if part.get("type") == "object":
            assert part["additionalProperties"] is False
            assert part["required"] == list(part["properties"])
        assert set(part) <= {"type", "properties", "required", "additionalProperties", "items", "enum", "description"}
        for child in (*part.get("properties", {}).values(), *([part["items"]] if "items" in part else [])):
            look(child)

    look(schema)
    step = schema["properties"]["steps"]["items"]["properties"]
    assert step["worker"]["enum"] == ["", "fetch"]
    assert step["fallback"]["enum"] == ["", "a/b"]
    assert all(part["description"] for part in step.values())


def test_what_satisfies_the_schema_is_read() -> None:
    texts = dict.fromkeys(["type", "expert", "worker", "instructions", "output", "arguments", "fallback"], "")
    empty = {**texts, "on_failure": "fail", "max_tokens": None, "timeout": None, "retries": 1}
    answer = {
        "analysis": "x",
        "experts": [{"name": "w", "role": "a writer", "scope": "", "instructions": "", "model": ""}],
        "steps": [
            {
                **empty,
                "id": "a",
                "worker": "fetch",
                "needs": [],
                "context": [],
                "problem": False,
                "arguments": '{"url": "u"}',
            },
            {
                **empty,
                "id": "b",
                "expert": "w",
                "instructions": "y",
                "needs": ["a"],
                "context": ["a"],
                "problem": True,
                "output": "[c, d]",
            },
        ],
        "result": [],
        "synthesis": "",
    }
    assert jsonschema_rs.validator_for(plan_schema(KNOWN)).is_valid(answer)
    plan = read(by_model(answer), "json", "model")
    assert plan.steps[0].arguments == {"url": "u"}
    assert plan.steps[1].output == Contract(Labels(("c", "d")))
    assert plan.result == ("b",)


# --- writing ----------------------------------------------------------------------------------------------


def again(plan: Plan) -> Plan:
    known = Known(workers=frozenset(["fetch", "web_search"]), tasks=frozenset(["triage"]))
    return without_places(read_plan(plan_yaml(plan), form="yaml", author=plan.author, known=known))


def test_a_plan_is_written_in_a_fixed_order_and_read_back() -> None:
    plan = read(WHOLE)
    assert again(plan) == without_places(plan)
    keys = [line.partition(":")[0] for line in plan_yaml(plan).splitlines() if line[:1].isalpha()]
    assert keys == ["name", "about", "analysis", "inputs", "experts", "steps", "result", "synthesis", "limits"]
    assert plan_yaml(again(plan)) == plan_yaml(plan)
    for form, text in (("json", by_model(SUBTASKS)), ("xml", TASKS)):
        other = read(text, form, "model", EXPERTS)  # type: ignore[arg-type]
        assert again(other) == without_places(other)


def test_a_contract_that_no_output_can_say_is_refused() -> None:
    for contract in (Contract(TextShape(), inferred=True), Contract(TextShape(), (Check("max_words", 3),))):
        with pytest.raises(InputError, match="no output: can say"):
            plan_yaml(Plan(steps=(Step(id="a", worker="fetch", output=contract),)))


HOSTILE = st.sampled_from(
    [
        "# no comment",
        "key: value",
        "- item",
        "a\r\nb",
        "line  \n\n  more\t\n",
        "\n lead",
        "'q' \"d\" \\",
        "🙂\u2028\x85",
        "null",
        "1e3",
        "yes",
        "---\nx",
        "{a: 1}",
        "&x *y !z",
        "%TAG",
        "x" * 300,
        "a\n" * 3,
        "\x01\x7f",
        " both ",
        "]]>",
        "<b>&amp;",
        "\ufeffbom",
        "```",
    ]
)
TEXTS = (HOSTILE | st.text(st.characters(exclude_categories=["Cs"]), min_size=1)).filter(lambda text: bool(text.strip()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS | st.just(""),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
OUTPUTS = st.sampled_from(
    [
        None,
        Contract(TextShape()),
        Contract(TextShape(max_words=60, min_chars=1)),
        Contract(Labels(("yes", "no: maybe", "1.10"))),
        Contract(Labels(("a", "b"), allow_other=True)),
        Contract(JsonShape('{"type": "object", "properties": {"n": {"type": "number", "minimum": 1e-07}}}')),
        Contract(JsonShape("true")),
    ]
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    inputs = tuple(
        Input(name=f"in_{i}", about=draw(TEXTS | st.just("")), default=default, required=draw(st.booleans()))
        for i, default in enumerate(draw(st.lists(VALUES, max_size=3)))
    )
    experts = tuple(
        Expert(
            name=f"e{i}",
            role=role,
            scope=draw(TEXTS | st.just("")),
            model=draw(st.sampled_from(["", "a/b"])),
            level=draw(st.sampled_from([None, 0, 3])),
        )
        for i, role in enumerate(draw(st.lists(TEXTS, min_size=1, max_size=3)))
    )
    steps: list[Step] = []
    for i, text in enumerate(draw(st.lists(TEXTS, min_size=1, max_size=5))):
        ids = [step.id for step in steps]
        needs = tuple(draw(st.lists(st.sampled_from(ids), unique=True))) if ids else ()
        sees = [*needs, *(one.name for one in inputs)]
        own: dict[str, Any] = {"expert": draw(st.sampled_from([one.name for one in experts]))}
        if draw(st.booleans()):
            own = {"worker": "fetch", "arguments": draw(st.dictionaries(TEXTS, VALUES, max_size=3))}
        elif draw(st.booleans()):
            own |= {"on_failure": "fallback", "fallback": "a/b"}
        steps.append(
            Step(
                id=f"s{i}",
                instructions=text,
                needs=needs,
                context=tuple(draw(st.lists(st.sampled_from(sees), unique=True))) if sees else (),
                problem=draw(st.booleans()),
                output=draw(OUTPUTS),
                retries=draw(st.integers(0, 10)),
                type=draw(st.sampled_from(["", "a: b"])),
                max_tokens=draw(st.none() | st.integers(1, 9000)),
                timeout=draw(st.none() | st.floats(0.001, 100)),
                **own,
            )
        )
    result = tuple(draw(st.lists(st.sampled_from([step.id for step in steps]), unique=True, min_size=1)))
    return Plan(
        name=draw(st.sampled_from(["", "a-plan"])),
        about=draw(TEXTS | st.just("")),
        inputs=inputs,
        experts=experts,
        steps=tuple(steps),
        result=result,
        limits=draw(st.sampled_from([Limits(), Limits(usd=0.25, calls=3), Limits(seconds=0.0, tokens=0)])),
        author=draw(st.sampled_from(["person", "model"])),
        analysis=draw(TEXTS | st.just("")),
        synthesis=draw(TEXTS | st.just("")),
    )


@given(plans())
@settings(max_examples=300)
def test_every_plan_is_read_back_as_it_was(plan: Plan) -> None:
    assert again(plan) == plan


# --- nothing but a plan or a SourceError ------------------------------------------------------------------


def read_or_refused(text: str, form: Form, author: Author) -> None:
    try:
        assert isinstance(read(text, form, author), Plan)
    except SourceError as error:
        assert error.problems


WORDS = [
    "steps",
    "tasks",
    "subtasks",
    "plan",
    "id",
    "needs",
    "context",
    "expert",
    "worker",
    "fetch",
    "a",
    "b",
    "output",
    "arguments",
    "inputs",
    "experts",
    "name",
    "role",
    "result",
    "limits",
    "default",
    "instructions",
    "analysis",
    "type",
    "text",
    "true",
    "1",
]
KEYS = st.sampled_from(WORDS) | st.text(max_size=5)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=30,
)


@given(TREES, st.sampled_from(["json", "yaml"]), st.sampled_from(["person", "model"]), st.integers(0, 40))
@settings(max_examples=300)
def test_any_value_gives_a_plan_or_a_source_error(tree: Any, form: Form, author: Author, cut: int) -> None:
    for said in (
        tree,
        {"steps": [tree]},
        {"steps": tree},
        {"inputs": tree, "experts": [tree], "steps": [{"id": "a", "output": tree, "arguments": tree}]},
    ):
        text = json.dumps(said)
        read_or_refused(text, form, author)
        read_or_refused(text[: len(text) - cut], form, author)


@given(
    st.lists(
        st.sampled_from(
            ["{", "}", "[", "]", '"', ":", ",", "\\", '"steps"', '"id"', "1", "a", "\n", "```", "- ", "steps:", " ", "|", "#", "&a", "*a"]
        )
        | st.text(max_size=3)
    )
)
@settings(max_examples=300)
def test_any_text_gives_a_plan_or_a_source_error(pieces: list[str]) -> None:
    for form in ("json", "yaml"):
        read_or_refused("".join(pieces), form, "model")  # type: ignore[arg-type]


TAGS = [
    f"<{slash}{name}{end}"
    for name in ("plan", "tasks", "task", "steps", "step id='a'", "type", "description", "analysis", "output", "arguments", "needs")
    for slash, end in (("", ">"), ("/", ">"), ("", "/>"))
]


@given(
    st.lists(
        st.sampled_from([*TAGS, "<![CDATA[", "]]>", "<!--", "-->", "&", "&lt;", "<", ">", "x", "<!DOCTYPE a>", "{a: [", "\n"])
        | st.text(max_size=3)
    )
)
@settings(max_examples=500)
def test_any_tags_give_a_plan_or_a_source_error(pieces: list[str]) -> None:
    read_or_refused("".join(pieces), "xml", "model")
    read_or_refused(f"<tasks>{''.join(pieces)}</tasks>", "xml", "person")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("xml", "<!--" * 100_000),
        ("xml", "<tasks>" * 50_000),
        ("xml", "</plan><tasks " * 50_000),
        ("xml", '<tasks a="' * 50_000),
        ("xml", f"<plan>{'<a>' * 50_000}</plan>"),
        ("json", "[" * 500_000),
        ("json", '{"a":' * 100_000),
        ("json", '{"' * 100_000),
        ("json", '{"steps" 1} ' * 50_000),
        ("json", '[{"a" ' * 50_000),
        ("yaml", "- " * 50_000),
        ("yaml", "[" * 50_000),
    ],
)
def test_texts_made_to_take_long_end_in_an_error(form: Form, text: str) -> None:
    assert wrong(text, form, "model")
