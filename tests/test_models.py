"""Models: by name, from other packages, the one in the box, and what stands around them."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith import Runtime, Task
from promptsmith.chat import Chunk, Reply, Request, Turn, Usage
from promptsmith.cli.commands.cost import added_up
from promptsmith.config import Limit, Project, find_project
from promptsmith.errors import InputError, ModelError, PromptsmithError, RateLimited, SourceError, UnknownName
from promptsmith.models import Model, check_model_name, find_model, model_names
from promptsmith.models.limits import Limited
from promptsmith.models.nearest import Nearest
from promptsmith.models.wrappers import Cached, Fallback, Journaled, Metered
from promptsmith.prompt import Pair, Variable, example_block, user_turn
from promptsmith.store import DiskStore

Toy = Any
"""The class that the fixture ``toy`` gives (see conftest)."""


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


def request(text: str = "x", *, model: str = "toy/small", system: str = "Be brief.", **more: Any) -> Request:
    return Request(model=model, system=system, turns=(Turn("user", text),), **more)


def key(one: Request) -> str:
    return one.key()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "cache") as opened:
        yield opened


# --- by name ----------------------------------------------------------------------------------------------


def test_the_model_in_the_box_is_found_by_its_name() -> None:
    model = find_model("builtin/nearest")
    assert isinstance(model, Model)
    assert model.name == check_model_name("builtin/nearest") == "builtin/nearest"
    assert "builtin/nearest" in model_names()


@pytest.mark.parametrize("find", [find_model, check_model_name])
@pytest.mark.parametrize("name", ["builtin/nerest", "builtin/nearest ", "Builtin/Nearest", "nearest"])
def test_a_misspelled_model_is_an_error_with_the_nearest_name(find: Callable[[str], object], name: str) -> None:
    with pytest.raises(UnknownName, match=rf"unknown model '{name}'\n.*did you mean 'builtin/nearest'"):
        find(name)


@pytest.mark.parametrize("name", ["", "/", "zzz", "builtin", "builtin/", "openai/\n"])
def test_a_model_like_no_other_is_an_error_that_lists_what_there_is(name: str) -> None:
    with pytest.raises(UnknownName, match="builtin/nearest"):
        find_model(name)


# --- from other packages ----------------------------------------------------------------------------------

PLUGIN = """\
from promptsmith.chat import Chunk, Reply

class Shouting:
    def __init__(self, name):
        self.name = name
    async def reply(self, request):
        return Reply(text=request.turns[-1].text.upper(), model=self.name)
    async def stream(self, request):
        reply = await self.reply(request)
        yield Chunk(reply.text)
        yield Chunk("", reply)

def refuses(name):
    raise KeyError("SHOUT_API_KEY")

def says_why(name):
    from promptsmith.errors import ModelError
    raise ModelError("set SHOUT_API_KEY")

