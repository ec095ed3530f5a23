"""Scorers: what each says of an answer, what bad answers and bad options do, and that nothing takes for ever."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.contract import Check, Contract, JsonShape, Labels, TextShape
from promptsmith.errors import SourceError
from promptsmith.evals.scorers import (
    KINDS,
    Answer,
    Grade,
    Scorer,
    Unscored,
    build_scorers,
    check_specs,
    default_specs,
    scorer_names,
    table,
)
from promptsmith.evals.scorers.answers import Choices, last_number
from promptsmith.evals.scorers.build import VERSIONS
from promptsmith.evals.scorers.items import items_of
from promptsmith.evals.scorers.json_values import MISSING, Rules, differences, leaves, shown_path
from promptsmith.evals.scorers.language import language_of
from promptsmith.evals.scorers.matching import Matcher, Pattern, longest
from promptsmith.evals.scorers.similar import f1, words
from promptsmith.evals.scorers.vocabulary import COMMON, path_steps
from promptsmith.task import Task
from promptsmith.task.values import ScorerSpec, Where

TEXT = Contract(TextShape())
LABELS = Contract(Labels(("positive", "negative")))
JSON = Contract(JsonShape('{"type": "object", "required": ["a"]}'))
MEGABYTE = 1_000_000


def scorer(kind: str, /, contract: Contract = TEXT, folder: Path = Path(), **options: Any) -> Scorer:
    (found,) = build_scorers([ScorerSpec(kind, options)], contract, folder=folder)
    return found


def answered(output: str, expected: str = "", **more: Any) -> Answer:
    return Answer(case="c1", inputs={"input": "Where is my parcel?"}, expected=expected, output=output, **more)


def grade(name: str, output: str, expected: str = "", /, *, contract: Contract = TEXT, folder: Path = Path(), **options: Any) -> Grade:
    found = asyncio.run(scorer(name, contract, folder, **options).grade(answered(output, expected)))
    assert 0.0 <= found.score <= 1.0
    assert found.why
    return found


def unscored(name: str, output: str, expected: str = "", **options: Any) -> str:
    with pytest.raises(Unscored) as caught:
        grade(name, output, expected, **options)
    return caught.value.message


def wrong(name: str, contract: Contract | None = TEXT, **options: Any) -> list[tuple[str, str, str]]:
    return [(one.option, one.what, one.right) for one in check_specs([ScorerSpec(name, options)], contract)]


# --- texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "output", "expected", "options", "passed"),
    [
        ("exact", "positive", "positive", {}, True),
        ("exact", " positive\n", "positive", {}, True),
        ("exact", " positive\n", "positive", {"strip": False}, False),
        ("exact", "Positive", "positive", {}, False),
        ("exact", "POSITIVE", "positive", {"ignore_case": True}, True),
        ("exact", "yes", "no", {"value": "yes"}, True),
        ("label", '"Positive."', "positive", {}, True),
        ("label", "negative", "positive", {}, False),
        ("contains", "we refund you", "refund", {}, True),
        ("contains", "we refund you", "ignored", {"value": "refund"}, True),
        ("contains", "we Refund you", "refund", {}, False),
        ("contains", "we Refund you", "reFUND", {"ignore_case": True}, True),
        ("contains_all", "a and b", '["a", "b"]', {}, True),
        ("contains_all", "a and b", "a; c", {}, False),
        ("contains_all", "red, Green", "", {"value": ["red", "green"], "ignore_case": True}, True),
        ("contains_any", "a and b", "x, b", {}, True),
        ("contains_any", "a and b", "", {"value": ["x", "y"]}, False),
        ("contains_any", "a, b", "", {"value": "a, b"}, True),
        ("starts_with", "\n(B) because", "(B)", {}, True),
        ("starts_with", "so (B)", "(B)", {}, False),
        ("ends_with", "so (B)\n", "(B)", {}, True),
        ("ends_with", "(B) so", "(B)", {}, False),
        ("regex", "order A-17 is late", "", {"value": r"[A-Z]-\d+"}, True),
        ("regex", "order a-17 is late", "", {"value": r"\b[A-Z]-\d+", "ignore_case": True}, True),
        ("regex", "order 17", r"^\d+$", {}, False),
        ("word_limit", "one two three", "", {"max": 3}, True),
        ("word_limit", "one two three", "", {"max": 2}, False),
        ("word_limit", "one two three", "", {"min": 4}, False),
        ("word_limit", "one two", "", {"value": 3}, True),
        ("fuzzy", "kitten", "kitten", {}, True),
        ("fuzzy", "kitten", "sitting", {}, False),
        ("fuzzy", "kitten", "sitting", {"threshold": 0.6}, True),
        ("fuzzy", "b a", "a b", {"kind": "token_sort_ratio"}, True),
        ("rouge_l", "The cat sat.", "the cat sat on the mat", {}, True),
        ("rouge_l", "a dog", "the cat sat on the mat", {}, False),
        ("same_language", "Your parcel is on the way and it will be with you soon.", "", {}, True),
        ("same_language", "Das Paket ist auf dem Weg, und es wird nicht mehr lange dauern.", "", {}, False),
        ("same_language", "Das Paket ist auf dem Weg, und es wird nicht mehr lange dauern.", "", {"value": "de"}, True),
        ("same_language", "Посылка уже в пути", "", {}, False),
        ("same_language", "Le colis est en route", "Il est dans le train et pas ici", {"against": "expected"}, True),
    ],
)
def test_texts(name: str, output: str, expected: str, options: dict[str, Any], passed: bool) -> None:
    found = grade(name, output, expected, **options)
    assert found.passed is passed, found
    turned = grade(name, output, expected, **{**options, "not": True})
    assert turned.passed is not passed
    assert turned.score == pytest.approx(1 - found.score)


def test_reasons_say_what_was_expected_and_what_came() -> None:
    assert grade("exact", "negative", "positive").why == "expected 'positive', got 'negative'"
    assert grade("exact", "Positive.", "positive").why.endswith("only case or punctuation differ")
    assert grade("contains", "we refund", "refund", **{"not": True}).why == "contains 'refund', which it must not"
    assert grade("contains_all", "a", '["a", "b", "c"]').why == "does not contain 'b', 'c'"
    assert grade("contains_all", "a", '["a", "b", "c"]').score == pytest.approx(1 / 3)
    assert grade("word_limit", "one two three", max=2).why == "has 3 words, more than 2"
    assert "62% like" in grade("fuzzy", "kitten", "sitting").why
    assert grade("fuzzy", "kitten", "sitting", threshold=0.7).why.endswith("the score 0.615 is not at least 0.7")
    assert "is in 'de', not in 'en' as the input is" in grade("same_language", "Das ist nicht gut und wir sind da.").why


@pytest.mark.parametrize("name", ["contains", "starts_with", "ends_with", "label", "fuzzy", "rouge_l", "contains_all", "set", "regex"])
def test_nothing_to_compare_with_is_no_pass(name: str) -> None:
    assert "expected output" in unscored(name, "anything", "")


def test_only_a_text_of_a_known_language_is_told() -> None:
    assert "can't tell in which language the output is" in unscored("same_language", "42")
    assert "can't tell" in unscored("same_language", "OK")
    assert language_of("これは日本語です") == "ja"
    assert language_of("这是一个中文句子没有别的") == "zh"
    assert language_of("Αυτό είναι ελληνικά") == "el"
    assert language_of("هذا نص باللغة العربية") == ""
    assert language_of("这是") == ""
    sentences = {
        "en": "The card was refused and I do not know what to do with it.",
        "de": "Die Karte wurde nicht angenommen, und ich weiß nicht, was ich mit ihr machen soll.",
        "fr": "La carte a été refusée et je ne sais pas ce que je dois faire avec elle.",
        "es": "La tarjeta fue rechazada y no sé qué es lo que debo hacer con ella.",
        "it": "La carta è stata rifiutata e non so che cosa fare con questa, mi può aiutare?",
        "pt": "O cartão foi recusado e eu não sei o que fazer com isso, você pode me ajudar?",
        "nl": "De kaart is geweigerd en ik weet niet wat ik er mee moet doen.",
        "sv": "Kortet blev nekat och jag vet inte vad jag ska göra med det.",
        "pl": "Karta została odrzucona i nie wiem, co mam z nią zrobić, czy to jest normalne?",
        "cs": "Karta byla odmítnuta a já nevím, co s ní mám dělat, protože není nová.",
        "fi": "Kortti hylättiin ja en tiedä mitä minun pitäisi tehdä, kun se ei toimi.",
        "tr": "Kart reddedildi ve ne yapacağımı bilmiyorum, bu çok garip bir şey değil mi?",
        "hu": "A kártyát elutasították, és nem tudom, hogy mit kell csinálni, ez már a második.",
        "ro": "Cardul a fost refuzat și nu știu ce să fac cu el, este pentru prima dată.",
        "ru": "Карта была отклонена, и я не знаю, что с ней делать, это уже второй раз.",
        "uk": "Картку відхилено, і я не знаю, що з нею робити, це вже другий раз.",
    }
    assert {code: language_of(sentence) for code, sentence in sentences.items()} == {code: code for code in sentences}


# --- the common options -----------------------------------------------------------------------------------


def test_extract_takes_the_last_match_and_its_first_group() -> None:
    output = "Answer: (A). No, wait. Answer: (B). That is all."
    assert grade("exact", output, "(B)", extract=r"Answer: (\(\w\))").passed
    assert grade("exact", output, "Answer: (B)", extract=r"Answer: \(\w\)").passed
    assert not grade("exact", output, "(A)", extract=r"Answer: (\(\w\))").passed


def test_an_extract_without_a_match_fails_and_is_no_missing_score() -> None:
    for options in ({}, {"not": True}, {"threshold": 0}):
        found = grade("exact", "no answer here", "(B)", extract=r"Answer: (\w)", **options)
        assert (found.score, found.passed) == (0.0, False)
        assert found.why == "nothing in the output matches the pattern 'Answer: (\\\\w)'"


def test_recorded_answers_between_triple_quotes() -> None:
    """The shape of published recordings: right when what stands in the quotes begins with the target."""
    output = 'First I thought (A).\n\n>> FINAL ANSWER:\n"""\n(B) heptagon\n"""'
    options = {"extract": r'(?s)>> FINAL ANSWER:\s*"""(.*?)"""'}
    assert grade("starts_with", output, "(B)", **options).passed
    assert not grade("starts_with", output, "(A)", **options).passed


def test_threshold_weight_and_name() -> None:
    found = scorer("set", threshold=0.5, weight=2.5, name="tags")
    assert (found.name, found.weight) == ("tags", 2.5)
    assert asyncio.run(found.grade(answered("a, b", "a, c"))).passed
    assert not grade("set", "a, b", "a, c").passed
    assert scorer("exact").weight == 1.0


def test_versions_name_number_and_every_option(tmp_path: Path) -> None:
    assert scorer("exact").version == "exact/1"
    assert scorer("number", tolerance=0.1, value=3).version == 'number/1 {"tolerance": 0.1, "value": 3}'
    assert scorer("exact", ignore_case=True).version != scorer("exact").version
    assert set(VERSIONS) == set(KINDS)
    (tmp_path / "s.json").write_text('{"type": "object"}')
    one = scorer("json_schema", folder=tmp_path, schema="s.json").version
    (tmp_path / "s.json").write_text('{"type": "array"}')
    assert scorer("json_schema", folder=tmp_path, schema="s.json").version != one
    assert scorer("contract", LABELS).version != scorer("contract", JSON).version


def test_a_scorer_that_breaks_leaves_the_case_unscored() -> None:
    from promptsmith.evals.scorers.common import Common, Wrapped

    def broken(answer: Answer) -> Grade:
        raise ZeroDivisionError("no \ud800 way")

    with pytest.raises(Unscored, match="the scorer broke: ZeroDivisionError") as caught:
        asyncio.run(Wrapped(broken, Common(name="x"), "x/1").grade(answered("a")))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    caught.value.message.encode()
    for score in (1.5, -0.1, math.nan, math.inf):
        with pytest.raises(Unscored, match="not a number from 0 to 1"):
            asyncio.run(Wrapped(lambda answer, score=score: Grade(score, True), Common(name="x"), "x/1").grade(answered("a")))


# --- numbers and choices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("1,234,567.5 dollars", "1234567.5"),
        ("1.234.567,5 Euro", "1234567.5"),
        ("1'234.50 CHF", "1234.50"),
        ("1\u202f234 km", "1234"),
        ("1_000", "1000"),
        ("3,14", "3.14"),
        ("1,234", "1234"),
        ("0,500", "500"),
        ("first 1, then 2, then 3", "3"),
        ("1,2,3", "3"),
        ("-5", "-5"),
        ("\u22125 degrees", "-5"),
        ("from 3-5", "5"),
        ("x = -.5", "-0.5"),
        ("6.02e23", "6.02E+23"),
        ("$1,000.00!", "1000.00"),
        ("50%", "50"),
        ("v2", "2"),
        ("on 10.12.2024", "2024"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("no number", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str | None) -> None:
    found = last_number(text)
    assert (None if found is None else str(found)) == number


def test_the_decimal_sign_can_be_said() -> None:
    assert str(last_number("1,234", ",")) == "1.234"
    assert str(last_number("1.234", ",")) == "1234"
    assert str(last_number("1,234", ".")) == "1234"


@given(st.integers(-(10**15), 10**15), st.sampled_from(["", ",", "'", "\u00a0"]), st.text(alphabet="abc .!?", max_size=20))
def test_a_grouped_integer_is_read_back(value: int, separator: str, around: str) -> None:
    written = f"{value:,}".replace(",", separator)
    found = last_number(f"{around} it is {written} {around.replace('.', '')}")
    assert found is not None
    assert int(found) == value


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_a_number_passes_within_its_tolerance(expected: float, found: float) -> None:
    room = abs(expected - found)
    assert grade("number", f"{found:.6f}", f"{expected:.6f}", tolerance=room + 0.001).passed
    if room > 1:
        assert not grade("number", f"{found:.6f}", f"{expected:.6f}", tolerance=room * 0.99 - 0.001).passed


def test_numbers() -> None:
    assert grade("number", "so it is 0.3", "0.1", tolerance=0.2).passed
    assert grade("number", "110", "100", relative=0.1).passed
    assert not grade("number", "111", "100", relative=0.1).passed
    assert grade("number", "about 7", value=7).passed
    assert not grade("number", "12345678901234567891", "12345678901234567890").passed
    assert grade("number", "none", "3").why == "expected the number 3, found none in 'none'"
    assert "has no number" in unscored("number", "3", "three")


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("**B.**", "B"),
        ("B) Paris", "B"),
        ("B. Paris", "B"),
        ("The answer is (C).", "C"),
        ("Answer: b", "B"),
        ("answer: b\nbecause a is not", "B"),
        ("**Answer:** D", "D"),
        ("The correct option is A", "A"),
        ("I would choose option C here.", "C"),
        ("\\boxed{D}", "D"),
        ("First I thought the answer is A. No: the answer is B.", "B"),
        ("It is (K) trapezoid", "K"),
        ("(A) is wrong, so (C)", "AC"),
        ("The answer is a dog", ""),
        ("the answer is b because of it", "B"),
        ("My answer I think", ""),
        ("Paris", ""),
        ("", ""),
    ],
)
def test_the_letter_that_a_text_chooses(text: str, letters: str) -> None:
    assert "".join(Choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ").find(text)) == letters


@given(
    st.sampled_from("ABCDE"),
    st.sampled_from(["{}", "({})", "{}.", "{})", "Answer: {}", "the answer is ({}).", "**{}**", "\\boxed{{{}}}", "So it must be [{}]"]),
    st.booleans(),
)
def test_a_choice_is_found_however_it_is_written(letter: str, form: str, lower: bool) -> None:
    written = letter.lower() if lower and "{})" not in form.replace("({})", "") and form != "{}." else letter
    assert grade("choice", form.format(written), letter).passed
    other = "ABCDE"[("ABCDE".index(letter) + 1) % 5]
    assert not grade("choice", form.format(written), other).passed


def test_choices() -> None:
    assert grade("choice", "(A) no, but (C)", "C").why == "expected C, it names A and C: '(A) no, but (C)'"
    assert grade("choice", "B", "(B) Paris", letters="ABCD").passed
    assert "names no letter" in unscored("choice", "B", "Paris")


# --- lists ------------------------------------------------------------------------------------------------


def test_items() -> None:
    assert items_of('["a", 1, 1.0, {"b": true}]') == ["a", "1", "1", '{"b": true}']
    assert items_of('Here you are: ```json\n["x"]\n```') == ["x"]
    assert items_of("- a\n* b\n\n2. c\n") == ["a", "b", "c"]
    assert items_of("a; b, c") == ["a", "b, c"]
    assert items_of("a, b,, c") == ["a", "b", "c"]
    assert items_of("a|b", "|") == ["a", "b"]
    assert items_of("") == []


def test_sets_and_lists() -> None:
    assert grade("set", "b, a, a", '["a", "b"]').passed
    found = grade("set", "a, x", "a, b, c")
    assert found.score == pytest.approx(2 / 5)
    assert found.why == "misses 'b', 'c'; has 'x', not expected"
    assert grade("set", "A, B", "a, b", ignore_case=True).passed
    assert grade("set", "[]", "[]").passed
    assert grade("list", "[]", "[]").passed
    swapped = grade("list", "b, a", "a, b")
    assert (swapped.score, swapped.passed, swapped.why) == (0.5, False, "has the items in another order")
    assert grade("list", "a, a, b", "a, a, b").passed
    assert grade("list", "a, b", "a, a, b").score == pytest.approx(4 / 5)


# --- ROUGE-L ----------------------------------------------------------------------------------------------


def lcs(one: list[str], other: list[str]) -> int:
    """The textbook table."""
    row = [0] * (len(other) + 1)
    for left in one:
        before = row[:]
        for at, right in enumerate(other, 1):
            row[at] = before[at - 1] + 1 if left == right else max(before[at], row[at - 1])
    return row[-1]


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.lists(st.sampled_from("abcd"), max_size=30))
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(one: list[str], other: list[str]) -> None:
    common = lcs(one, other)
    if not one and not other:
        expected = 1.0
    else:
        precision, recall = common / len(other) if other else 0.0, common / len(one) if one else 0.0
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert f1(one, other) == pytest.approx(expected)
    if one:
        assert grade("rouge_l", " ".join(other), " ".join(one)).score == pytest.approx(expected)


def test_words_of_rouge() -> None:
    assert words("It's a Well-known FACT, no. 5!") == ["it", "s", "a", "well", "known", "fact", "no", "5"]
    assert words("日本語 is") == ["日", "本", "語", "is"]


# --- JSON -------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
KEYS = st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


def shuffled(value: Any, draw: Callable[..., Any]) -> Any:
    """The same JSON: other key order, whole numbers as floats."""
    if isinstance(value, dict):
        keys = draw(st.permutations(sorted(value)))
        return {key: shuffled(value[key], draw) for key in keys}
    if isinstance(value, list):
        return [shuffled(item, draw) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**50:
        return float(value)
    return value


def diff(expected: Any, got: Any, **options: Any) -> Grade:
    return grade("json_diff", json.dumps(got), json.dumps(expected), **options)


@given(VALUES, st.data())
def test_equal_json_scores_one_in_any_key_order_and_whether_1_or_1_0(value: Any, data: st.DataObject) -> None:
    found = diff(value, shuffled(value, data.draw))
    assert (found.score, found.passed, dict(found.paths)) == (1.0, True, {})
    assert diff(value, value, ignore_order=True).passed


@given(st.lists(VALUES, max_size=5), st.data())
def test_without_order_any_permutation_is_equal(values: list[Any], data: st.DataObject) -> None:
    assert diff({"a": values}, {"a": data.draw(st.permutations(values))}, ignore_order=True).passed


@given(VALUES, VALUES, st.booleans())
def test_json_scores_lie_between_0_and_1_and_only_equal_ones_pass(expected: Any, got: Any, ignore_order: bool) -> None:
    found = diff(expected, got, ignore_order=ignore_order)
    assert 0.0 <= found.score <= 1.0
    assert found.passed == (found.score == 1.0) == (not found.paths)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inner or not value:
        yield path
    for step, item in inner:
        yield from places(item, (*path, step))


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), st.data())
def test_the_reason_names_the_path_that_differs(value: dict[str, Any], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(places(value))))
    changed = copy.deepcopy(value)
    inner: Any = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = "quite another value"
    found = diff(value, changed)
    assert not found.passed
    assert list(found.paths) == [shown_path(path)]
    assert shown_path(path) in found.why
    assert 0.0 <= found.score < 1.0
    assert found.score == pytest.approx((leaves(value) - 1) / leaves(value)), found


def test_json_diff_says_what_differs() -> None:
    found = diff({"a": 1, "b": {"c": "x", "d": [1, 2]}, "e": None}, {"a": 2, "b": {"c": "x", "d": [1]}, "f": True})
    assert found.why == "a: expected 1, got 2; b.d[1]: missing, expected 2; e: missing, expected null; f: not expected, got true"
    assert found.score == pytest.approx(2 / 6)
    assert dict(found.paths) == {"a": 0.0, "b.d[1]": 0.0, "e": 0.0, "f": 0.0}
    assert diff(True, 1).why == "$: expected true, got 1"
    assert diff([True], [1], ignore_order=True).why == "[0]: expected true, got 1"
    assert diff({"a": []}, {"a": {}}).why == "a: expected [], got {}"
    assert diff({"__a": 1}, {"__a": 2}).why == "__a: expected 1, got 2"


def test_an_inserted_item_costs_one_part_and_not_all_that_follow() -> None:
    found = diff({"items": [10, 20, 30, 40, 50]}, {"items": [5, 10, 20, 30, 40, 50]})
    assert found.why == "items[0]: not expected, got 5"
    assert found.score == pytest.approx(5 / 6)
    pairs = diff([{"id": 1, "n": "a"}, {"id": 2, "n": "b"}], [{"id": 2, "n": "b"}, {"id": 1, "n": "X"}], ignore_order=True)
    assert pairs.why == '[0].n: expected "a", got "X"'
    assert pairs.score == pytest.approx(3 / 4)
    assert diff([1, 1, 2], [1, 2, 2], ignore_order=True).score == pytest.approx(2 / 3)


def test_json_options() -> None:
    assert diff({"a": 1.0}, {"a": 1.04}, tolerance=0.05).passed
    assert not diff({"a": 1.0}, {"a": 1.06}, tolerance=0.05).passed
    assert diff({"a": 1000}, {"a": 1040}, relative=0.05).passed
    assert diff([3, 1.0, 2], [1.04, 2, 3], tolerance=0.05, ignore_order=True).passed
    assert not diff({"a": True}, {"a": 1}, tolerance=5).passed
    expected = {"id": 1, "items": [{"sku": "a", "at": 5}, {"sku": "b", "at": 6}], "x.y": 1}
    got = {"id": 2, "items": [{"sku": "a", "at": 7}, {"sku": "b"}], "x.y": 2, "extra": {"z": 1}}
    assert diff(expected, got, ignore=["id", "items[*].at", '["x.y"]', "extra"]).passed
    assert diff(expected, got, ignore=["id", "items[0].at", '["x.y"]', "extra"]).why == "items[1].at: missing, expected 6"
    assert diff([1, 2], [1], ignore=["[1]"]).passed


def test_what_is_no_json_fails_with_the_reason() -> None:
    found = grade("json_diff", "I'd say yes", '{"a": 1}', contract=JSON)
    assert (found.score, found.passed) == (0.0, False)
    assert "is not JSON" in found.why
    assert grade("json_diff", "", '{"a": 1}').why == "the answer is empty"
    assert "is not JSON" in grade("json_diff", '{"a": NaN}', '{"a": 1}').why
    assert grade("json_diff", 'Sure:\n```json\n{"a": 1}\n```', '{"a": 1}').passed
    assert "the expected output 'x' is not JSON" in unscored("json_diff", "{}", "x")


def test_json_schema() -> None:
    assert grade("json_schema", '{"a": 1}', contract=JSON).passed
    assert grade("json_schema", "{}", contract=JSON).why == '"a" is a required property'
    assert not grade("json_schema", '{"a": 1}', schema={"type": "array"}).passed
    assert grade("json_schema", "[]", schema=True).passed
    with pytest.raises(SourceError, match=r"schema file 'no.json' can't be read"):
        scorer("json_schema", schema="no.json")


def test_deepdiff_is_loaded_only_for_lists_that_differ() -> None:
    code = """
