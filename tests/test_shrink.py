"""Pieces of instructions, and the order in which a shrink pass proposes to delete them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.catalog.tokens import estimate
from promptsmith.compiler.draft import subject
from promptsmith.compiler.lint import lint
from promptsmith.compiler.material import Material, Options, material
from promptsmith.compiler.search.pieces import Piece, joined, pieces, sentences
from promptsmith.compiler.search.shrink import Deletion, Shrinking
from promptsmith.compiler.search.values import Candidate, Origin
from promptsmith.compiler.template import system_prompt, with_examples
from promptsmith.config import Config
from promptsmith.task import Task

# --- pieces -----------------------------------------------------------------------------------------------

LINES = (
    "", " ", "# Title", "## Part", "**Bold**", "Words here. And more!", "Ends with a colon:", "- item", "- item: with text. Two.",
    "  - nested", "  goes on", "goes on small", "1. first", "2) second", "```", "~~~", "> quoted. Text.", "| a | b |", '{"a": 1}',
    "{", "}", "Schema: {", "]", "<rules>", "</rules>", "<more>", "</more>", "---", "===", "これは文です。次の文。", "「引用。」です",
    "Он ушёл. См. ниже.", "هل هذا؟ نعم.", "\u2028x", "a\x0bb", 'say "stop',
)  # fmt: skip
documents = st.lists(st.sampled_from(LINES), max_size=14).map("\n".join) | st.text(st.characters(exclude_characters="\r", codec="utf-8"))
BLANK_LINES = re.compile(r"\n[^\S\n]*\n[^\S\n]*\n")


def without(text: str, dropped: Iterable[Piece]) -> str:
    return joined(pieces(text), {piece.index for piece in dropped})


@given(documents)
def test_the_pieces_are_the_text(text: str) -> None:
    found = pieces(text)
    assert "".join(piece.text for piece in found) == text
    assert [piece.index for piece in found] == list(range(len(found)))
    assert all(-1 <= piece.parent < piece.index for piece in found)
    assert all(piece.text for piece in found)
    assert without(text, []) == text
    assert without(text, found) == ""


@given(documents, st.randoms(use_true_random=False))
def test_what_stays_stays_as_it_is(text: str, rng: random.Random) -> None:
    found = pieces(text)
    dropped = rng.sample(found, rng.randint(0, len(found)))
    result = without(text, dropped)
    if not BLANK_LINES.search(text):
        assert not BLANK_LINES.search(result)
    assert len(result) <= len(text) + 2 * len(dropped)
    # What is left is some of the pieces that were not dropped, in their order, and blanks.
    kept = [piece.text.strip() for piece in found if piece not in dropped]
    assert re.fullmatch(r"\s*" + "".join(rf"(?:{re.escape(body)}\s*)?" for body in kept if body), result)


@given(documents)
def test_no_heading_tag_or_announcement_is_left_with_nothing_below_it(text: str) -> None:
    found = pieces(text)
    for head in found:
        below = [piece for piece in found if piece.parent == head.index and piece.says]
        if below and (head.kind in ("heading", "open") or head.announces):
            left, gone = without(text, below), without(text, [head])
            assert left == gone


SPLITS: list[tuple[str, list[str]]] = [
    ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
    ("Wait... Then go. Go!", ["Wait... Then go. ", "Go!"]),
    ('He said "Stop. Go." and left. Fine.', ['He said "Stop. Go." and left. ', "Fine."]),
    ('He said "Stop." She left.', ['He said "Stop." ', "She left."]),
    ("Say “no. Never.” to it. Then „Halt. Aus“ too. End.", ["Say “no. Never.” to it. ", "Then „Halt. Aus“ too. ", "End."]),
    ("It's Anna's. Don't split 'one. Two' here. End.", ["It's Anna's. ", "Don't split 'one. Two' here. ", "End."]),
    ("A 5\" screen. A 6\" one. End.", ["A 5\" screen. ", "A 6\" one. ", "End."]),
    ("Use `a. B` there. Then ``x. Y`` too.", ["Use `a. B` there. ", "Then ``x. Y`` too."]),
    ("See (this. And that.) here. Then [a. B]. End.", ["See (this. And that.) here. ", "Then [a. B]. ", "End."]),
    ('Answer with {"q": "a. B"}. Then stop.', ['Answer with {"q": "a. B"}. ', "Then stop."]),
    ("See https://a.example/b?x=1.5&y=Q!Z. Then www.b.example. End.",
     ["See https://a.example/b?x=1.5&y=Q!Z. ", "Then www.b.example. ", "End."]),
    ("Pay 3.50 or 1.000,5 now. Version 2.1 is out. End.", ["Pay 3.50 or 1.000,5 now. ", "Version 2.1 is out. ", "End."]),
    ("Ask Dr. Smith, e.g. Mrs. Jones, at 5 p.m. Today. End.", ["Ask Dr. Smith, e.g. Mrs. Jones, at 5 p.m. Today. ", "End."]),
    ("See No. 5 and Fig. 3. Then Art. 7 applies.", ["See No. 5 and Fig. 3. Then Art. 7 applies."]),
    ("Say no. Then stop.", ["Say no. ", "Then stop."]),
    ("Hunde bzw. Katzen, z. B. Siam, z.B. Perser, ca. 5 usw. Und mehr. Ende.",
     ["Hunde bzw. Katzen, z. B. Siam, z.B. Perser, ca. 5 usw. Und mehr. ", "Ende."]),
    ("Am 3. Oktober kam er. Dann ging er.", ["Am 3. Oktober kam er. ", "Dann ging er."]),
    ("J. R. Smith et al. Wrote it. End.", ["J. R. Smith et al. Wrote it. ", "End."]),
    ("Он ушёл. См. Таблицу 1 на стр. 5, т. е. Там. Конец.", ["Он ушёл. ", "См. Таблицу 1 на стр. 5, т. е. Там. ", "Конец."]),
    ("Le prix, p. ex. Dix euros. Fin.", ["Le prix, p. ex. Dix euros. ", "Fin."]),
    ("Return JSON. Use XML. Then HTML. End.", ["Return JSON. ", "Use XML. ", "Then HTML. ", "End."]),
    ("これは文です。「引用。です」という。次！終わり", ["これは文です。", "「引用。です」という。", "次！", "終わり"]),
    ("值为３．５。然后停止。", ["值为３．５。", "然后停止。"]),
    ("يكتب الجواب. هل هو قصير؟ نعم.", ["يكتب الجواب. ", "هل هو قصير؟ ", "نعم."]),
    ("यह वाक्य है। दूसरा वाक्य।", ["यह वाक्य है। ", "दूसरा वाक्य।"]),
    ("A wrapped\nsentence. Another\none.\nThird.", ["A wrapped\nsentence. ", "Another\none.\n", "Third."]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SPLITS, ids=[text[:24] for text, _ in SPLITS])
def test_sentences_end_where_they_end(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


KEPT_WHOLE = [
    '```json\n{"a": "One. Two."}\n\n- no item\n# no heading\n```\n',
    "~~~\nOne. Two.\n```\nThree. Four.\n~~~\n",
    "```\nnever closed. Really.\n\n# x\n",
    '{\n  "type": "object",\n\n  "properties": {"a": {"description": "One. Two."}}\n}\n',
    'The schema is: {\n  "a": "One. Two.",\n  "b": [1,\n  2]\n}\n',
    "> One. Two.\n> Three. Four.\n",
    "| a. B | c |\n|---|---|\n| d. E | f |\n",
    '- an item. With two sentences.\n  That goes on. Here.\n\n  And here. {"x":\n  "y. Z"}\n',
    "- wrapped without\nan indent\nlike this.\n",
]


@pytest.mark.parametrize("whole", KEPT_WHOLE, ids=range(len(KEPT_WHOLE)))
def test_what_belongs_together_is_one_piece(whole: str) -> None:
    if not whole.startswith("```\nnever"):
        assert whole in [piece.text for piece in pieces(f"# Before\n{whole}# After\nText.\n")]
    assert [piece.text for piece in pieces(whole)] == [whole]


DOCUMENT = """\
# Task
Read the message. Decide how the writer feels.