def makes_nothing(name):
    return "not a model"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a real distribution with these entry points into a folder on ``sys.path``."""

    def install(**entries: str) -> None:
        folder = tmp_path / "site"
        info = folder / "toy_models-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "toy_models.py").write_text(PLUGIN)
        (folder / "toy_broken.py").write_text("import a_module_that_is_nowhere\n")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-models\nVersion: 1.0\n")
        lines = "".join(f"{name.replace('__', '/')} = {where}\n" for name, where in entries.items())
        (info / "entry_points.txt").write_text(f"[promptsmith.models]\n{lines}")
        monkeypatch.syspath_prepend(str(folder))
        for name in ("toy_models", "toy_broken"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    return install


def test_a_model_of_another_package_is_found_by_endpoint_or_full_name(installed: Callable[..., None]) -> None:
    installed(shout="toy_models:Shouting", exact__one="toy_models:Shouting")
    for name in ("shout/loud", "shout/very/loud", "exact/one"):
        model = find_model(name)
        assert isinstance(model, Model)
        assert model.name == name
        assert run(model.reply(request("hello"))).text == "HELLO"
    assert {"builtin/nearest", "exact/one", "shout/…"} <= set(model_names())
    with pytest.raises(UnknownName, match="did you mean 'exact/one'"):
        find_model("exact/two")
    with pytest.raises(UnknownName, match="did you mean 'shout"):
        find_model("shuot/loud")


def test_a_task_runs_on_a_model_of_another_package(installed: Callable[..., None], make_project: Callable[..., Project]) -> None:
    installed(shout="toy_models:Shouting")
    task = Task("Shout.", output="text", examples=[("a b", "A B"), ("c d", "C D")], models={"production": "shout/loud"})
    with Runtime(make_project({})) as runtime:
        result = runtime.run(task, "hear me", compile_missing=True)
        streamed = list(runtime.stream(task, "hear me"))
    assert (result.text, result.model, result.ungated) == ("HEAR ME", "shout/loud", False)
    assert streamed[0].text == "HEAR ME"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("toy_broken:Model", "can't be loaded: .*a_module_that_is_nowhere"),
        ("toy_nowhere:Model", "can't be loaded: .*toy_nowhere"),
        ("toy_models:NoSuchName", "can't be loaded: .*NoSuchName"),
        ("toy_models:makes_nothing", "made str, which is no model"),
        ("toy_models:refuses", "KeyError: 'SHOUT_API_KEY'"),
    ],
)
def test_a_broken_plugin_is_named_and_the_others_work(installed: Callable[..., None], where: str, said: str) -> None:
    installed(broken=where, shout="toy_models:Shouting")
    with pytest.raises(ModelError, match=f"the model plugin 'broken' \\({where}\\) .*{said}"):
        find_model("broken/any")
    assert find_model("shout/loud").name == "shout/loud"
    assert find_model("builtin/nearest").name == "builtin/nearest"
    assert check_model_name("broken/any") == "broken/any"


def test_a_plugins_own_words_about_what_is_missing_are_kept(installed: Callable[..., None]) -> None:
    installed(shout="toy_models:says_why")
    with pytest.raises(ModelError, match=r"^set SHOUT_API_KEY$"):
        find_model("shout/loud")


def test_a_broken_plugin_in_a_runtime_is_a_model_error_and_a_fallback_answers(
    installed: Callable[..., None], promoted: Callable[..., Project]
) -> None:
    installed(broken="toy_broken:Model")
    with Runtime(promoted()) as runtime, pytest.raises(ModelError, match="the model plugin 'broken'"):
        runtime.run("sentiment", "x", model="broken/any")


@pytest.mark.parametrize("name", ["builtin", "builtin__nearest"])
def test_a_plugin_cannot_take_a_builtin_name(installed: Callable[..., None], name: str) -> None:
    installed(**{name: "toy_models:Shouting"})
    with pytest.warns(UserWarning, match="claims the name .*ignored"):
        names = model_names()
    assert names.count("builtin/nearest") == 1
    assert isinstance(find_model("builtin/nearest"), Nearest)


# --- builtin/nearest --------------------------------------------------------------------------------------

TEXTS = st.text(min_size=1, max_size=40)


def prompt_of(*pairs: tuple[str, str], json_output: bool = False) -> str:
    return "Do it.\n\n" + example_block(Pair({"input": given}, output, json_output) for given, output in pairs)


def nearest(system: str, text: str) -> str:
    return run(Nearest().reply(request(text, system=system))).text


def test_it_answers_by_the_nearest_examples_of_the_prompt_it_is_given() -> None:
    weather = prompt_of(("Will it rain tomorrow?", "weather"), ("Book me a table for two", "restaurant"), ("Play some jazz", "music"))
    assert nearest(weather, "is rain coming tomorrow") == "weather"
    assert nearest(weather, "a table near the window") == "restaurant"
    assert nearest(weather, "jazz please") == "music"
    swapped = prompt_of(("Will it rain tomorrow?", "music"), ("Play some jazz", "weather"))
    assert nearest(swapped, "jazz please") == "weather"


def test_the_words_of_a_label_count_and_its_underscores_are_blanks() -> None:
    system = prompt_of(("aaaa", "card_arrival"), ("bbbb", "exchange_rate"))
    assert nearest(system, "what about the exchange") == "exchange_rate"


def test_five_neighbours_vote() -> None:
    """One example alike outweighs none, and four alike outweigh the one that is first."""
    pairs = [("the parcel is late", "one"), *((f"the parcel is late again {n}", "many") for n in range(4))]
    assert nearest(prompt_of(*pairs), "the parcel is late") == "many"
    assert nearest(prompt_of(pairs[0], pairs[1]), "the parcel is late") == "one"


def test_a_tie_goes_to_the_earlier_pair_and_so_does_a_text_like_none() -> None:
    assert nearest(prompt_of(("same text", "b"), ("same text", "a")), "same text") == "b"
    assert nearest(prompt_of(("one", "first"), ("two", "second")), "ψψψψ") == "first"
    assert nearest(prompt_of(("one", "first"), ("two", "second")), "") == "first"


def test_a_json_output_is_answered_as_json() -> None:
    system = prompt_of(("two of A1", '{"sku": "A1", "n": 2}'), ("one of B7", '{"sku": "B7", "n": 1}'), json_output=True)
    assert json.loads(nearest(system, "a piece of B7")) == {"sku": "B7", "n": 1}


def test_named_variables_are_compared_without_their_tags() -> None:
    inputs = (Variable("letter"), Variable("tone"))
    pairs = [Pair({"letter": "where is my parcel", "tone": "dry"}, "parcel"), Pair({"letter": "letter tone", "tone": "dry"}, "trap")]
    turn = user_turn(inputs, {"letter": "my parcel, where?", "tone": "friendly"})
    assert nearest(example_block(pairs), turn) == "parcel"


def test_a_prompt_without_pairs_or_a_request_without_a_question_is_a_clear_error() -> None:
    with pytest.raises(ModelError, match=r"this prompt has none\n.*give the task examples"):
        nearest("Classify it.", "x")
    with pytest.raises(ModelError, match="no user turn"):
        run(Nearest().reply(Request(model="builtin/nearest", system=prompt_of(("a", "b")), turns=())))
    with pytest.raises(PromptsmithError, match=r"line 2 .*is no example"):
        nearest("<examples>\nnonsense\n</examples>", "x")


def test_a_task_without_examples_says_so_when_it_is_run(make_project: Callable[..., Project]) -> None:
    with Runtime(make_project({})) as runtime, pytest.raises(ModelError, match="has none"):
        runtime.run(Task("Say hello.", output="text", prompt="Say hello."), "x", compile_missing=True)


def test_a_prompt_is_indexed_once_per_id_and_the_least_used_is_dropped() -> None:
    model = Nearest()
    system = prompt_of(("a b c", "x"), ("d e f", "y"))
    first = model.index(request("one", system=system, static="id-1"))
    assert model.index(request("two", system=system, static="id-1", parameters={"p": 1})) is first
    assert model.index(request("one", system=system, static="id-2")) is not first
    for number in range(200):
        model.index(request("one", system=system, static=f"other-{number}"))
        model.index(request("one", system=system, static="id-1"))
    assert model.index(request("one", system=system, static="id-1")) is first


def test_it_may_be_used_from_threads_with_more_prompts_than_it_keeps() -> None:
    model = Nearest()
    systems = [prompt_of((f"question {n}", f"label{n}"), ("other", "wrong")) for n in range(80)]
    problems: list[BaseException] = []

    def work(offset: int) -> None:
        try:
            for n in random.Random(offset).choices(range(80), k=2000):
                model.index(request(f"question {n}", system=systems[n], static=f"id-{n}"))
                asked = request(f"question {n}", system=systems[n], static=f"id-{n}")
                assert model.index(asked).answer(f"question {n}") == f"label{n}"
        except BaseException as error:
            problems.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=[offset]) for offset in (0, 13, 29, 64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert problems == []


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8), TEXTS)
def test_whatever_the_examples_and_the_input_say_the_answer_is_one_of_the_outputs(pairs: list[tuple[str, str]], text: str) -> None:
    """A property: no text of an example or an input breaks out of the block or out of the model."""
    assert nearest(prompt_of(*pairs), text) in [output for _, output in pairs]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), TEXTS)
def test_the_same_prompt_and_input_always_give_the_same_answer(pairs: list[tuple[str, str]], text: str) -> None:
    system = prompt_of(*pairs)
    model = Nearest()
    assert {run(model.reply(request(text, system=system))).text for _ in range(2)} == {nearest(system, text)}


def test_its_stream_is_its_answer_and_it_costs_nothing() -> None:
    async def main() -> list[Chunk]:
        return [chunk async for chunk in Nearest().stream(request("a", system=prompt_of(("a", "b"))))]

    piece, last = run(main())
    assert piece.text == "b"
    assert (last.text, last.reply.text, last.reply.cost, last.reply.usage, last.reply.stop) == ("", "b", 0.0, Usage(), "end")


# --- limited ----------------------------------------------------------------------------------------------


def test_limited_bounds_each_loops_calls(toy: Toy) -> None:
    model = toy(seconds=0.002)
    limited = Limited(model, Limit(concurrency=2))

    async def main() -> None:
        await asyncio.gather(*(limited.reply(request(f"{n}")) for n in range(10)))

    run(main())
    run(main())
    assert (len(model.asked), model.most, limited.name) == (20, 2, "toy/small")


def test_a_cancelled_or_failed_call_gives_its_place_back(toy: Toy) -> None:
    model = toy([ModelError("down"), "positive"])
    limited = Limited(model, Limit(concurrency=1, timeout=60))

    async def main() -> str:
        with pytest.raises(ModelError):
            await limited.reply(request())
        model.seconds = 60
        task = asyncio.create_task(limited.reply(request()))
        while not model.under_way:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with aclosing(limited.stream(request())) as stream:
            model.seconds = 0
            await anext(stream)
        return (await limited.reply(request())).text

    assert run(main()) == "positive"


def test_time_spent_waiting_for_a_place_is_not_counted_as_the_models(toy: Toy) -> None:
    limited = Limited(toy(seconds=0.2), Limit(concurrency=1, timeout=2.0))

    async def main() -> list[Reply]:
        return await asyncio.gather(*(limited.reply(request(f"{n}")) for n in range(12)))

    assert len(run(main())) == 12


@pytest.mark.parametrize("setting", ["concurrency = 0", "concurrency = -3", "timeout = 0", "timeout = -1.5", "timeout = nan"])
def test_a_limit_that_would_let_nothing_through_is_refused(tmp_path: Path, setting: str) -> None:
    (tmp_path / "promptsmith.toml").write_text(f"[limits.toy]\n{setting}\n")
    with pytest.raises(SourceError, match=setting.split(" ", maxsplit=1)[0]):
        find_project(tmp_path)


# --- metered, cached, journaled ---------------------------------------------------------------------------


def test_metered_writes_one_row_per_call_whatever_its_end(toy: Toy, store: DiskStore) -> None:
    model = toy(["positive", Reply(text="pos", model="toy/small", stop="length", cost=0.5), ModelError("down")])
    metered = Metered(model, store, task="t", prompt="p", stage="run")

    async def main() -> None:
        await metered.reply(request())
        await metered.reply(request())
        with pytest.raises(ModelError):
            await metered.reply(request())
        model.say, model.seconds = "a b c", 0
        [_ async for _ in metered.stream(request())]
        async with aclosing(metered.stream(request())) as stream:
            await anext(stream)

    run(main())
    rows = list(store.ledger.rows())
    endings = [("end", 0.001), ("length", 0.5), ("ModelError", None), ("end", 0.001), ("cancelled", None)]
    assert [(row.status, row.cost) for row in rows] == endings
    assert {(row.task, row.prompt, row.stage, row.model, row.endpoint, row.source) for row in rows} == {
        ("t", "p", "run", "toy/small", "toy", "model")
    }
    assert all(row.latency > 0 for row in rows)


class OfAPlugin(RateLimited):
    """An error that a model from elsewhere made of one of ours."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RateLimited("slower", status=429), "RateLimited"),
        (OfAPlugin("slower"), "RateLimited"),
        (ModelError("no"), "ModelError"),
        (ZeroDivisionError("a secret"), "ZeroDivisionError"),
    ],
)
def test_the_status_of_a_failed_call_is_the_name_of_its_error(toy: Toy, store: DiskStore, error: Exception, status: str) -> None:
    metered = Metered(toy(error), store, task="t", prompt="p", stage="run")

    async def main() -> None:
        with pytest.raises(type(error)):
            await metered.reply(request())
        with pytest.raises(type(error)):
            [_ async for _ in metered.stream(request())]

    run(main())
    rows = list(store.ledger.rows())
    assert [row.status for row in rows] == [status] * 2
    assert [(row["calls"], row["unpriced"], row["cost"]) for row in added_up(rows, "task")] == [(2, 2, 0.0)]
    assert "secret" not in Path(store.folder, "ledger.jsonl").read_text()


