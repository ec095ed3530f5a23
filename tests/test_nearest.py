"""``builtin/nearest`` answers as its formula says, by the prompt that it is given and by nothing else."""

from __future__ import annotations

import asyncio
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.chat import Request, Turn
from promptsmith.errors import ModelError, PromptsmithError, UnknownName
from promptsmith.models import Model, check_model_name, find_model, model_names
from promptsmith.models.nearest import NAME, Index, Nearest, grams
from promptsmith.prompt import Pair, Variable, example_block, user_turn
from promptsmith.task import Example, load_task

ROOT = Path(__file__).parent.parent


def request(pairs: Sequence[Pair], turn: str, *, static: str = "", before: str = "Classify it.\n\n") -> Request:
    return Request(model=NAME, system=before + example_block(pairs), turns=(Turn("user", turn),), static=static)


def answer(pairs: Sequence[Pair], turn: str) -> str:
    return asyncio.run(Nearest().reply(request(pairs, turn))).text


def labelled(*rows: tuple[str, str]) -> list[Pair]:
    return [Pair({"input": text}, label) for text, label in rows]


# --- the formula ------------------------------------------------------------------------------------------


class Reference:
    """The design's sentence, written down a second time and without any index."""

    def __init__(
        self, pairs: Sequence[Pair], k1: float = 1.2, b: float = 0.75, best: int = 5, sizes: Sequence[int] = (3, 4, 5), words: bool = True
    ) -> None:
        self.outputs = [pair.output for pair in pairs]
        self.k1, self.b, self.best, self.sizes = k1, b, best, sizes
        labels = [pair.output.replace("_", " ") if words else "" for pair in pairs]
        self.documents = [Counter(char_grams(f"{pair.inputs['input']} {label}", sizes)) for pair, label in zip(pairs, labels, strict=True)]
        self.mean = sum(document.total() for document in self.documents) / len(pairs)

    def answer(self, query: str) -> str:
        wanted = set(char_grams(query, self.sizes))
        scores = [sum(self.weight(gram, document) for gram in wanted if gram in document) for document in self.documents]
        scored = [(-score, at) for at, score in enumerate(scores)]
        votes: dict[str, float] = {}
        for score, at in sorted(one for one in scored if one[0])[: self.best]:
            votes[self.outputs[at]] = votes.get(self.outputs[at], 0.0) - score
        return max(votes, key=lambda output: votes[output]) if votes else self.outputs[0]

    def weight(self, gram: str, document: Counter[str]) -> float:
        having = sum(gram in other for other in self.documents)
        idf = math.log(1 + (len(self.documents) - having + 0.5) / (having + 0.5))
        count, length = document[gram], document.total()
        return idf * count * (self.k1 + 1) / (count + self.k1 * (1 - self.b + self.b * length / self.mean))


def char_grams(text: str, sizes: Sequence[int]) -> list[str]:
    """As scikit-learn's ``char_wb``: no gram crosses a word's border, a word no longer than the gram counts once."""
    found: list[str] = []
    for word in re.sub(r"[^\w]|_", " ", unicodedata.normalize("NFKC", text).casefold()).split():
        padded = f" {word} "
        for size in sizes:
            found += [padded[at : at + size] for at in range(max(1, len(padded) - size + 1))]
            if len(padded) <= size:
                break
    return found


@pytest.fixture(scope="module")
def intent() -> tuple[list[Pair], list[Example]]:
    task = load_task(ROOT / "evals" / "intent.yaml")
    return [Pair(example.inputs, example.output) for example in task.examples], list(task.holdout)


def test_it_answers_as_bm25_over_word_bounded_character_grams_does(intent: tuple[list[Pair], list[Example]]) -> None:
    """k1 1.2, b 0.75, 3- to 5-grams, the label's words, five neighbours: the parameters that the design names."""
    pairs, cases = intent
    reference, index = Reference(pairs), Index(pairs)
    questions = [case.inputs["input"] for case in cases[:60]]
    assert [index.answer(text) for text in questions] == [reference.answer(text) for text in questions]


@pytest.mark.parametrize(
    "changed", [{"k1": 3.0}, {"b": 0.0}, {"best": 1}, {"best": 10}, {"sizes": (2, 3)}, {"sizes": (3, 4)}, {"words": False}], ids=str
)
def test_every_parameter_has_a_say(intent: tuple[list[Pair], list[Example]], changed: dict[str, Any]) -> None:
    """With another value the answers differ: so the test above would see it."""
    pairs, cases = intent
    reference, other = Reference(pairs), Reference(pairs, **changed)
    assert any(reference.answer(case.inputs["input"]) != other.answer(case.inputs["input"]) for case in cases)


def test_it_beats_the_majority_on_a_shipped_eval(intent: tuple[list[Pair], list[Example]]) -> None:
    pairs, cases = intent
    index = Index(pairs)
    right = sum(index.answer(case.inputs["input"]) == case.output for case in cases)
    assert right > 2 * max(Counter(case.output for case in cases).values())