import asyncio, sys
from pathlib import Path
from promptsmith.contract import Contract, TextShape
from promptsmith.evals.scorers import Answer, build_scorers
from promptsmith.task.values import ScorerSpec
(scorer,) = build_scorers([ScorerSpec("json_diff")], Contract(TextShape()), folder=Path("."))
def grade(output, expected):
    asyncio.run(scorer.grade(Answer(case="c", inputs={}, expected=expected, output=output)))
    return "deepdiff" in sys.modules
print(grade('{"a": [1, 2]}', '{"a": [1, 2.0]}'), grade('{"a": 1}', '{"a": 2}'), grade('{"a": [1]}', '{"a": [2, 1]}'))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


@pytest.mark.parametrize("ignore_order", [False, True])
def test_huge_values_are_compared_in_bounded_time(ignore_order: bool) -> None:
    """deepdiff takes minutes for a few thousand list items; it is not asked."""
    numbers = list(range(120_000))
    found = diff(numbers, [0, *numbers], ignore_order=ignore_order)
    assert not found.passed
    assert len(found.why) < 2500
    rows = [{"id": number, "v": str(number)} for number in range(8000)]
    found = diff(rows, [*rows[1:], {"id": -1, "v": "?"}], ignore_order=ignore_order)
    assert not found.passed
    few = [{"id": number % 7} for number in range(3000)]
    assert not diff(few, [{"id": number % 5} for number in range(3000)], ignore_order=ignore_order).passed
    within = [str(number) for number in range(30)]
    assert diff(list(range(30)), within, ignore_order=ignore_order).score == 0.0


