"""What a run of a plan did: in words, kept in the cache, as a page, live on a terminal, as spans."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result as Ended
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.chat import Usage
from promptsmith.cli.drawing import Look
from promptsmith.cli.live_plan import Watched, frame, live_plan, summed_up
from promptsmith.config import Project
from promptsmith.errors import InputError, TamperedError, UnknownName
from promptsmith.evals.show.terminal import columns
from promptsmith.orchestration import conventions, otel, trace
from promptsmith.orchestration.outcomes import as_json, load_outcome, read_outcome
from promptsmith.orchestration.terminal import terminal
from promptsmith.orchestration.values import Event, Outcome, RoleCost, Step, StepResult
from promptsmith.pages.graph import HEIGHT, MOST, WIDTH, _Layered, graph
from promptsmith.pages.trace import ROOM, TEXT, html
from promptsmith.store import DiskStore, StoreWarning
from promptsmith.store.maintain import clear, prune, stats, verify

from .made_outcomes import (
    BEGAN,
    CHEAP,
    OUTCOMES,
    STRONG,
    all_failed,
    chain,
    conducted,
    diamond,
    empty,
    fan,
    hostile,
    many,
    result,
    run_of,
    stopped,
)
from .made_reports import HOSTILE
from .test_live import Terminal, screen
from .test_pages import Parsed

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff\ufffe]")


# --- the order of steps -----------------------------------------------------------------------------------


def steps_of(edges: dict[str, str]) -> list[Step]:
    """``{"c": "a b"}``: c needs a and b."""
    return [Step(id=name, expert="x", needs=tuple(needs.split())) for name, needs in edges.items()]


@st.composite
def plans(draw: st.DrawFn, most: int = 25) -> list[Step]:
    """Acyclic steps, in any order."""
    number = draw(st.integers(1, most))
    steps = [
        Step(
            id=f"s{place}", expert="x", needs=tuple(f"s{i}" for i in draw(st.sets(st.integers(0, place - 1), max_size=4))) if place else ()
        )
        for place in range(number)
    ]
    return draw(st.permutations(steps))


@given(plans())
def test_a_layer_is_the_longest_way(steps: list[Step]) -> None:
    found = trace.layers(steps)
    for step in steps:
        assert found[step.id] == max((found[need] + 1 for need in step.needs), default=0)


@given(plans())
def test_in_the_tree_each_step_stands_once_behind_its_deepest_need(steps: list[Step]) -> None:
    placed, layer = trace.tree(steps), trace.layers(steps)
    assert sorted(one.step.id for one in placed) == sorted(step.id for step in steps)
    above: list[str] = []
    for one in placed:
        above[one.depth :] = [one.step.id]
        if one.step.needs:
            parent = above[one.depth - 1]
            assert parent in one.step.needs
            assert layer[parent] == max(layer[need] for need in one.step.needs)
            assert sorted([parent, *one.others]) == sorted(one.step.needs)
        else:
            assert one.depth == 0


def test_what_a_step_sees_it_needs() -> None:
    steps = [Step(id="a", expert="x"), Step(id="b", expert="x", context=("a", "an_input"))]
    assert trace.layers(steps) == {"a": 0, "b": 1}
    assert graph(steps).edges[0].target == "b"  # type: ignore[union-attr]


def test_a_file_with_a_circle_is_shown_all_the_same() -> None:
    steps = steps_of({"a": "c", "b": "a", "c": "b", "d": "", "e": "e", "": "d", "f": " nobody"})
    assert sorted(one.step.id for one in trace.tree(steps)) == sorted(step.id for step in steps)
    drawn = graph(steps)
    assert drawn is not None
    assert len(drawn.boxes) == 7
    outcome = run_of(tuple(steps), (result("a", 0, 1), result("b", 1, 2), result("c", 2, 3)))
    assert "circle" not in html(outcome)
    assert set(trace.critical_path(outcome)) == {"a", "b", "c"}


# --- timings ----------------------------------------------------------------------------------------------


def test_the_critical_path_goes_back_to_the_need_that_ended_last() -> None:
    assert trace.critical_path(diamond()) == ["split", "right", "join"]
    assert trace.critical_path(conducted()) == ["market", "name", "check"]
    assert trace.critical_path(empty()) == []
    assert trace.path_line(diamond()) == "split → right → join: 1.80 s of work, 0.20 s of waiting for a free place, in a run of 2.40 s"


def test_a_step_that_was_added_did_not_wait_before() -> None:
    rows = {row.step.id: row for row in trace.traced(conducted())}
    assert rows["check"].ready == 5.6, "it was added then"
    assert rows["check"].waited == 0
    assert rows["market"].ready == 1.2, "when there was a plan"
    assert {row.step.id: round(row.waited, 3) for row in trace.traced(diamond())} == {"split": 0, "left": 0, "right": 0.2, "join": 0}


def test_a_step_that_failed_and_may_be_skipped_did_run() -> None:
    steps = tuple(steps_of({"a": "", "b": "a"}))
    outcome = run_of(steps, (result("a", 0.0, 1.0, "skipped", error="empty twice", attempts=2), result("b", 1.0, 1.5)))
    first, second = trace.traced(outcome)
    assert first.ran
    assert first.seconds == 1.0
    assert [first.critical, second.critical] == [True, True]


@given(plans(), st.randoms(use_true_random=False))
def test_the_critical_path_is_a_way_through_the_plan(steps: list[Step], dice: Any) -> None:
    by_id = {step.id: step for step in steps}
    layer = trace.layers(steps)
    results: dict[str, StepResult] = {}
    for name in sorted(by_id, key=lambda name: layer[name]):
        start = max((results[need].ended for need in by_id[name].needs), default=0.0) + dice.random()
        results[name] = result(name, start, start + 0.1 + dice.random())
    outcome = run_of(tuple(steps), tuple(results[step.id] for step in steps))
    path = trace.critical_path(outcome)
    assert results[path[-1]].ended == max(one.ended for one in results.values())
    assert by_id[path[0]].needs == ()
    for before, after in pairwise(path):
        assert results[before].ended == max(results[need].ended for need in by_id[after].needs)


# --- cost -------------------------------------------------------------------------------------------------


def test_costs_are_told_per_role_in_all_and_against_the_strong_model() -> None:
    outcome = conducted()
    header, rows = trace.cost_table(outcome)
    assert [row[0] for row in rows] == ["conductor", "expert", "in all"]
    assert header[-2:] == ["cost", "share"]
    conductor, expert, total = [float(row[-2].lstrip("$")) for row in rows]
    assert conductor + expert == pytest.approx(total)
    assert rows[0][1:] == ["3", "2,700", "0", "1,200", "$0.0435", "96 %"]
    assert trace.against(outcome) == "$0.0454, against $0.2726 for the same tokens on the strong model alone: 83 % less"
    dearer = msgspec.structs.replace(outcome, baseline_usd=0.0227)
    assert trace.against(dearer).endswith("alone: 100 % more")


def test_what_is_unknown_is_said_to_be_unknown() -> None:
    assert trace.against(stopped()) == "cost unknown; what the same tokens would have cost on the strong model alone is unknown"
    assert [row[-2:] for row in trace.cost_table(stopped())[1]] == [["unknown", "-"], ["unknown", "-"]]
    assert trace.against(empty()) == "$0: no model was called"
    known = msgspec.structs.replace(stopped(), baseline_usd=0.5)
    assert trace.against(known) == "cost unknown, against $0.5000 for the same tokens on the strong model alone"


# --- in the terminal --------------------------------------------------------------------------------------


def test_the_text_says_what_each_step_came_to() -> None:
    text = terminal(conducted(), width=200)
    assert "7 steps: 5 done, 1 failed, 1 skipped" in text
    assert "✗ claims: failed, lawyer, openai/gpt-4o-mini, 0.50 s, $0.00031, 2 attempts" in re.sub(r"\n +", " ", text)
    for part in (
        "the reply broke its contract twice",
        "also after name",
        "from the reply cache",
        "market → name → check",
        "written by a model",
    ):
        assert part in text
    order = [text.index(part) for part in ("\nsteps (", "\ndecisions", "\ninsights", "\nconflicts", "\nattribution", "\nanswer")]
    assert order == sorted(order)
    assert text.endswith("The leaflet waits for the check of its claims.")


@pytest.mark.parametrize("make", OUTCOMES)
@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_text_keeps_to_the_width_and_prints(make: Callable[[], Outcome], width: int) -> None:
    text = terminal(make(), width=width)
    assert not CONTROL.search(text)
    body = text.split("\nanswer\n")[0]
    assert max(columns(line) for line in body.splitlines()) <= width


def test_long_runs_are_cut_and_say_so() -> None:
    text = terminal(many(1000))
    assert len(text.splitlines()) < 600
    assert "and 900 more: --html FILE shows them" in text


# --- kept -------------------------------------------------------------------------------------------------


def kept(store: DiskStore, outcome: Outcome) -> None:
    assert store.put_run(outcome.run, as_json(outcome))


def test_a_run_comes_back_whole(tmp_path: Path) -> None:
    outcome = conducted()
    with DiskStore(tmp_path) as store:
        kept(store, outcome)
        assert load_outcome(store, outcome.run) == outcome
        assert load_outcome(store, outcome.run[:4]) == outcome
    file = tmp_path / "plans" / f"{outcome.run}.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_bytes())["record"]["run"] == outcome.run, "the file is JSON itself"
    assert [path.name for path in file.parent.iterdir()] == [file.name], "written whole, nothing is left beside it"
    assert read_outcome(file) == outcome


@pytest.mark.parametrize("make", OUTCOMES)
def test_any_outcome_is_json_and_comes_back(make: Callable[[], Outcome], tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(as_json(make()))
    found = read_outcome(path)
    assert found.state == make().state
    if make is not hostile:  # half a surrogate pair is no text
        assert found == make()


def test_unknown_and_ambiguous_runs_are_named(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        with pytest.raises(UnknownName, match="no run 'abcd' is kept here") as none:
            load_outcome(store, "abcd")
        assert none.value.hint == "no plan was run with this cache yet"
        for run in ("abcdef01", "abcdef02"):
            kept(store, msgspec.structs.replace(diamond(), run=run))
        with pytest.raises(UnknownName, match="begins the keys of 2 runs"):
            load_outcome(store, "abcd")
        assert load_outcome(store, "abcdef01").run == "abcdef01"
        for name in ("abc", "../../etc/passwd", "", "a/b"):
            with pytest.raises(UnknownName, match="no run"):
                load_outcome(store, name)
        with pytest.raises(ValueError, match="no key of a run"):
            store.put_run("../evil", b"{}")


@given(place=st.integers(0, 100_000), to=st.binary(max_size=2))
def test_any_change_of_a_kept_run_is_refused(tmp_path_factory: pytest.TempPathFactory, place: int, to: bytes) -> None:
    folder = tmp_path_factory.mktemp("cache")
    outcome = diamond()
    with DiskStore(folder) as store:
        kept(store, outcome)
        file = folder / "plans" / f"{outcome.run}.json"
        good = file.read_bytes()
        place %= len(good)
        bad = good[:place] + to + good[place + 1 :]
        file.write_bytes(bad)
        if bad == good:
            assert load_outcome(store, outcome.run) == outcome
            return
        with pytest.raises(TamperedError) as caught:
            load_outcome(store, outcome.run)
    assert str(file) in caught.value.message
    assert "run the plan again" in caught.value.hint
    assert [finding.part for finding in verify(str(folder))] == ["plans"]


def test_a_file_that_is_no_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("", "[]", '{"run": 7}', "{" * 2000):
        path.write_text(text)
        with pytest.raises(InputError, match=r"x\.json is no run of a plan"):
            read_outcome(path)
    with pytest.raises(InputError, match="can't be read"):
        read_outcome(tmp_path / "missing.json")


def test_a_disk_that_does_not_take_it_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("a file where the folder would be")
    with DiskStore(tmp_path) as store, pytest.warns(StoreWarning):
        assert not store.put_run("abcd", b"{}")


def test_the_cache_commands_know_the_folder(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert stats(folder)["plans"]["entries"] == 0
    with DiskStore(tmp_path) as store:
        kept(store, diamond())
        assert stats(folder)["plans"]["entries"] == 1
        assert verify(folder) == []
        assert prune(folder, 1e9, None, 2e9)["plans"] == 0
        assert prune(folder, 10.0, None, 4e9)["plans"] == 1, "runs hold answers: they go with the replies"
        kept(store, diamond())
        assert clear(folder, replies_only=True)["plans"] == 1
    assert list((tmp_path / "plans").iterdir()) == []


# --- the command ------------------------------------------------------------------------------------------


Invoke = Callable[..., Ended]


def test_a_run_of_the_cache_is_shown_by_its_key(make_project: Callable[..., Project], invoke: Invoke) -> None:
    project, outcome = make_project(), conducted()
    with DiskStore(project.cache) as store:
        kept(store, outcome)
    assert "market → name → check" in invoke("plan", "trace", outcome.run[:8], project=project).stdout
    done = invoke("plan", "trace", "0000", project=project, code=2)
    assert f"hint: the newest: {outcome.run[:12]}" in done.stderr
    assert json.loads(invoke("cache", "stats", "--json", project=project).stdout)["plans"]["entries"] == 1
    assert "runs of plans" in invoke("cache", "clear", "--yes", project=project).stderr
    assert "no run" in invoke("plan", "trace", outcome.run, project=project, code=2).stderr


def test_a_file_is_shown_as_text_json_spans_and_page(tmp_path: Path, invoke: Invoke) -> None:
    def call(*args: str | Path, code: int = 0) -> Ended:
        return invoke("plan", "trace", *args, code=code)

    path, page = tmp_path / "run.json", tmp_path / "run.html"
    path.write_bytes(as_json(conducted()))
    assert "market → name → check" in call(path).stdout
    assert msgspec.json.decode(call(path, "--json").stdout, type=Outcome) == conducted()
    spans = [json.loads(line) for line in call(path, "--otel").stdout.splitlines()]
    assert spans[-1]["name"] == "invoke_workflow"
    done = call(path, "--html", page)
    assert done.stdout == ""
    assert f"written: {page}" in done.stderr
    assert page.read_text() == html(conducted())
    assert "give one of them" in call(path, "--json", "--otel", code=2).stderr


# --- the page ---------------------------------------------------------------------------------------------


def test_the_page_has_all_its_parts() -> None:
    outcome = conducted()
    parsed = Parsed(html(outcome))
    for part in (
        "Graph",
        "Timings",
        "Answer",
        "Insights",
        "Conflicts, and how they were resolved",
        "Who contributed what",
        "Cost",
        "Decisions",
        "Steps",
    ):
        assert part in parsed.within("h2") + parsed.within("h3"), part
    assert parsed.all("script") == []
    assert outcome.answer in parsed.within("pane")
    main = parsed.within("main")
    for step in outcome.plan.steps:
        assert step.id in parsed.within("graph")
        assert step.id in parsed.within("times")
        assert step.instructions in parsed.within("pane")
    for one in outcome.results:
        assert one.text in parsed.within("pane")
        assert one.sent in parsed.within("pane")
    for text in (
        *outcome.insights,
        *outcome.conflicts,
        *outcome.attribution.values(),
        trace.against(outcome),
        outcome.problem,
        "2026-09-21",
    ):
        assert text in main, text
    decisions = parsed.within("events")
    order = [decisions.index(part) for part in ("began", "analysis", "plan", "failed", "skipped", "steps added", "synthesis", "ended")]
    assert order == sorted(order)


def test_failed_steps_are_seen_without_colour() -> None:
    parsed = Parsed(html(conducted()))
    assert "✗ claims failed (2 attempts): the reply broke its contract twice: no JSON object was found" in parsed.within("thresholds")
    assert "- leaflet skipped: claims, which it needs, failed" in parsed.within("thresholds")
    assert "✗ claims" in parsed.within("first")
    assert "failed · 0.50 s · lawyer" in parsed.within("second")
    failed = Parsed(html(all_failed()))
    assert failed.within("verdict") == "✗ failed: try-0 failed: 401: the key was not accepted"
    assert "There is none" in failed.within("note")
    assert Parsed(html(stopped())).within("verdict").startswith("- stopped: the limit of 1 calls")
    assert "○ waiting" in Parsed(html(stopped())).within("times")


def test_bars_stand_where_the_times_are() -> None:
    outcome = many(30)
    parsed = Parsed(html(outcome))
    starts = sorted(one.started for one in outcome.results)
    bars = [
        (float(one["x"].rstrip("%")), float(one["width"].rstrip("%")))
        for one in parsed.all("rect")
        if "span" in (one["class"] or "").split()
    ]  # type: ignore[union-attr]
    assert len(bars) == 30
    assert [x for x, _ in bars] == sorted(x for x, _ in bars), "in the order in which they began"
    (x1, _), (x2, _) = bars[0], bars[-1]
    scale = (x2 - x1) / (starts[-1] - starts[0])
    for (x, _), start in zip(bars, starts, strict=True):
        assert x == pytest.approx(x1 + scale * (start - starts[0]), abs=0.01)
    assert all(x + width <= 100 for x, width in bars)


def test_the_critical_path_is_marked_in_the_table_and_in_the_graph() -> None:
    found = html(diamond())
    assert len(re.findall(r'<tr class="critical">', found)) == 3
    assert found.count("●</span>") == 3
    assert found.count('class="edge critical"') == 2
    assert found.count("box done critical") == 3


def test_a_retry_is_a_notch_on_its_bar() -> None:
    found = Parsed(html(conducted()))
    assert len([one for one in found.all("line") if one.get("class") == "again"]) == 1
    assert "(2 attempts)" in found.within("times")


def test_hostile_texts_are_text_on_the_page() -> None:
    found = html(hostile())
    found.encode()
    parsed = Parsed(found)
    assert parsed.open == []
    assert "<img" not in found
    assert "</script" not in found
    assert not CONTROL.search(found)
    assert "{{ 7*7 }}" in parsed.within("pane"), "a text is no template"
    assert parsed.within("pane").count("</script><img src=x onerror=alert(1)>") >= 8


def test_long_texts_are_cut_and_say_their_length() -> None:
    found = html(many(10, size=50_000))
    assert "(50,000 characters)" in found
    assert len(found) < 10 * 5 * TEXT


@pytest.mark.parametrize(("size", "needs", "fill"), [(200, 3, "a finding, "), (6000, 30, "日本"), (20_000, 3, '<\x00"&\u202e')])
def test_a_thousand_steps_stay_a_usable_file(size: int, needs: int, fill: str) -> None:
    outcome = many(1000, size=size, needs=needs, fill=fill)
    found = html(outcome)
    assert len(found.encode()) < 3_000_000
    parsed = Parsed(found)
    assert "graph" not in [attributes.get("class") for _, attributes in parsed.elements], "a table shows so many better"
    assert len([one for one in parsed.all("details") if (one.get("class") or "").startswith("step")]) == 1000
    assert "needs" in parsed.within("times")
    if size > 200:
        assert "More of it is left out here" in found
        failed = found.split('<details class="step failed"')[1:]
        assert all("<h3>why</h3>" in part.split("</details>")[0] for part in failed[: ROOM // (TEXT * 4 * 6)]), "what failed is shown first"


# --- the graph --------------------------------------------------------------------------------------------


@given(plans(MOST))
def test_no_two_boxes_overlap_and_every_need_has_its_arrow(steps: list[Step]) -> None:
    drawn = graph(steps)
    assert drawn is not None
    assert {box.id for box in drawn.boxes} == {step.id for step in steps}
    assert {(edge.source, edge.target) for edge in drawn.edges} == {(need, step.id) for step in steps for need in step.needs}
    for place, one in enumerate(drawn.boxes):
        assert 0 <= one.x <= drawn.width - WIDTH
        assert 0 <= one.y <= drawn.height - HEIGHT
        for other in drawn.boxes[place + 1 :]:
            assert abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT, (one, other)
    at = {box.id: box for box in drawn.boxes}
    downwards = len({box.x for box in drawn.boxes}) > 1 and all(at[e.source].y + HEIGHT <= at[e.target].y for e in drawn.edges)
    across = all(at[e.source].x + WIDTH <= at[e.target].x for e in drawn.edges)
    assert across or downwards, "every arrow leads the same way"


@given(plans(MOST))
def test_curves_lead_from_box_to_box_within_the_drawing(steps: list[Step]) -> None:
    drawn = graph(steps)
    assert drawn is not None
    at = {box.id: box for box in drawn.boxes}
    for edge in drawn.edges:
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", edge.path)]
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        assert all(-0.1 <= x <= drawn.width + 0.1 and -0.1 <= y <= drawn.height + 0.1 for x, y in points)
        box = at[edge.source]
        assert box.x - 0.1 <= points[0][0] <= box.x + WIDTH + 0.1
        assert box.y - 0.1 <= points[0][1] <= box.y + HEIGHT + 0.1


def test_an_order_without_crossings_is_found() -> None:
    """Two chains whose steps are written crosswise, and a ladder."""
    assert _Layered(steps_of({"a": "", "b": "", "d": "b", "c": "a", "e": "c", "f": "d"})).crossings() == 0
    assert _Layered(steps_of({"a": "", "b": "", "c": "", "z": "c", "y": "b", "x": "a", "end": "x y z"})).crossings() == 0
    assert _Layered(steps_of({"a": "", "b": "", "c": "a b", "d": "a b"})).crossings() == 1, "these can't be led without"


def test_deep_plans_go_down_and_broad_ones_across() -> None:
    deep, broad = graph(chain(40).plan.steps), graph(fan(40).plan.steps)
    assert deep is not None
    assert broad is not None
    assert deep.width < 390
    assert broad.width < 700
    assert graph(many(MOST + 1).plan.steps) is None
    assert graph(()) is None


# --- live -------------------------------------------------------------------------------------------------


def watched(outcome: Outcome, *, until: float = 1e9, known: bool = True) -> Watched:
    state = Watched(outcome.plan.steps if known else ())
    for event in sorted(outcome.events, key=lambda event: event.at):
        if event.at <= until:
            state.note(event)
    return state


def test_a_drawing_shows_the_tree_with_states_times_and_cost() -> None:
    lines = frame(watched(conducted(), until=3.2), 3.2, Look(120, 40))
    assert lines[0] == "0 of 7 steps done, 4 running, 1 failed, 1 skipped, 0:03, $0.0148"
    assert lines[1] == "skipped: claims, which it needs, failed" or lines[1].startswith("plan: six steps")
    assert "▸ market (analyst) 0:02" in lines
    assert "  ▸ name (writer) 0:01" in lines
    assert "  ✗ claims (lawyer) failed, 0.50 s, $0.00031: the reply broke its contract twice: no JSON object was found" in lines
    assert "    - leaflet (writer) skipped: claims, which it needs, failed" in lines
    assert "  ○ check (analyst) waiting" in [line.replace("    ", "  ") for line in lines]


def test_steps_that_come_up_on_the_way_are_shown() -> None:
    state = watched(conducted(), known=False)
    assert list(state.steps)[-1] == "check"
    nothing_known = Watched()
    nothing_known.note(Event(kind="step_started", at=1.0, step="later"))
    assert "▸ later 0:01" in frame(nothing_known, 2.0, Look(80, 10))
    assert frame(Watched(), 0.0, Look(80, 10)) == ["no steps yet, 0:00, $0"]


def test_a_retry_is_counted() -> None:
    state = watched(conducted(), until=3.8)
    line = next(line for line in frame(state, 4.0, Look(120, 40)) if "name (" in line)
    assert line.strip() == "▸ name (writer) 0:01, attempt 2: the answer was empty"


def test_what_runs_and_what_failed_is_kept_where_there_is_little_room() -> None:
    state = watched(conducted(), until=3.2)
    lines = frame(state, 3.2, Look(100, 7))
    assert len(lines) == 7
    assert any("✗ claims" in line for line in lines)
    assert lines[-1] == "  and 1 running, 1 skipped, 1 waiting" or lines[-1].startswith("  and ")


def test_a_terminal_without_unicode_gets_ascii() -> None:
    for line in frame(watched(conducted()), 9.0, Look(80, 40, unicode=False)):
        assert line.isascii()
    assert any(line.lstrip().startswith("x claims") for line in frame(watched(conducted()), 9.0, Look(80, 40, unicode=False)))


@given(width=st.integers(1, 200), height=st.integers(0, 30), number=st.integers(0, 40), until=st.floats(0, 10))
def test_no_line_is_wider_than_the_terminal_and_there_are_no_more_than_fit(width: int, height: int, number: int, until: float) -> None:
    for outcome in (many(number), hostile()):
        lines = frame(watched(outcome, until=until), until, Look(width, height))
        assert len(lines) <= max(1, height)
        for line in lines:
            assert columns(line) <= max(1, width - 1)
            assert line.isprintable()


def test_the_end_is_summed_up() -> None:
    assert summed_up(watched(many(40)), 12.0) == "40 steps (38 done, 2 failed) in 0:12: $0.0124"


CHILD = """
import sys
import click
from promptsmith.cli.live_plan import live_plan
from tests.made_outcomes import conducted

