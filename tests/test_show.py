"""Reports in text: the same verdict everywhere, in words; nothing of an output acts on what shows it."""

from __future__ import annotations

import html as entities
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptsmith.errors import InputError
from promptsmith.evals.report import Report
from promptsmith.evals.show import compare, words
from promptsmith.evals.show.data import data, json_safe
from promptsmith.evals.show.junit import junit
from promptsmith.evals.show.markdown import escaped, markdown
from promptsmith.evals.show.terminal import aligned, columns, cut, summary, terminal
from promptsmith.receipt import Rules

from .made_reports import HOSTILE, LONG, answer, first_report, made_report, repeated_report, text_report, unscored, worse_report

REPORTS = (worse_report, text_report, first_report, repeated_report)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff\ufffe]")


def with_head(report: Report, **more: object) -> Report:
    """``report`` with other fields in its head."""
    return msgspec.structs.replace(report, head=msgspec.structs.replace(report.head, **more))


def read_as_markdown(text: str) -> str:
    """What a reader sees of one line of Markdown."""
    return entities.unescape(text.replace("**", "")).replace("\u200b", "")


# --- the verdict in the same words ------------------------------------------------------------------------


@pytest.mark.parametrize("make", REPORTS)
def test_the_verdict_is_in_the_same_words_in_every_form(make: Callable[[], Report]) -> None:
    report = make()
    verdict = words.verdict_line(report.head.judgement)
    assert verdict == f"{report.head.judgement.verdict}: {'; '.join(report.head.judgement.reasons)}"
    assert terminal(report).splitlines()[0] == verdict
    assert summary(report).splitlines()[0] == verdict
    assert data(report)["says"] == verdict
    assert read_as_markdown(markdown(report).splitlines()[0]) == verdict
    gate = ET.fromstring(junit(report)).find(".//testcase[@name='gate']")
    assert gate is not None
    said = gate.findtext("system-out") if report.head.judgement.verdict == "promote" else gate[0].get("message")
    assert said is not None
    assert said.splitlines()[0] == verdict


def test_the_three_verdicts_are_shown_here() -> None:
    assert {make().head.judgement.verdict for make in REPORTS} == {"promote", "reject", "inconclusive"}


def test_a_verdict_with_hostile_ids_stays_on_its_line() -> None:
    report = made_report([(f"a\n{HOSTILE}", "x", [unscored()], ()), ("b", "x", [answer("x", "x")], ())])
    first = terminal(report).splitlines()[0]
    assert first == words.verdict_line(report.head.judgement)
    assert "\\n</script>" in first
    assert not CONTROL.search(first)


# --- terminal ---------------------------------------------------------------------------------------------


def test_the_terminal_tells_in_the_order_of_need() -> None:
    text = terminal(worse_report(), width=120)
    places = [text.index(part) for part in ("reject: ", "baseline   ", "pass rate", "difference", "thresholds", "regressed: 14 cases")]
    places += [
        text.index(part) for part in ("\nfixed: 3 cases", "\nstill failing: 4 cases", "\ntags\n", "\nleft the suite: 1 case", "\nnotes\n")
    ]
    assert places == sorted(places)
    assert "93.0 % (86.3 to 96.6)" in text
    assert "ticket-000 [angry, short]" in text
    assert "look 3 at this holdout" in text
    assert "its texts were revealed 1 time" in text
    assert "inputs: sealed; --reveal shows them" in text
    assert "$0.0800 paid by this run" in text
    assert "78.8 % of input tokens" in text
    assert "ticket-900: the candidate was built from it" in text


def test_a_case_says_expected_before_now_and_why() -> None:
    text = terminal(text_report(), width=100)
    block = text[text.index("order-4412 [json]") :].split("\n  hostile")[0]
    labels = re.findall(r"^    (\w+)", block, re.MULTILINE)
    assert labels == ["expected", "before", "now", "why"]
    assert "items[0].price 0.00" in " ".join(block.split())
    assert "Where is my order 4412?\\nIt was due on Monday." in text, "revealed inputs are shown"


def test_short_answers_take_a_line_a_case() -> None:
    lines = terminal(worse_report(), width=120).splitlines()
    header = next(line for line in lines if line.split() == ["case", "expected", "before", "now", "why"])
    row = next(line for line in lines if "ticket-003" in line)
    assert row.index("feature request") == header.index("expected")
    assert row.index("billing") == header.index("now")