## Labels
Answer with one of:
- positive: praise
  and thanks
- negative
  - anger
  - sorrow
- neutral
Never explain it.

<hints>
Sarcasm is negative.
</hints>

---

## Last
1. Look.
2. Answer.
"""


def _dropped(*starts: str) -> str:
    found = pieces(DOCUMENT)
    return without(DOCUMENT, [next(piece for piece in found if piece.text.startswith(start)) for start in starts])


def test_deleting_a_heading_deletes_its_section_with_those_below() -> None:
    assert _dropped("## Labels") == "# Task\nRead the message. Decide how the writer feels.\n\n## Last\n1. Look.\n2. Answer.\n"
    assert _dropped("## Last").endswith("</hints>\n")
    assert _dropped("# Task") == ""


def test_deleting_an_item_deletes_what_is_nested_in_it() -> None:
    assert "- positive: praise\n  and thanks\n- neutral\nNever" in _dropped("- negative")
    assert "- negative\n  - sorrow\n- neutral" in _dropped("  - anger")
    assert "- negative\n- neutral" in _dropped("  - anger", "  - sorrow")
    assert "feels.\n\n## Labels\nAnswer with one of:\n- negative" in _dropped("- positive")


def test_a_list_that_is_empty_takes_its_announcement_along_and_a_section_its_heading() -> None:
    assert "## Labels\nNever explain it.\n" in _dropped("- positive", "- negative", "- neutral")
    assert "Labels" not in without(DOCUMENT, [piece for piece in pieces(DOCUMENT) if 3 <= piece.index <= 15])
    assert "Last" not in _dropped("1. Look", "2. Answer") and _dropped("1. Look", "2. Answer").endswith("</hints>\n")
    assert "hints" not in _dropped("Sarcasm")


def test_a_sentence_leaves_its_paragraph_in_order() -> None:
    assert _dropped("Read").startswith("# Task\nDecide how the writer feels.\n\n## Labels\n")
    assert _dropped("Decide").startswith("# Task\nRead the message.\n\n## Labels\n")
    assert _dropped("Read", "Decide").startswith("# Task\n\n## Labels\n")


def test_a_deletion_leaves_one_blank_line_where_there_were_more() -> None:
    text = "A is one.\n\n\n\nB is two.\n\n\n\nC is three.\n"
    assert without(text, [pieces(text)[1]]) == "A is one.\n\nC is three.\n"
    assert without(text, []) == text


# --- what a shrink pass proposes --------------------------------------------------------------------------

ROWS = [("I love it", "good"), ("I hate it", "evil"), ("It is here", "mixed"), ("So nice", "good"), ("So bad", "evil"), ("So so", "mixed")]
ORIGIN = Origin(kind="draft", strategy="contract_first")


def source_of(**more: Any) -> Material:
    given: dict[str, Any] = {"output": ["good", "evil", "mixed"], "examples": ROWS, **more}
    return material(Task("Sort the message by mood.", **given), Config(), Options(level=0))


SORTING = source_of()


def candidate_of(instructions: str, source: Material = SORTING, shown: int = 6) -> Candidate:
    examples = source.examples[:shown]
    return Candidate.of(instructions, tuple(one.id for one in examples), with_examples(instructions, examples), ORIGIN)


NAMES = "Answer with good, evil or mixed."
PROMPT = f"""\
# Role
You sort messages. You are careful. You never tire.

