"""Where a prompt comes from: the record in the cache, and in words, as JSON and as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import msgspec
import pytest
from click.testing import Result as Ended
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.canonical import sha256
from promptsmith.cli.frame import open_store
from promptsmith.compiler.search import words
from promptsmith.compiler.search.kept import put_record, record_of
from promptsmith.compiler.search.record import SearchRecord
from promptsmith.compiler.search.terminal import terminal
from promptsmith.compiler.search.values import Origin
from promptsmith.config import Project
from promptsmith.errors import StoreError, TamperedError
from promptsmith.evals.show.terminal import columns
from promptsmith.pages.provenance import CHARACTERS, heat, html
from promptsmith.pages.scatter import axis, letters, scatters
from promptsmith.store import DiskStore, StoreWarning
from promptsmith.store.maintain import clear, prune, stats, verify

from .made_searches import (
    SEARCHES,
    empty_search,
    hostile_search,
    huge_search,
    kept_search,
    made_search,
    priceless_search,
    prompt_of,
    unfinished_search,
)
from .test_pages import Parsed

Invoke = Callable[..., Ended]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff\ufffe]")
DIGEST = sha256("a record")


# --- the store --------------------------------------------------------------------------------------------


def kept_file(folder: Path, digest: str = DIGEST) -> Path:
    return folder / "searches" / f"{digest[:32]}.json"


def test_a_record_comes_back_byte_for_byte(tmp_path: Path) -> None:
    record = made_search()
    with DiskStore(tmp_path) as store:
        assert store.search(record.digest()) is None
        digest = put_record(store, record)
        assert digest == record.digest()
        assert store.search(digest) == msgspec.json.encode(record)
        assert record_of(store, prompt_of(record, digest)) == record
    file = kept_file(tmp_path, digest)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert json.loads(file.read_bytes())["record"]["task"] == "support/triage", "the file is JSON itself"


def test_the_record_of_a_later_run_takes_the_place_of_the_same_search(tmp_path: Path) -> None:
    """What differs from run to run is not in the digest."""
    first, second = made_search(seconds=10.0), made_search(seconds=3.0, replayed=40, repeated=2)
    with DiskStore(tmp_path) as store:
        assert put_record(store, first) == put_record(store, second)
        found = record_of(store, prompt_of(first, first.digest()))
    assert found == second


@given(place=st.integers(0, 10_000), to=st.binary(min_size=0, max_size=2))
def test_any_change_of_the_file_is_refused(tmp_path_factory: pytest.TempPathFactory, place: int, to: bytes) -> None:
    folder = tmp_path_factory.mktemp("cache")
    with DiskStore(folder) as store:
        store.put_search(DIGEST, b'{"candidates":[1,2,3]}')
        good = kept_file(folder).read_bytes()
        place %= len(good)
        bad = good[:place] + to + good[place + 1 :]
        kept_file(folder).write_bytes(bad)
        if bad == good:
            assert store.search(DIGEST) == b'{"candidates":[1,2,3]}'
            return
        with pytest.raises(TamperedError) as caught:
            store.search(DIGEST)
    assert str(kept_file(folder)) in caught.value.message
    assert "--force" in caught.value.hint
    assert [finding.part for finding in verify(str(folder))] == ["searches"]


def test_the_record_of_another_search_is_refused(tmp_path: Path) -> None:
    other = sha256("another")
    with DiskStore(tmp_path) as store:
        store.put_search(DIGEST, b'{"a":1}')
        kept_file(tmp_path).rename(kept_file(tmp_path, other))
        with pytest.raises(TamperedError):
            store.search(other)


def test_a_record_that_is_not_the_one_the_prompt_names_is_refused(tmp_path: Path) -> None:
    record = made_search()
    digest = record.digest()
    with DiskStore(tmp_path) as store:
        store.put_search(digest, msgspec.json.encode(made_search(seed=8)))
        with pytest.raises(TamperedError, match="does not have this digest"):
            record_of(store, prompt_of(record, digest))
        store.put_search(digest, b'{"task":7}')
        with pytest.raises(TamperedError, match="can't be read"):
            record_of(store, prompt_of(record, digest))
        store.put_search(digest, b'{"format":2,"candidates":{}}')
        with pytest.raises(StoreError, match="format 2") as caught:
            record_of(store, prompt_of(record, digest))
        assert "use the promptsmith that compiled it" in caught.value.hint


@pytest.mark.parametrize("digest", ["", "../../x", "../../../etc/passwd".ljust(64, "a"), "A" * 64, "ab"])
def test_a_name_that_is_no_digest_names_no_file(tmp_path: Path, digest: str) -> None:
    with DiskStore(tmp_path / "cache") as store:
        assert store.search(digest) is None
        assert record_of(store, prompt_of(made_search(), digest)) is None


def test_a_disk_that_takes_no_record_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "searches").write_text("a file where the folder would be")
    with DiskStore(tmp_path) as store:
        with pytest.warns(StoreWarning, match="can't be used"):
            assert store.put_search(DIGEST, b"{}") is False
        assert store.search(DIGEST) is None


def test_a_folder_behind_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/searches").symlink_to(tmp_path / "elsewhere")
    with DiskStore(tmp_path / "cache") as store, pytest.raises(StoreError, match="symbolic link"):
        store.put_search(DIGEST, b"{}")
    with pytest.raises(StoreError, match="symbolic link"):
        clear(str(tmp_path / "cache"), replies_only=False)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_records_go_with_the_prompts_and_not_with_the_replies(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert stats(folder)["searches"] == {"entries": 0, "bytes": 0, "oldest": None, "newest": None}
    with DiskStore(tmp_path) as store:
        store.put_search(DIGEST, b"{}")
    kept_file(tmp_path).with_suffix(".json.1.ab.tmp").write_text("cut short")
    assert stats(folder)["searches"]["entries"] == 1
    prune(folder, 0.0, 0, 9e9)
    assert clear(folder, replies_only=True).get("searches") is None
    assert kept_file(tmp_path).exists()
    assert clear(folder, replies_only=False)["searches"] == 2
    assert list((tmp_path / "searches").iterdir()) == []


def test_the_cache_commands_know_the_records(make_project: Callable[..., Project], invoke: Invoke) -> None:
    project = make_project()
    with open_store(project) as store:
        digest = put_record(store, made_search())
    assert json.loads(invoke("cache", "stats", "--json", project=project).stdout)["searches"]["entries"] == 1
    invoke("cache", "verify", project=project)
    invoke("cache", "prune", project=project)
    invoke("cache", "clear", "--replies", "--yes", project=project)
    file = kept_file(project.cache, digest)
    file.write_bytes(file.read_bytes().replace(b"plateau", b"perfect"))
    assert "searches" in invoke("cache", "verify", project=project, code=1).stdout
    assert "records of searches" in invoke("cache", "clear", "--yes", project=project).stderr
    assert not file.exists()


# --- in words ---------------------------------------------------------------------------------------------


def test_the_end_of_a_compile_in_a_few_lines() -> None:
    record = made_search()
    lines = words.told_search(record)
    text = "\n".join(lines)
    assert lines[0] == "search ended: plateau: no edit was accepted in 3 rounds"
    assert "tried 25 candidates on 60 dev cases: 2 baselines, 12 scored in full, 8 out early, 3 rejected on a minibatch" in lines
    assert f"chosen {record.chosen} (reflection" in text
    assert any("over -O0" in line and "+14.2 points" in line for line in lines)
    assert any(line.startswith("no measurable gain over the bare description") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("front ")] == list(record.front)
    assert "spent 993 calls, 470,400 tokens, $0.1882" in lines
    assert lines[-1] == "more: promptsmith show support/triage --provenance"
    assert "unscored" not in text


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    text = "\n".join(words.told_search(priceless_search()))
    assert "cost unknown" in text
    assert "price unknown" in text
    assert "$" not in text


def test_an_unfinished_search_says_so_and_names_what_has_no_score() -> None:
    lines = words.told_search(unfinished_search())
    assert lines[0] == "search ended: time: the time limit of 60 seconds is reached; unfinished: the same compile goes on from here"
    assert "unscored: 2 of 60 dev cases (ticket-004, ticket-009)" in lines
    spent = next(line for line in lines if line.startswith("spent "))
    assert "41 calls answered by the journal of an earlier run" in spent
    assert "3 calls under way when it was killed may have been paid twice" in spent


def test_nothing_scored_claims_nothing() -> None:
    lines = words.told_search(empty_search())
    assert lines[0] == "search ended: budget: the limit of 0 calls is reached"
    assert "nothing is known of a gain over -O0: not both were scored on all dev cases" in lines
    assert not any(line.startswith(("front", "chosen", "unscored")) for line in lines)


def test_a_baseline_that_was_chosen_gains_nothing_over_itself() -> None:
    record = made_search()
    template = record.candidates[0].id
    record = msgspec.structs.replace(record, chosen=template, over_template=None)
    assert words.gains(record)[0] == "no gain over -O0: it is what was chosen"


def test_hostile_texts_stay_on_their_lines() -> None:
    for line in words.told_search(hostile_search()):
        assert not CONTROL.search(line)
        assert "\n" not in line


def test_a_step_is_measured_on_the_cases_that_both_have() -> None:
    record = made_search()
    for one in record.candidates:
        step = words.step(record, one)
        if not one.origin.parents:
            assert step is None
            continue
        parent = record.candidate(one.origin.parents[0])
        now, before = (one.scores, parent.scores) if one.scores else (one.practice, parent.practice)
        both = sorted(set(now) & set(before))
        assert step is not None
        assert step.difference == pytest.approx(fmean(now[case] - before[case] for case in both))
        assert (step.cases, step.part) == (len(both), "dev" if one.scores else "compile")
        assert step.better == sum(now[case] > before[case] for case in both)
        assert step.worse == sum(now[case] < before[case] for case in both)
    rejected = next(one for one in record.candidates if one.state == "rejected")
    assert "on 8 compile cases" in words.step_line(words.step(record, rejected))  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=12))
def test_a_lineage_holds_every_candidate_once_whatever_the_parents(parents: list[tuple[int, bool]]) -> None:
    """Parents that came up later, are unknown, or are the candidate itself make no circle."""
    rows = made_search(drafts=12, reflections=0, dev=4).candidates[: len(parents)]
    ids = [row.id for row in rows]
    rows = tuple(
        msgspec.structs.replace(row, origin=Origin(kind="reflection", parents=(ids[at % len(ids)] if known else "unknown",)))
        for row, (at, known) in zip(rows, parents, strict=False)
    )
    placed = words.lineage(made_search(drafts=0, reflections=0, dev=4, candidates=rows))
    assert sorted(one.candidate.id for one in placed) == sorted(ids)
    assert all(later.depth <= earlier.depth + 1 for earlier, later in pairwise(placed))
    by_id = {one.candidate.id: one for one in placed}
    for one in placed:
        if one.depth:
            assert by_id[one.candidate.origin.parents[0]].depth == one.depth - 1


def test_a_chain_of_a_thousand_edits_is_shown(tmp_path: Path) -> None:
    first = made_search(drafts=1, reflections=0, dev=2).candidates[0]
    rows = [
        msgspec.structs.replace(first, id=f"{i:012x}", origin=Origin(kind="reflection", parents=(f"{i - 1:012x}",))) for i in range(1000)
    ]
    record = made_search(drafts=1, reflections=0, dev=2, candidates=tuple(rows), chosen=rows[5].id, front=())
    assert words.lineage(record)[-1].depth == 999
    assert "0000000003e7" in terminal(kept_search(record))
    assert "0000000003e7" in html(kept_search(record))


# --- on a terminal ----------------------------------------------------------------------------------------


def test_the_terminal_shows_everything_that_there_is() -> None:
    record = made_search()
    text = terminal(kept_search(record, record.digest()), width=120)
    parts = ("\nsearch\n", "ended         plateau", "\nfront\n", "\nspent by stage\n", "\ncandidates\n", "\nlineage: ")
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    for part in (
        "acme/small-1", "acme/large-1", "prefer=score, max-calls=1000", f"evals/support/triage.csv sha256 {sha256('csv')[:12]}",
        "40 compile cases, 60 dev cases", "7, of the data 0", record.digest(), "no measurable gain over the bare description", "in all",
        "it has the highest mean score", "a note", "2 drafts were the same as others",
    ):  # fmt: skip
        assert part in text, part
    for one in record.candidates:
        assert text.count(one.id) >= 2, "in the table and in the lineage"
        assert " ".join(one.origin.said.split()) in " ".join(text.split())
    assert re.search(rf"\* +{record.chosen} ", text)


def test_an_edit_stands_below_what_it_was_made_from() -> None:
    record = made_search()
    text = terminal(kept_search(record), width=160)
    lineage = text[text.index("\nlineage") :].splitlines()
    indents = {match[2]: len(match[1]) for line in lineage if (match := re.match(r"( +)([0-9a-f]{12}) ", line))}
    assert set(indents) == {one.id for one in record.candidates}
    for one in record.candidates:
        assert indents[one.id] == (indents[one.origin.parents[0]] + 2 if one.origin.parents else 2)


@pytest.mark.parametrize("width", [10, 40, 80, 100, 200])
@pytest.mark.parametrize("make", SEARCHES)
def test_lines_keep_to_the_width_and_controls_stay_out(make: Callable[[], SearchRecord], width: int) -> None:
    for record in (make(), None):
        kept = kept_search(make())._replace(record=record)
        text = terminal(kept, width=width)
        assert not CONTROL.search(text)
        # textwrap counts characters: those that take two columns may stand over
        assert max(columns(line) for line in text.splitlines() if line.isascii()) <= max(width, 40)


def test_numbers_are_never_cut() -> None:
    record = made_search()
    for width in (40, 60, 80, 90, 100, 130):
        words_ = " ".join(terminal(kept_search(record), width=width).split())
        for one in record.candidates:
            assert words.score(one) in words_, width


def test_colours_only_when_asked_for() -> None:
    kept = kept_search(made_search())
    plain, colored = terminal(kept), terminal(kept, color=True)
    assert "\x1b" not in plain
    assert "\x1b[1m" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == plain


def test_without_the_record_the_summary_is_shown() -> None:
    record = made_search()
    text = " ".join(terminal(kept_search(record, record.digest())._replace(record=None), width=100).split())
    assert f"{record.digest()[:12]} is not in this cache: it stands in the cache of whoever compiled the prompt" in text
    assert "25 candidates on 60 dev cases" in text
    assert "+14.2 points over -O0" in text
    assert record.over_template is not None
    assert record.over_template.compared < len(record.candidates)
    assert f"corrected for the best of {record.over_template.compared})" in text
    assert "993 calls, $0.1882" in text
    for name in record.front:
        assert name in text
    assert "lineage" not in text


@pytest.mark.parametrize(
    ("level", "how"),
    [
        (0, "a template wrote it, no model was asked"),
        (1, "the meta-model wrote it once"),
        (2, "nothing was compared, and its notes say why"),
    ],
)
def test_a_prompt_without_a_search_says_so(level: int, how: str) -> None:
    kept = kept_search(None)._replace(prompt=prompt_of(None, level=level))
    text = terminal(kept)
    assert f"no search: this prompt was compiled at -O{level}: {how}" in " ".join(text.split())
    assert "evals/support/triage.yaml" in text
    assert f"no search: this prompt was compiled at -O{level}: {how}" in Parsed(html(kept)).within("verdict")


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def searched(make_project: Callable[..., Project]) -> Project:
    """A project whose cache holds a prompt with its record."""
    project = make_project()
    record = made_search(task="sentiment")
    with open_store(project) as store:
        store.put_prompt(prompt_of(record, put_record(store, record), task="sentiment"))
    return project


def test_show_provenance_on_stdout(searched: Project, invoke: Invoke) -> None:
    done = invoke("show", "sentiment", "--provenance", project=searched)
    assert "lineage: " in done.stdout
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def test_show_provenance_as_json_is_the_whole_record(searched: Project, invoke: Invoke) -> None:
    data = json.loads(invoke("show", "sentiment", "--provenance", "--format", "json", project=searched).stdout)
    record = msgspec.convert(data["record"], SearchRecord)
    assert record == made_search(task="sentiment")
    assert data["provenance"]["search"]["record"] == record.digest()
    assert data["task"] == "sentiment"
    first = data["record"]["candidates"][0]
    assert {"system", "scores", "usage", "usd", "state", "origin"} <= set(first)


def test_show_provenance_as_a_page(searched: Project, invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "where.html"
    done = invoke("show", "sentiment", "--html", file, project=searched)
    assert done.stdout == ""
    assert done.stderr == f"written: {file}\n"
    assert "reflection" in file.read_text("utf-8")
    both = invoke("show", "sentiment", "--provenance", "--format", "json", "--html", file, project=searched)
    assert json.loads(both.stdout)["record"]
    assert "can't be written" in invoke("show", "sentiment", "--html", file / "x.html", project=searched, code=2).stderr


def test_a_request_body_has_no_provenance(searched: Project, invoke: Invoke) -> None:
    assert (
        "--provenance is text or json" in invoke("show", "sentiment", "--provenance", "--format", "openai", project=searched, code=2).stderr
    )


def test_a_damaged_record_is_refused_and_says_what_to_do(searched: Project, invoke: Invoke) -> None:
    file = kept_file(searched.cache, made_search(task="sentiment").digest())
    file.write_bytes(file.read_bytes()[:-40])
    done = invoke("show", "sentiment", "--provenance", project=searched, code=2)
    assert str(file) in done.stderr
    assert "hint: remove it and compile the task again with --force" in done.stderr
    assert invoke("show", "sentiment", project=searched).stdout, "the prompt is not touched"


def test_a_clone_with_only_the_prompt_shows_the_summary(searched: Project, invoke: Invoke) -> None:
    kept_file(searched.cache, made_search(task="sentiment").digest()).unlink()
    done = invoke("show", "sentiment", "--provenance", project=searched)
    assert "in the cache of whoever" in " ".join(done.stdout.split())
    assert json.loads(invoke("show", "sentiment", "--provenance", "--format", "json", project=searched).stdout)["record"] is None


def test_a_prompt_of_the_first_levels_is_shown(make_project: Callable[..., Project], invoke: Invoke) -> None:
    project = make_project()
    invoke("compile", "-O", "0", project=project)
    assert "no search: this prompt was compiled at -O0" in invoke("show", "sentiment", "--provenance", project=project).stdout


# --- the page ---------------------------------------------------------------------------------------------


def test_the_page_has_all_its_parts() -> None:
    record = made_search()
    parsed = Parsed(html(kept_search(record, record.digest())))
    text = parsed.within("main")
    for part in ("Front", "Cost by stage", "Lineage", "Candidates by dev cases", "Candidates", "The search", "The prompt"):
        assert part in text
    for one in record.candidates:
        assert one.id in parsed.within("tree")
        assert one.origin.said in parsed.within("said") or not one.origin.said
    assert record.candidate(record.chosen).system in parsed.within("pane")
    assert parsed.within("verdict").strip() == "search ended plateau: no edit was accepted in 3 rounds"
    assert parsed.all("script") == []
    changed = [one for one in record.candidates if one.origin.parents]
    assert parsed.within("tree").count("what changed") == len(changed)


def test_an_edit_is_shown_by_what_it_changed() -> None:
    parsed = Parsed(html(kept_search(made_search())))
    assert "v8" in parsed.within("ins") or "v1" in parsed.within("ins")
    assert parsed.within("gained").count("points on") == sum(bool(one.origin.parents) for one in made_search().candidates)


@pytest.mark.parametrize("make", SEARCHES)
def test_the_heat_map_shows_each_score_in_colour_form_and_words(make: Callable[[], SearchRecord]) -> None:
    record = make()
    found = heat(record)
    assert {row.id for row in found.rows} == {one.id for one in record.candidates if one.scores}
    means = [fmean(one.scores[case.id] for one in record.candidates if case.id in one.scores) for case in found.cases]
    assert means == sorted(means), "the hardest case first"
    places = [(-len(one.scores), -(one.mean or 0.0)) for one in map(record.candidate, (row.id for row in found.rows))]
    assert places == sorted(places), "a lucky mean of a few cases stands above nobody who was scored on more"
    for row in found.rows:
        one = record.candidate(row.id)
        assert len(row.cells) == len(one.scores)
        for cell in row.cells:
            case = found.cases[cell.x // 10].id
            score = one.scores[case]
            assert cell.kind == ("full" if score == 1 else "none" if score == 0 else "part")
            assert cell.height == (12 if score == 0 else round(100 * score))
            assert cell.top + cell.height == 100
            assert cell.says.endswith(f": {score:g}")
    parsed = Parsed(html(kept_search(record)))
    assert len([one for one in parsed.all("rect") if one.get("class") in ("full", "part", "none")]) == sum(
        len(one.scores) for one in record.candidates
    )


def test_hostile_texts_are_text_on_the_page() -> None:
    found = html(kept_search(hostile_search()))
    found.encode()
    parsed = Parsed(found)
    assert parsed.open == []
    assert "<img" not in found
    assert "</script" not in found
    assert not CONTROL.search(found)
    assert "{{ 7*7 }}" in parsed.within("said"), "a text is no template"
    assert parsed.within("said").count("</script><img src=x onerror=alert(1)>") >= len(hostile_search().candidates)


def test_a_large_search_stays_a_usable_file() -> None:
    """60 candidates by 150 cases, ids of 60 characters, prompts of 50 kB."""
    record = huge_search()
    assert (len(record.candidates), len(record.dev_cases)) == (60, 150)
    names = {case: f"{case}-{'a long id ' * 6}"[:60] for case in record.dev_cases}
    rows = tuple(
        msgspec.structs.replace(
            row,
            system=row.system + "".join(f" word{(i * 7919 + place) % 4001}" for i in range(6000)),
            scores={names[case]: value for case, value in row.scores.items()},
            origin=msgspec.structs.replace(row.origin, said=row.origin.said * 100),
        )
        for place, row in enumerate(record.candidates)
    )
    found = html(kept_search(msgspec.structs.replace(record, candidates=rows, dev_cases=tuple(names.values()))))
    assert len(found.encode()) < 1_500_000
    assert "Its text is left out here" in found


def test_whole_texts_have_a_limit_together() -> None:
    record = made_search(drafts=100, reflections=0, dev=4)
    rows = tuple(msgspec.structs.replace(row, system="x" * 50_000 + row.id) for row in record.candidates)
    found = html(kept_search(msgspec.structs.replace(record, candidates=rows)))
    assert found.count("x" * 1000) < (CHARACTERS + 60_000) / 1000
    assert "(50,012 characters)" in found


def test_the_first_measure_of_the_stages_is_money_where_it_is_known() -> None:
    assert "share of cost" in Parsed(html(kept_search(made_search()))).within("stages")
    assert "share of tokens" in Parsed(html(kept_search(priceless_search()))).within("stages")
    percents = [int(part) for part in re.findall(r"(\d+) %", Parsed(html(kept_search(made_search()))).within("share"))]
    assert abs(sum(percents) - 100) <= 2


# --- the scatter ------------------------------------------------------------------------------------------


def test_candidates_are_drawn_where_they_are() -> None:
    record = made_search()
    money, tokens = scatters(record)
    for plot, cost in ((money, lambda one: one.usd_per_1k), (tokens, lambda one: one.tokens_per_call)):
        low, high = (float(tick.label.lstrip("$").replace(",", "")) for tick in (plot.across[0], plot.across[-1]))
        scale = (plot.across[-1].place - plot.across[0].place) / (high - low)
        whole = [one for one in record.candidates if len(one.scores) == len(record.dev_cases)]
        assert len(plot.dots) == len(whole)
        dots = {re.search(r"[0-9a-f]{12}", dot.says)[0]: dot for dot in plot.dots}  # type: ignore[index]
        for one in whole:
            assert dots[one.id].x == pytest.approx(plot.across[0].place + scale * (cost(one) - low), abs=0.1)
            assert dots[one.id].lower >= dots[one.id].y >= dots[one.id].upper, "up is a lower number"
        by_score = sorted(whole, key=lambda one: one.mean or 0)
        assert [dots[one.id].y for one in by_score] == sorted((dots[one.id].y for one in whole), reverse=True)
        assert {dot.name for dot in plot.dots if dot.name} == set(letters(record).values())
        assert [dot.kind for dot in plot.dots].count("chosen") == 1
        for one in (*plot.dots, *plot.across, *plot.up):
            assert 0 <= getattr(one, "place", getattr(one, "x", 0)) <= 100
        assert plot.summary.startswith(f"{len(whole)} candidates; A {record.front[0]}")


def test_the_front_is_drawn_as_steps_that_only_rise() -> None:
    for plot in scatters(made_search()):
        assert plot.front
        for stroke in plot.front:
            assert stroke.x1 == stroke.x2 or stroke.y1 == stroke.y2
            assert stroke.x1 <= stroke.x2
            assert stroke.y1 >= stroke.y2


def test_without_prices_only_tokens_are_drawn_and_without_scores_nothing() -> None:
    assert [plot.title for plot in scatters(priceless_search())] == ["Score against tokens per call"]
    assert scatters(empty_search()) == []
    assert "<svg" not in html(kept_search(empty_search()))
    assert "nothing to draw" in html(kept_search(empty_search()))


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=20))
def test_any_axis_holds_its_values(values: list[float]) -> None:
    found = axis(values)
    ticks = list(found.ticks())
    assert 2 <= len(ticks) <= 7
    assert found.low <= min(values) + 1e-6 * max(values) + 1e-9
    assert found.high >= max(values) - 1e-6 * max(values) - 1e-9
    assert all(0 <= found.place(value) <= 100 for value in values)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_an_axis_of_scores_ends_at_0_and_1(values: list[float]) -> None:
    found = axis(values, lowest=0.0, highest=1.0)
    assert 0 <= found.low < found.high <= 1 + 1e-9


def test_any_record_makes_a_page_whatever_the_scores() -> None:
    for scores in ({"a": 0.0}, {"a": 1.0}, {"a": 0.5, "b": 1.0}):
        base = made_search(drafts=1, reflections=0, dev=2)
        rows = tuple(
            msgspec.structs.replace(one, scores=scores, mean=fmean(scores.values()), usd_per_1k=0.0, tokens_per_call=0.0)
            for one in base.candidates
        )
        record = msgspec.structs.replace(base, candidates=rows, dev_cases=tuple(scores), front=(rows[0].id,))
        assert "<svg" in html(kept_search(record))