@pytest.mark.parametrize("width", [10, 40, 80, 200])
@pytest.mark.parametrize("make", REPORTS)
def test_lines_keep_to_the_width(make: Callable[[], Report], width: int) -> None:
    body = terminal(make(), width=width).splitlines()[1:]
    assert max(map(columns, body)) <= max(width, 40)


def test_wide_characters_take_two_columns() -> None:
    assert columns("日本") == 4
    assert columns("e\u0301") == 1
    assert cut("日本語", 5) == "日本…"
    rows = list(aligned([["日本", "a"], ["x", "b"]], 40))
    assert [columns(row[: row.index(last)]) for row, last in zip(rows, "ab", strict=True)] == [6, 6]
    report = made_report([("c", "日" * 300, [answer("本" * 300, "日" * 300)], [answer("日" * 300, "日" * 300)])])
    assert max(map(columns, terminal(report, width=60).splitlines()[1:])) <= 60


def test_colours_only_when_asked_for() -> None:
    plain, colored = terminal(worse_report()), terminal(worse_report(), color=True)
    assert "\x1b" not in plain
    assert colored.startswith("\x1b[1;31mreject: ")
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain


def test_nothing_in_an_output_reaches_the_terminal_as_control() -> None:
    assert not CONTROL.search(terminal(text_report(), width=200))
    assert "\\x1b[2J" in terminal(text_report(), width=200)


def test_long_lists_are_bounded_and_say_how_to_see_the_rest() -> None:
    report = made_report([(f"c{i}", "x", [answer("y", "x")], [answer("x", "x")]) for i in range(500)])
    text = terminal(report)
    assert text.count("  expected  x") + len(re.findall(r"^  c\d+ .*expected 'x', got 'y'", text, re.MULTILINE)) == 20
    assert f"and 480 more: promptsmith report {report.head.id} --html FILE" in text
    assert len(text.splitlines()) < 150


def test_long_outputs_are_shortened_and_say_their_length() -> None:
    report = made_report([("c", "x", [answer("y" * 1_000_000, "x")], [answer("x", "x")])])
    assert "(1,000,000 characters)" in terminal(report)
    assert len(terminal(report)) < 5000


def test_what_is_no_answer_of_a_model_is_named() -> None:
    text = terminal(first_report(), width=200)
    assert "builtin/nearest is no language model" in text
    assert "all 40 answers replayed from a record; no model was called" in text
    assert "costs and latencies of the arms are those of the answers used" in text
    some = made_report([(f"c{i}", "x", [answer("x", "x", source="record" if i else "model")], ()) for i in range(4)])
    assert "3 of 4 answers replayed from a record" in terminal(some, width=200)
    assert "replayed" not in terminal(worse_report())
    assert "no model was called" in terminal(made_report([("c", "x", [answer("x", "x", source="file")], ())], part="outputs"), width=200)
    assert "no evidence for a promotion" in terminal(made_report([("c", "x", [answer("x", "x")], ())], part="dev"), width=200)


def test_repeats_show_their_rates_and_the_flaky_cases() -> None:
    text = terminal(repeated_report(), width=200)
    assert "each asked 5 times" in text
    assert "pass^5" in text
    assert "4 of 5 passed: billing" in text
    assert re.search(r"flaky\n  candidate: \d+ cases: c", text)


def test_an_empty_report_is_inconclusive_in_every_form() -> None:
    report = made_report([])
    assert terminal(report).startswith("inconclusive: there is no case to judge on")
    assert data(report)["counts"]["cases"] == 0
    assert markdown(report).startswith("**inconclusive**: ")
    assert ET.fromstring(junit(report)).get("errors") == "1"


# --- JSON -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", REPORTS)
def test_data_is_json(make: Callable[[], Report]) -> None:
    found = data(make())
    assert json.loads(json.dumps(found, allow_nan=False, ensure_ascii=False).encode()) == found