outcome = conducted()
events = sorted(outcome.events, key=lambda event: event.at)
sys.stderr.write("before\\n")
with live_plan() as seen:
    print("watched" if seen else "unwatched", flush=True)
    for event in events:
        print("ready", flush=True)
        word = sys.stdin.readline().strip()
        if word == "end":
            break
        if word == "fail":
            raise RuntimeError("broken")
        if word == "say":
            click.echo("somebody else", err=True)
        if seen:
            seen(event)
print("done", flush=True)
click.echo("after", err=True)
"""


@contextmanager
def running(width: int = 100, height: int = 30, **env: str) -> Iterator[Terminal]:
    found = Terminal(["-c", CHILD], width, height, env)
    try:
        found.watched = found.line()
        assert found.line() == "ready"
        yield found
    finally:
        found.close()


def to_the_end(at: Terminal) -> str:
    while at.step() == "ready":
        pass
    return at.end()


def plain(at: Terminal) -> str:
    """What was drawn so far, without colours."""
    return re.sub(r"\x1b\[\d+m", "", at.seen.decode("utf-8", "ignore"))


def drawn(at: Terminal, seen: Callable[[], bool]) -> None:
    """Waits for a drawing of the ticking thread, which comes without an event."""
    while not seen():
        assert at.child.poll() is None, "it ended without"
        time.sleep(0.01)


def unwide(text: str) -> list[str]:
    """The lines of all drawings, without colours."""
    return re.split(r"\r\n|\r\x1b\[\d+A\x1b\[J", re.sub(r"\x1b\[\d+m", "", text))


def test_on_a_terminal_the_tree_is_drawn_over_and_one_line_stays() -> None:
    with running() as at:
        assert at.watched == "watched"
        for _ in range(9):
            at.step()
        drawn(at, lambda: "✗ claims (lawyer) failed" in plain(at))
        assert "▸ market (analyst)" in plain(at)
        text = to_the_end(at)
    shown = screen(text).splitlines()
    assert shown[0] == "before"
    assert re.fullmatch(r"ran 7 steps \(5 running, 1 failed, 1 skipped\) in 0:0\d: \$0\.0438", shown[1]), shown
    assert shown[2:] == ["after"]
    assert "\x1b[?" not in text, "no mode of the terminal is changed"


def test_time_goes_on_while_nothing_happens() -> None:
    with running() as at:
        for _ in range(6):
            at.step()
        seen = len(at.seen)
        drawn(at, lambda: len(at.seen) > seen)
        at.step("end")
        at.end()


@pytest.mark.parametrize(("width", "height"), [(20, 10), (20, 4), (1, 1), (40, 24), (300, 80)])
def test_terminals_of_any_size(width: int, height: int) -> None:
    with running(width, height) as at:
        text = to_the_end(at)
    drawn = text[text.index("before\r\n") + 8 : text.rindex("ran 7")]
    for line in unwide(drawn):
        assert columns(line) <= max(1, width - 1)
    for one in re.split(r"\r\x1b\[\d+A\x1b\[J", drawn):
        assert one.count("\r\n") <= max(1, height - 1), "the drawing fits, so that it can be drawn over"


def test_a_resize_is_followed() -> None:
    with running(120, 30) as at:
        for _ in range(5):
            at.step()
        at.resize(30, 12)
        drawn(at, lambda: max(map(len, unwide(plain(at).split("\x1b[J")[-1]))) <= 29)
        at.resize(90, 30)
        text = to_the_end(at)
    assert screen(text, 120, 30).splitlines()[0] == "before"
    assert screen(text, 120, 30).splitlines()[-1] == "after"


def test_ctrl_c_and_errors_leave_the_terminal_as_it_was() -> None:
    with running() as at:
        for _ in range(5):
            at.step()
        at.child.send_signal(signal.SIGINT)
        text = at.end()
        assert at.child.returncode == -signal.SIGINT
    lines = screen(text).splitlines()
    assert lines[1].startswith("stopped after 6 steps")
    assert lines[-1] == "KeyboardInterrupt"
    with running() as at:
        for _ in range(5):
            at.step()
        at.step("fail")
        lines = screen(at.end()).splitlines()
    assert lines[1].startswith("stopped after 6 steps")
    assert lines[-1] == "RuntimeError: broken"


def test_what_others_write_stands_above() -> None:
    with running() as at:
        for _ in range(5):
            at.step()
        at.step("say")
        at.step()
        at.step("end")
        lines = screen(at.end()).splitlines()
    assert lines[:2] == ["before", "somebody else"]


def test_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr
    with live_plan() as seen:
        assert seen is None
        assert sys.stderr is before
    assert capsys.readouterr().err == ""
    with running(TERM="dumb") as at:
        assert at.watched == "unwatched"
        assert to_the_end(at) == "before\r\nafter\r\n"


PLAN = """
name: words
inputs: {text: text}
steps:
- {id: short, worker: "textwrap:shorten", arguments: {width: 20}, context: [text]}
- {id: broken, worker: "json:loads", arguments: {s: "no JSON"}, on_failure: skip, retries: 0}
- {id: capitals, worker: "string:capwords", needs: [short, broken], arguments: {s: "one two"}}
"""


def solving(project: Project, *more: str) -> Terminal:
    (project.root / "words.yaml").write_text(PLAN)
    given = ["solve", str(project.root / "words.yaml"), "--var", "text=a text that is longer", *more]
    return Terminal(["-m", "promptsmith", "--project", str(project.root), *given], 120, 40)


def test_a_plan_that_is_run_on_a_terminal_is_seen_kept_and_traced(make_project: Callable[..., Project], invoke: Invoke) -> None:
    project = make_project()
    at = solving(project)
    try:
        text = at.end()
        assert at.child.returncode == 0, text
        assert at.line() == "One Two"
    finally:
        at.close()
    assert "○ short (worker textwrap:shorten) waiting" in re.sub(r"\x1b\[\d+m", "", text)
    shown = screen(text, 120, 40)
    assert "○ short" not in shown
    assert re.search(r"^ran 3 steps \(2 done, 1 skipped\) in 0:0\d: \$0$", shown, re.MULTILINE)
    (kept_file,) = (project.cache / "plans").iterdir()
    told = invoke("plan", "trace", kept_file.stem[:12], project=project).stdout
    assert re.search(r"- (\* )?broken: skipped, worker json:loads", told)
    assert "short" in told
    outcome = read_outcome(kept_file)
    assert "One Two" in Parsed(html(outcome)).within("pane")
    names = [json.loads(line)["name"] for line in otel.span_lines(outcome)]
    assert sorted(names) == [
        "execute_tool json:loads",
        "execute_tool string:capwords",
        "execute_tool textwrap:shorten",
        "invoke_workflow words",
    ]


def test_a_plan_that_is_run_for_a_program_draws_nothing(make_project: Callable[..., Project]) -> None:
    at = solving(make_project(), "--json")
    try:
        text = at.end()
        assert at.child.returncode == 0, text
    finally:
        at.close()
    assert "\x1b" not in text
    assert "ran 3 steps" not in text


# --- spans ------------------------------------------------------------------------------------------------


def spans(outcome: Outcome, *, content: bool = False) -> list[Any]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    otel.export(outcome, provider=provider, content=content)
    return list(exporter.get_finished_spans())


def test_the_run_is_the_root_and_each_step_and_call_a_child_with_its_times() -> None:
    outcome = conducted()
    found = spans(outcome)
    (root,) = [span for span in found if span.parent is None]
    assert root.name == "invoke_workflow"
    assert root.start_time == round(BEGAN * 1e9)
    assert root.end_time == round((BEGAN + outcome.seconds) * 1e9)
    assert len({span.context.trace_id for span in found}) == 1
    steps = {span.attributes["promptsmith.step.id"]: span for span in found if span.name.startswith(("invoke_agent", "execute_tool"))}
    assert set(steps) == {one.id for one in outcome.results if one.attempts}
    for name, span in steps.items():
        result = outcome.result(name)
        assert span.parent.span_id == root.context.span_id
        assert span.start_time == round((BEGAN + result.started) * 1e9)
        assert span.end_time == round((BEGAN + result.ended) * 1e9)
    calls: dict[str, list[Any]] = {name: [] for name in steps}
    for span in found:
        for name, step in steps.items():
            if span.parent is not None and span.parent.span_id == step.context.span_id:
                calls[name].append(span)
    assert {name: [span.name for span in own] for name, own in calls.items()} == {
        "market": ["chat gpt-4o-mini"],
        "price": [],
        "name": ["chat gpt-4o-mini", "chat gpt-4o-mini"],
        "claims": ["chat gpt-4o-mini"],
        "offer": [],
        "check": ["chat gpt-4o-mini"],
    }, "what the reply cache answered was no call"
    first, second = calls["name"]
    assert first.end_time == second.start_time == round((BEGAN + 3.7) * 1e9)
    own = [
        span for span in found if span.parent is not None and span.parent.span_id == root.context.span_id and span.name.startswith("chat")
    ]
    assert [span.attributes["promptsmith.decision"] for span in own] == ["plan", "added", "synthesis"]
    assert own[0].start_time == round(BEGAN * 1e9)


def test_models_tokens_and_cost_stand_in_the_attributes_of_the_conventions() -> None:
    found = spans(conducted())
    market = next(span for span in found if span.attributes.get("promptsmith.step.id") == "market")
    assert dict(market.attributes) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "analyst",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 820,
        "gen_ai.usage.output_tokens": 240,
        "gen_ai.usage.cache_read.input_tokens": 512,
        "promptsmith.step.id": "market",
        "promptsmith.step.attempts": 1,
        "promptsmith.step.source": "model",
        "promptsmith.prompt.id": conducted().result("market").prompt,
        "promptsmith.cost.usd": 0.00031,
    }
    attempts = [span for span in found if span.parent is not None and span.name == "chat gpt-4o-mini"]
    whole = conducted().result("name").usage
    two = [
        span
        for span in attempts
        if span.parent.span_id == next(s for s in found if s.attributes.get("promptsmith.step.id") == "name").context.span_id
    ]
    assert sum(span.attributes["gen_ai.usage.input_tokens"] for span in two) == whole.input
    conductor = next(span for span in found if span.attributes.get("promptsmith.decision") == "plan")
    assert conductor.attributes["gen_ai.provider.name"] == "anthropic"
    assert conductor.attributes["gen_ai.request.model"] == STRONG.partition("/")[2]


def test_every_name_is_one_of_the_conventions() -> None:
    """Of the registry in the installed package, or our own with our prefix."""
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv.attributes import error_attributes
    from opentelemetry.trace import SpanKind

    known = {value for module in (gen_ai_attributes, error_attributes) for value in vars(module).values() if isinstance(value, str)}
    operations = {one.value for one in gen_ai_attributes.GenAiOperationNameValues}
    providers = {one.value for one in gen_ai_attributes.GenAiProviderNameValues}
    for make in (conducted, hostile, all_failed):
        for span in spans(make(), content=True):
            assert {name for name in span.attributes if not name.startswith("promptsmith.")} <= known
            assert span.attributes["gen_ai.operation.name"] in operations
            assert span.kind is (SpanKind.CLIENT if span.attributes["gen_ai.operation.name"] == "chat" else SpanKind.INTERNAL)
    assert set(conventions.PROVIDERS.values()) <= providers


def test_failures_are_errors_and_say_no_more_than_is_asked_for() -> None:
    from opentelemetry.trace import StatusCode

    found = spans(conducted())
    failed = [span for span in found if span.status.status_code is StatusCode.ERROR]
    assert {span.attributes["error.type"] for span in failed} == {"step_failed", "attempt_failed"}
    assert all(span.status.description is None for span in failed)
    root = spans(all_failed(), content=True)[-1]
    assert root.attributes["error.type"] == "plan_failed"
    assert root.status.description == all_failed().why
    (skipped,) = [event for event in spans(conducted())[-1].events if event.name == "promptsmith.step_skipped"]
    assert skipped.attributes["promptsmith.step.id"] == "leaflet"


def test_no_text_leaves_unless_it_is_asked_for() -> None:
    outcome = conducted()
    secret = [
        outcome.problem,
        outcome.answer,
        *(one.text for one in outcome.results if one.text),
        *(one.sent for one in outcome.results if one.sent),
    ]
    secret += [one.error for one in outcome.results if one.error] + [event.text for event in outcome.events if len(event.text) > 5]

    def written(content: bool) -> str:
        lines = [json.loads(line) for line in otel.span_lines(outcome, content=content)]
        return "\n".join(text for line in lines for text in _texts(line))

    for text in secret:
        assert text not in written(False)
    whole = written(True)
    for one in outcome.results:
        assert one.text in whole or json.dumps(one.text)[1:-1] in whole
    assert outcome.answer in whole or json.dumps(outcome.answer)[1:-1] in whole


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def test_spans_stand_below_the_span_that_is_current() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("app").start_as_current_span("request") as request:
        otel.export(diamond(), provider=provider)
    root = next(span for span in exporter.get_finished_spans() if span.name.startswith("invoke_workflow"))
    assert root.name == "invoke_workflow diamond"
    assert root.parent.span_id == request.get_span_context().span_id


def test_an_attempt_of_unknown_tokens_has_none() -> None:
    """A retry whose event counts nothing: the step's tokens stand on the step alone."""
    steps = (Step(id="a", expert="reader"),)
    events = (Event(kind="step_retried", at=0.5, step="a", role="expert", text="empty"),)
    outcome = run_of(steps, (result("a", 0.0, 1.0, attempts=2, usage=Usage(input=10, output=5)),), events)
    found = spans(outcome)
    assert [span.attributes.get("gen_ai.usage.input_tokens") for span in found] == [None, None, 10, None]


@pytest.mark.parametrize("make", OUTCOMES)
def test_any_outcome_has_spans(make: Callable[[], Outcome]) -> None:
    for line in otel.span_lines(make(), content=True):
        json.loads(line)
        assert "\n" not in line


def test_without_the_packages_the_error_says_what_to_install() -> None:
    with pytest.raises(InputError, match="OpenTelemetry is not installed") as caught:
        conventions.needs("no_such_package_of_spans.sdk")
    assert caught.value.hint == "pip install 'promptsmith[otel]'"


def test_the_spans_need_no_more_than_the_extra_names() -> None:
    import tomllib

    extras = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {re.match(r"[\w-]+", one)[0] for one in extras["otel"]}  # type: ignore[index]
    assert named - {"opentelemetry-exporter-otlp-proto-http"} == {"opentelemetry-api", "opentelemetry-sdk"}


def test_the_texts_of_a_role_that_nobody_knows_are_shown() -> None:
    outcome = msgspec.structs.replace(diamond(), costs=(RoleCost(HOSTILE, 1, Usage(input=3), 0.5),))
    assert "</script>" not in html(outcome)
    assert CHEAP in terminal(outcome, width=200)