def test_deep_json() -> None:
    for deep in ('{"a": ' * 900 + "1" + "}" * 900, "[" * 900 + "1" + "]" * 900):
        assert grade("json_diff", deep.replace("1", "2"), deep, ignore_order=True).passed is False
        assert grade("json_diff", deep, deep, ignore_order=True).passed
    assert not grade("json_diff", "[" * 100_000 + "]" * 100_000, "[]").passed


def test_differences_of_an_integer_beyond_floats() -> None:
    (one,) = differences([10**400], [10**400 + 1, 7], Rules())[:1]
    assert one.expected == 10**400
    assert differences([10**400], [10**400], Rules(tolerance=1.0)) == []
    assert not Rules(tolerance=1.0).same(10**400, 0.5)
    assert repr(MISSING) == "nothing"


# --- contract, latency, cost ------------------------------------------------------------------------------


def test_contract_counts_the_rules_that_hold() -> None:
    contract = Contract(TextShape(max_words=3, max_chars=100), (Check("contains", "refund"), Check("not_contains", "sorry")))
    assert grade("contract", "a refund", contract=contract).passed
    found = grade("contract", "sorry, one two three four", contract=contract)
    assert found.score == pytest.approx(1 / 4)
    assert found.why == "has 5 words, more than 3; does not contain 'refund'; contains 'sorry', which it must not"
    assert not grade("contract", "neutral", contract=LABELS).passed


