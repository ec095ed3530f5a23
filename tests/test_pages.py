"""Pages: one offline file each, everything escaped; and in a browser where there is one."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import promptsmith.pages
from promptsmith.errors import InputError
from promptsmith.evals.report import Report
from promptsmith.evals.show import words
from promptsmith.pages import compare, page, provenance, trace
from promptsmith.pages.diff import MOST, Piece, word_diff
from promptsmith.pages.plot import difference, rates
from promptsmith.pages.report import CHARACTERS, FULL, html
from promptsmith.receipt import Rules

from .made_outcomes import OUTCOMES, chain, fan, many
from .made_reports import HOSTILE, LONG, answer, first_report, made_report, repeated_report, text_report, unscored, worse_report
from .made_searches import SEARCHES, kept_search, made_search

REPORTS = (worse_report, text_report, first_report, repeated_report)
PAGES: dict[str, Callable[[], str]] = {
    **{make.__name__: lambda make=make: html(make()) for make in REPORTS},  # type: ignore[misc]
    "compare": lambda: compare.html([worse_report(), first_report(model=HOSTILE), repeated_report()]),
    **{make.__name__: lambda make=make: provenance.html(kept_search(make())) for make in SEARCHES},  # type: ignore[misc]
    "record_elsewhere": lambda: provenance.html(kept_search(made_search())._replace(record=None)),
    "no_search": lambda: provenance.html(kept_search(None)),
    **{f"plan_{make.__name__}": lambda make=make: trace.html(make()) for make in OUTCOMES},  # type: ignore[misc]
    "plan_of_a_chain": lambda: trace.html(chain(12)),
    "plan_of_a_fan": lambda: trace.html(fan(20)),
    "plan_of_sixty": lambda: trace.html(many(60)),
}
VOID = {"meta", "link", "input", "br", "img"}


class Parsed(HTMLParser):
    """A page's elements, and the text in those of one class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str]] = []
        self.texts: list[tuple[tuple[tuple[str, str], ...], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))

    def within(self, name: str) -> str:
        """All text inside elements of the tag or class ``name``."""
        return "".join(text for path, text in self.texts if any(name == tag or name in cls.split() for tag, cls in path))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module", params=PAGES)
def made(request: pytest.FixtureRequest) -> str:
    return PAGES[request.param]()


# --- every page -------------------------------------------------------------------------------------------


def test_a_page_is_well_formed(made: str) -> None:
    parsed = Parsed(made)
    assert parsed.open == []
    assert made.startswith("<!doctype html>\n")
    assert parsed.all("html") == [{"lang": "en"}]
    assert len(parsed.all("h1")) == len(parsed.all("main")) == 1
    assert made.split("</head>", maxsplit=1)[0].count("<title>") == 1  # those in a drawing name its parts
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in parsed.all("meta")


def test_a_page_loads_nothing(made: str) -> None:
    parsed = Parsed(made)
    addresses = [
        value for _, attributes in parsed.elements for name, value in attributes.items() if name in ("src", "href", "action", "srcset")
    ]
    ids = {f"#{attributes['id']}" for _, attributes in parsed.elements if "id" in attributes}
    assert set(addresses) <= {"data:,"} | ids, "what is not empty is a place on the page"
    assert not re.search(r"url\(|@import|https?://", made)
    assert not {tag for tag, _ in parsed.elements} & {"img", "iframe", "object", "embed", "base", "video", "audio", "source"}


