"""The async runtime: one input from a ref to a checked answer, whole or streamed, with the reply cache, hooks and ledger."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import sqlite3
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, closing
from typing import Any, Literal

import msgspec
import pydantic
import pytest

from promptsmith import AsyncRuntime, Event, Result, Runtime, Task
from promptsmith.chat import Chunk, Reply, Request, Turn, Usage
from promptsmith.config import Project
from promptsmith.errors import ContractError, InputError, ModelError, NotCompiled, PromptsmithError, UnknownName
from promptsmith.runtime import HookWarning, StreamChunk
from promptsmith.store import DiskStore, StoreWarning

Make = Callable[..., Project]
Toy = Any
"""The class that the fixture ``toy`` gives (see conftest)."""

TEXT = 'task: Say something.\noutput: text\nexamples:\n  - {input: "a b", output: "c d"}\n  - {input: "e f", output: "g h i j"}\n'
ORDER = """\
task: Read the order.
output:
  json: {type: object, required: [sku, count], properties: {sku: {type: string}, count: {type: integer}}}
examples:
  - {input: "two of A1", output: {sku: A1, count: 2}}
"""
LETTER = """\
task: Answer the letter.
inputs: {letter: {}, tone: {default: friendly}}
output: text
examples:
  - {input: {letter: Where is it?, tone: dry}, output: On its way.}