def test_latency_and_cost() -> None:
    def said(name: str, most: float, **more: Any) -> Grade:
        return asyncio.run(scorer(name, max=most).grade(answered("x", **more)))

    assert said("latency", 1.5, latency=1.2).passed
    assert said("latency", 1.5, latency=1.6).why == "took 1.6 s, more than 1.5 s"
    assert said("cost", 0.01, cost=0.01).passed
    assert said("cost", 0.01, cost=0.02).why == "cost $0.02, more than 0.01"
    with pytest.raises(Unscored, match="not recorded"):
        said("latency", 1.5)
    with pytest.raises(Unscored, match="price of a/b is unknown"):
        said("cost", 0.01, cost=None, model="a/b")


# --- defaults and vocabulary ------------------------------------------------------------------------------


def test_defaults_follow_the_contract() -> None:
    def names(contract: Contract) -> list[str]:
        return [spec.name for spec in default_specs(contract)]

    assert names(LABELS) == ["exact"]
    assert names(JSON) == ["json_diff"]
    assert names(Contract(TextShape(max_words=5))) == ["contract"]
    assert names(Contract(TextShape(), (Check("contains", "x"),))) == ["contract"]
    assert names(TEXT) == []
    assert names(Contract(TextShape(max_words=5), inferred=True)) == []
    assert [one.name for one in build_scorers((), LABELS, folder=Path())] == ["exact"]
    assert build_scorers((), TEXT, folder=Path()) == ()
    assert scorer_names((), JSON) == ("json_diff",)
    assert scorer_names([ScorerSpec("exact", {"name": "mine"}), ScorerSpec("set")], JSON) == ("mine", "set")