# Answer
{NAMES} Write nothing else.

# Rules
- Praise counts more than blame.
- Thanks are praise.
- A question has no mood.
- Jokes are read as they are meant.
"""


def passed(shrinking: Shrinking, judge: Callable[[Deletion], bool], limit: int = 1) -> list[Deletion]:
    """All proposals of a pass whose answers ``judge`` gives: the first good one of a round is kept, other good ones are left untold."""
    proposed: list[Deletion] = []
    while batch := shrinking.propose(limit):
        assert len(batch) <= limit
        proposed += batch
        kept = False
        for deletion in batch:
            good = judge(deletion)
            if not good or not kept:
                shrinking.told(deletion, good)
            kept = kept or good
    return proposed


def refuse(_: Deletion) -> bool:
    return False


def deletions(candidate: Candidate, source: Material, seed: int) -> Iterator[Deletion]:
    """Every deletion of a pass in which nothing is kept, in its order."""
    shrinking = Shrinking(candidate, source, seed)
    while proposed := shrinking.propose(1):
        yield from proposed
        for deletion in proposed:
            shrinking.told(deletion, kept=False)


def test_large_things_come_first_and_the_most_sparing_of_a_size() -> None:
    found = list(deletions(candidate_of(PROMPT), SORTING, 0))
    assert [one.said.split(":")[0] for one in found[:4]] == ["all 6 examples", "3 of 6 examples", "the section 'Rules'", "3 of 6 examples"]
    # Refused, they come in halves; the section that alone names the labels is never offered, but what else stands in it is.
    said = [one.said for one in found]
    assert "2 items, from 'Praise counts more than blame.' to 'Thanks are praise.'" in said
    assert "the item 'A question has no mood.'" in said
    assert "the sentence 'Write nothing else.'" in said
    assert not any("Answer" in one for one in said)
    halves = [one for one in found if one.said.startswith("3 of 6 examples")]
    assert len(halves) == 2 and {*halves[0].shown, *halves[1].shown} == {one.id for one in SORTING.examples}
    assert sum(one.said.startswith("the example ") for one in found) == 6


def test_nothing_small_is_proposed_while_something_large_is_left() -> None:
    spared = [one.tokens for one in deletions(candidate_of(PROMPT), SORTING, 0)]
    assert spared == sorted(spared, reverse=True)
    shrinking = Shrinking(candidate_of(PROMPT), SORTING, 0)
    while batch := shrinking.propose(5):
        assert batch[0].tokens == max(one.tokens for one in batch) <= 2 * min(one.tokens for one in batch)
        for one in batch:
            shrinking.told(one, kept=False)


def test_what_must_stay_does_not_keep_its_neighbours() -> None:
    text = f"Read it with care. {NAMES} Take your time. Be kind to all. Write no more."
    assert [one.said.split(",")[0] for one in deletions(candidate_of(text, shown=0), SORTING, 0)][:2] == ["2 sentences", "2 sentences"]


def test_each_deletion_says_what_is_left_and_what_it_spares() -> None:
    candidate = candidate_of(PROMPT)
    examples = {one.id: one for one in SORTING.examples}
    for one in deletions(candidate, SORTING, 3):
        left = with_examples(one.instructions, [examples[name] for name in one.shown])
        assert one.tokens == estimate(candidate.system) - estimate(left) > 0
        assert list(one.shown) == [name for name in candidate.shown if name in one.shown]
        assert lint(subject(SORTING, one.instructions)) == []
        assert (one.instructions == candidate.instructions) == (one.shown != candidate.shown)


def test_the_plan_is_the_same_for_the_same_seed_and_chance_halves_the_examples() -> None:
    candidate = candidate_of(PROMPT)
    plans = [[(one.instructions, one.shown) for one in deletions(candidate, SORTING, seed)] for seed in range(8)]
    assert plans[0] == [(one.instructions, one.shown) for one in deletions(candidate, SORTING, 0)]
    assert len({tuple(plan) for plan in plans}) > 1
    assert len({frozenset(instructions for instructions, _ in plan) for plan in plans}) == 1


def test_all_that_is_not_needed_goes() -> None:
    """With answers that depend on what must stay alone, what is left can't lose another piece."""
    shrinking = Shrinking(candidate_of(PROMPT), SORTING, 0)
    needed, example = ["You are careful.", "- A question has no mood."], SORTING.examples[1].id
    proposed = passed(shrinking, lambda one: all(text in one.instructions for text in needed) and example in one.shown)
    instructions, shown = shrinking.left
    assert instructions == f"# Role\nYou are careful.\n\n# Answer\n{NAMES}\n\n# Rules\n- A question has no mood.\n"
    assert shown == (example,)
    assert len(proposed) < 30