def test_grams_stay_inside_words() -> None:
    assert grams("Ab, cdef!") == [" ab", "ab ", " ab ", " cd", "cde", "def", "ef ", " cde", "cdef", "def ", " cdef", "cdef "]
    assert grams("I") == [" i "]
    assert grams("?! ...") == []


@given(st.text(max_size=30))
@settings(max_examples=50)
def test_grams_are_those_of_the_reference(text: str) -> None:
    # \w counts combining marks and connectors otherwise than str.isalnum does.
    plain = "".join(char if char.isalnum() or char == " " else "." for char in unicodedata.normalize("NFKC", text).casefold())
    assert Counter(grams(plain)) == Counter(char_grams(plain, (3, 4, 5)))


# --- votes and ties ---------------------------------------------------------------------------------------


def test_a_tie_goes_to_the_earlier_pair() -> None:
    assert answer(labelled(("same words", "b"), ("same words", "a")), "same words") == "b"
    assert answer(labelled(("same words", "a"), ("same words", "b")), "same words") == "a"


def test_neighbours_vote_together() -> None:
    """Two that are a little less alike outvote the nearest one."""
    pairs = labelled(("cancel my order", "cancel"), ("cancel my order please now", "stop"), ("cancel my order right now", "stop"))
    assert answer(pairs, "cancel my order") == "stop"


def test_a_sixth_neighbour_has_no_vote() -> None:
    near = [("red apple tree", "fruit")] * 3 + [("red apple tart", "cake")] * 2
    pairs = labelled(*near, *[("red apple tree farm with many words around", "cake")] * 4)
    assert answer(pairs, "red apple tree") == "fruit"
    assert Reference(pairs, best=9).answer("red apple tree") == "cake"


def test_the_labels_words_count_where_no_input_is_alike() -> None:
    pairs = labelled(("xxx", "card_arrival"), ("yyy", "exchange_rate"))
    assert answer(pairs, "what is your exchange rate?") == "exchange_rate"


def test_the_words_of_a_json_answer_do_not_count() -> None:
    pairs = [Pair({"input": "first thing"}, '{"a": "exchange"}', True), Pair({"input": "second thing"}, '{"a": "rate"}', True)]
    assert answer(pairs, "second rate exchange exchange") == '{"a": "rate"}'


def test_a_text_like_nothing_gets_the_first_pairs_answer() -> None:
    pairs = labelled(("hello", "greeting"), ("bye", "parting"))
    for text in ("", "?!", "語", "\x00", "   "):
        assert answer(pairs, text) == "greeting"


@given(st.lists(st.tuples(st.text(max_size=12), st.text(min_size=1, max_size=6)), min_size=1, max_size=5), st.text(max_size=12))
@settings(max_examples=60)
def test_the_answer_is_always_one_of_the_prompts_outputs(rows: list[tuple[str, str]], text: str) -> None:
    assert answer(labelled(*rows), text) in {label for _, label in rows}


# --- reading the request ----------------------------------------------------------------------------------


def test_it_depends_on_the_prompt_alone() -> None:
    assert answer(labelled(("great", "up"), ("awful", "down")), "great") == "up"
    assert answer(labelled(("great", "down"), ("awful", "up")), "great") == "down"


@pytest.mark.parametrize("system", ["Classify it.", "", "<examples>\n</examples>"])
def test_a_prompt_without_pairs_is_a_clear_error(system: str) -> None:
    one = Request(model=NAME, system=system, turns=(Turn("user", "hi"),))
    with pytest.raises(ModelError, match=r"(?s)this prompt has none.*give the task examples"):
        asyncio.run(Nearest().reply(one))


def test_a_broken_block_is_a_clear_error() -> None:
    one = Request(model=NAME, system="<examples>\nnot an example\n</examples>", turns=(Turn("user", "hi"),))
    with pytest.raises(PromptsmithError, match="line 2 of the system prompt"):
        asyncio.run(Nearest().reply(one))


def test_a_request_without_a_question_is_a_clear_error() -> None:
    one = Request(model=NAME, system=example_block(labelled(("a", "b"))), turns=(Turn("assistant", "hi"),))
    with pytest.raises(ModelError, match="no user turn"):
        asyncio.run(Nearest().reply(one))


def test_the_last_user_turn_is_the_question() -> None:
    pairs = labelled(("great", "up"), ("awful", "down"))
    turns = (Turn("user", "great"), Turn("assistant", "up"), Turn("user", "awful"))
    assert asyncio.run(Nearest().reply(Request(model=NAME, system=example_block(pairs), turns=turns))).text == "down"