@pytest.mark.parametrize(
    ("name", "options", "what", "right"),
    [
        ("exakt", {}, "unknown scorer 'exakt'", "did you mean 'exact'?"),
        ("equals", {}, "unknown scorer 'equals'", "it is called exact here"),
        ("not-contains", {}, "unknown scorer", "it is called contains: {not: true, value: …} here"),
        ("zzz", {}, "unknown scorer 'zzz'", "the scorers are exact, label,"),
        ("exact", {"igore_case": True}, "unknown option 'igore_case' of scorer 'exact'", "did you mean 'ignore_case'?"),
        ("json_diff", {"strip": True}, "unknown option 'strip'", "its options are tolerance,"),
        ("exact", {"threshold": 1.5}, "threshold of scorer 'exact' is 1.5", "write a number from 0 to 1, such as 0.9"),
        ("exact", {"threshold": "> 90%"}, "threshold of scorer 'exact' is '> 90%'", "write a number from 0 to 1, such as 0.9"),
        ("exact", {"threshold": "0,9"}, "is '0,9'", "write a number from 0 to 1"),
        ("exact", {"threshold": True}, "is true", "write a number from 0 to 1"),
        ("exact", {"weight": -1}, "weight of scorer 'exact' is -1", "write a number, 0 or more"),
        ("exact", {"weight": math.inf}, "is inf", "write a number"),
        ("exact", {"not": "yes"}, "not of scorer 'exact' is 'yes'", "write true or false"),
        ("exact", {"value": 1.1}, "value of scorer 'exact' is 1.1", "put a number or true in quotes"),
        ("exact", {"value": None}, "value of scorer 'exact' is empty", "write a text"),
        ("exact", {"extract": "(a"}, "extract of scorer 'exact' is '(a'", "missing ), unterminated subpattern"),
        ("regex", {"value": "["}, "value of scorer 'regex' is '['", "write a regular expression"),
        ("contains_any", {"value": []}, "is []", "write a list of texts"),
        ("word_limit", {}, "has neither a min nor a max", "write word_limit: {max: 60}"),
        ("word_limit", {"min": 3, "max": 2}, "min 3 is more than max 2", "swap them"),
        ("word_limit", {"max": 2.5}, "is 2.5", "write a whole number"),
        ("number", {"decimal": ";"}, "is ';'", "write . or ,"),
        ("latency", {}, "scorer 'latency' has no max", "add max: seconds"),
        ("latency", {"max": 0}, "is 0", "write a number above 0"),
        ("fuzzy", {"kind": "cosine"}, "is 'cosine'", "write ratio or partial_ratio"),
        ("json_schema", {}, "has no schema", "write json_schema: {schema: …}"),
        ("json_schema", {"schema": {"type": "strin"}}, "schema of scorer 'json_schema' is", "write a JSON Schema"),
        ("json_diff", {"ignore": ["a..b"]}, "is ['a..b']", "write a list of paths"),
        ("python", {}, "scorer 'python' has no function", "add function: module:function"),
        ("python", {"function": "checks"}, "is 'checks'", "write module:function"),
        ("python", {"function": "a:b", "timeout": 0}, "is 0", "write a number above 0"),
        ("judge", {"criteria": "kind"}, "has neither model nor models", "add model: endpoint/model"),
        ("judge", {"model": "a/b"}, "has neither criteria nor rubric", "add criteria:"),
        (
            "judge",
            {"model": "a/b", "criteria": "x", "scale": "5-1"},
            "is '5-1'",
            "write pass/fail, or the lowest and highest mark such as 1-5",
        ),
        ("judge", {"model": "a/b", "criteria": "x", "scale": "1-5"}, "has a scale and no pass mark", "add pass: 4"),
        ("judge", {"model": "a/b", "criteria": "x", "scale": "1-5", "pass": 9}, "pass is 9", "above 1 and up to 5"),
        ("judge", {"model": "a/b", "criteria": "x", "pass": 4}, "pass/fail needs no pass mark", "leave pass out"),
        ("judge", {"model": "a/b", "criteria": "x", "pairwise": True, "scale": "1-5", "pass": "win"}, "has no scale", "leave it out"),
        ("judge", {"model": "a/b", "criteria": "x", "min_kappa": 0.5}, "min_kappa has nothing", "name a file"),
        ("judge", {"model": "small", "criteria": "x"}, "is 'small'", "write endpoint/model"),
        ("judge", {"models": ["a/b", "a/b"], "criteria": "x"}, "is ['a/b', 'a/b']", "write a list of different models"),
    ],
)
def test_wrong_scorers_are_told(name: str, options: dict[str, Any], what: str, right: str) -> None:
    ((_, told, correct),) = wrong(name, **options)
    assert what in told
    assert right in correct