def test_a_round_of_several_measures_fewer_rounds_and_comes_to_the_same() -> None:
    def judge(one: Deletion) -> bool:
        return "careful" in one.instructions and len(one.shown) >= 2

    alone, together = (Shrinking(candidate_of(PROMPT), SORTING, 0) for _ in range(2))
    passed(alone, judge)
    passed(together, judge, limit=4)
    assert alone.left[0] == together.left[0] == f"# Role\nYou are careful.\n\n# Answer\n{NAMES}\n"
    assert len(alone.left[1]) == len(together.left[1]) == 2


texts = st.lists(
    st.sampled_from(["# Part", "## Below", "- item one", "- item: two", "  - nested", "One. Two. Three.", "Said so:", "", "これ。それ。"]),
    max_size=12,
).map(lambda lines: "\n".join([NAMES, "", *(f"{line} {number}" if line else "" for number, line in enumerate(lines))]))


@settings(max_examples=40, deadline=None)
@given(texts, st.integers(0, 6), st.integers(1, 4), st.randoms(use_true_random=False))
def test_it_ends_within_its_bound_and_never_asks_twice(text: str, shown: int, limit: int, rng: random.Random) -> None:
    candidate = candidate_of(text, shown=shown)
    parts = len(pieces(text)) + shown
    refused = passed(Shrinking(candidate, SORTING, 1), refuse, limit)
    answered = passed(Shrinking(candidate, SORTING, 1), lambda one: rng.random() < 0.3, limit)
    assert len(refused) <= 2 * parts
    assert len(answered) <= (limit + 1) * parts
    for proposed in (refused, answered):
        assert len({(one.instructions, one.shown) for one in proposed}) == len(proposed)
        assert all(one.tokens > 0 and lint(subject(SORTING, one.instructions)) == [] for one in proposed)


