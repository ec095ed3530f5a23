"""The gate: what leads to which verdict, and that nothing passes by default."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.errors import InputError
from promptsmith.evals.gate import MAJORITY, Evidence, judge
from promptsmith.evals.rules import Condition, gate_mistakes, gate_rules, parse_condition
from promptsmith.receipt import CaseRow, Rules

INCUMBENT = "a" * 64


def evidence(passed: str, base: str | None = None, **more: Any) -> Evidence:
    """One case for each letter: ``+`` passes, ``.`` fails, ``?`` has no score."""
    value = {"+": 1.0, ".": 0.0, "?": None}
    before = [value[mark] for mark in base] if base is not None else [None] * len(passed)
    rows = [CaseRow(f"c{i}", value[mark], before[i], value[mark] or 0.0) for i, mark in enumerate(passed)]
    given: dict[str, Any] = {"rules": Rules(), "suite": "5" * 64, "prompt": "b" * 64, "against": INCUMBENT if base is not None else ""}
    return Evidence(rows=tuple(rows), **{**given, **more})


def verdict(found: Evidence) -> tuple[str, str]:
    judgement = judge(found)
    return judgement.verdict, "; ".join(judgement.reasons)


def test_nothing_passes_by_default() -> None:
    assert verdict(evidence(""))[0] == "inconclusive"
    assert verdict(evidence("", ""))[0] == "inconclusive"
    word, why = verdict(evidence("+" * 100))
    assert word == "inconclusive"
    assert "no other prompt is in production" in why


def test_one_unscored_case_leaves_everything_open() -> None:
    word, why = verdict(evidence("+" * 99 + "?", "+" * 100))
    assert (word, "1 case of 100 without a score (c99)" in why) == ("inconclusive", True)
    word, why = verdict(evidence("+" * 100, "+" * 99 + "?"))
    assert (word, "without a score of the baseline" in why) == ("inconclusive", True)
    thresholds = Rules(require={"pass_rate": ">= 0.9"})
    assert verdict(evidence("+" * 99 + "?", rules=thresholds))[0] == "inconclusive"


@pytest.mark.parametrize(("margin", "enough"), [(0.02, 133), (0.05, 52), (0.1, 25)])
def test_with_no_flips_the_margin_says_how_many_cases_it_takes(margin: float, enough: int) -> None:
    """The figures of the design, from one less and from exactly enough."""
    rules = Rules(margin=margin)
    assert verdict(evidence("+" * enough, "+" * enough, rules=rules))[0] == "promote"
    word, why = verdict(evidence("+" * (enough - 1), "+" * (enough - 1), rules=rules))
    assert word == "inconclusive"
    assert f"about {enough} cases would decide" in why


def test_worse_is_rejected_and_says_by_how_much() -> None:
    word, why = verdict(evidence("+" * 60 + "." * 40, "+" * 95 + "." * 5))
    assert word == "reject"
    assert "-35.0 points" in why
    assert "worse than production aaaaaaaaaaaa" in why


def test_better_is_promoted_and_names_what_could_go_unseen() -> None:
    word, why = verdict(evidence("+" * 95 + "." * 5, "+" * 90 + "." * 10))
    assert word == "promote"
    assert "a drop of up to 10 points could go unseen" in why


def test_a_must_pass_case_that_regresses_vetoes_any_gain() -> None:
    word, why = verdict(evidence("." + "+" * 99, "+" + "." * 99, must_pass=("c0",)))
    assert (word, why) == ("reject", "case c0 must pass and has regressed")
    assert verdict(evidence("." + "+" * 99, "." + "+" * 99, must_pass=("c0",)))[0] == "promote"
    majority = evidence("." + "+" * 99, "." * 100, must_pass=("c0",), against=MAJORITY + "yes")
    assert verdict(majority) == ("reject", "case c0 must pass and does not")


def test_a_first_promotion_must_beat_the_majority_answer() -> None:
    base = "+" * 40 + "." * 60
    assert verdict(evidence("+" * 80 + "." * 20, base, against=MAJORITY + "positive"))[0] == "promote"
    word, why = verdict(evidence(base, base, against=MAJORITY + "positive"))
    assert word == "inconclusive"
    assert "not shown to be better than the holdout's own majority answer positive" in why


def test_looks_divide_alpha() -> None:
    """A gain that one look shows, and a hundred looks do not."""
    found = {looks: evidence("+" * 52 + "." * 48, "+" * 40 + "." * 60, against=MAJORITY + "x", looks=looks) for looks in (1, 100)}
    once, often = (judge(found[looks]).comparison for looks in (1, 100))
    assert once is not None and often is not None
    assert often.alpha == once.alpha / 100
    assert often.lower is not None and once.lower is not None and often.lower < once.lower


def test_thresholds_judge_the_observed_value_or_an_end_of_its_interval() -> None:
    rows = "+" * 92 + "." * 8
    assert verdict(evidence(rows, rules=Rules(require={"pass_rate": ">= 0.92"})))[0] == "promote"
    word, why = verdict(evidence(rows, rules=Rules(require={"pass_rate": "lower95 >= 0.92"})))
    assert word == "reject"
    assert "pass_rate 0.92 (0.850 to 0.959) misses lower95 >= 0.92" in why
    assert verdict(evidence(rows, rules=Rules(require={"pass_rate": "lower95 >= 0.85"})))[0] == "promote"


def test_a_threshold_on_what_is_unknown_is_open_and_never_held() -> None:
    rules = Rules(require={"cost_per_1k_usd": "<= 0.4", "pass_rate": ">= 0.5"})
    word, why = verdict(evidence("+" * 50, rules=rules))
    assert (word, why) == ("inconclusive", "cost_per_1k_usd is not known, so <= 0.4 can't be judged")
    assert verdict(evidence("+" * 50, rules=rules, metrics={"cost_per_1k_usd": 0.3}))[0] == "promote"
    assert verdict(evidence("+" * 50, rules=rules, metrics={"cost_per_1k_usd": 0.5}))[0] == "reject"


def test_cheap_and_fast_alone_promote_nothing() -> None:
    rules = Rules(require={"p95_ms": "<= 1500"})
    assert verdict(evidence("." * 50, rules=rules, metrics={"p95_ms": 10.0}))[0] == "inconclusive"


def test_what_rules_out_and_what_leaves_open_come_first() -> None:
    assert verdict(evidence("+" * 50, "+" * 50, rejections=("holdout text in it",), doubts=("x",))) == ("reject", "holdout text in it")
    assert verdict(evidence("+" * 50, "+" * 50, doubts=("stopped early: x",))) == ("inconclusive", "stopped early: x")


def test_scores_are_compared_when_the_gate_says_so() -> None:
    rules = Rules(metric="score", margin=0.05)
    rng = random.Random(3)
    before = [rng.random() * 0.5 for _ in range(60)]

    def rows(gain: float) -> tuple[CaseRow, ...]:
        return tuple(CaseRow(f"c{i}", 0.0, 0.0, old + gain * (0.5 + rng.random()), old) for i, old in enumerate(before))

    better, worse = evidence("", "", rules=rules), evidence("", "", rules=rules)
    better, worse = (Evidence(rows=rows(gain), rules=rules, suite="s", prompt="p", against=INCUMBENT) for gain in (0.1, -0.0))
    assert judge(better).verdict == "promote"
    dropped = tuple(CaseRow(row.id, 0.0, 0.0, row.base_score or 0.0, row.score) for row in better.rows)
    assert judge(Evidence(rows=dropped, rules=rules, suite="s", prompt="p", against=INCUMBENT)).verdict == "reject"
    word, why = verdict(worse)
    assert (word, "fewer than 8 scores differ" in why) == ("inconclusive", True)


def test_repeats_are_clusters_of_their_case() -> None:
    """Ten repeats of ten cases are not a hundred cases."""
    rates = [0.9, 1.0, 0.8, 1.0, 1.0, 0.7, 1.0, 0.9, 1.0, 1.0]
    rows = tuple(CaseRow(f"c{i}", rate, 1.0, rate) for i, rate in enumerate(rates))
    judgement = judge(Evidence(rows=rows, rules=Rules(), suite="s", prompt="p", against=INCUMBENT))
    assert judgement.verdict == "inconclusive"
    assert judgement.comparison is not None and judgement.comparison.mcnemar is None


marks = st.text(alphabet="+.", min_size=1, max_size=60)


@given(marks, st.integers(1, 20), st.randoms())
def test_property_the_order_of_cases_decides_nothing(passed: str, looks: int, rng: random.Random) -> None:
    base = "".join(rng.choice("+.") for _ in passed)
    found = evidence(passed, base, looks=looks)
    shuffled = list(found.rows)
    rng.shuffle(shuffled)
    again = Evidence(rows=tuple(shuffled), rules=found.rules, suite=found.suite, prompt=found.prompt, against=found.against, looks=looks)
    assert judge(again).verdict == judge(found).verdict


# --- rules as written -------------------------------------------------------------------------------------


def test_rules_as_written_in_a_task() -> None:
    gate = {"require": {"pass_rate": ">= 0.92", "contract": "== 1", "p95_ms": "<=1500", "score": {"lower95": "> 0.9"}}, "margin": 0.05}
    rules = gate_rules(gate)
    assert rules.require == {"pass_rate": ">= 0.92", "contract": "== 1", "p95_ms": "<= 1500", "score": "lower95 > 0.9"}
    assert (rules.versus, rules.margin, rules.metric) == ("production", 0.05, "pass_rate")
    assert list(gate_mistakes(gate, [], [])) == []
    assert parse_condition("lower95 > 0.9") == Condition("lower95", ">", 0.9)


@pytest.mark.parametrize(
    ("gate", "what", "right"),
    [
        ({"require": {"pass_rate": "> 90%"}}, "shares are written from 0 to 1", "'>= 0.9'"),
        ({"require": {"pass_rate": "0,9"}}, "a point, not a comma", ">= 0.9"),
        ({"require": {"pass_rate": "0.9"}}, "no threshold", ">= 0.92"),
        ({"require": {"pass_rate": 0.9}}, "no threshold", ">= 0.92"),
        ({"require": {"pass_rate": ">= 90"}}, "90 can't be reached", ">= 0.9"),
        ({"require": {"pass_rate": ">= 0.9 "}}, None, None),
        ({"require": {"passrate": ">= 0.9"}}, "there is no metric 'passrate'", "pass_rate"),
        ({"require": {"scorers.judg": ">= 0.9"}}, "there is no metric 'scorers.judg'", "scorers.judge"),
        ({"require": {"p95_ms": {"lower95": "<= 10"}}}, "no interval", "<= 10"),
        ({"require": {"score": {"lower": ">= 0.9"}}}, "no threshold", "lower95"),
        ({"require": {"score": ">= -1"}}, "no threshold", ">= 0.92"),
        ({"require": {"score": ">= nan"}}, "no threshold", ">= 0.92"),
        ({"must_pass": ["hart"]}, "no case of the holdout has the tag 'hart'", "hard"),
    ],
)
def test_rules_that_are_wrong_say_what_would_be_right(gate: dict[str, Any], what: str | None, right: str | None) -> None:
    found = list(gate_mistakes(gate, ["judge"], ["hard"]))
    if what is None:
        assert found == []
        return
    assert len(found) == 1
    assert what in found[0].what
    assert right is not None and right in found[0].right
    if "require" in gate and "metric" not in found[0].what and "interval" not in what and "reached" not in what:
        with pytest.raises(InputError):
            gate_rules(gate)