def test_scorers_that_do_not_suit_the_contract() -> None:
    assert wrong("json_diff", LABELS) == [
        ("", "scorer 'json_diff': compares JSON, and the task's outputs are labels", "use exact or label")
    ]
    assert wrong("json_schema", JSON) == []
    assert wrong("json_diff", None) == []


def test_two_of_one_kind_need_names() -> None:
    specs = [ScorerSpec("contains", {"value": "a"}), ScorerSpec("contains", {"value": "b"})]
    (one,) = check_specs(specs, TEXT)
    assert (one.spec, one.option, one.what) == (specs[1], "name", "two scorers are called 'contains'")
    specs[1] = ScorerSpec("contains", {"value": "b", "name": "other"})
    assert [one.name for one in build_scorers(specs, TEXT, folder=Path())] == ["contains", "other"]


def test_building_tells_all_mistakes_at_their_places() -> None:
    specs = [
        ScorerSpec("exakt", {}, Where("evals/t.yaml", 7)),
        ScorerSpec("exact", {"threshold": 2}, Where("evals/t.yaml", 8)),
    ]
    with pytest.raises(SourceError) as caught:
        build_scorers(specs, TEXT, folder=Path())
    assert str(caught.value).splitlines() == [
        "evals/t.yaml:7: unknown scorer 'exakt', did you mean 'exact'?",
        "evals/t.yaml:8: threshold of scorer 'exact' is 2, write a number from 0 to 1, such as 0.9",
    ]


def test_a_bare_value_stands_for_the_main_option() -> None:
    task = Task("x", scorers=[{"contains": "refund"}, {"word_limit": 5}, {"contains_any": ["a", "refund"]}, {"set": None}])
    built = build_scorers(task.scorers, TEXT, folder=Path())
    assert [asyncio.run(one.grade(answered("a refund", "a refund"))).passed for one in built] == [True, True, True, True]