def test_a_call_that_was_cancelled_says_so_and_a_stream_without_a_reply_failed(toy: Toy, store: DiskStore) -> None:
    class Mute:
        name = "toy/mute"

        async def reply(self, request: Request) -> Reply:
            raise ModelError("streams only")

        async def stream(self, request: Request) -> AsyncIterator[Chunk]:
            yield Chunk("half")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Metered(toy(seconds=60), store, task="t", prompt="p", stage="run").reply(request())
        [_ async for _ in Metered(Mute(), store, task="t", prompt="p", stage="run").stream(request())]

    run(main())
    assert [row.status for row in store.ledger.rows()] == ["cancelled", "ModelError"]


def test_cached_asks_once_and_tells_of_each_hit(toy: Toy, store: DiskStore) -> None:
    model, found = toy(), []
    cached = Cached(model, store, key, lambda reply, source: found.append((reply.text, source)))

    async def main() -> None:
        for _ in range(3):
            assert (await cached.reply(request())).text == "positive"
        assert [chunk.text async for chunk in cached.stream(request())] == ["positive", ""]
        await cached.reply(request("another"))

    run(main())
    assert len(model.asked) == 2
    assert found == [("positive", "cache")] * 3


@pytest.mark.parametrize("stop", ["length", "refused", "filtered", "aborted"])
@pytest.mark.parametrize("streamed", [False, True])
def test_cached_never_keeps_a_reply_that_is_not_complete(toy: Toy, store: DiskStore, stop: Any, streamed: bool) -> None:
    model = toy(Reply(text="pos", model="toy/small", stop=stop))
    cached = Cached(model, store, key, lambda *_: pytest.fail("found"))

    async def main() -> None:
        for _ in range(2):
            if streamed:
                [_ async for _ in cached.stream(request())]
            else:
                await cached.reply(request())

    run(main())
    assert len(model.asked) == 2
    assert store.reply(request().key()) is None