@settings(max_examples=40, deadline=None)
@given(texts, st.integers(0, 6), st.integers(1, 4))
def test_answers_that_never_come_count_as_refusals(text: str, shown: int, limit: int) -> None:
    silent, told = (Shrinking(candidate_of(text, shown=shown), SORTING, 1) for _ in range(2))
    proposed: list[Deletion] = []
    while batch := silent.propose(limit):
        proposed += batch
    assert {(one.instructions, one.shown) for one in proposed} == {(one.instructions, one.shown) for one in passed(told, refuse, limit)}
    assert silent.left == (text, tuple(one.id for one in SORTING.examples[:shown]))


def test_only_one_deletion_of_a_round_is_kept_and_the_others_come_again() -> None:
    shrinking = Shrinking(candidate_of(PROMPT), SORTING, 0)
    (whole,) = shrinking.propose(3)
    shrinking.told(whole, kept=False)
    first, third, second = shrinking.propose(3)
    assert third.said == "the section 'Rules'"
    shrinking.told(first, kept=True)
    with pytest.raises(ValueError, match="not measured together"):
        shrinking.told(third, kept=True)
    with pytest.raises(ValueError, match="not waited for"):
        shrinking.told(first, kept=True)
    shrinking.told(second, kept=False)
    again = shrinking.propose(1)
    assert [one.said for one in again] == [third.said]
    assert again[0].shown == first.shown and again[0].instructions == third.instructions
    with pytest.raises(ValueError, match="not waited for"):
        shrinking.told(second, kept=False)


def test_a_prompt_without_anything_to_delete() -> None:
    assert list(deletions(candidate_of(NAMES, shown=0), SORTING, 0)) == []
    assert list(deletions(candidate_of(f"# Answer\n{NAMES}\n", shown=0), SORTING, 0)) == []