def test_data_has_the_names_that_programs_rely_on() -> None:
    found = data(worse_report())
    assert {
        "version",
        "verdict",
        "says",
        "reasons",
        "exit_code",
        "pass_rate",
        "comparison",
        "thresholds",
        "arms",
        "counts",
        "cases",
    } <= set(found)
    assert found["exit_code"] == 1
    assert found["counts"] == {"cases": 100, "regressed": 14, "fixed": 3, "failing": 4, "unscored": 0, "passing": 79}
    assert found["pass_rate"]["value"] == pytest.approx(0.82)
    assert found["comparison"]["difference"] == pytest.approx(-0.11)
    assert [arm["role"] for arm in found["arms"]] == ["candidate", "baseline"]
    assert found["arms"][0]["provider_cache_share"] == pytest.approx(640 / 812)
    first = found["cases"][0]
    assert (first["id"], first["group"], first["inputs"]) == ("ticket-000", "regressed", None)
    assert first["answers"]["baseline"][0]["output"] == first["expected"]
    assert first["answers"]["candidate"][0]["tokens_in"] == 812


def test_an_unscored_case_has_no_score_and_no_output() -> None:
    case = next(case for case in data(text_report())["cases"] if case["id"] == "outage")
    assert (case["group"], case["passed"], case["score"]) == ("unscored", None, None)
    assert case["answers"]["candidate"][0]["output"] is None
    assert case["answers"]["candidate"][0]["why"] == "the provider failed: 503"


def test_what_json_cannot_hold_is_made_so() -> None:
    assert json_safe({"a\ud800": [float("nan"), float("inf"), 1.5, "\udfff", None, True]}) == {
        "a\\ud800": [None, None, 1.5, "\\udfff", None, True]
    }


# --- JUnit ------------------------------------------------------------------------------------------------

SCHEMA: dict[str, set[str]] = {
    "testsuites": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "testcase": {"classname", "name", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
    "properties": set(),
    "property": {"name", "value"},
    "system-out": set(),
}
"""Attributes of each element; all of them are written, and nothing else."""
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "testcase": {"failure", "error", "skipped", "system-out"},
    "properties": {"property"},
}


def check_schema(root: ET.Element) -> None:
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) == SCHEMA[element.tag]
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    for element in (root, *root.findall("testsuite")):
        for key, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.attrib[key]) == sum(1 for _ in element.iter(tag)), key
    for case in root.iter("testcase"):
        assert len(case) <= 1
        assert case.attrib["name"]
        assert float(case.attrib["time"]) >= 0


@pytest.mark.parametrize("make", REPORTS)
def test_junit_has_the_form_that_servers_read(make: Callable[[], Report]) -> None:
    check_schema(ET.fromstring(junit(make())))


def test_junit_names_suite_and_cases_as_people_do() -> None:
    root = ET.fromstring(junit(worse_report()))
    suite = root.find("testsuite")
    assert suite is not None
    assert suite.get("name") == "support/triage (holdout)"
    names = [case.get("name") for case in suite.findall("testcase")]
    assert names[:2] == ["gate", "ticket-000 [angry, short]"]
    assert {case.get("classname") for case in suite.iter("testcase")} == {"support/triage"}
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == ("102", "19", "0", "1")


def test_a_failure_says_expected_actual_why_and_paths() -> None:
    root = ET.fromstring(junit(text_report()))
    case = root.find(".//testcase[@name='order-4412 [json]']/failure")
    assert case is not None
    message = case.attrib["message"]
    assert 'expected \'{"order": 4412' in message
    assert 'got \'{"order": 4412' in message
    assert "items[0].price 0.00" in message
    assert "path items[0].price (exact): 0.00" in (case.text or "")
    assert case.get("type") == "regressed"
    assert "input: sealed; --reveal shows them" in (case.text or "")
    revealed = root.find(".//testcase[@name='letter-brandt']/failure")
    assert revealed is not None
    assert "Where is my order 4412?\nIt was due" in (revealed.text or "")


def test_an_unscored_case_is_an_error_and_one_that_left_is_skipped() -> None:
    error = ET.fromstring(junit(text_report())).find(".//testcase[@name='outage']/error")
    assert error is not None
    assert error.attrib == {"message": "no score: the provider failed: 503", "type": "unscored"}
    skipped = ET.fromstring(junit(worse_report())).find(".//testcase[@name='ticket-900']/skipped")
    assert skipped is not None
    assert skipped.get("message") == "left the suite: the candidate was built from it"