def test_a_failed_call_is_not_kept_and_all_who_waited_for_it_are_told(toy: Toy, store: DiskStore) -> None:
    model = toy([ModelError("down"), "positive"], seconds=0.005)
    cached = Cached(model, store, key, lambda *_: None)

    async def main() -> list[Any]:
        first = await asyncio.gather(*(cached.reply(request()) for _ in range(5)), return_exceptions=True)
        return [*first, await cached.reply(request())]

    *failed, answer = run(main())
    assert [str(error) for error in failed] == ["down"] * 5
    assert answer.text == "positive"
    assert len(model.asked) == 2


def test_journaled_replays_and_writes_before_it_hands_on(toy: Toy, store: DiskStore) -> None:
    model, found = toy(["one", "two"]), []
    with store.journal("run", "a" * 64) as journal:
        journaled = Journaled(model, journal, key, lambda reply, source: found.append(source))
        first = run(journaled.reply(request()))
        assert journal.entries[request().key()].reply == first
    with store.journal("run", "a" * 64) as again:
        journaled = Journaled(model, again, key, lambda reply, source: found.append(source))
        assert run(journaled.reply(request())).text == "one"
        assert run(journaled.reply(request("other"))).text == "two"
    assert found == ["journal"]


# --- fallback ---------------------------------------------------------------------------------------------