def test_the_vocabulary_is_light() -> None:
    code = "import sys, promptsmith.evals.scorers; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "promptsmith.evals.scorers.vocabulary" in loaded
    assert not loaded & {"deepdiff", "rapidfuzz", "jsonschema_rs", "promptsmith.evals.scorers.build", "subprocess"}


def test_paths() -> None:
    assert path_steps("a.b[0][*].c") == ("a", "b", 0, None, "c")
    assert path_steps('a["b.c"]') == ("a", "b.c")
    assert path_steps("[*]") == (None,)
    assert path_steps("*.a") == (None, "a")
    for bad in ("", "a[", "a[x]", "a]b", "[-1]"):
        assert path_steps(bad) == (), bad


def test_the_reference_names_every_scorer_and_option() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reference" / "scorers.md").read_text("utf-8")
    for name, about in table():
        assert f"| `{name}` | {about} |" in page, name
        for option in KINDS[name].options:
            assert f"`{option}`" in page or f"`{option}:" in page, (name, option)
    for name, option in {**COMMON, **KINDS["exact"].all_options()}.items():
        assert f"`{name}`" in page, name
        assert option.about


def test_the_references_examples_are_scorers_that_there_are() -> None:
    from promptsmith.task import load_task

    page = (Path(__file__).parent.parent / "docs" / "reference" / "scorers.md").read_text("utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "task.yaml")
            path.write_text(block, "utf-8")
            task = load_task(path)
            assert len(build_scorers(task.scorers, task.contract, folder=path.parent)) == len(task.scorers) > 0


# --- functions --------------------------------------------------------------------------------------------

FUNCTIONS = """\
import asyncio, dataclasses, sys, time

@dataclasses.dataclass
class Held:
    x: int = 1

def yes(output): return True
def part(output, expected): return 0.4
def mapping(output, **more): return {"score": 0.7, "passed": True, "why": f"kind to {more['case']}"}
def only_passed(output): return {"passed": False}
def only_score(output): return {"score": 1}
def seven(output): return 7
def nothing(output): return None
def nan(output): return float("nan")
def text(output): return "good"
def odd(output): return {"score": 1, "reason": "x"}
def unsure(output): return {"score": 1, "passed": 1}
def mute(output): return {"score": 1, "why": 3}
def raises(output):
    found = output.splitlines()
    return found[5]
def leaves(output): sys.exit(0)
def deep(output): return deep(output)
def hangs(output): time.sleep(30)
async def later(output):
    await asyncio.sleep(0)
    return output == "ok"
def given(output, expected, inputs, value, case, latency, cost, model):
    return (output, expected, inputs["input"], value, case, latency, cost, model) == ("ok", "e", "Where?", "ok", "c1", 1.5, 0.1, "a/b")
def first(output, /, expected): return output == "ok" and expected == "e"
def surrogate(output): return {"score": 0.5, "why": "\\ud800"}
def strange(output, gold): return True
not_callable = 3
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    (tmp_path / "checks.py").write_text(FUNCTIONS)
    return tmp_path


def call(folder: Path, function: str, output: str = "ok", **options: Any) -> Grade:
    return grade("python", output, "e", folder=folder, function=f"checks.py:{function}", **options)


def test_what_a_function_may_return(functions: Path) -> None:
    assert call(functions, "yes") == Grade(1.0, True, "checks.py:yes returned true")
    assert call(functions, "part") == Grade(0.4, False, "checks.py:part returned 0.4")
    assert call(functions, "part", threshold=0.4).passed
    assert call(functions, "mapping") == Grade(0.7, True, "kind to c1")
    assert call(functions, "only_passed").score == 0.0
    assert call(functions, "only_score").passed
    assert call(functions, "later").passed
    assert call(functions, "first").passed
    assert call(functions, "yes", **{"not": True}).passed is False
    assert call(functions, "surrogate").why == "\\ud800"


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("seven", "the function returned 7, which is no score; return true or false, a number from 0 to 1, or {score, passed, why}"),
        ("nothing", "the function returned nothing (None); return true or false"),
        ("nan", "the function returned nan, which is no score"),
        ("text", "the function returned 'good' (str)"),
        ("odd", "the function returned a mapping with 'reason'"),
        ("unsure", "the function returned passed: 1"),
        ("mute", "the function returned a why that is no text but int"),
        ("raises", "the function raised IndexError: list index out of range (checks.py:21)"),
        ("leaves", "the function raised SystemExit: 0 (checks.py:22)"),
        ("deep", "the function raised RecursionError"),
    ],
)
def test_what_a_function_does_wrong_leaves_the_case_unscored(functions: Path, function: str, why: str) -> None:
    with pytest.raises(Unscored) as caught:
        call(functions, function)
    assert why in caught.value.message


def test_a_function_that_hangs_is_left_behind(functions: Path) -> None:
    """The runner goes on; and when several calls hang, no more threads are started."""
    hanging = scorer("python", folder=functions, function="checks.py:hangs", timeout=0.2)
    quick = scorer("exact")

    async def run() -> list[str]:
        found = []
        for _ in range(6):
            try:
                await hanging.grade(answered("ok"))
            except Unscored as error:
                found.append(error.message)
            assert (await quick.grade(answered("ok", "ok"))).passed
        return found

    messages = asyncio.run(run())
    assert messages[:4] == ["the function did not return within 0.2 s"] * 4
    assert messages[4:] == ["not called: 4 earlier calls of the function still hang"] * 2


def test_a_hanging_function_does_not_keep_python_from_ending(functions: Path) -> None:
    code = f"""
import asyncio
from pathlib import Path
from promptsmith.contract import Contract, TextShape
from promptsmith.evals.scorers import Answer, Unscored, build_scorers
from promptsmith.task.values import ScorerSpec
spec = ScorerSpec("python", {{"function": "checks.py:hangs", "timeout": 0.1}})
(scorer,) = build_scorers([spec], Contract(TextShape()), folder=Path({str(functions)!r}))
try:
    asyncio.run(scorer.grade(Answer(case="c", inputs={{}}, expected="", output="x")))
except Unscored as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == "the function did not return within 0.1 s"


def test_a_function_is_given_what_its_parameters_name(functions: Path) -> None:
    one = scorer("python", folder=functions, function="checks.py:given")
    answer = Answer(case="c1", inputs={"input": "Where?"}, expected="e", output="ok", value="ok", latency=1.5, cost=0.1, model="a/b")
    found = asyncio.run(one.grade(answer))
    assert found.passed


def test_the_version_holds_the_files_digest(functions: Path) -> None:
    one = scorer("python", folder=functions, function="checks.py:yes").version
    (functions / "checks.py").write_text(FUNCTIONS + "# a change\n")
    other = scorer("python", folder=functions, function="checks.py:yes").version
    assert "sha256:" in one
    assert one != other
    assert [path.name for path in functions.iterdir()] == ["checks.py"]


def test_a_function_of_an_importable_module(functions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(functions)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert grade("python", "ok", function="checks:yes").passed
    assert "sha256:" in scorer("python", function="checks:yes").version
    with pytest.raises(SourceError, match="takes 'text', which is nothing that it can be given"):
        scorer("python", function="promptsmith.contract:count_words")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("checks.py:yess", "checks.py has no function 'yess', did you mean 'yes'?"),
        ("checks.py:not_callable", "has no function 'not_callable'"),
        ("checks.py:strange", "takes 'gold', which is nothing that it can be given, name its parameters among output, expected,"),
        ("missing.py:yes", "the scorer's file 'missing.py' can't be read: No such file or directory"),
        ("no_such_module:yes", "the scorer's module 'no_such_module' can't be imported: ModuleNotFoundError"),
        ("broken.py:yes", "the scorer's file 'broken.py' can't be loaded: SyntaxError"),
        ("raising.py:yes", "can't be loaded: ValueError: no (raising.py:2)"),
    ],
)
def test_a_function_that_can_not_be_had_is_told_before_anything_runs(functions: Path, function: str, why: str) -> None:
    (functions / "broken.py").write_text("def yes(:\n")
    (functions / "raising.py").write_text("x = 1\nraise ValueError('no')\n")
    with pytest.raises(SourceError) as caught:
        scorer("python", folder=functions, function=function)
    assert why in str(caught.value)