def test_the_policy_names_the_style_and_the_script_of_the_page_and_nothing_else(made: str) -> None:
    policy = next(meta["content"] for meta in Parsed(made).all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    blocks = re.findall(r"<(style|script)>(.*?)</\1>", made, re.DOTALL)
    assert blocks
    for kind, text in blocks:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.count("sha256-") == len(blocks)


def test_no_element_has_a_handler_or_a_style_of_its_own(made: str) -> None:
    for tag, attributes in Parsed(made).elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag


@pytest.mark.parametrize("make", REPORTS)
def test_the_verdict_is_in_the_words_of_all_forms(make: Callable[[], Report]) -> None:
    report = make()
    assert Parsed(html(report)).within("verdict") == words.verdict_line(report.head.judgement)


def test_a_hostile_output_is_text() -> None:
    """In an output, an expectation, an id, a tag, an input, a note, a reason, a name."""
    rows = [(HOSTILE, HOSTILE, [answer(HOSTILE + "x", HOSTILE, why=HOSTILE, paths={HOSTILE: 0.0})], [answer(HOSTILE, HOSTILE)])]
    rows.append(("gone", "x", [unscored(HOSTILE)], [answer("x", "x")]))
    found = html(
        made_report(
            rows,
            tags={HOSTILE: (HOSTILE,)},
            inputs={HOSTILE: {HOSTILE: HOSTILE, "more": "x"}},
            notes=(HOSTILE,),
            left={HOSTILE: HOSTILE},
            task=HOSTILE,
            model=HOSTILE,
            scorers=(HOSTILE,),
            doubts=(HOSTILE,),
        )
    )
    found.encode()
    parsed = Parsed(found)
    assert parsed.open == []
    assert "<img" not in found
    assert found.count("</script>") == 1
    assert len(parsed.all("script")) == 1
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff\ufffe]", found)
    assert parsed.within("pane").count("</script><img src=x onerror=alert(1)>]]>\\x00\\x1b[2J\\ud800\\ufffe\\x85\\u202e &") >= 4
    assert "49" not in parsed.within("pane"), "an output is no template"


def test_typography_is_shown_as_it_is() -> None:
    text = "Prix\u202f: 5\u00a0€ 👩\u200d🚀"
    assert text in Parsed(html(made_report([("c", "x", [answer(text, "x")], ())]))).within("pane")


def test_a_name_that_a_template_does_not_get_is_an_error() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="is undefined"):
        page("report.html")