def test_fallback_asks_in_turn_and_aims_the_same_request_at_each(toy: Toy) -> None:
    models = [toy(ModelError("one")), toy(ModelError("two"), "toy/second"), toy("yes", "toy/third"), toy("no", "toy/fourth")]
    asked = request(parameters={"temperature": 0.5}, static="id", schema="{}", sample=3, options={"tier": "flex"})
    reply = run(Fallback(models).reply(asked))
    assert (reply.text, reply.model) == ("yes", "toy/third")
    assert [len(model.asked) for model in models] == [1, 1, 1, 0]
    assert models[0].asked[0] is asked
    for field in ("system", "turns", "parameters", "static", "schema", "sample", "options"):
        assert getattr(models[2].asked[0], field) == getattr(asked, field)
    assert models[2].asked[0].model == "toy/third"


def test_only_a_model_that_cannot_answer_is_passed_over(toy: Toy) -> None:
    """A mistake of the caller is not repaired by asking somebody else."""
    models = [toy(InputError("yours")), toy("yes", "toy/second")]
    with pytest.raises(InputError, match="yours"):
        run(Fallback(models).reply(request()))
    assert models[1].asked == []


def test_when_all_fail_the_error_tells_each_reason_and_shared_errors_are_left_alone(toy: Toy) -> None:
    shared = ModelError("second", hint="wait a minute")
    chain = Fallback([toy(ModelError("first")), toy(shared, "toy/second")])
    for _ in range(3):
        with pytest.raises(ModelError, match=r"first; then second\n.*wait a minute"):
            run(chain.reply(request()))
    assert str(shared) == "second\n  hint: wait a minute"
    assert not hasattr(shared, "__notes__")


class Breaking:
    """Streams one piece and breaks."""

    name = "toy/breaking"

    async def reply(self, request: Request) -> Reply:
        raise ModelError("streams only")

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("half")
        raise ModelError("broke")


def test_a_stream_changes_model_before_its_first_piece_only(toy: Toy) -> None:
    async def texts(*models: Any) -> list[str]:
        got: list[str] = []
        try:
            async for chunk in Fallback(models).stream(request()):
                got.append(chunk.text)
        except ModelError as error:
            got.append(f"error: {error}")
        return got

    assert run(texts(toy(ModelError("down")), toy("a b", "toy/second"))) == ["a ", "b ", ""]
    assert run(texts(Breaking(), toy("a b", "toy/second"))) == ["half", "error: broke"]
    assert run(texts(toy(ModelError("one")), toy(ModelError("two"), "toy/second"))) == ["error: one; then two"]


def test_nothing_here_warns() -> None:
    """Entry points of packages that happen to be installed are not loaded just to list names."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model_names()