def test_a_prompt_is_never_emptied() -> None:
    free = source_of(output="text", examples=[("a long text", "short"), ("another text", "brief")])
    assert list(deletions(candidate_of("# Task\nRewrite the text.", free, shown=0), free, 0)) == []
    assert {one.instructions for one in deletions(candidate_of("Rewrite it. Be brief.", free, shown=0), free, 0)} == {
        "Rewrite it.",
        "Be brief.",
    }


def test_only_examples_can_go() -> None:
    found = list(deletions(candidate_of(NAMES), SORTING, 0))
    assert found and all(one.instructions == NAMES for one in found)
    assert len(found) == 1 + 2 + 2 * 2 + 2 * 2  # all, halves, halves of three, and of two
    assert [one.said for one in deletions(candidate_of(NAMES, shown=1), SORTING, 0)] == [f"the only example, {SORTING.examples[0].id}"]


def test_what_alone_says_the_contract_stays() -> None:
    lines = "Answer with one of:\n- good: praise\n- evil: blame\n- mixed: both\n\nGood is good. Be kind.\n"
    for one in deletions(candidate_of(lines), SORTING, 0):
        assert "- evil" in one.instructions and "- mixed" in one.instructions and "good" in one.instructions.casefold()
    limited = source_of(output={"text": {"max_words": 45}}, examples=[("a long text", "short"), ("another text", "brief")])
    text = "Rewrite the text in plain words. Use at most 45 words. Keep every number."
    left = {one.instructions for one in deletions(candidate_of(text, limited, shown=2), limited, 0)}
    assert left == {text, "Use at most 45 words. Keep every number.", "Rewrite the text in plain words. Use at most 45 words."}
    twice = "Rewrite the text. Keep every number. Use at most 45 words. More than 45 words are too many."
    said = {one.instructions for one in deletions(candidate_of(twice, limited, shown=2), limited, 0)}
    assert len(said) > 3 and all("45" in one for one in said)
    keyed = source_of(output={"json": {"type": "object", "properties": {"queue": {"type": "string"}}}}, examples=[("x", {"queue": "y"})])
    for one in deletions(candidate_of('Read it. Give "queue" as JSON. Be brief.', keyed, shown=1), keyed, 0):
        assert "queue" in one.instructions


def test_a_fault_that_was_there_keeps_nothing_from_being_deleted_and_no_new_one_comes() -> None:
    faulty = f"{NAMES} Explain your choice. Be kind."
    assert {finding.code for finding in lint(subject(SORTING, faulty))} == {"asks-to-explain"}
    left = {one.instructions for one in deletions(candidate_of(faulty, shown=0), SORTING, 0)}
    assert {f"{NAMES} Be kind.", f"{NAMES} Explain your choice."} <= left


def test_the_template_can_be_shrunk() -> None:
    template = system_prompt(SORTING, [])
    shrinking = Shrinking(candidate_of(template), SORTING, 0)
    passed(shrinking, lambda _: True)
    instructions, shown = shrinking.left
    assert shown == () and estimate(instructions) < estimate(template) / 3
    assert lint(subject(SORTING, instructions)) == []


def test_five_hundred_lines_are_searched_by_halves() -> None:
    """Three lines of 500 are needed: the calls grow with their number and the logarithm of the length, not with the length."""
    lines = [f"- Rule {number}: thing {number} counts for little." for number in range(500)]
    text = "\n".join([NAMES, "", "# Rules", *lines]) + "\n"
    shrinking = Shrinking(candidate_of(text, shown=0), SORTING, 0)
    needed = [lines[3], lines[250], lines[491]]
    proposed = passed(shrinking, lambda one: all(line in one.instructions.split("\n") for line in needed))
    assert shrinking.left[0] == "\n".join([NAMES, "", "# Rules", *needed]) + "\n"
    assert len(proposed) < 70