# --- the colours ------------------------------------------------------------------------------------------


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_contrast_in_light_and_dark() -> None:
    css = (Path(promptsmith.pages.__file__).parent / "style.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in css.split("prefers-color-scheme: dark"))
    assert set(light) == set(dark)
    for colors in (light, dark):
        pairs = [(text, ground) for text in ("text", "dim", "good", "bad", "open", "accent") for ground in ("ground", "raised")]
        for text, ground in [*pairs, ("text", "gone"), ("text", "new")]:
            lower, upper = sorted((luminance(colors[text]), luminance(colors[ground])))
            assert (upper + 0.05) / (lower + 0.05) >= 4.5, (text, ground)


# --- reports ----------------------------------------------------------------------------------------------


def test_what_needs_a_look_comes_first() -> None:
    found = html(worse_report())
    places = [found.index(part) for part in ('class="verdict', 'class="plot"', 'data-group="regressed"', 'data-group="fixed"')]
    places += [found.index(part) for part in ('data-group="failing"', 'data-group="passing"', "<h2>By tag</h2>")]
    assert places == sorted(places)
    assert 'data-group="passing" >' in found, "what passes is folded"
    assert 'data-group="regressed" open>' in found


def test_sealed_inputs_are_said_to_be_sealed() -> None:
    panes = Parsed(html(text_report())).within("pane")
    assert "sealed; --reveal shows them" in panes
    assert "Where is my order 4412?\nIt was due on Monday. — Brandt" in panes


def test_paths_and_scorers_are_named() -> None:
    panes = Parsed(html(text_report())).within("paths")
    assert "items[0].price 0.00" in panes
    assert "refund 0.00" in panes


def test_outputs_of_baseline_and_candidate_are_compared_word_by_word() -> None:
    found = html(text_report())
    assert "<del>Tuesday </del><ins>Monday </ins>" in found
    assert "baseline → candidate, word by word" in found
    first = html(made_report([("c", LONG, [answer(LONG.replace("Friday", "Sunday"), LONG)], ())]))
    assert "expected → candidate, word by word" in first
    assert "<del>Friday</del><ins>Sunday</ins>" in first
    assert "word by word" not in html(worse_report()), "labels are compared by eye"


def test_ten_thousand_cases_give_a_usable_file() -> None:
    report = worse_report(10_000)
    found = html(report)
    assert len(found) < 3_000_000
    assert found.count("<tr data-tags") == 10_000 - 14 - 3 - 4


def test_a_file_with_many_failures_says_what_is_cut() -> None:
    rows = [(f"c{i}", LONG, [answer(LONG + str(i), LONG)], [answer(LONG, LONG)]) for i in range(FULL + 500)]
    found = html(made_report(rows))
    assert f"1,000 of the {FULL + 500:,} cases that do not simply pass are shown in full, the others in one line each" in found
    assert found.count('<details class="case"') == FULL
    assert found.count("<tr data-tags") == 500


def test_huge_outputs_are_shortened_and_say_their_length() -> None:
    found = html(made_report([(f"c{i}", "x", [answer("long " * 200_000, "x")], [answer("x", "x")]) for i in range(20)]))
    assert len(found) < 500_000
    assert "(1,000,000 characters)" in found


def test_whole_texts_have_a_limit_together() -> None:
    rows = [(f"c{i}", "a" * 4000, [answer("b" * 4000, "x")], [answer("c" * 4000, "x")]) for i in range(600)]
    found = html(made_report(rows))
    assert len(found) < 1.3 * CHARACTERS
    assert "are shown in full, the others in one line each" in found


# --- plots ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", REPORTS)
def test_intervals_are_drawn_where_they_are(make: Callable[[], Report]) -> None:
    report = make()
    plot = rates(report)
    assert plot is not None
    low, high = (float(tick.label.removesuffix(" %")) / 100 for tick in (plot.ticks[0], plot.ticks[-1]))
    scale = (plot.ticks[-1].place - plot.ticks[0].place) / (high - low)
    columns = [column for column in words.arm_columns(report) if column.rate is not None]
    assert [bar.label for bar in plot.bars] == [column.role for column in columns]
    for bar, column in zip(plot.bars, columns, strict=True):
        assert column.rate is not None
        for place, value in zip((bar.middle, bar.left, bar.right), column.rate, strict=True):
            assert place == pytest.approx(plot.ticks[0].place + scale * (value - low), abs=0.01)
    for line in (*plot.ticks, *plot.lines):
        assert 0 <= line.place <= 100


def test_the_difference_is_drawn_with_zero_and_the_margin() -> None:
    plot = difference(worse_report().head.judgement)
    assert plot is not None
    (bar,) = plot.bars
    places = {line.kind: line.place for line in plot.lines}
    assert bar.left < bar.middle < places["margin"] < bar.right < places["zero"]
    assert [line.label for line in plot.lines] == ["", "margin -10"]
    ticks = {tick.label: tick.place for tick in plot.ticks}
    assert ticks["-10"] == places["margin"]
    assert ticks["0"] == places["zero"]
    assert plot.summary == "difference -11.0 points (-18.2 to -3.3); margin -10 points"


def test_a_candidate_that_must_win_has_no_margin() -> None:
    plot = difference(first_report().head.judgement)
    assert plot is not None
    assert [line.kind for line in plot.lines] == ["zero"]


def test_without_a_score_there_is_nothing_to_draw() -> None:
    report = made_report([("c", "x", [unscored()], ())])
    assert rates(report) is None
    assert difference(report.head.judgement) is None
    assert "<svg" not in html(report)


@given(passed=st.lists(st.booleans(), min_size=1, max_size=60), before=st.lists(st.booleans(), min_size=60, max_size=60))
def test_any_plot_stays_on_its_axis(passed: list[bool], before: list[bool]) -> None:
    rows = [
        (f"c{i}", "x", [answer("x" if now else "y", "x")], [answer("x" if old else "y", "x")])
        for i, (now, old) in enumerate(zip(passed, before, strict=False))
    ]
    report = made_report(rows, rules=Rules(require={"pass_rate": ">= 0.5"}))
    for plot in (rates(report), difference(report.head.judgement)):
        assert plot is not None
        assert 2 <= len(plot.ticks) <= 9
        assert [tick.place for tick in plot.ticks] == sorted({tick.place for tick in plot.ticks})
        for bar in plot.bars:
            assert 1 <= bar.left <= bar.middle <= bar.right <= 99


# --- diff -------------------------------------------------------------------------------------------------


@given(st.text("ab ,\n1.", max_size=60), st.text("ab ,\n1.", max_size=60))
def test_a_diff_holds_both_texts(before: str, after: str) -> None:
    pieces = word_diff(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "new") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "gone") == after
    assert all(piece.text for piece in pieces)
    if before == after:
        assert {piece.kind for piece in pieces} <= {"same"}