def test_named_inputs_are_read_without_their_tags() -> None:
    """``<title>`` around every value must not make each question be about titles."""
    pairs = [Pair({"title": "x", "body": "deed and title"}, "property"), Pair({"title": "y", "body": "a broken pipe"}, "plumbing")]
    variables = (Variable("title"), Variable("body"))
    assert answer(pairs, user_turn(variables, {"title": "q", "body": "pipe"})) == "plumbing"


def test_a_free_text_that_looks_like_a_tag_is_read() -> None:
    assert answer(labelled(("hello", "greeting"), ("refund", "money")), "<refund>") == "money"


def test_a_prompt_is_indexed_once_and_kept_by_its_id() -> None:
    model = Nearest()
    one = request(labelled(("a", "b")), "x", static="1" * 64)
    same = request(labelled(("a", "b")), "y", static="1" * 64)
    other = request(labelled(("a", "c")), "x", static="2" * 64)
    assert model.index(one) is model.index(same)
    assert model.index(one) is not model.index(other)


def test_without_an_id_the_text_tells_prompts_apart() -> None:
    model = Nearest()
    assert asyncio.run(model.reply(request(labelled(("a", "b")), "a"))).text == "b"
    assert asyncio.run(model.reply(request(labelled(("a", "c")), "a"))).text == "c"


def test_the_indexes_of_many_prompts_do_not_pile_up() -> None:
    model = Nearest()
    first = request(labelled(("a", "b")), "x", static="first")
    index = model.index(first)
    for number in range(200):
        model.index(request(labelled(("a", "b")), "x", static=str(number)))
        assert number > 50 or model.index(first) is index
    assert len(model._indexes) < 100
    assert model.index(request(labelled(("a", "b")), "x", static="199")) is model.index(request(labelled(("a", "b")), "x", static="199"))


def test_a_reply_is_complete_and_free_and_a_stream_ends_with_it() -> None:
    async def both() -> None:
        model = Nearest()
        one = request(labelled(("a", "b")), "a")
        reply = await model.reply(one)
        chunks = [chunk async for chunk in model.stream(one)]
        assert (reply.complete, reply.cost, reply.model, reply.usage.input) == (True, 0.0, NAME, 0)
        assert "".join(chunk.text for chunk in chunks) == reply.text
        assert [chunk.reply is None for chunk in chunks] == [True, False]

    asyncio.run(both())


# --- models by name ---------------------------------------------------------------------------------------


def test_it_is_found_by_its_name() -> None:
    model = find_model(NAME)
    assert isinstance(model, Model)
    assert model.name == NAME
    assert NAME in model_names()


@pytest.mark.parametrize("lookup", [find_model, check_model_name])
def test_an_unknown_model_is_an_error_with_the_nearest_name(lookup: object) -> None:
    assert callable(lookup)
    with pytest.raises(UnknownName, match=r"(?s)unknown model 'builtin/nearst'.*did you mean 'builtin/nearest'"):
        lookup("builtin/nearst")
    with pytest.raises(UnknownName, match=r"(?s)unknown model 'x/y'.*known here: .*builtin/nearest"):
        lookup("x/y")


PLUGIN = """
from promptsmith.chat import Chunk, Reply

class Echo:
    def __init__(self, name):
        self.name = name

    async def reply(self, request):
        return Reply(text=request.turns[-1].text, model=self.name)

    async def stream(self, request):
        yield Chunk("", await self.reply(request))

def no_model(name):
    return 5
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with model entry points: an endpoint, broken ones, and one that takes our name."""
    (tmp_path / "echo_plugin_for_test.py").write_text(PLUGIN)
    info = tmp_path / "echo_plugin_for_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-plugin-for-test\nVersion: 1.0\n")
    lines = ["echo = echo_plugin_for_test:Echo", "odd = echo_plugin_for_test:no_model", "gone = echo_plugin_for_test:nothing"]
    (info / "entry_points.txt").write_text("\n".join(["[promptsmith.models]", *lines]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plugins")
def test_another_packages_model_is_found_by_its_entry_point() -> None:
    model = find_model("echo/anything")
    assert (model.name, "echo/…" in model_names()) == ("echo/anything", True)
    assert asyncio.run(model.reply(Request(model="echo/anything", system="", turns=(Turn("user", "hi"),)))).text == "hi"


@pytest.mark.usefixtures("plugins")
def test_a_broken_plugin_is_named() -> None:
    with pytest.raises(ModelError, match=r"'gone' \(echo_plugin_for_test:nothing\) can't be loaded"):
        find_model("gone/x")
    with pytest.raises(ModelError, match=r"'odd' .* made int, which is no model"):
        find_model("odd/x")


def test_a_plugin_can_not_take_a_builtins_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "thief_for_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thief-for-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[promptsmith.models]\nbuiltin/nearest = thief:Model\nbuiltin = thief:Model\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match="which is taken"), pytest.raises(UnknownName):
        find_model("builtin/other")
    assert isinstance(find_model(NAME), Nearest)