# --- bounded time, odd texts ------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "number": {},
    "word_limit": {"max": 5},
    "latency": {"max": 9},
    "cost": {"max": 9},
    "regex": {"value": r"\w+@\w+"},
    "json_schema": {"schema": {"type": "object"}},
}
PLAIN = sorted(set(KINDS) - {"judge", "python"})


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(
    "output",
    ["a" * MEGABYTE, "1," * (MEGABYTE // 2), "word " * (MEGABYTE // 5), "[" * MEGABYTE, "(A) " * (MEGABYTE // 4), '{"a":' * 200_000],
    ids=["letters", "numbers", "words", "brackets", "choices", "objects"],
)
def test_a_megabyte_is_graded(name: str, output: str) -> None:
    """In bounded time: a run that hung would be stopped by nobody here."""
    expected = {"number": "7", "choice": "B", "json_diff": '{"a": 1}'}.get(name, "the expected answer and some words")
    one = scorer(name, Contract(TextShape(max_words=9)), extract="(?s).*", **OPTIONS.get(name, {}))
    two = scorer(name, Contract(TextShape(max_words=9)), **OPTIONS.get(name, {}))
    for each in (one, two):
        try:
            found = asyncio.run(each.grade(answered(output, expected, latency=1.0, cost=1.0)))
        except Unscored:
            continue
        assert 0.0 <= found.score <= 1.0
        assert len(found.why) <= 2000


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("output", ["", "\0", "a\0b", "\ud800", '["\ud800"]', "\u2028\u202e\ufeff", "{}", "null", "💥" * 10])
def test_odd_texts_break_nothing(name: str, output: str) -> None:
    expected = {"number": "7", "choice": "B", "json_diff": '["x", 1]', "same_language": "x"}.get(name, output or "x")
    one = scorer(name, Contract(TextShape(max_words=9)), **OPTIONS.get(name, {}))
    try:
        found = asyncio.run(one.grade(answered(output, expected, latency=1.0, cost=1.0)))
    except Unscored as error:
        error.message.encode()
        assert "the scorer broke" not in error.message
    else:
        found.why.encode()


def test_a_pattern_that_backtracks_is_stopped() -> None:
    matcher = Matcher(seconds=0.3)
    bad = Pattern(r"(a+)+$", matcher)
    good = Pattern(r"(\w+)\s(\w+)", matcher)

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(Unscored, match=r"did not end within 0.3 s on a text of 41 characters"):
                await bad.first("a" * 40 + "!")
            assert await good.last("so: left right") == "left"
        assert await good.last("x " * 50_000) == "x"
        for _ in range(2):
            # After three times too late it is not tried again.
            with pytest.raises(Unscored):
                await bad.first("a" * 40 + "!")
        assert bad._late == 3

    asyncio.run(run())


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"(a|a)*$", r"(?:ab?)*c", r"(\w+)\1", r"(?x) a + ", "a?" * 40 + "a" * 40, "(a|b)" * 40, r"(.*){1,9}"]
)
def test_patterns_that_can_take_exponential_time_run_apart(pattern: str) -> None:
    assert longest(pattern) < 30


def test_how_long_a_text_may_be_for_common_patterns() -> None:
    assert longest(r"positive|negative") > 100_000
    assert longest(r"^\s*yes") > 5_000
    assert longest(r"Answer: (\w+)") > 5_000
    assert longest(r"[*+(]\)\*") > 100_000
    assert 0 < longest(r"\w+@\w+") < 1_000


@given(st.text(alphabet="ab1 \n", max_size=40), st.sampled_from([r"a+", r"(a)|b", r"(a+)(b)?", r"\d\s?", r"(?:ab)*", r"(b)?a"]))
def test_a_child_process_finds_what_this_one_finds(text: str, pattern: str) -> None:
    from promptsmith.evals.scorers.match_child import look

    for last in (False, True):
        assert CHILD.look(pattern, 0, text, last=last) == look(pattern, 0, text, last=last)


CHILD = Matcher()