def test_a_diff_names_the_words_that_changed() -> None:
    assert word_diff("pay 49.90 EUR now", "pay 4.99 EUR now") == [
        Piece("same", "pay "), Piece("gone", "49.90 "), Piece("new", "4.99 "), Piece("same", "EUR now")
    ]  # fmt: skip


def test_a_diff_of_very_different_long_texts_is_one_change() -> None:
    old, new = " ".join(f"a{i}" for i in range(MOST)), " ".join(f"b{i}" for i in range(MOST))
    assert [piece.kind for piece in word_diff(f"same {old} end", f"same {new} end")] == ["same", "gone", "new", "same"]


# --- comparison -------------------------------------------------------------------------------------------


def test_a_comparison_marks_the_front_and_has_a_grid() -> None:
    reports = [worse_report(), worse_report(model="acme/large"), worse_report(prompt="other")]
    parsed = Parsed(compare.html(reports))
    assert parsed.within("front").count("*") == 3
    assert "Prompts by models" in parsed.within("main")
    assert "B against A: pass rate +0.0 points" in parsed.within("main")


def test_a_comparison_of_different_suites_says_so_first() -> None:
    parsed = Parsed(compare.html([worse_report(), worse_report(suite="another")]))
    assert parsed.within("verdict") == "not comparable: different suites"
    assert parsed.within("front") == ""


def test_a_comparison_takes_two() -> None:
    with pytest.raises(InputError, match="two reports or more"):
        compare.html([worse_report()])