@pytest.mark.parametrize(("make", "tag"), [(worse_report, "failure"), (text_report, "error"), (first_report, "system-out")])
def test_the_gate_is_a_case_that_fails_unless_it_promotes(make: Callable[[], Report], tag: str) -> None:
    gate = ET.fromstring(junit(make())).find(".//testcase[@name='gate']")
    assert gate is not None
    assert [child.tag for child in gate] == [tag]
    assert "candidate: " in (gate[0].text or "")


def test_several_reports_are_several_suites() -> None:
    root = ET.fromstring(junit(worse_report(), first_report(task="other")))
    check_schema(root)
    assert [suite.get("name") for suite in root] == ["support/triage (holdout)", "other (holdout)"]


@given(st.text(st.characters(), max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_output_gives_valid_xml(text: str) -> None:
    report = made_report([("c", "x", [answer(text, "x", source="model")], ()), ("d", "x", [unscored(text)], ())])
    root = ET.fromstring(junit(report).encode())
    check_schema(root)
    assert not CONTROL.search("".join(root.itertext()))


@given(st.text(st.characters(), max_size=200))
@settings(max_examples=200, deadline=None)
def test_visible_text_prints_and_keeps_what_prints(text: str) -> None:
    shown = words.visible(text)
    assert shown.isprintable()
    assert words.visible(shown) == shown
    assert shown == text or not text.isprintable()
    assert words.visible(text, keep=text) == text


# --- Markdown ---------------------------------------------------------------------------------------------


def crowded_report() -> Report:
    """Long everything: ids, tags, outputs, reasons, notes, cases that left, scorers."""
    rows = [(f"{i}-{'id|`*' * 40}", LONG * 9, [answer(HOSTILE * 30, LONG)], [answer(LONG * 9, LONG * 9)]) for i in range(300)]
    tags = {row[0]: (f"tag-{i}-{HOSTILE * 5}",) for i, row in enumerate(rows)}
    left = {f"left-{i}-{HOSTILE}": HOSTILE * 10 for i in range(100)}
    return made_report(rows, tags=tags, left=left, notes=(HOSTILE * 50,) * 50, rejections=(HOSTILE * 100,))


@pytest.mark.parametrize("make", [*REPORTS, crowded_report])
def test_markdown_fits_a_comment(make: Callable[[], Report]) -> None:
    text = markdown(make())
    assert len(text) < 8000
    assert text.count("<details>") == text.count("</details>")
    assert f"promptsmith report {make().head.id} --html FILE" in text


def test_markdown_of_a_crowded_report_still_has_the_verdict_and_says_what_is_missing() -> None:
    text = markdown(crowded_report())
    assert text.startswith("**reject**: ")
    assert re.search(r"more|left out for length", text)


def test_markdown_tables_keep_their_shape() -> None:
    for make in (*REPORTS, crowded_report):
        size = 0
        for line in markdown(make()).splitlines():
            cells = line.count("|")
            size = (size or cells) if line.startswith("|") else 0
            assert cells == size, line


def test_an_output_is_nothing_but_text_in_markdown() -> None:
    text = markdown(text_report(notes=("@octocat, see #1, https://example.org and www.example.org `x` _y_ **z** [a](b) <b>",)))
    assert "<img" not in text
    assert "</script" not in text
    assert not CONTROL.search(text)
    assert not re.search(r"(?<!\w)[@#]\w", entities.unescape(text))
    note = next(line for line in text.splitlines() if "octocat, see" in line)
    assert read_as_markdown(note) == "- @octocat, see #1, https://example.org and www.example.org `x` _y_ **z** [a](b) <b>"
    assert not re.search(r"[`*\[\]<]", note), "nothing is left that Markdown would read"
    assert "://" not in note


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\u200b"), max_size=100))
def test_escaping_for_markdown_loses_nothing(text: str) -> None:
    assert entities.unescape(escaped(text)).replace("\u200b", "") == text
    assert not re.search(r"[<|*`\[\]\\~!$]", escaped(text))


def test_details_are_folded_but_regressed_cases_are_not() -> None:
    text = markdown(worse_report())
    assert text.index("**regressed: 14**") < text.index("<details>")
    assert "<details><summary>fixed: 3</summary>" in text
    assert "<details><summary>still failing: 4</summary>" in text
    assert "<details><summary>notes: " in text


# --- comparison -------------------------------------------------------------------------------------------


def of_model(name: str, wrong: int, cost: float, seconds: float, **more: object) -> Report:
    rows = [(f"c{i}", "x", [answer("x" if i >= wrong else "y", "x", cost=cost, latency=seconds)], ()) for i in range(50)]
    return made_report(rows, model=name, **more)


def test_the_pareto_front_is_marked() -> None:
    reports = [
        of_model("a/best", 0, 0.004, 2.0),
        of_model("a/cheap", 10, 0.0001, 0.5),
        of_model("a/beaten", 12, 0.0002, 0.6),
        of_model("a/fast", 10, 0.001, 0.1),
    ]
    found = compare.compared(reports)
    assert found.comparable
    assert [entry.front for entry in found.entries] == [True, True, False, True]
    assert [row[2] for row in compare.rows(found)[1:]] == ["a/best", "a/cheap", "a/fast", "a/beaten"]
    text = compare.terminal(reports, width=140)
    assert "Pareto front: none of the others is at least as good in score, cost, latency" in text
    line = next(line for line in text.splitlines() if line.startswith("A ") and "100.0 %" in line)
    assert line.endswith("*")
    assert "$4.0000" in line
    assert "2,000 ms" in line
    assert "B against A: pass rate -20.0 points (" in text


def test_prompts_by_models_is_a_grid() -> None:
    reports = [
        of_model(model, wrong, 0.001, 1.0, prompt=prompt)
        for wrong, (model, prompt) in enumerate([("m/1", "p"), ("m/2", "p"), ("m/1", "q")])
    ]
    lines = compare.grid(compare.compared(reports))
    assert lines[0] == ["prompt", "m/1", "m/2"]
    assert [row[2] for row in lines[1:]] == ["B 0.980, $1.0000, 1,000 ms", "-"]
    assert lines[1][1] == "A 1.000, $1.0000, 1,000 ms *"


def test_reports_on_different_suites_are_not_comparable() -> None:
    reports = [of_model("a/1", 0, 0.001, 1.0), of_model("a/2", 5, 0.001, 1.0, suite="another")]
    assert "not comparable: these are reports on different suites" in compare.terminal(reports)
    found = compare.data(reports)
    assert found["comparable"] is False
    assert not any(entry["front"] for entry in found["entries"])
    assert found["paired"] == []


def test_an_unknown_price_has_no_place_on_the_front() -> None:
    unknown = of_model("a/2", 0, 0.001, 1.0)
    unknown = made_report([("c", "x", [answer("x", "x", cost=None)], ())], model="a/2")
    reports = [of_model("a/1", 10, 0.001, 1.0), unknown]
    found = compare.compared(reports)
    assert [entry.front for entry in found.entries] == [True, False]
    text = compare.terminal(reports, width=200)
    assert "not placed, because a price or a score is unknown: B" in text
    assert "judged on different cases: A 50, B 1" in text
    nobody = [made_report([("c", "x", [answer("x", "x", cost=None)], ())], model=name) for name in ("a/1", "a/2")]
    assert "unknown of all, so not weighed: cost" in compare.terminal(nobody)


def test_what_is_no_model_is_named_in_a_comparison() -> None:
    assert "A: candidate: builtin/nearest is no language model" in " ".join(compare.terminal([first_report(), worse_report()]).split())


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_a_comparison_keeps_to_the_width(width: int) -> None:
    reports = [of_model(f"acme/some-long-model-name-{i}", i, 0.001, 1.0, prompt=str(i)) for i in range(3)]
    text = compare.terminal(reports, width=width)
    assert max(map(columns, text.splitlines())) <= width
    assert text.count(" to ") >= 3 + 2, "no interval is cut"
    assert "…" not in text


def test_comparison_data_is_json() -> None:
    found = compare.data([worse_report(), text_report(), repeated_report()])
    assert json.loads(json.dumps(found, allow_nan=False).encode()) == found
    assert [entry["letter"] for entry in found["entries"]] == ["A", "B", "C"]
    assert found["entries"][0]["verdict"] == "reject"


def test_comparing_takes_two() -> None:
    with pytest.raises(InputError, match="two reports or more"):
        compare.compared([worse_report()])


# --- words ------------------------------------------------------------------------------------------------


def test_every_case_is_in_one_group() -> None:
    for make in REPORTS:
        report = make()
        found = words.groups(report)
        assert list(found) == list(words.GROUPS)
        assert sorted(case.id for cases in found.values() for case in cases) == sorted(case.id for case in report.cases)


def test_thresholds_say_what_was_observed() -> None:
    report = made_report(
        [(f"c{i}", "x", [answer("x" if i else "y", "x", cost=None)], ()) for i in range(10)],
        rules=Rules(require={"pass_rate": ">= 0.95", "cost_per_1k_usd": "<= 1", "contract": "== 1"}),
    )
    assert [words.threshold_line(one) for one in report.head.judgement.thresholds] == [
        "pass_rate 0.9 (0.596 to 0.982), required >= 0.95: missed",
        "cost_per_1k_usd unknown, required <= 1: can't be judged",
        "contract 1, required == 1: holds",
    ]


def test_the_reference_stands_last_with_what_was_observed_of_it() -> None:
    report = worse_report()
    arms = (report.head.arms[0], msgspec.structs.replace(report.head.arms[1], role="reference"))
    report = with_head(report, arms=arms, against="majority answer billing")
    assert [column.role for column in words.arm_columns(report)] == ["baseline", "candidate", "reference"]
    assert words.share_within(words.arm_columns(report)[2].rate) == "93.0 % (86.3 to 96.6)"
    assert words.arm_columns(report)[0].arm is None
    assert "reference  8ba8496a2525" in terminal(report)


def test_recorded_outputs_have_no_latency_and_no_cost() -> None:
    report = made_report([("c", "x", [answer("x", "x", source="outputs", latency=0.0, cost=None)], ())], part="outputs")
    arm = msgspec.structs.replace(report.head.candidate, prompt="", model="recorded outputs", name="o.jsonl")
    report = with_head(report, arms=(arm,))
    rows = {row[0]: row[-1] for row in words.arm_table(report)[1]}
    assert rows["latency p50, p95"] == "unknown, unknown"
    assert rows["tokens"] == "unknown in, unknown out"
    assert data(report)["arms"][0]["metrics"]["p95_ms"] is None
    assert compare.compared([report, worse_report()]).entries[0].p95 is None
    assert "costs and latencies" not in terminal(report)


def test_answers_of_the_builtin_are_not_said_to_come_from_a_model() -> None:
    rows = {row[0]: row[-1] for row in words.arm_table(made_report([("c", "x", [answer("x", "x")], ())], model="builtin/nearest"))[1]}
    assert rows["answers from"] == "builtin/nearest (all 1)"


def test_the_baseline_of_a_first_promotion_is_named_and_not_asked() -> None:
    report = first_report()
    column = words.arm_columns(report)[0]
    assert (column.role, column.label, column.arm) == ("baseline", "holdout's own majority answer billing", None)
    assert words.heading(report, "failing") == "failing"
    assert words.before(report, report.cases[0]) == words.Said("", None)


def test_a_receipt_as_baseline_tells_what_it_knows() -> None:
    report = made_report([("c", "x", [answer("y", "x")], ())])
    row = report.cases[0].row._replace(base_passed=1.0)
    report = with_head(
        msgspec.structs.replace(report, cases=(msgspec.structs.replace(report.cases[0], row=row),)), against="receipt " + "a" * 64
    )
    assert words.answer_text(words.before(report, report.cases[0])) == "passed (from its receipt)"
    assert "regressed: 1 case" in terminal(report)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "unknown"), (0.0, "$0"), (0.4, "$0.4000"), (12.5, "$12.5000"), (0.00004, "$4e-05"), (0.0005, "$0.0005")],
)
def test_dollars(value: float | None, shown: str) -> None:
    assert words.dollars(value) == shown


def test_the_two_ends_of_a_difference_say_their_levels() -> None:
    """The upper end rejects, at a stricter level than the lower one promotes; ten looks make both as strict."""
    found = worse_report(20).head.judgement
    assert found.comparison is not None
    assert "lower end at one-sided 95.0 %, upper at one-sided 97.5 %" in words.difference_line(found)
    looked = msgspec.structs.replace(found, comparison=msgspec.structs.replace(found.comparison, alpha=0.005))
    assert "each end at one-sided 99.5 %" in words.difference_line(looked)