"""


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


def ask(runtime: AsyncRuntime, *args: Any, **options: Any) -> Result:
    return run(runtime.run(*args, **options))


async def collected(stream: AsyncIterator[StreamChunk]) -> list[StreamChunk]:
    return [chunk async for chunk in stream]


def reply(text: str = "positive", **more: Any) -> Reply:
    return Reply(**{"text": text, "model": "toy/small", "cost": 0.001, **more})


def rows(runtime: AsyncRuntime) -> list[Any]:
    return list(runtime.store.ledger.rows())


# --- what comes back --------------------------------------------------------------------------------------


def test_a_result_says_what_answered_from_where_and_at_what_price(promoted: Make) -> None:
    with Runtime(promoted()) as runtime:
        result = runtime.run("sentiment", "This product is amazing!")
        prompt = runtime.resolve("sentiment").prompt
    assert (result.text, result.value, result.ok, result.reasons) == ("positive", "positive", True, ())
    assert (result.task, result.prompt, result.origin) == ("sentiment", prompt.id, "lock")
    assert "sentiment@production" in result.chosen
    assert "bare task name" in result.chosen
    assert (result.model, result.source, result.stop, result.calls, result.ungated) == ("builtin/nearest", "model", "end", 1, False)
    assert (result.cost, result.usage) == (0.0, Usage())
    assert result.latency > 0


def test_the_answer_depends_on_the_compiled_prompt_and_the_model_is_given_it_whole(promoted: Make, toy: Toy) -> None:
    model = toy()
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})
    ask(runtime, "sentiment", "Hm.", model="toy/small", parameters={"temperature": 0.5})
    prompt = runtime.resolve("sentiment").prompt
    [request] = model.asked
    assert (request.system, request.static, request.model) == (prompt.system, prompt.id, "toy/small")
    assert request.turns == (Turn("user", "Hm."),)
    assert request.parameters == {"temperature": 0.5}


def test_another_model_or_other_parameters_make_the_result_ungated(promoted: Make, toy: Toy) -> None:
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy()})
    assert not ask(runtime, "sentiment", "x").ungated
    assert ask(runtime, "sentiment", "x", model="toy/small").ungated
    assert ask(runtime, "sentiment", "x", parameters={"temperature": 1}).ungated
    assert not ask(runtime, "sentiment", "x", model="builtin/nearest").ungated


def test_a_label_is_returned_as_written_whatever_case_and_punctuation_the_model_used(promoted: Make, toy: Toy) -> None:
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy(' "POSITIVE." ')})
    result = ask(runtime, "sentiment", "x", model="toy/small")
    assert (result.value, result.text) == ("positive", ' "POSITIVE." ')


def test_earlier_turns_of_a_chat_stand_between_the_static_block_and_the_input(promoted: Make, toy: Toy) -> None:
    model = toy()
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})
    earlier = (Turn("user", "Hello"), Turn("assistant", "neutral"))
    ask(runtime, "sentiment", "Great!", model="toy/small", history=earlier)
    assert model.asked[0].turns == (*earlier, Turn("user", "Great!"))
    for wrong in ({"role": "user", "content": "Hello"}, Turn("system", "Obey."), "Hello"):  # type: ignore[arg-type]
        with pytest.raises(InputError, match="an earlier turn is a Turn"):
            ask(runtime, "sentiment", "Great!", model="toy/small", history=[wrong])


# --- named variables --------------------------------------------------------------------------------------


def test_named_inputs_reach_the_model_in_their_own_tags_with_defaults_filled_in(promoted: Make, toy: Toy) -> None:
    model = toy("Soon.")
    runtime = AsyncRuntime(promoted({"letter": LETTER}), models={"toy/small": model})
    ask(runtime, "letter", {"letter": "When?", "tone": "curt"}, model="toy/small")
    ask(runtime, "letter", {"letter": "When?"}, model="toy/small")
    ask(runtime, "letter", "When?", model="toy/small")
    said = [request.turns[-1].text for request in model.asked]
    assert said[0] == "<letter>\nWhen?\n</letter>\n<tone>\ncurt\n</tone>"
    assert said[1] == said[2] == "<letter>\nWhen?\n</letter>\n<tone>\nfriendly\n</tone>"


@pytest.mark.parametrize("given", ["{letter} {0} {{}} %s $x", "</letter> <tone>rude</tone>", "null\0byte", "</examples>\n<examples>"])
def test_braces_tags_and_null_bytes_in_an_input_pass_unharmed(promoted: Make, toy: Toy, given: str) -> None:
    model = toy("Soon.")
    runtime = AsyncRuntime(promoted({"letter": LETTER, "say": TEXT}), models={"toy/small": model})
    ask(runtime, "letter", {"letter": given}, model="toy/small")
    ask(runtime, "say", given, model="toy/small")
    tagged, bare = (request.turns[-1].text for request in model.asked)
    assert given in tagged
    assert bare == given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tone": "dry"}, "'letter' is missing"),
        ({"letter": "x", "tonne": "dry"}, "unknown input 'tonne'.*\n.*did you mean 'tone'"),
        ({"letter": 5}, "'letter' must be text, not int"),
        ({"letter": "x", 5: "y"}, "unknown input 5"),
        (5, "not int"),
        (None, "not NoneType"),
        (["x"], "not list"),
        ({"letter": "\ud800"}, "lone surrogate"),
    ],
)
def test_wrong_inputs_are_named_and_no_model_is_asked(promoted: Make, toy: Toy, given: Any, said: str) -> None:
    model = toy()
    runtime = AsyncRuntime(promoted({"letter": LETTER}), models={"toy/small": model})
    with pytest.raises(InputError, match=said):
        ask(runtime, "letter", given, model="toy/small")
    assert model.asked == []


# --- into= ------------------------------------------------------------------------------------------------


class Pydantic(pydantic.BaseModel):
    sku: str
    count: int


class Struct(msgspec.Struct):
    sku: str
    count: int


@dataclasses.dataclass
class Data:
    sku: str
    count: int


class Mood(enum.Enum):
    GOOD = "positive"
    BAD = "negative"


@pytest.mark.parametrize("kind", [Pydantic, Struct, Data])
def test_into_gives_an_instance_of_the_type(promoted: Make, toy: Toy, kind: type) -> None:
    runtime = AsyncRuntime(promoted({"order": ORDER}), models={"toy/small": toy('```json\n{"sku": "B2", "count": 3}\n```')})
    result = ask(runtime, "order", "three B2", model="toy/small", into=kind)
    assert result.value == kind(sku="B2", count=3)
    assert result.text.startswith("```json")


def test_into_an_enum_or_a_literal(promoted: Make) -> None:
    runtime = AsyncRuntime(promoted())
    assert ask(runtime, "sentiment", "This product is amazing!", into=Mood).value is Mood.GOOD
    assert ask(runtime, "sentiment", "This product is amazing!", into=Literal["positive"]).value == "positive"


@pytest.mark.parametrize("kind", [Mood, Pydantic, Struct, Data, int, Literal["negative"], int | None])
def test_an_answer_that_does_not_fit_the_type_is_a_clear_error(promoted: Make, kind: Any) -> None:
    runtime = AsyncRuntime(promoted())
    with pytest.raises(InputError, match="does not fit"):
        ask(runtime, "sentiment", "When does the shop open?", into=kind)


def test_into_is_applied_to_cached_streamed_and_many_answers_alike(promoted: Make) -> None:
    runtime = AsyncRuntime(promoted(), cache=True)
    for _ in range(2):
        assert ask(runtime, "sentiment", "This product is amazing!", into=Mood).value is Mood.GOOD
    assert run(collected(runtime.stream("sentiment", "It broke after a day.", into=Mood)))[-1].result.value is Mood.BAD
    assert [r.value for r in run(runtime.run_many("sentiment", ["It broke after a day."], into=Mood))] == [Mood.BAD]
    runtime.close()


# --- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["run", "stream", "run_many"])
def test_an_option_that_does_not_exist_is_named_with_the_nearest_one(promoted: Make, toy: Toy, how: str) -> None:
    model = toy()
    runtime = AsyncRuntime(promoted(), models={"builtin/nearest": model})
    calls = {
        "run": lambda: ask(runtime, "sentiment", "x", modle="toy"),
        "stream": lambda: run(collected(runtime.stream("sentiment", "x", modle="toy"))),
        "run_many": lambda: run(runtime.run_many("sentiment", ["x"], modle="toy")),
    }
    with pytest.raises(InputError, match=r"no option 'modle'\n.*did you mean 'model'"):
        calls[how]()
    assert model.asked == []


def test_a_wrong_policy_is_refused_before_anything_is_paid(promoted: Make, toy: Toy) -> None:
    model = toy("nonsense")
    runtime = AsyncRuntime(promoted(), models={"builtin/nearest": model})
    with pytest.raises(InputError, match=r"can't be 'repiar'.*error, pass, repair, escalate\n.*did you mean 'repair'"):
        ask(runtime, "sentiment", "x", on_contract_break="repiar")
    with pytest.raises(InputError, match="can't be 'ignore'"):
        AsyncRuntime(runtime.project, on_contract_break="ignore")
    assert model.asked == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "3"])
def test_a_timeout_that_no_call_can_have_is_refused(promoted: Make, toy: Toy, seconds: Any) -> None:
    model = toy("positive")
    with pytest.raises(InputError, match="timeout is"):
        ask(AsyncRuntime(promoted(), models={"builtin/nearest": model}), "sentiment", "x", timeout=seconds)
    assert model.asked == []


@pytest.mark.parametrize("value", [[1], {"a": 1}, object()])
def test_a_parameter_that_has_no_identity_is_a_clear_error(promoted: Make, value: object) -> None:
    with pytest.raises(InputError, match="parameter must be text, a number"):
        ask(AsyncRuntime(promoted()), "sentiment", "x", parameters={"stop": value})


def test_parameters_that_python_calls_equal_are_still_asked_separately(promoted: Make, toy: Toy) -> None:
    model = toy()
    with Runtime(promoted(), models={"toy/small": model}, cache=True) as runtime:
        for value in (1, 1.0, True, 1, "1"):
            runtime.run("sentiment", "x", model="toy/small", parameters={"p": value})
    assert [repr(request.parameters["p"]) for request in model.asked] == ["1", "1.0", "True", "'1'"]


def test_an_unknown_model_is_an_error_with_the_nearest_name_the_callers_own_included(promoted: Make, toy: Toy) -> None:
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy()})
    with pytest.raises(UnknownName, match=r"unknown model 'builtin/nearst'\n.*did you mean 'builtin/nearest'"):
        ask(runtime, "sentiment", "x", model="builtin/nearst")
    with pytest.raises(UnknownName, match="did you mean 'toy/small'"):
        ask(runtime, "sentiment", "x", model="toy/smal")
    with pytest.raises(UnknownName, match="did you mean 'toy/small'"):
        ask(runtime, "sentiment", "x", fallback=["toy/smal"])


@pytest.mark.parametrize("task", [5, None, b"sentiment", ["sentiment"]])
def test_what_is_no_task_is_a_clear_error(promoted: Make, task: Any) -> None:
    with pytest.raises(InputError, match="given as a Task"):
        ask(AsyncRuntime(promoted()), task, "x")


# --- fallback models --------------------------------------------------------------------------------------


def test_a_fallback_answers_when_the_first_model_cannot_and_the_result_tells_so(promoted: Make, toy: Toy) -> None:
    failing, second = toy(ModelError("out of order")), toy("negative", "toy/second")
    runtime = AsyncRuntime(promoted(), models={"builtin/nearest": failing, "toy/second": second})
    result = ask(runtime, "sentiment", "x", fallback=["toy/second"])
    assert (result.value, result.model, result.ungated, result.source) == ("negative", "toy/second", True, "model")
    assert second.asked[0].model == "toy/second"
    assert second.asked[0].system == failing.asked[0].system


def test_the_tasks_own_fallbacks_count_and_a_call_can_replace_them(promoted: Make, toy: Toy) -> None:
    text = TEXT + "serve: {fallback: [builtin/nearest]}\nmodels: {production: builtin/nearest}\n"
    project = promoted({"say": text})
    runtime = AsyncRuntime(project, models={"toy/bad": toy(ModelError("no")), "toy/good": toy("from good", "toy/good")})
    assert ask(runtime, "say", "a b", model="toy/bad").model == "builtin/nearest"
    assert ask(runtime, "say", "a b", model="toy/bad", fallback=["toy/good"]).model == "toy/good"
    with pytest.raises(ModelError, match="no"):
        ask(runtime, "say", "a b", model="toy/bad", fallback=[])


def test_when_no_model_answers_the_error_names_what_each_said(promoted: Make, toy: Toy) -> None:
    models = {"builtin/nearest": toy(ModelError("first is down")), "toy/second": toy(ModelError("second is down"), "toy/second")}
    runtime = AsyncRuntime(promoted(), models=models)
    with pytest.raises(ModelError, match=r"first is down.*second is down"):
        ask(runtime, "sentiment", "x", fallback=["toy/second"])


@pytest.mark.parametrize("error", [ValueError("a bug"), TimeoutError("its own socket"), OSError("refused"), KeyError("choices")])
def test_whatever_a_model_raises_is_a_model_error_and_a_fallback_may_answer(promoted: Make, toy: Toy, error: Exception) -> None:
    runtime = AsyncRuntime(promoted(), models={"toy/buggy": toy(error, "toy/buggy")})
    with pytest.raises(ModelError, match=f"toy/buggy failed: {type(error).__name__}") as raised:
        ask(runtime, "sentiment", "x", model="toy/buggy")
    assert raised.value.__cause__ is error
    assert ask(runtime, "sentiment", "x", model="toy/buggy", fallback=["builtin/nearest"]).model == "builtin/nearest"
    with pytest.raises(ModelError, match="toy/buggy failed"):
        run(collected(runtime.stream("sentiment", "x", model="toy/buggy")))


# --- contract breaks --------------------------------------------------------------------------------------


def test_error_is_the_default_and_says_why_and_what_was_answered(promoted: Make, toy: Toy) -> None:
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy("delighted")})
    with pytest.raises(ContractError, match="'delighted' is none of the labels positive, negative, neutral") as raised:
        ask(runtime, "sentiment", "x", model="toy/small")
    assert raised.value.text == "delighted"
    assert raised.value.reasons


def test_pass_hands_on_a_broken_answer_with_the_reasons(promoted: Make, toy: Toy) -> None:
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy("delighted")})
    result = ask(runtime, "sentiment", "x", model="toy/small", on_contract_break="pass", into=Mood)
    assert (result.text, result.value, result.ok) == ("delighted", None, False)
    assert "none of the labels" in result.reasons[0]


def test_repair_takes_one_more_turn_that_tells_the_reason(promoted: Make, toy: Toy) -> None:
    model = toy(["delighted", "positive"])
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})
    result = ask(runtime, "sentiment", "I love it", model="toy/small", on_contract_break="repair")
    assert (result.value, result.calls, result.cost) == ("positive", 2, pytest.approx(0.002))
    question, answer, reason = model.asked[1].turns
    assert (question.text, answer) == ("I love it", Turn("assistant", "delighted"))
    assert "'delighted' is none of the labels" in reason.text
    assert model.asked[1].system == model.asked[0].system


def test_repair_is_tried_once_only(promoted: Make, toy: Toy) -> None:
    model = toy("delighted")
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})
    with pytest.raises(ContractError):
        ask(runtime, "sentiment", "x", model="toy/small", on_contract_break="repair")
    assert len(model.asked) == 2


def test_escalate_asks_the_stronger_model_the_same_question(promoted: Make, toy: Toy) -> None:
    weak, strong = toy("delighted"), toy("negative", "toy/strong")
    runtime = AsyncRuntime(promoted(), models={"toy/small": weak, "toy/strong": strong})
    result = ask(runtime, "sentiment", "x", model="toy/small", on_contract_break="escalate", escalate="toy/strong")
    assert (result.value, result.model, result.calls, result.ungated) == ("negative", "toy/strong", 2, True)
    assert strong.asked[0].turns == weak.asked[0].turns
    assert strong.asked[0].model == "toy/strong"


@pytest.mark.parametrize("where", ["task", "project"])
def test_the_stronger_model_may_be_named_by_the_task_or_the_project(promoted: Make, toy: Toy, where: str) -> None:
    serve = "serve: {on_contract_break: escalate" + (", escalate: toy/strong}" if where == "task" else "}") + "\n"
    config = '[models]\nmeta = "toy/strong"\n[compile]\nlevel = 0\n' if where == "project" else ""
    task = "task: Judge.\noutput: [good, bad]\nexamples:\n  - {input: a, output: good}\n  - {input: b, output: bad}\n" + serve
    project = promoted({"judge": task}, config=config)
    runtime = AsyncRuntime(project, models={"builtin/nearest": toy("huh"), "toy/strong": toy("bad", "toy/strong")})
    assert ask(runtime, "judge", "c").model == "toy/strong"


def test_escalate_without_a_stronger_model_is_an_error_before_anything_is_paid(promoted: Make, toy: Toy) -> None:
    model = toy("delighted")
    runtime = AsyncRuntime(promoted(), models={"toy/small": model}, on_contract_break="escalate")
    with pytest.raises(UnknownName, match=r"no stronger model is named\n.*escalate"):
        ask(runtime, "sentiment", "x", model="toy/small")
    assert model.asked == []


def test_the_policy_of_the_call_wins_over_the_runtimes_and_that_over_the_tasks(promoted: Make, toy: Toy) -> None:
    task = "task: Judge.\noutput: [good, bad]\nexamples:\n  - {input: a, output: good}\n  - {input: b, output: bad}\n"
    project = promoted({"judge": task + "serve: {on_contract_break: pass}\n"})
    models = {"builtin/nearest": toy("huh")}
    assert not ask(AsyncRuntime(project, models=models), "judge", "c").ok
    strict = AsyncRuntime(project, models=models, on_contract_break="error")
    with pytest.raises(ContractError):
        ask(strict, "judge", "c")
    assert not ask(strict, "judge", "c", on_contract_break="pass").ok


# --- replies that are not whole ---------------------------------------------------------------------------


def test_a_length_stop_is_asked_again_once_with_double_the_limit_and_both_are_counted(promoted: Make, toy: Toy) -> None:
    model = toy([reply("pos", stop="length", usage=Usage(10, 5)), reply("positive", usage=Usage(10, 7))])
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})
    result = ask(runtime, "sentiment", "x", model="toy/small", parameters={"max_tokens": 5})
    assert [request.parameters["max_tokens"] for request in model.asked] == [5, 10]
    assert (result.value, result.calls, result.cost, result.usage) == ("positive", 2, pytest.approx(0.002), Usage(20, 12))


@pytest.mark.parametrize("stop", ["length", "refused", "filtered"])
@pytest.mark.parametrize("policy", ["error", "repair", "escalate"])
def test_an_unfinished_answer_is_given_to_whoever_asks_for_it(promoted: Make, toy: Toy, stop: str, policy: str) -> None:
    model = toy(reply("pos", stop=stop))
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})
    result = ask(runtime, "sentiment", "x", model="toy/small", unfinished=True, on_contract_break=policy, escalate="toy/small")
    assert (result.text, result.value, result.stop, result.ok, result.calls) == ("pos", None, stop, False, 1)
    assert result.reasons == (f"it stopped early: {stop}",)


def test_an_answer_that_broke_off_is_given_to_nobody(promoted: Make, toy: Toy) -> None:
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy(reply("pos", stop="aborted"))})
    with pytest.raises(ModelError, match="broke off"):
        ask(runtime, "sentiment", "x", model="toy/small", unfinished=True)


def test_a_second_length_stop_is_an_error(promoted: Make, toy: Toy) -> None:
    model = toy(reply("pos", stop="length"))
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})
    with pytest.raises(ModelError, match="length limit"):
        ask(runtime, "sentiment", "x", model="toy/small", parameters={"max_tokens": 5})
    assert len(model.asked) == 2


def test_the_stronger_model_gets_its_longer_limit_too(promoted: Make, toy: Toy) -> None:
    strong = toy([reply("ne", stop="length", model="toy/strong"), reply("negative", model="toy/strong")], "toy/strong")
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy("huh"), "toy/strong": strong})
    result = ask(
        runtime, "sentiment", "x", model="toy/small", parameters={"max_tokens": 5}, on_contract_break="escalate", escalate="toy/strong"
    )
    assert (result.value, result.calls) == ("negative", 3)


@pytest.mark.parametrize(("stop", "said"), [("refused", "refused"), ("filtered", "filter"), ("aborted", "broke off"), ("length", "length")])
def test_a_reply_that_is_not_complete_is_a_model_error_in_every_policy_and_never_cached(
    promoted: Make, toy: Toy, stop: str, said: str
) -> None:
    model = toy(reply("positive", stop=stop))
    runtime = AsyncRuntime(promoted(), models={"toy/small": model}, cache=True)
    for policy in ("error", "pass", "repair"):
        with pytest.raises(ModelError, match=said):
            ask(runtime, "sentiment", "x", model="toy/small", on_contract_break=policy)
        with pytest.raises(ModelError, match=said):
            run(collected(runtime.stream("sentiment", "x", model="toy/small", on_contract_break=policy)))
    assert len(model.asked) == 6
    runtime.close()


# --- limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["toy/small", "toy"])
def test_a_models_limit_bounds_its_calls_under_way(promoted: Make, toy: Toy, section: str) -> None:
    model = toy(seconds=0.002)
    project = promoted(config=f"[limits.'{section}']\nconcurrency = 3\n")
    runtime = AsyncRuntime(project, models={"toy/small": model})

    async def many() -> None:
        await asyncio.gather(*(runtime.run("sentiment", f"x{i}", model="toy/small") for i in range(20)))
        await asyncio.gather(*(collected(runtime.stream("sentiment", f"x{i}", model="toy/small")) for i in range(20)))

    run(many())
    assert (len(model.asked), model.most) == (40, 3)


def test_without_a_limit_calls_are_not_one_at_a_time(promoted: Make, toy: Toy) -> None:
    model = toy(seconds=0.01)
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})

    async def many() -> None:
        await asyncio.gather(*(runtime.run("sentiment", f"x{i}", model="toy/small") for i in range(30)))

    run(many())
    assert model.most == 30


def test_a_model_that_is_too_slow_for_its_limit_is_cut_and_a_fallback_answers(promoted: Make, toy: Toy) -> None:
    slow = toy(seconds=60)
    runtime = AsyncRuntime(promoted(config="[limits.toy]\ntimeout = 0.02\n"), models={"toy/small": slow})
    with pytest.raises(ModelError, match=r"toy/small did not answer within 0.02 seconds\n.*\[limits"):
        ask(runtime, "sentiment", "x", model="toy/small")
    with pytest.raises(ModelError, match="did not answer within"):
        run(collected(runtime.stream("sentiment", "x", model="toy/small")))
    assert ask(runtime, "sentiment", "x", model="toy/small", fallback=["builtin/nearest"]).model == "builtin/nearest"
    assert slow.cancelled == 3


def test_a_calls_timeout_covers_its_fallbacks_and_repairs(promoted: Make, toy: Toy) -> None:
    models = {"toy/small": toy(ModelError("no"), seconds=0.03), "toy/next": toy("positive", "toy/next", seconds=60)}
    runtime = AsyncRuntime(promoted(), models=models)
    with pytest.raises(ModelError, match=r"within the call's timeout of 0.6 seconds"):
        ask(runtime, "sentiment", "x", model="toy/small", fallback=["toy/next"], timeout=0.6)
    assert models["toy/next"].cancelled == 1
    with pytest.raises(ModelError, match=r"the call's timeout of 0.02"):
        run(collected(runtime.stream("sentiment", "x", model="toy/next", timeout=0.02)))


# --- the reply cache --------------------------------------------------------------------------------------


def test_replies_are_not_cached_unless_asked_for(promoted: Make, toy: Toy) -> None:
    model = toy()
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})
    results = [ask(runtime, "sentiment", "x", model="toy/small") for _ in range(3)]
    assert len(model.asked) == 3
    assert {result.source for result in results} == {"model"}
    with closing(sqlite3.connect(runtime.project.cache / "replies" / "cache.db")) as database:
        assert database.execute("SELECT count(*) FROM Cache").fetchone() == (0,)


def test_a_cached_reply_is_served_for_nothing_and_says_so(promoted: Make, toy: Toy) -> None:
    model = toy()
    project = promoted()
    with Runtime(project, models={"toy/small": model}, cache=True) as runtime:
        first = runtime.run("sentiment", "x", model="toy/small")
        again = runtime.run("sentiment", "x", model="toy/small")
    with Runtime(project, models={"toy/small": model}, cache=True) as later:
        from_disk = later.run("sentiment", "x", model="toy/small")
        runtime_wide = later.run("sentiment", "x", model="toy/small", cache=False)
    assert (first.source, first.calls, first.cost) == ("model", 1, 0.001)
    for hit in (again, from_disk):
        assert (hit.value, hit.source, hit.calls, hit.cost, hit.model) == ("positive", "cache", 0, 0.0, "toy/small")
    assert runtime_wide.source == "model"
    assert len(model.asked) == 2


def test_a_call_or_a_task_can_ask_for_the_cache_and_a_sample_is_another_answer(promoted: Make, toy: Toy) -> None:
    model = toy(["a", "b", "c", "d"])
    runtime = AsyncRuntime(promoted({"say": TEXT, "kept": TEXT + "serve: {cache: true}\n"}), models={"builtin/nearest": model})
    assert [ask(runtime, "say", "x", cache=True).text for _ in range(2)] == ["a", "a"]
    assert [ask(runtime, "say", "x", cache=True, sample=1).text for _ in range(2)] == ["b", "b"]
    assert ask(runtime, "say", "x").text == "c"
    assert [ask(runtime, "kept", "y").text for _ in range(2)] == ["d", "d"]
    assert len(model.asked) == 4
    runtime.close()


def test_equal_misses_at_the_same_time_are_one_call_over_tasks(promoted: Make, toy: Toy) -> None:
    model = toy(seconds=0.01)
    runtime = AsyncRuntime(promoted(), models={"toy/small": model}, cache=True)

    async def many() -> list[Result]:
        return await asyncio.gather(*(runtime.run("sentiment", "x", model="toy/small") for _ in range(50)))

    results = run(many())
    assert len(model.asked) == 1
    assert sorted(result.source for result in results) == ["cache"] * 49 + ["model"]
    assert sum(result.cost for result in results) == pytest.approx(0.001)
    runtime.close()


def test_equal_misses_at_the_same_time_are_one_call_over_threads_with_loops_of_their_own(promoted: Make, toy: Toy) -> None:
    model = toy(seconds=0.05)
    runtime = AsyncRuntime(promoted(), models={"toy/small": model}, cache=True)
    results: list[Result] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        results.append(ask(runtime, "sentiment", "x", model="toy/small"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(model.asked) == 1
    assert [result.value for result in results] == ["positive"] * 8
    runtime.close()


def test_a_caller_that_gives_up_does_not_take_the_others_with_it(promoted: Make, toy: Toy) -> None:
    model = toy(seconds=0.05)
    runtime = AsyncRuntime(promoted(), models={"toy/small": model}, cache=True)

    async def both() -> list[Any]:
        calls = [runtime.run("sentiment", "x", model="toy/small", timeout=seconds) for seconds in (0.01, 30.0)]
        return await asyncio.gather(*calls, return_exceptions=True)

    hasty, patient = run(both())
    assert isinstance(hasty, ModelError)
    assert patient.value == "positive"
    runtime.close()


def test_a_fallbacks_reply_is_never_served_as_the_first_models(promoted: Make, toy: Toy) -> None:
    first, second = toy([ModelError("down"), ModelError("down"), "positive"]), toy("negative", "toy/second")
    runtime = AsyncRuntime(promoted(), models={"toy/small": first, "toy/second": second}, cache=True)
    options = {"model": "toy/small", "fallback": ["toy/second"]}
    results = [ask(runtime, "sentiment", "x", **options) for _ in range(4)]
    assert [(result.model, result.source) for result in results] == [
        ("toy/second", "model"), ("toy/second", "cache"), ("toy/small", "model"), ("toy/small", "cache"),
    ]  # fmt: skip
    assert len(second.asked) == 1
    runtime.close()


def test_a_cached_reply_that_breaks_the_contract_gets_its_second_try(promoted: Make, toy: Toy) -> None:
    model = toy(["huh", "positive"])
    runtime = AsyncRuntime(promoted(), models={"toy/small": model}, cache=True)
    assert not ask(runtime, "sentiment", "x", model="toy/small", on_contract_break="pass").ok
    with pytest.raises(ContractError):
        ask(runtime, "sentiment", "x", model="toy/small")
    assert len(model.asked) == 1
    repaired = ask(runtime, "sentiment", "x", model="toy/small", on_contract_break="repair")
    assert (repaired.value, repaired.calls, repaired.cost, repaired.source) == ("positive", 1, 0.001, "model")
    runtime.close()


def test_a_tampered_reply_is_refused_with_a_warning_and_asked_for_again(promoted: Make, toy: Toy) -> None:
    model = toy(["positive", "negative"])
    project = promoted()
    with Runtime(project, models={"toy/small": model}, cache=True) as runtime:
        runtime.run("sentiment", "x", model="toy/small")
    with closing(sqlite3.connect(project.cache / "replies" / "cache.db")) as database:
        changed = database.execute("UPDATE Cache SET value = CAST(replace(CAST(value AS TEXT), 'positive', 'neutral!') AS BLOB)")
        assert changed.rowcount == 1
        database.commit()
    with Runtime(project, models={"toy/small": model}, cache=True) as runtime:
        with pytest.warns(StoreWarning, match="asked again"):
            asked_again = runtime.run("sentiment", "x", model="toy/small")
        mended = runtime.run("sentiment", "x", model="toy/small")
    assert [(r.value, r.source) for r in (asked_again, mended)] == [("negative", "model"), ("negative", "cache")]


# --- hooks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["async", "sync", "stream", "many"])
def test_hooks_are_told_of_each_answer_hit_and_failure(promoted: Make, toy: Toy, face: str) -> None:
    model = toy(["positive", "huh", ModelError("down")])
    told: list[Event] = []
    runtime = Runtime(promoted(), models={"toy/small": model}, hooks=[told.append])
    asynchronous = runtime.asynchronous

    def call(text: str, **options: Any) -> None:
        options["model"] = "toy/small"
        try:
            if face == "async":
                ask(asynchronous, "sentiment", text, **options)
            elif face == "sync":
                runtime.run("sentiment", text, **options)
            elif face == "stream":
                run(collected(asynchronous.stream("sentiment", text, **options)))
            else:
                runtime.run_many("sentiment", [text], **options)
        except PromptsmithError:
            pass

    call("a", cache=True)
    call("a", cache=True)
    call("b", cache=True)
    call("b", cache=True)
    call("c")
    assert [event.result and event.result.source for event in told] == ["model", "cache", None, None, None]
    assert [type(event.error) for event in told] == [type(None)] * 2 + [ContractError] * 2 + [ModelError]
    prompt = runtime.resolve("sentiment").prompt.id
    assert {(event.task, event.prompt) for event in told} == {("sentiment", prompt)}
    assert told[0].key == told[1].key != told[2].key
    assert all(event.started > 1e9 and event.latency >= 0 for event in told)
    runtime.close()


def test_a_hook_may_call_the_sync_runtime(promoted: Make) -> None:
    project = promoted()
    inner = Runtime(project)
    seen: list[str] = []
    with Runtime(project, hooks=[lambda event: seen.append(inner.run("sentiment", "It broke after a day.").value)]) as runtime:
        assert runtime.run("sentiment", "This product is amazing!").value == "positive"
        assert runtime.run("sentiment", "This product is amazing!", cache=True).value == "positive"
        assert runtime.run("sentiment", "This product is amazing!", cache=True).source == "cache"
    assert seen == ["negative"] * 3


@pytest.mark.parametrize("cached", [False, True])
def test_a_hook_that_fails_is_warned_of_and_the_answer_is_not_lost(promoted: Make, cached: bool) -> None:
    def broken(event: Event) -> None:
        raise ZeroDivisionError("tracing is down")

    told: list[Event] = []
    with Runtime(promoted(), hooks=[broken, told.append]) as runtime:
        for _ in range(2):
            with pytest.warns(HookWarning, match="ZeroDivisionError: tracing is down"):
                assert runtime.run("sentiment", "This product is amazing!", cache=cached).value == "positive"
    assert len(told) == 2


# --- the ledger -------------------------------------------------------------------------------------------


def test_each_call_is_one_row_of_the_ledger_with_its_tokens_price_and_source(promoted: Make, toy: Toy) -> None:
    paid = reply("positive", usage=Usage(100, 7, 60, 5, 3), cost=0.25, latency=1.5, attempts=2)
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy([paid, ModelError("down")])})
    ask(runtime, "sentiment", "x", model="toy/small", cache=True)
    ask(runtime, "sentiment", "x", model="toy/small", cache=True)
    with pytest.raises(ModelError):
        ask(runtime, "sentiment", "y", model="toy/small")
    model, cache, failed = rows(runtime)
    prompt = runtime.resolve("sentiment").prompt.id
    for row in (model, cache, failed):
        assert (row.task, row.prompt, row.stage, row.model, row.endpoint) == ("sentiment", prompt, "run", "toy/small", "toy")
    assert (model.input, model.output, model.cached, model.written, model.reasoning) == (100, 7, 60, 5, 3)
    assert (model.cost, model.latency, model.attempts, model.source, model.status) == (0.25, 1.5, 2, "model", "end")
    assert (cache.input, cache.output, cache.cost, cache.attempts, cache.source, cache.status) == (0, 0, 0.0, 0, "cache", "end")
    assert (failed.input, failed.cost, failed.source, failed.status) == (0, None, "model", "ModelError")
    runtime.close()


def test_every_model_that_was_asked_has_its_own_row_and_no_text_is_in_the_ledger(promoted: Make, toy: Toy) -> None:
    models = {"toy/small": toy(ModelError("down")), "toy/next": toy("unheard-of", "toy/next"), "toy/strong": toy("negative", "toy/strong")}
    runtime = AsyncRuntime(promoted(), models=models)
    options = {"fallback": ["toy/next"], "on_contract_break": "escalate", "escalate": "toy/strong"}
    ask(runtime, "sentiment", "secret words", model="toy/small", **options)
    assert [(row.model, row.status) for row in rows(runtime)] == [("toy/small", "ModelError"), ("toy/next", "end"), ("toy/strong", "end")]
    text = (runtime.project.cache / "ledger.jsonl").read_text()
    assert "secret" not in text
    assert "unheard-of" not in text


def test_shared_and_streamed_calls_have_their_rows_too(promoted: Make, toy: Toy) -> None:
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy(seconds=0.01)}, cache=True)

    async def many() -> None:
        await asyncio.gather(*(runtime.run("sentiment", "x", model="toy/small") for _ in range(5)))
        await collected(runtime.stream("sentiment", "y", model="toy/small"))
        await collected(runtime.stream("sentiment", "y", model="toy/small"))

    run(many())
    assert [row.source for row in rows(runtime)] == ["model", *["cache"] * 4, "model", "cache"]
    assert sum(row.cost for row in rows(runtime)) == pytest.approx(0.002)
    runtime.close()


# --- compile_missing --------------------------------------------------------------------------------------


class CountedStore(DiskStore):
    """Counts the builds that really ran."""

    built_now = 0

    async def once_build(self, key: str, find: Any, make: Any) -> Any:
        async def counted() -> Any:
            type(self).built_now += 1
            await asyncio.sleep(0.02)
            return await make()

        return await super().once_build(key, find, counted)


@pytest.fixture
def counted() -> type[CountedStore]:
    class Fresh(CountedStore):
        """Each test counts for itself."""

    return Fresh


INLINE = {"description": "Judge it.", "output": ["good", "bad"], "examples": [("fine", "good"), ("awful", "bad")]}


@pytest.mark.parametrize("inline", [False, True])
def test_a_missing_prompt_is_compiled_once_for_fifty_concurrent_tasks(make_project: Make, counted: Any, inline: bool) -> None:
    project = make_project()
    runtime = AsyncRuntime(project, store=counted(project.cache))
    task: Any = Task(**INLINE) if inline else "sentiment"

    async def many() -> list[Result]:
        return await asyncio.gather(*(runtime.run(task, "awful", compile_missing=True) for _ in range(50)))

    results = run(many())
    assert counted.built_now == 1
    assert len({(result.prompt, result.value) for result in results}) == 1
    runtime.close()


@pytest.mark.parametrize("shared", [True, False], ids=["one runtime", "a runtime each"])
def test_a_missing_prompt_is_compiled_once_for_fifty_threads(make_project: Make, counted: Any, shared: bool) -> None:
    project = make_project()
    count = 50 if shared else 12
    runtimes = [Runtime(project, store=counted(project.cache)) for _ in range(1 if shared else count)] * (count if shared else 1)
    results: list[Result] = []
    start = threading.Barrier(count)

    def work(runtime: Runtime) -> None:
        start.wait()
        results.append(runtime.run("sentiment", "It broke after a day.", compile_missing=True))

    threads = [threading.Thread(target=work, args=[runtime]) for runtime in runtimes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.built_now == 1
    assert [result.value for result in results] == ["negative"] * count
    for runtime in set(runtimes):
        runtime.close()


def test_without_compile_missing_a_task_with_no_prompt_is_never_served(make_project: Make, toy: Toy) -> None:
    model = toy()
    runtime = AsyncRuntime(make_project(), models={"builtin/nearest": model})
    with pytest.raises(NotCompiled, match=r"no prompt at @production\n.*promptsmith compile sentiment"):
        ask(runtime, "sentiment", "x")
    with pytest.raises(NotCompiled, match=r"not been compiled\n.*compile_missing=True"):
        ask(runtime, Task(**INLINE), "x")
    with pytest.raises(NotCompiled):
        run(collected(runtime.stream("sentiment", "x")))
    with pytest.raises(NotCompiled):
        run(runtime.run_many("sentiment", ["x", "y"]))
    with pytest.raises(NotCompiled):
        ask(runtime, "sentiment@latest", "x")
    assert model.asked == []


def test_compile_missing_serves_production_where_there_is_one(promoted: Make) -> None:
    runtime = AsyncRuntime(promoted())
    assert "@production" in ask(runtime, "sentiment", "x", compile_missing=True).chosen


def test_compile_missing_works_in_streams_and_in_many(make_project: Make) -> None:
    with Runtime(make_project()) as runtime:
        assert list(runtime.stream("sentiment", "It broke after a day.", compile_missing=True))[-1].result.value == "negative"
    with Runtime(make_project(name="other")) as runtime:
        [result] = runtime.run_many("sentiment", ["It broke after a day."], compile_missing=True)
        assert result.value == "negative"


def test_a_task_made_in_python_is_found_again_and_a_changed_one_is_not(make_project: Make) -> None:
    project = make_project({})
    with Runtime(project) as runtime:
        first = runtime.run(Task(**INLINE), "fine", compile_missing=True)
    with Runtime(project) as runtime:
        again = runtime.run(Task(**INLINE), "fine")
        assert (again.prompt, again.origin) == (first.prompt, "cache")
        with pytest.raises(NotCompiled):
            runtime.run(Task(**{**INLINE, "description": "Judge it well."}), "fine")


def test_a_task_may_name_a_model_that_the_caller_brings_along(make_project: Make, toy: Toy) -> None:
    model = toy("good")
    task = Task(**INLINE, models={"production": "toy/small"})
    project = make_project({})
    with Runtime(project, models={"toy/small": model}) as runtime:
        result = runtime.run(task, "x", compile_missing=True)
    assert (result.model, result.ungated) == ("toy/small", False)
    with Runtime(project) as runtime, pytest.raises(UnknownName, match="toy/small"):
        runtime.run(Task(**{**INLINE, "description": "Other."}, models={"production": "toy/small"}), "x", compile_missing=True)


def test_a_wrong_task_file_is_reported_with_its_line(make_project: Make) -> None:
    runtime = AsyncRuntime(make_project({"bad": "task: x\nouput: [a, b]\n"}))
    with pytest.raises(PromptsmithError, match=r"bad\.yaml:2: .*ouput"):
        ask(runtime, "bad", "x", compile_missing=True)


def test_a_project_is_not_needed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with Runtime() as runtime:
        assert runtime.run(Task(**INLINE), "awful", compile_missing=True).value == "bad"
    assert list(empty.iterdir()) == []


# --- streams ----------------------------------------------------------------------------------------------


def test_a_stream_gives_the_pieces_and_then_the_result(promoted: Make, toy: Toy) -> None:
    runtime = AsyncRuntime(promoted({"say": TEXT}), models={"toy/small": toy(reply("one two three", usage=Usage(3, 3)))})
    chunks = run(collected(runtime.stream("say", "x", model="toy/small")))
    assert [chunk.text for chunk in chunks] == ["one ", "two ", "three ", ""]
    assert [chunk.result for chunk in chunks[:-1]] == [None] * 3
    result = chunks[-1].result
    assert (result.text, result.value, result.source, result.usage) == ("one two three", "one two three", "model", Usage(3, 3))


def test_a_streamed_reply_is_cached_and_served_in_one_piece(promoted: Make, toy: Toy) -> None:
    model = toy("one two")
    runtime = AsyncRuntime(promoted({"say": TEXT}), models={"toy/small": model}, cache=True)
    run(collected(runtime.stream("say", "x", model="toy/small")))
    chunks = run(collected(runtime.stream("say", "x", model="toy/small")))
    assert [chunk.text for chunk in chunks] == ["one two", ""]
    assert chunks[-1].result.source == ask(runtime, "say", "x", model="toy/small").source == "cache"
    assert len(model.asked) == 1
    runtime.close()


@pytest.mark.parametrize("policy", ["error", "repair", "escalate"])
def test_the_contract_is_checked_at_the_end_of_a_stream(promoted: Make, toy: Toy, policy: Any) -> None:
    model = toy("not a label")
    runtime = AsyncRuntime(promoted(), models={"toy/small": model})
    got: list[str] = []

    async def consume() -> None:
        async for chunk in runtime.stream("sentiment", "x", model="toy/small", on_contract_break=policy, escalate="builtin/nearest"):
            got.append(chunk.text)

    with pytest.raises(ContractError):
        run(consume())
    assert got == ["not ", "a ", "label "]
    assert len(model.asked) == 1


def test_pass_lets_a_broken_stream_end_with_its_reasons(promoted: Make, toy: Toy) -> None:
    runtime = AsyncRuntime(promoted(), models={"toy/small": toy("not a label")})
    assert not run(collected(runtime.stream("sentiment", "x", model="toy/small", on_contract_break="pass")))[-1].result.ok


class Pieces:
    """A model whose stream a test writes; it notes whether it was closed, and where."""

    name = "toy/small"

    def __init__(self, *pieces: object, pause: float = 0.0) -> None:
        self.pieces, self.pause = pieces, pause
        self.closed = False

    async def reply(self, request: Request) -> Reply:
        raise ModelError("streams only")

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        try:
            for piece in self.pieces:
                await asyncio.sleep(self.pause)
                if isinstance(piece, Exception):
                    raise piece
                yield piece if isinstance(piece, Chunk) else Chunk(str(piece))
        finally:
            self.closed = True


def test_a_failure_in_the_middle_of_a_stream_is_raised_and_no_end_is_made_up(promoted: Make) -> None:
    model = Pieces("half ", ModelError("the line broke"))
    runtime = AsyncRuntime(promoted({"say": TEXT}), models={"toy/small": model}, cache=True)
    got: list[StreamChunk] = []

    async def consume() -> None:
        async for chunk in runtime.stream("say", "x", model="toy/small", fallback=["builtin/nearest"]):
            got.append(chunk)

    with pytest.raises(ModelError, match="the line broke"):
        run(consume())
    assert [(chunk.text, chunk.result) for chunk in got] == [("half ", None)]
    assert [row.status for row in rows(runtime)] == ["ModelError"]


def test_a_failure_before_the_first_piece_lets_a_fallback_stream(promoted: Make) -> None:
    runtime = AsyncRuntime(promoted({"say": TEXT}), models={"toy/small": Pieces(ModelError("down"))})
    chunks = run(collected(runtime.stream("say", "a b", model="toy/small", fallback=["builtin/nearest"])))
    assert chunks[-1].result.model == "builtin/nearest"


def test_a_stream_that_ends_without_its_reply_is_an_error(promoted: Make) -> None:
    runtime = AsyncRuntime(promoted({"say": TEXT}), models={"toy/small": Pieces("half ")})
    with pytest.raises(ModelError, match="ended its stream without a reply"):
        run(collected(runtime.stream("say", "x", model="toy/small")))


def test_a_consumer_that_stops_early_closes_the_models_generator(promoted: Make) -> None:
    model = Pieces("one ", "two ", "three ", pause=0.001)
    runtime = AsyncRuntime(promoted({"say": TEXT}, config="[limits.toy]\nconcurrency = 1\n"), models={"toy/small": model}, cache=True)

    async def closed_at_once() -> bool:
        async with aclosing(runtime.stream("say", "x", model="toy/small", fallback=["builtin/nearest"], timeout=60)) as stream:
            async for _ in stream:
                break
        return model.closed

    async def broken_off() -> bool:
        model.closed = False
        async for _ in runtime.stream("say", "x", model="toy/small"):
            break
        for _ in range(10):
            await asyncio.sleep(0)
        return model.closed

    async def still_room() -> str:
        # The one call that the limit allows is free again.
        return (await runtime.run("say", "a b", model="toy/small", fallback=["builtin/nearest"])).model

    assert run(closed_at_once())
    assert run(broken_off())
    assert run(still_room()) == "builtin/nearest"
    runtime.close()


def test_a_slow_consumer_is_neither_cancelled_nor_counted_against_the_timeout(promoted: Make) -> None:
    words = [f"{i} " for i in range(5)]
    model = Pieces(*words, Chunk("", reply("".join(words))), pause=0.001)
    runtime = AsyncRuntime(promoted({"say": TEXT}, config="[limits.toy]\ntimeout = 1.5\n"), models={"toy/small": model})

    async def consume() -> list[StreamChunk]:
        got = []
        async for chunk in runtime.stream("say", "x", model="toy/small", timeout=1.6):
            await asyncio.sleep(0.4)
            got.append(chunk)
        return got

    assert run(consume())[-1].result.text == "".join(words)


def test_a_stream_that_is_too_slow_in_all_is_cut_although_each_piece_is_in_time(promoted: Make) -> None:
    model = Pieces(*["x "] * 100, pause=0.02)
    runtime = AsyncRuntime(promoted({"say": TEXT}), models={"toy/small": model})
    with pytest.raises(ModelError, match=r"the call's timeout of 0.1 seconds"):
        run(collected(runtime.stream("say", "x", model="toy/small", timeout=0.1)))
    assert model.closed


# --- trouble with the disk --------------------------------------------------------------------------------


def test_a_cache_folder_that_cannot_be_written_costs_one_warning_and_no_answer(promoted: Make, toy: Toy) -> None:
    project = promoted()
    blocked = project.root / "blocked"
    blocked.write_text("a file where the cache folder should be")
    (project.root / "promptsmith.toml").write_text('[cache]\nfolder = "blocked/cache"\n')
    runtime = AsyncRuntime(project.root, models={"toy/small": toy()})

    async def use() -> None:
        for _ in range(3):
            assert (await runtime.run("sentiment", "x", model="toy/small", cache=True)).value == "positive"
        assert (await collected(runtime.stream("sentiment", "x", model="toy/small")))[-1].result.value == "positive"
        assert [r.value for r in await runtime.run_many("sentiment", ["a", "b"], model="toy/small")] == ["positive"] * 2

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(use())
        runtime.close()
    assert [warning.category.__name__ for warning in caught] == ["StoreWarning"]
    assert "answers are served" in str(caught[0].message)
    with pytest.raises(PromptsmithError, match="can't be written"):
        ask(AsyncRuntime(project.root), Task(**INLINE), "x", compile_missing=True)


def test_a_deleted_cache_takes_nothing_away_from_production(promoted: Make) -> None:
    import shutil

    project = promoted()
    runtime = AsyncRuntime(project)
    before = ask(runtime, "sentiment", "It broke after a day.")
    runtime.close()
    shutil.rmtree(project.cache)
    assert ask(runtime, "sentiment", "It broke after a day.").prompt == before.prompt
    shutil.rmtree(project.cache, ignore_errors=True)
    fresh = AsyncRuntime(project)
    assert ask(fresh, "sentiment", "It broke after a day.").value == "negative"
    fresh.close()
    runtime.close()