# --- in a browser -----------------------------------------------------------------------------------------

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium: the system's, or the one that playwright has installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    with playwright.sync_playwright() as started:
        path = found or started.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium here: install the package chromium, or run playwright install chromium")
        running = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page; what it says on the console, asks the network for or pops up fails the test."""
    trouble: list[str] = []
    opened = []

    def show(text: str, **options: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        tab = browser.new_page(**options)
        opened.append(tab)
        tab.on("console", lambda message: trouble.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: (trouble.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: trouble.append(request.url) if request.url not in (path.as_uri(), "data:,") else None)
        tab.goto(path.as_uri())
        return tab

    yield show
    for tab in opened:
        tab.close()
    assert trouble == []


def shown(tab: Any) -> list[str]:
    """Ids of the cases that are not filtered out."""
    return tab.eval_on_selector_all(".case:not([hidden]) .id b, tr[data-tags]:not([hidden]) td b", "all => all.map(one => one.textContent)")  # type: ignore[no-any-return]


def counted(tab: Any, text: str) -> None:
    """Waits until the page says how many cases fit."""
    from playwright.sync_api import expect

    expect(tab.locator("output")).to_have_text(text)


def test_filter_and_search_show_what_fits(show: Open) -> None:
    tab = show(html(worse_report()))
    assert len(shown(tab)) == 100
    tab.get_by_text("regressed 14", exact=True).click()
    assert len(shown(tab)) == 14
    assert tab.locator("details[data-group=fixed]").is_hidden()
    assert tab.locator("output").inner_text() == "14 of 100 cases"
    tab.get_by_label("Tag").select_option(label="short")
    assert shown(tab) == ["ticket-000", "ticket-005", "ticket-010"]
    tab.keyboard.press("Escape")
    assert len(shown(tab)) == 100
    tab.get_by_label("Search the cases").fill("TICKET-042 " + worse_report().cases[42].expected.split(" ", maxsplit=1)[0])
    counted(tab, "1 of 100 cases")
    assert shown(tab) == ["ticket-042"]
    assert tab.locator("details[data-group=passing]").get_attribute("open") is not None
    tab.get_by_label("Search the cases").fill("no such words")
    tab.get_by_text("No case matches.").wait_for()
    assert shown(tab) == []


def test_the_search_reads_outputs_in_full(show: Open) -> None:
    tab = show(html(text_report()))
    tab.get_by_label("Search the cases").fill("five working days")
    counted(tab, "1 of 34 cases")
    assert shown(tab) == ["letter-brandt"]


def test_everything_is_reached_by_keyboard(show: Open) -> None:
    tab = show(html(text_report()))
    case = tab.locator(".case").first
    assert case.get_attribute("open") is None
    case.locator("> summary").focus()
    tab.keyboard.press("Enter")
    assert case.get_attribute("open") is not None
    for _ in range(3):
        tab.keyboard.press("Shift+Tab")
    tab.get_by_label("Search the cases").focus()
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowRight")
    assert shown(tab) == [case.id for case in words.groups(text_report())["regressed"]]


def test_a_screen_reader_finds_the_parts(show: Open) -> None:
    tab = show(html(worse_report()))
    assert tab.get_by_role("heading", level=1).inner_text() == "support/triage"
    assert tab.get_by_role("img").count() == 2
    assert "baseline 93.0 % (86.3 to 96.6); candidate 82.0 % (73.3 to 88.3)" in tab.get_by_role("img").first.get_attribute("aria-label")
    assert tab.get_by_role("search").count() == 1
    assert tab.get_by_role("columnheader", name="candidate").count() >= 1
    assert tab.locator(".case > summary").first.inner_text().split("\n")[0].startswith("ticket-000")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_it_without_sideways_scrolling(show: Open, name: str, scheme: str) -> None:
    tab = show(PAGES[name](), viewport={"width": 390, "height": 844}, color_scheme=scheme)
    tab.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    wide = (
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 391 && !e.closest('svg, .tag, .unseen, i'))"
    )
    assert tab.evaluate(f"{wide}.map(e => e.outerHTML.slice(0, 80))") == []


def test_light_and_dark_follow_the_reader(show: Open) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        tab = show(html(first_report()), color_scheme=scheme)
        grounds[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds == {"light": "rgb(253, 253, 252)", "dark": "rgb(21, 23, 26)"}


def test_the_verdict_the_interval_and_the_regressed_cases_are_on_the_first_screen(show: Open) -> None:
    tab = show(html(worse_report()), viewport={"width": 1280, "height": 900})
    for selector in (".verdict", ".plot >> nth=1", ".case >> nth=2"):
        box = tab.locator(selector).bounding_box()
        assert box["y"] + box["height"] < 900, selector


def test_a_hostile_output_does_nothing(show: Open) -> None:
    """Nothing runs and nothing is loaded: the fixture sees dialogs, requests and refusals of the policy."""
    tab = show(html(text_report()))
    assert tab.locator("img").count() == 0
    assert tab.locator("script").count() == 1


def test_the_page_is_readable_without_its_script(show: Open) -> None:
    tab = show(html(worse_report()), java_script_enabled=False)
    assert tab.locator(".filters").is_hidden()
    assert tab.locator(".case").first.is_visible()


def test_ten_thousand_cases_can_be_searched(show: Open) -> None:
    tab = show(html(worse_report(10_000)))
    tab.get_by_label("Search the cases").fill("ticket-9999")
    counted(tab, "1 of 10,000 cases")
    assert shown(tab) == ["ticket-9999"]
