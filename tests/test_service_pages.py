"""The service's pages: what they say, whose forms they show, what hostile text does to them; and all of them in a browser."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.pages import provenance, report, trace
from promptsmith.pages.frame import PLACES, Frame, Notice, policy
from promptsmith.pages.service import costs, doors, overview, paths, reports, task, traces, tryout, words
from promptsmith.pages.service.values import CostRow, Fault, Figures, Hours, Overview
from promptsmith.prompt import Variable
from promptsmith.registry.protocol import OutsideMove

from . import made_service_pages as made
from .made_outcomes import chain
from .made_reports import HOSTILE, made_report, unscored, worse_report
from .made_reports import answer as attempt
from .made_searches import kept_search, made_search
from .test_pages import Parsed, browser

WILD = f"{HOSTILE} \u2028\u2029 </textarea></style><b>"
"""In every place that takes a text."""
TAME = WILD.replace("\ud800", "")
"""The same where UTF-8 is asked for."""
LINE = "x" * 100_000

PAGES: dict[str, Callable[[Frame], str]] = {
    "overview": lambda frame: overview.html(made.overview(), frame),
    "no_tasks": lambda frame: overview.html(Overview(tasks=()), frame),
    "task": lambda frame: task.html(made.task_page(), frame),
    "task_candidate": lambda frame: task.html(made.task_page(1, compared=None, canary=None), frame),
    "task_bare": lambda frame: task.html(
        made.task_page(0, compared=None, canary=None, receipt=None, moves=(), before={}, production=None, versions=(), cacheability=()),
        frame,
    ),
    "reports": lambda frame: reports.html(made.reports(), frame),
    "traces": lambda frame: traces.html(made.traces(), frame),
    "costs": lambda frame: costs.html(made.costs(), frame),
    "try": lambda frame: tryout.html(made.try_it(), frame),
    "try_answered": lambda frame: tryout.html(
        made.try_it(inputs=made.INPUTS, given={"message": "paid twice"}, answer=made.answer()), frame
    ),
    "try_failed": lambda frame: tryout.html(made.try_it(given={"input": "paid twice"}, error="the provider failed: 503"), frame),
    "try_tasks": lambda frame: tryout.choose(made.TASKS, frame),
    "sign_in": lambda frame: doors.sign_in(frame, leads_to="/costs", wrong="this key is not known here"),
    "fault": lambda frame: doors.fault(made.FAULT, frame),
}  # fmt: skip
OFFLINE: dict[str, Callable[[Frame], str]] = {
    "report": lambda frame: report.html(worse_report(), frame.at("reports")),
    "trace": lambda frame: trace.html(chain(5), frame.at("traces")),
    "provenance": lambda frame: provenance.html(kept_search(made_search()), frame.at("overview")),
}
FRAMES = {"admin": made.frame(), "lock": made.frame(server_registry=False), "reader": made.reader()}


def hostile_pages(frame: Frame) -> dict[str, str]:
    """Every page with hostile text wherever text goes."""
    prompt = made.prompt(
        2,
        model=TAME,
        inputs=(Variable("input", about=TAME), Variable("two", default=TAME)),
        system=f"{TAME}\n{LINE}",
    )
    move = made.moves(1)[0]
    wild = msgspec.structs.replace
    versions = (wild(made.versions()[0], id=prompt.id, model=WILD, aliases=(WILD,), origin=WILD, verdict=WILD), *made.versions())
    page = made.task_page(
        task=WILD, chosen=WILD, origin=WILD, prompt=prompt, versions=versions, cacheability=(WILD, LINE), trouble=WILD,
        compared=(prompt, made.prompt(1, system=LINE + TAME)), before={WILD: WILD},
        production=wild(made.task_page().production, who=WILD, since=WILD),
        moves=(wild(move, who=WILD, why=WILD, when=WILD, alias=WILD),), canary=made.canary(why=WILD, says=(WILD, LINE), alias=WILD),
        receipt=wild(made.receipt(prompt), rejections=(WILD, LINE), doubts=(WILD,), against=WILD),
        outside=(OutsideMove(WILD, WILD, WILD),), window=WILD,
    )  # fmt: skip
    rows = tuple(
        wild(row, task=WILD, trouble=LINE, production=made.Production(id=WILD, since=WILD, who=WILD, model=WILD))
        for row in made.overview().tasks[:2]
    )
    head = made_report([("c", "x", [unscored(WILD)], [attempt("x", "x")])], task=WILD, model=WILD).head
    run = wild(made.traces().runs[0], title=WILD + LINE, state=WILD, run=WILD)
    return {
        "overview": overview.html(Overview(tasks=rows, window=WILD), frame),
        "task": task.html(page, frame),
        "reports": reports.html(made.reports(heads=(head,), tasks=(WILD,), task=WILD), frame),
        "traces": traces.html(made.traces(runs=(run,)), frame),
        "costs": costs.html(made.costs(tasks=(CostRow(WILD, Figures()),), window=WILD), frame),
        "try": tryout.html(
            made.try_it(task=WILD, refs=(WILD,), inputs=prompt.inputs, given={"input": WILD},
                        answer=made.answer(text=WILD + LINE, kept=False, why=WILD, model=WILD)),
            frame,
        ),
        "try_failed": tryout.html(made.try_it(given={"input": WILD}, error=WILD + LINE), frame),
        "sign_in": doors.sign_in(frame, leads_to=WILD, wrong=WILD),
        "fault": doors.fault(Fault(status=400, what=WILD + LINE, hint=WILD, request=WILD), frame),
    }  # fmt: skip


WILD_FRAME = made.frame(project=WILD, who=WILD, csrf=WILD, notice=Notice(WILD, good=False))


# --- every page -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("name", [*PAGES, *OFFLINE])
def test_a_page_has_one_navigation_a_skip_link_landmarks_and_headings_in_order(name: str, frame: Frame) -> None:
    html = {**PAGES, **OFFLINE}[name](frame)
    parsed = Parsed(html)
    assert parsed.open == []
    assert len(parsed.all("nav")) == len(parsed.all("main")) == len(parsed.all("h1")) == 1
    assert [link["href"] for link in parsed.all("a")][:6] == ["#main", *(address for _, address, _ in PLACES)]
    assert parsed.all("main")[0]["id"] == "main"
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("name", [*PAGES, *OFFLINE])
def test_style_and_script_carry_the_nonce_and_nothing_else_is_loaded(name: str) -> None:
    html = {**PAGES, **OFFLINE}[name](made.frame())
    parsed = Parsed(html)
    for element in (*parsed.all("style"), *parsed.all("script")):
        assert element == {"nonce": made.frame().nonce}
    assert next(meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta) == policy(made.frame().nonce)
    assert not {tag for tag, _ in parsed.elements} & {"img", "iframe", "object", "embed", "base", "video", "audio", "source"}
    assert not re.search(r"url\(|@import|https?://", html)
    for tag, attributes in parsed.elements:
        assert not [key for key in attributes if key.startswith("on") or key == "style"], tag
        for key in ("href", "action", "src"):
            assert re.match("[/#]|data:,$", attributes.get(key) or "/"), "only this server's pages"


def test_the_policy_lets_in_what_has_the_nonce() -> None:
    assert policy("abc") == (
        "default-src 'none'; style-src 'nonce-abc'; script-src 'nonce-abc'; connect-src 'self'; form-action 'self'; "
        "img-src data:; base-uri 'none'"
    )


@pytest.mark.parametrize("name", PAGES)
def test_every_table_has_a_caption_and_scopes(name: str) -> None:
    parsed = Parsed(PAGES[name](made.frame()))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(header.get("scope") in ("col", "row") for header in parsed.all("th"))


def test_where_the_viewer_is_stands_in_the_navigation() -> None:
    for name, here in {"task": "/", "try_answered": "/try", "reports": "/reports", "costs": "/costs"}.items():
        assert [link["href"] for link in Parsed(PAGES[name](made.frame())).all("a") if link.get("aria-current") == "page"] == [here]


def test_a_notice_is_told_and_an_offline_page_has_no_frame() -> None:
    assert 'role="status">moved' in PAGES["costs"](made.frame(notice=Notice("moved")))
    assert 'role="alert">refused' in PAGES["costs"](made.frame(notice=Notice("refused", good=False)))
    assert "<nav" not in report.html(worse_report())


# --- overview ---------------------------------------------------------------------------------------------


def test_the_overview_says_of_every_task_what_is_in_production_and_how_it_does() -> None:
    values = made.overview()
    parsed = Parsed(overview.html(values, made.frame()))
    text = parsed.within("main")
    for row in values.tasks:
        assert row.task in text
        for said in (f"{row.figures.calls:,}", words.adherence(row.figures), words.errors(row.figures), words.money(row.figures)):
            assert said in text
        for said in (words.latency(row.figures.p50), words.latency(row.figures.p95), words.replayed(row.figures)):
            assert said in text
        if row.production is not None:
            assert row.production.id[:12] in text
            assert f"since {words.moment(row.production.since)} by {row.production.who}" in text
        assert words.spark(row.hours).says in [svg["aria-label"] for svg in parsed.all("svg")]
    assert "nothing" in text, "a task without production"
    assert "and 249 calls at an unknown price" in text
    assert [flag for path, flag in parsed.texts if path and "flag" in path[-1][1].split()] == [
        "canary", "shadow", "canary", "damaged", "forced", "shadow",
    ]  # fmt: skip
    assert "promptsmith.lock:412: not a prompt" in parsed.within("told")


def test_without_tasks_it_says_what_to_do() -> None:
    assert "promptsmith init" in Parsed(PAGES["no_tasks"](made.frame())).within("note")


def test_figures_that_are_not_known_are_not_zero() -> None:
    nothing = Figures()
    assert (words.adherence(nothing), words.latency(None), words.replayed(nothing)) == ("nothing checked", "-", "-")
    assert words.money(Figures(calls=3, unpriced=3)) == "unknown"
    assert words.unpriced(Figures(calls=3, unpriced=1)) == "and 1 call at an unknown price"
    assert words.money(nothing) == "$0"


@given(st.lists(st.integers(0, 10**9), max_size=48))
def test_a_sparkline_draws_every_hour_with_a_call_and_stays_in_its_box(calls: list[int]) -> None:
    found = words.spark(Hours(tuple(calls), made.NOON))
    assert len(found.columns) == len(calls)
    for (_, top, height), number in zip(found.columns, calls, strict=True):
        assert (height >= 1.5) == (number > 0)
        assert top >= 0
        assert top + height == pytest.approx(found.height, abs=0.02)
    assert words.words.count(sum(calls), "call") in found.says or "no calls" in found.says


def test_a_sparkline_says_when_the_most_calls_came() -> None:
    hours = Hours((0,) * 20 + (3, 1_200, 0, 7), made.NOON)
    assert words.spark(hours).says == (
        "1,210 calls in the last 24 hours: most 1,200 in the hour from 09:00 UTC, 7 in the last, none in 21 hours"
    )


# --- a task -----------------------------------------------------------------------------------------------


def test_a_task_shows_its_prompt_contract_examples_provenance_and_cacheability() -> None:
    values = made.task_page()
    parsed = Parsed(task.html(values, made.frame()))
    text = parsed.within("main")
    assert values.prompt.system in parsed.within("text")
    for said in ("- feature request", "Message 5: the invoice 4005 was paid twice, please look", values.prompt.id, *values.cacheability):
        assert said in text
    assert "no search: this prompt was compiled at -O1" in text
    assert paths.provenance("support/triage", values.prompt.id) in [link["href"] for link in parsed.all("a")]


def test_versions_have_ids_dates_and_aliases() -> None:
    text = Parsed(PAGES["task"](made.frame())).within("main")
    for version in made.versions():
        for said in (version.id[:12], words.moment(version.created), version.model, *(f"@{alias}" for alias in version.aliases)):
            assert said in text


def test_two_versions_are_compared_word_by_word() -> None:
    parsed = Parsed(PAGES["task"](made.frame()))
    older, newer = made.prompt(3), made.prompt(2)
    gone, new = parsed.within("del"), parsed.within("ins")
    assert "acme" in gone
    assert "openai" in new
    assert "7. Read the whole message" in new
    diff = "".join(text for path, text in parsed.texts if any("diff" in cls.split() for _, cls in path))
    assert diff == "".join(piece.text for piece in task.word_diff(older.system, newer.system))
    same = Parsed(task.html(made.task_page(compared=(newer, newer)), made.frame()))
    assert "They are the same prompt." in same.within("main")


def test_the_receipt_has_counts_intervals_and_the_verdict() -> None:
    parsed = Parsed(PAGES["task"](made.frame()))
    text = parsed.within("main")
    assert "promote" in parsed.within("verdict")
    for said in ("90.8 % (84.5 to 94.9)", "87.5 % (80.5 to 92.2)", "(-2.1 to +8.8)", "pass_rate >= 0.9", "4 prompts were ever scored"):
        assert said in text
    assert any("candidate 90.8 %" in (svg.get("aria-label") or "") for svg in parsed.all("svg"))
    assert "no gate has judged it" in Parsed(PAGES["task_bare"](made.frame())).within("main")


@given(st.integers(1, 60), st.data())
def test_any_receipt_can_be_shown(cases: int, data: st.DataObject) -> None:
    unscored_cases = data.draw(st.integers(0, cases))
    passed = data.draw(st.integers(0, cases - unscored_cases))
    ends = data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: (min(pair), max(pair))))
    receipt = msgspec.structs.replace(
        made.receipt(made.prompt()), counts=made.Counts(cases, passed, unscored_cases), baseline=None, intervals={"pass_rate": ends}
    )
    plot = task.rates(receipt)
    assert (plot is None) == (cases == unscored_cases)
    for bar in plot.bars if plot is not None else ():
        assert 1 <= bar.left <= bar.right <= 99


def test_the_history_shows_every_move() -> None:
    parsed = Parsed(PAGES["task"](made.frame()))
    assert (
        len([1 for path, text in parsed.texts if text in ("rollback", "promoted", "forced") and any("scroll" in cls for _, cls in path)])
        == 40
    )
    assert "Grace Hopper" in parsed.within("main")
    long = Parsed(task.html(made.task_page(moves=made.moves(250)), made.frame()))
    assert "and 50 earlier: promptsmith history support/triage" in long.within("main")


def test_a_canary_shows_both_sides() -> None:
    found = made.canary()
    text = Parsed(PAGES["task"](made.frame())).within("main")
    assert f"running 10 % of the callers to {found.candidate[:12]}, the rest to {found.incumbent[:12]}" in text
    for side in (found.ours, found.theirs):
        assert f"{side.calls:,}" in text
        assert words.adherence(side) in text
    assert found.says[0] in text
    stopped = Parsed(task.html(made.task_page(canary=made.canary(state="stopped", open=False, why="adherence fell")), made.frame()))
    assert ": adherence fell" in stopped.within("verdict")
    assert "Start a canary" in stopped.within("main"), "one that has ended stops no new one"
    complete = task.html(made.task_page(canary=made.canary(state="complete")), made.frame(server_registry=False))
    assert "promptsmith promote support/triage --to production --stop-canary" in complete, "it keeps its share until the alias moves"


def test_examples_that_are_no_examples_are_said_to_be_none() -> None:
    odd = made.prompt(system="Answer.\n<examples>\nnot one\n</examples>")
    assert "is no example" in Parsed(task.html(made.task_page(prompt=odd), made.frame())).within("note")


def test_moves_made_elsewhere_are_flagged() -> None:
    found = Parsed(task.html(made.task_page(outside=(OutsideMove("production", "a" * 64, "b" * 64),)), made.frame()))
    assert "moved outside promptsmith @production is bbbbbbbbbbbb, the history left it at aaaaaaaaaaaa" in found.within("told")


# --- forms ------------------------------------------------------------------------------------------------


def forms(html: str) -> dict[str, dict[str, str]]:
    """Names and values of the hidden and chosen fields, by where each form is sent."""
    found: dict[str, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for tag, attributes in Parsed(html).elements:
        if tag == "form":
            fields = found.setdefault(f"{attributes['method']} {attributes['action']}", {})
        elif tag in ("input", "select", "textarea", "button") and attributes.get("name"):
            fields[attributes["name"] or ""] = attributes.get("value") or ""
    return found


def test_an_admin_moves_aliases_by_forms_with_the_token_and_what_was_seen() -> None:
    found = forms(PAGES["task"](made.frame()))
    seen = {f"expected.{alias}": id for alias, id in made.task_page().aliases().items()}
    assert found["post /promote/support/triage"] == {"csrf": "token-1", **seen, "prompt": "", "alias": "", "why": ""}
    assert found["post /rollback/support/triage"] == {"csrf": "token-1", **seen, "alias": "", "why": ""}
    assert found["post /canary/support/triage"] == {"csrf": "token-1", **seen, "alias": "production", "do": "stop"}
    start = forms(PAGES["task_candidate"](made.frame()))["post /canary/support/triage"]
    assert start == {"csrf": "token-1", **seen, "alias": "production", "mode": "", "prompt": "", "percent": "10", "do": "start"}


@pytest.mark.parametrize("name", PAGES)
def test_every_post_carries_the_token(name: str) -> None:
    posts = {where: fields for where, fields in forms(PAGES[name](made.frame())).items() if where.startswith("post")}
    assert posts
    assert all(fields["csrf"] == "token-1" for fields in posts.values())


def test_who_is_no_admin_has_no_form_that_moves() -> None:
    for frame in (made.reader(), made.reader(server_registry=False)):
        found = PAGES["task"](frame)
        assert set(forms(found)) == {"post /sign-out", "get /tasks/support/triage#difference"}
        assert "promptsmith promote support" not in found
        assert 'id="move"' not in found


def test_with_a_lock_file_there_are_commands_and_no_buttons() -> None:
    frame = made.frame(server_registry=False)
    found = PAGES["task_candidate"](frame)
    candidate = made.prompt(1).id[:12]
    assert set(forms(found)) == {"post /sign-out", "get /tasks/support/triage#difference"}
    text = Parsed(found).within("commands")
    assert f"promptsmith promote support/triage@{candidate} --to production\n" in text
    assert f"promptsmith promote support/triage@{candidate} --to production --canary 10" in text
    assert "promptsmith rollback support/triage" in text
    assert "Cases of each arm" in found, "the receipt stands above"
    assert "promote this prompt" not in PAGES["task"](frame), "it is in production"


def test_a_command_quotes_an_odd_name() -> None:
    found = task.html(made.task_page(1, task="a b;c", chosen="a b;c"), made.frame(server_registry=False))
    assert f"promptsmith promote &#39;a b;c&#39;@{made.prompt(1).id[:12]}" in found


def test_the_try_it_form_sends_inputs_by_name() -> None:
    found = forms(PAGES["try_answered"](made.frame()))["post /try/support/triage"]
    assert found == {"csrf": "token-1", "at": "", "input.message": "", "input.language": "", "input.history": ""}
    assert "input.input" in forms(PAGES["try"](made.frame()))["post /try/support/triage"]


def test_the_sign_in_leads_only_to_this_server() -> None:
    assert paths.inside("/tasks/a?at=b#c") == "/tasks/a?at=b#c"
    for elsewhere in (
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "",
        "/a\r\nset-cookie: x",
        "/é",
        "/\t/evil",
    ):
        assert paths.inside(elsewhere) == "/"
    assert forms(doors.sign_in(made.frame(), leads_to="//evil.example"))["post /sign-in"]["next"] == "/"
    key = next(field for field in Parsed(PAGES["sign_in"](made.frame())).all("input") if field.get("name") == "key")
    assert key["type"] == "password"
    assert "value" not in key


def test_the_error_page_says_what_is_wrong_and_what_would_be_right() -> None:
    text = Parsed(PAGES["fault"](made.frame(who=""))).within("main")
    for said in ("404", "unknown task 'support/triagge'", "did you mean support/triage?", "req_01jd0c2v9w"):
        assert said in text


# --- lists ------------------------------------------------------------------------------------------------


def test_reports_are_listed_with_their_verdicts() -> None:
    parsed = Parsed(PAGES["reports"](made.frame()))
    head = worse_report().head
    assert paths.report(head.id) in [link["href"] for link in parsed.all("a")]
    for said in ("reject", "82.0 % (73.3 to 88.3)", "100 cases of the holdout", "no incumbent", "and 1,204 earlier"):
        assert said in parsed.within("main")


def test_traces_are_listed_with_how_they_ended() -> None:
    parsed = Parsed(PAGES["traces"](made.frame()))
    run = made.traces().runs[2]
    assert paths.trace(run.run) in [link["href"] for link in parsed.all("a")]
    for said in ("failed", "2 without a result", "12.6 s", "unknown", "2026-11-21 12:00"):
        assert said in parsed.within("main")


def test_costs_are_added_up_by_task_model_and_day() -> None:
    text = Parsed(PAGES["costs"](made.frame())).within("main")
    values = made.costs()
    for row in (*values.tasks, *values.models, *values.days):
        assert row.name in text
        assert words.money(row.figures) in text
    assert f"{values.total.input:,}" in text


# --- hostile text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [WILD_FRAME, msgspec.structs.replace(WILD_FRAME, server_registry=False)], ids=["server", "lock"])
def test_hostile_text_is_text(frame: Frame) -> None:
    for name, html in hostile_pages(frame).items():
        html.encode()
        parsed = Parsed(html)
        assert parsed.open == [], name
        assert "<img" not in html, name
        assert "<b>" not in re.sub(r"<b>[a-z]+</b>", "", html), name
        assert len(parsed.all("script")) == html.count("</script>") == name.startswith("try"), name
        assert html.count("</style>") == 1, name
        elsewhere = re.sub(r"(?s)<textarea.*?</textarea>|<input type=\"hidden\"[^>]*>", "", html)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe]", elsewhere), name
        assert "\\u2028\\u2029" in parsed.within("main"), name
        assert "49" not in parsed.within("brand"), "a name is no template"


def test_a_field_sends_back_what_was_sent() -> None:
    text = "\n two\u2028three\u202efour </textarea> & {{ 7*7 }}"
    html = tryout.html(made.try_it(given={"input": text}), made.frame())
    assert html.count("</textarea>") == 1
    assert "\n\n two\u2028three\u202efour &lt;/textarea&gt; &amp; {{ 7*7 }}</textarea>" in html, "the first line feed is the parser's"


def test_huge_texts_are_cut_and_say_their_length() -> None:
    huge = made.prompt(system="y" * 1_000_000)
    html = task.html(made.task_page(prompt=huge, compared=(made.prompt(1), huge)), made.frame())
    assert len(html) < 1_000_000
    assert "(1,000,000 characters)" in html
    assert "promptsmith diff support/triage@" in html


# --- the stream of an answer ------------------------------------------------------------------------------


def test_the_stream_says_what_the_page_says() -> None:
    assert json.loads(tryout.piece("a\u202eb\n")) == {"text": "a\\u202eb\n"}
    assert tryout.piece("a\nb").count(b"\n") == 1
    whole = json.loads(tryout.ended(made.answer(kept=False, why="too long")))
    assert whole == {"facts": [list(fact) for fact in tryout.facts(made.answer(kept=False))], "why": "too long"}
    assert whole["facts"][0] == ["contract", "broken"]
    assert json.loads(tryout.ended(made.answer()))["why"] == ""
    assert json.loads(tryout.failed(WILD))["error"].startswith("</script>")
    page = Parsed(tryout.html(made.try_it(answer=made.answer(kept=False, why="too long")), made.frame())).within("answer")
    assert all(said in page for fact in whole["facts"] for said in fact)
    assert "too long" in page


# --- in a browser -----------------------------------------------------------------------------------------

Serve = Callable[["Asked"], None]


class Asked(BaseHTTPRequestHandler):
    """One request; the test's function answers it."""

    def do_GET(self) -> None:
        self.server.answer(self)  # type: ignore[attr-defined]

    do_POST = do_GET  # noqa: N815  # so the library calls it

    def fields(self) -> dict[str, str]:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        return {name: values[-1] for name, values in parse_qs(body, keep_blank_values=True).items()}

    def page(self, html: str, nonce: str = made.frame().nonce, status: int = 200) -> None:
        self.begin("text/html; charset=utf-8", status, {"content-security-policy": policy(nonce) + "; frame-ancestors 'none'"})
        self.wfile.write(html.encode())

    def begin(self, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site(answer: Serve) -> Iterator[str]:
    """A loopback server of the test's answers; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    server.answer = answer  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answering(pages: Mapping[str, str]) -> Serve:
    return lambda asked: asked.page(pages[urlsplit(asked.path).path])


class Tabs:
    """Opens addresses; what a tab says on its console, asks elsewhere for or pops up is kept in ``trouble``."""

    def __init__(self, running: Any) -> None:
        self.running = running
        self.trouble: list[str] = []
        self.opened: list[Any] = []

    def __call__(self, address: str, **options: Any) -> Any:
        tab = self.running.new_page(**options)
        self.opened.append(tab)
        tab.on("console", lambda message: self.trouble.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: (self.trouble.append("dialog"), dialog.dismiss()))
        home = "/".join(address.split("/")[:3])
        tab.on("request", lambda request: None if request.url.startswith((home, "data:,")) else self.trouble.append(request.url))
        tab.goto(address)
        return tab


@pytest.fixture
def tabs(request: pytest.FixtureRequest) -> Iterator[Tabs]:
    found = Tabs(request.getfixturevalue(browser.__name__))
    yield found
    for tab in found.opened:
        tab.close()
    assert found.trouble == []


CHECKS = """() => {
  const wrong = [];
  const say = (what, element) => wrong.push(`${what}: ${element.outerHTML.slice(0, 160)}`);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const seen = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  const named = (ids) => ids.split(" ").map((id) => document.getElementById(id)?.textContent.trim() ?? "").join(" ").trim();

  // Names: https://www.w3.org/TR/accname-1.2/
  const label = (element) =>
    element.getAttribute("aria-label") || named(element.getAttribute("aria-labelledby") ?? "") ||
    [...(element.labels ?? [])].map((one) => one.textContent.trim()).join(" ");
  for (const field of all("input:not([type=hidden]), select, textarea")) if (seen(field) && !label(field)) say("no label", field);
  for (const one of all("a, button, summary")) if (!label(one) && !one.textContent.trim()) say("no name", one);
  for (const one of all("[role=region], [role=group], section, nav, .forms form")) if (!label(one)) say("no name", one);
  for (const svg of all("svg:not([aria-hidden=true])")) if (svg.getAttribute("role") !== "img" || !label(svg)) say("no alternative", svg);

  const ids = all("[id]").map((one) => one.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`twice: ${id}`);
  for (const name of ["aria-labelledby", "aria-describedby", "for"])
    for (const one of all(`[${name}]`)) for (const id of one.getAttribute(name).split(" ")) if (!ids.includes(id)) say(`no ${id}`, one);
  for (const link of all("a[href^='#']")) if (!ids.includes(link.hash.slice(1))) say("leads nowhere", link);

  // Landmarks: everything that is read stands in one.
  for (const one of ["main", "nav", "body > header"]) if (all(one).length !== 1) wrong.push(`${all(one).length} of ${one}`);
  for (const child of document.body.children)
    if (!child.matches("header, main, script, a.skip")) say("outside of every landmark", child);

  for (const table of all("table")) {
    if (!table.caption?.textContent.trim()) say("no caption", table);
    for (const head of table.querySelectorAll("th")) if (!head.scope || !head.textContent.trim()) say("header", head);
  }
  for (const one of all("body *"))
    if (seen(one) && /auto|scroll/.test(getComputedStyle(one).overflowX) && !one.matches("textarea, select") && one.tabIndex !== 0)
      say("scrolls and can't be focused", one);

  // Contrast: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const [r, g, b] = color.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
      if (color[3] !== 0) say("half transparent", at);
    }
    return [255, 255, 255, 255];
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  let measured = 0;
  for (const one of all("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const field = one.matches("input:not([type=hidden]), select, textarea");
    if (!seen(one) || (!own && !field) || one.matches(".skip, script, option, title")) continue;
    const style = getComputedStyle(one);
    const ink = one.closest("svg") ? style.fill : style.color;
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const found = contrast(rgba(ink), ground(one));
    measured += 1;
    if (found < (large ? 3 : 4.5)) say(`contrast ${found.toFixed(2)}`, one);
    if (field && contrast(rgba(style.borderTopColor), ground(one.parentElement)) < 3) say("border", one);
  }
  if (measured < 10) wrong.push(`only ${measured} texts measured`);

  // https://www.w3.org/TR/WCAG22/#target-size-minimum, for all that stands in no sentence
  for (const one of all("button, select, input:not([type=hidden]), textarea, nav a")) {
    const box = one.getBoundingClientRect();
    if (seen(one) && (box.width < 24 || box.height < 24)) say(`${box.width} by ${box.height}`, one);
  }
  return wrong;
}"""
WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll, .text, svg, pre"))
  .map((one) => one.outerHTML.slice(0, 100))"""
ORDER = """() => [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")]
  .filter((one) => one.checkVisibility({ visibilityProperty: true }))"""


@pytest.fixture(scope="module")
def whole() -> Iterator[str]:
    """A site of every page, as an admin of a server registry and of a lock file see it."""
    pages = {f"/{who}/{name}": make(frame) for who, frame in FRAMES.items() for name, make in {**PAGES, **OFFLINE}.items()}
    with site(answering(pages)) as address:
        yield address


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_used_by_all(tabs: Tabs, whole: str, name: str, scheme: str) -> None:
    """Names, landmarks, tables, contrast, sizes; at the width of a phone and of a desk."""
    for who in FRAMES if name.startswith("task") else ("admin",):
        tab = tabs(f"{whole}/{who}/{name}", viewport={"width": 1280, "height": 800}, color_scheme=scheme)
        for width in (1280, 360):
            tab.set_viewport_size({"width": width, "height": 800})
            tab.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
            assert tab.evaluate(CHECKS) == []
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate(WIDE) == []


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("--dim: #63676d", "--dim: #8a8f96", "contrast"),
        ("1px solid var(--dim)", "1px solid var(--line)", "border"),
        ("<span>Reports</span></caption>", "<span></span></caption>", "no caption"),
        ('<th scope="col">verdict', "<th>verdict", "header"),
        ("<label>Task ", "<p>Task ", "no label"),
        ('tabindex="0"', "", "scrolls"),
        ("</main>", "</main><p>more</p>", "outside"),
        ('aria-labelledby="reports"', 'aria-labelledby="report"', "no report"),
        ("padding: 0.25rem 0.6rem", "padding: 0; line-height: 1", "by"),
    ],
)
def test_the_checks_find_what_is_wrong(tabs: Tabs, right: str, wrong: str, found: str) -> None:
    html = PAGES["reports"](made.frame())
    assert right in html
    with site(answering({"/": html.replace(right, wrong)})) as address:
        said = tabs(address + "/", viewport={"width": 900, "height": 800}).evaluate(CHECKS)
    assert any(found in line for line in said), said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_page_fits_into_the_frame(tabs: Tabs, whole: str, name: str, scheme: str) -> None:
    tab = tabs(f"{whole}/admin/{name}", viewport={"width": 360, "height": 800}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.get_by_role("navigation").count() == 1
    assert tab.evaluate("getComputedStyle(document.body).margin") == "0px", "the style is let in"


def test_the_script_of_a_report_runs_in_the_frame(tabs: Tabs, whole: str) -> None:
    tab = tabs(f"{whole}/admin/report")
    tab.get_by_text("regressed 14", exact=True).click()
    assert tab.locator("output").inner_text() == "14 of 100 cases"


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_every_control_in_order_and_the_focus_is_seen(tabs: Tabs, whole: str, name: str) -> None:
    tab = tabs(f"{whole}/admin/{name}", viewport={"width": 1280, "height": 800})
    number = tab.evaluate(f"(window.order = ({ORDER})()).length")
    assert number > 5
    for place in range(number):
        tab.keyboard.press("Tab")
        assert tab.evaluate("order.indexOf(document.activeElement)") == place
        style = tab.evaluate("(({ outlineStyle, outlineWidth }) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))")
        assert style[0] in ("solid", "auto"), tab.evaluate("document.activeElement.outerHTML.slice(0, 100)")
        assert float(style[1].removesuffix("px")) >= 1


def test_the_skip_link_is_first_and_skips_the_navigation(tabs: Tabs, whole: str) -> None:
    tab = tabs(f"{whole}/admin/task")
    tab.keyboard.press("Tab")
    skip = tab.get_by_role("link", name="Skip to the content")
    assert skip.bounding_box()["x"] >= 0
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.closest('main') !== null")


def test_a_wide_table_scrolls_inside_and_keeps_its_first_column(tabs: Tabs, whole: str) -> None:
    tab = tabs(f"{whole}/admin/overview", viewport={"width": 360, "height": 800})
    region = tab.get_by_role("region", name=re.compile("Every task"))
    region.focus()
    before = tab.get_by_role("rowheader").first.bounding_box()["x"]
    for _ in range(5):
        tab.keyboard.press("ArrowRight")
    assert any(region.evaluate("region => region.scrollLeft") > 0 or tab.wait_for_timeout(20) for _ in range(500)), "it scrolls smoothly"
    assert tab.get_by_role("rowheader").first.bounding_box()["x"] == before


def test_a_screen_reader_finds_the_figures(tabs: Tabs, whole: str) -> None:
    tab = tabs(f"{whole}/admin/overview")
    assert tab.get_by_role("heading", level=1).inner_text() == "Overview"
    row = tab.get_by_role("row").filter(has_text="support/triage")
    assert row.get_by_role("img").get_attribute("aria-label") == words.spark(made.overview().tasks[0].hours).says
    assert tab.get_by_role("columnheader", name="adherence").count() == 1
    assert tab.get_by_role("link", name="Overview").get_attribute("aria-current") == "page"


def test_light_and_dark_follow_the_reader(tabs: Tabs, whole: str) -> None:
    grounds = [
        tabs(f"{whole}/admin/costs", color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert grounds == ["rgb(253, 253, 252)", "rgb(21, 23, 26)"]


def test_hostile_text_does_nothing_and_makes_no_page_wide(tabs: Tabs) -> None:
    pages = {f"/{name}": html for name, html in hostile_pages(WILD_FRAME).items()}
    with site(answering(pages)) as address:
        for path in pages:
            tab = tabs(f"{address}{path}", viewport={"width": 360, "height": 800})
            assert tab.evaluate("document.documentElement.scrollWidth") <= 360, path
            assert tab.locator("main img").count() == 0
            tab.close()


def test_markup_that_got_in_could_not_run(tabs: Tabs) -> None:
    """Of a page into which somebody's script, style and image were put: the policy stops all of it."""
    run = "document.title='run'"
    bad = f'<script>{run}</script><img src="https://example.invalid/x" onerror="{run}"><style>body{{margin:9px}}</style>'
    with site(answering({"/": PAGES["costs"](made.frame()).replace("<h1>", f"{bad}<h1>")})) as address:
        tab = tabs(address + "/")
        assert tab.title() == "Costs"
        assert tab.evaluate("getComputedStyle(document.body).margin") == "0px"
    assert len([line for line in tabs.trouble if "Content Security Policy" in line]) >= 4
    assert any("Loading the image 'https://example.invalid/x' violates" in line for line in tabs.trouble)
    tabs.trouble.clear()


def test_forms_work_without_javascript(tabs: Tabs) -> None:
    """Comparing two versions, promoting, asking."""
    got: list[tuple[str, dict[str, str]]] = []

    def answer(asked: Asked) -> None:
        fields = asked.fields()
        got.append((f"{asked.command} {asked.path}", fields))
        if asked.path.startswith("/try"):
            given = {"input": fields["input.input"]} if fields else {}
            asked.page(tryout.html(made.try_it(given=given, answer=made.answer() if fields else None), made.frame()))
        else:
            asked.page(PAGES["task"](made.frame()))

    with site(answer) as address:
        tab = tabs(f"{address}/tasks/support/triage", java_script_enabled=False)
        tab.locator("select[name=from]").select_option(value=made.prompt(5).id)
        tab.get_by_role("button", name="Compare").click()
        asked = urlsplit(got[-1][0].removeprefix("GET "))
        assert asked.path == "/tasks/support/triage"
        assert parse_qs(asked.query) == {"at": [made.prompt(2).id], "from": [made.prompt(5).id], "to": [made.prompt(2).id]}
        assert tab.url.endswith("#difference")

        tab.get_by_role("form", name="Promote").get_by_label("Why").fill("half the price")
        tab.get_by_role("button", name="Promote").click()
        where, fields = got[-1]
        assert where == "POST /promote/support/triage"
        assert fields["prompt"] == made.prompt(0).id, "the newest that is not in production"
        assert (fields["alias"], fields["why"], fields["csrf"]) == ("production", "half the price", "token-1")
        assert fields["expected.production"] == made.prompt(2).id

        tab.goto(f"{address}/try/support/triage")
        assert tab.locator(".answer").is_hidden()
        tab.get_by_label("input").fill("I was charged twice")
        tab.get_by_role("button", name="Ask").click()
        assert got[-1] == ("POST /try/support/triage", {"csrf": "token-1", "at": "production", "input.input": "I was charged twice"})
        assert tab.locator(".answer pre").inner_text() == "billing"
        assert tab.get_by_label("input").input_value() == "I was charged twice"


def test_what_a_field_shows_again_is_what_was_typed(tabs: Tabs) -> None:
    text = "\n one\u2028two\u202ethree </textarea> {{ 7*7 }}"
    with site(answering({"/": tryout.html(made.try_it(given={"input": text}), made.frame())})) as address:
        assert tabs(address + "/").get_by_label("input").input_value() == text


@contextmanager
def trying(tabs: Tabs, stream: Callable[[Asked, dict[str, str]], None]) -> Iterator[Any]:
    """The try-it page, asked one thing; ``stream`` answers."""

    def answer(asked: Asked) -> None:
        if asked.command == "GET":
            asked.page(PAGES["try"](made.frame()))
        else:
            assert asked.headers["accept"] == tryout.STREAM
            stream(asked, asked.fields())

    with site(answer) as address:
        tab = tabs(f"{address}/try/support/triage")
        tab.get_by_label("input").fill("I was charged twice")
        tab.get_by_role("button", name="Ask").click()
        yield tab


def test_an_answer_streams_piece_by_piece(tabs: Tabs) -> None:
    from playwright.sync_api import expect

    more, got = threading.Event(), []

    def stream(asked: Asked, fields: dict[str, str]) -> None:
        got.append(fields)
        asked.begin(tryout.STREAM)
        asked.wfile.write(tryout.piece("bill"))
        assert more.wait(30)
        last = tryout.piece("ing é \u202e<img src=x onerror=alert(1)>") + tryout.ended(made.answer())
        for place in range(len(last)):
            asked.wfile.write(last[place : place + 1])

    with trying(tabs, stream) as tab:
        expect(tab.locator(".answer pre")).to_have_text("bill")
        expect(tab.get_by_role("status")).to_have_text("answering")
        assert tab.locator(".answer").get_attribute("aria-busy") == "true"
        assert tab.get_by_role("button", name="Stop").is_visible()
        tab.get_by_role("button", name="Ask").click(force=True)  # it says that it is disabled, and asks nothing
        more.set()
        expect(tab.get_by_role("status")).to_have_text("complete")
        assert tab.locator(".answer pre").inner_text() == "billing é \\u202e<img src=x onerror=alert(1)>"
        assert tab.locator(".answer dd").all_inner_texts() == [said for _, said in tryout.facts(made.answer())]
        assert tab.locator(".answer").get_attribute("aria-busy") is None
        assert "good" in tab.locator(".answer").get_attribute("class")
    assert got == [{"csrf": "token-1", "at": "production", "input.input": "I was charged twice"}]


def test_an_answer_that_breaks_off_is_not_shown_as_whole(tabs: Tabs) -> None:
    from playwright.sync_api import expect

    def stream(asked: Asked, fields: dict[str, str]) -> None:
        asked.begin(tryout.STREAM)
        asked.wfile.write(tryout.piece("bill") + tryout.ended(made.answer())[:20])

    with trying(tabs, stream) as tab:
        expect(tab.get_by_role("status")).to_have_text("failed")
        expect(tab.get_by_role("alert")).to_have_text("the answer broke off")
        assert tab.locator(".answer pre").inner_text() == "bill"
        assert tab.locator(".answer dd").count() == 0


@pytest.mark.parametrize(
    ("last", "state", "said"),
    [
        (tryout.failed("the provider failed: 503"), "failed", "the provider failed: 503"),
        (tryout.ended(made.answer(kept=False, why="not one of the labels")), "complete", "not one of the labels"),
    ],
    ids=["error", "broken contract"],
)
def test_what_is_wrong_with_an_answer_is_said(tabs: Tabs, last: bytes, state: str, said: str) -> None:
    from playwright.sync_api import expect

    def stream(asked: Asked, fields: dict[str, str]) -> None:
        asked.begin(tryout.STREAM)
        asked.wfile.write(tryout.piece("well") + last)

    with trying(tabs, stream) as tab:
        expect(tab.get_by_role("alert")).to_have_text(said)
        expect(tab.get_by_role("status")).to_have_text(state)
        assert "bad" in tab.locator(".answer").get_attribute("class")


def test_an_answer_can_be_stopped_and_asked_again(tabs: Tabs) -> None:
    from playwright.sync_api import expect

    over, times = threading.Event(), []

    def stream(asked: Asked, fields: dict[str, str]) -> None:
        times.append(fields)
        asked.begin(tryout.STREAM)
        asked.wfile.write(tryout.piece("bill"))
        if len(times) == 1:
            assert over.wait(30)
        else:
            asked.wfile.write(tryout.ended(made.answer()))

    with trying(tabs, stream) as tab:
        expect(tab.locator(".answer pre")).to_have_text("bill")
        tab.get_by_role("button", name="Stop").click()
        expect(tab.get_by_role("status")).to_have_text("stopped")
        assert tab.evaluate("document.activeElement.textContent") == "Ask", "the focus is not lost with the button"
        tab.get_by_role("button", name="Ask").click()
        expect(tab.get_by_role("status")).to_have_text("complete")
        over.set()


def test_an_answer_that_is_no_stream_is_an_error(tabs: Tabs) -> None:
    from playwright.sync_api import expect

    with trying(tabs, lambda asked, fields: asked.page(PAGES["sign_in"](made.frame()), status=403)) as tab:
        expect(tab.get_by_role("alert")).to_have_text("the server answered 403; load the page again")
    assert tabs.trouble.pop().startswith("console: Failed to load resource: the server responded with a status of 403")
