"""Canaries: who gets which arm, states and outcomes in files, the command line, and a caller's key at run time."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result as Ended
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.canary import Arms, outcomes
from promptsmith import Failure, Runtime, compile_task, load_task
from promptsmith.canary import Trial, Watch, course
from promptsmith.config import Project
from promptsmith.errors import InputError, StoreError, UnknownName
from promptsmith.models.retry import SystemClock
from promptsmith.registry import canaries
from promptsmith.registry.canaries import Canary, CanaryFile, CanaryWarning, Outcome, Verdict, arm_of, new_canary
from promptsmith.registry.lock import LockFile

Make = Callable[..., Project]
Invoke = Callable[..., Ended]
A, B, C = "a" * 64, "b" * 64, "c" * 64
GOOD, BAD = Outcome("incumbent", True, False), Outcome("candidate", False, False)


def one(candidate: str = A, incumbent: str = B, **more: Any) -> Canary:
    return new_canary("t", "production", candidate=candidate, incumbent=incumbent, **{"share": 0.1, **more})


@pytest.fixture
def store(tmp_path: Path) -> CanaryFile:
    return CanaryFile(tmp_path / "canaries")


# --- who gets which arm -------------------------------------------------------------------------------------


@given(st.text(), st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_caller_stays_on_one_arm_and_a_larger_share_takes_nobody_off_the_candidate(sticky: str, share: float, other: float) -> None:
    canary = one(share=min(share, other))
    arm = arm_of(canary, sticky)
    assert arm == arm_of(msgspec.json.decode(msgspec.json.encode(canary), type=Canary), sticky)
    if arm == "candidate":
        assert arm_of(msgspec.structs.replace(canary, share=max(share, other)), sticky) == "candidate"


@pytest.mark.parametrize("sticky", [True, False])
def test_the_share_is_met(sticky: bool) -> None:
    canary = one(share=0.2)
    found = [arm_of(canary, f"user {number}" if sticky else None) for number in range(5000)]
    assert 0.17 < found.count("candidate") / 5000 < 0.23


def test_two_canaries_take_other_callers() -> None:
    first, second = ({n for n in range(2000) if arm_of(canary, str(n)) == "candidate"} for canary in (one(), one()))
    assert len(first & second) < 60  # of about 200 each


def test_chance_takes_nothing_from_a_generator_that_the_application_has_seeded() -> None:
    before = random.getstate()
    drawn = {arm_of(one(share=0.5), None) for _ in range(100)} | {SystemClock.random() for _ in range(10)}
    assert {"candidate", "incumbent"} < drawn
    assert random.getstate() == before


def test_all_callers_and_half_a_surrogate_pair_have_an_arm() -> None:
    assert {arm_of(one(share=1), sticky) for sticky in ("", "\ud800", None, "x")} == {"candidate"}


@pytest.mark.parametrize(
    "wrong",
    [{"share": 0}, {"share": 1.5}, {"share": float("nan")}, {"incumbent": None}, {"incumbent": A}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_canary_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        one(**wrong)


# --- the verdict is a function of the outcomes ----------------------------------------------------------------


@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.lists(st.integers(1, 400), max_size=6))
def test_the_verdict_depends_on_the_order_alone_and_not_on_who_reads_when(seed: int, share: float, reads: list[int]) -> None:
    found = outcomes(random.Random(seed), Arms(0.95, 0.7, share=share), 1500)
    canary = one(planned=200)
    whole, pieces = Trial(canary), Trial(canary)
    for outcome in found:
        whole.feed(outcome)
    rest = list(found)
    for size in [*reads, len(found)]:
        for outcome in rest[:size]:
            pieces.feed(outcome)
        del rest[:size]
    assert (whole.verdict, whole.counts(), whole.adherence.e_value) == (pieces.verdict, pieces.counts(), pieces.adherence.e_value)


def test_a_failed_call_says_nothing_about_adherence() -> None:
    trial = Trial(one())
    for arm in ("candidate", "incumbent"):
        trial.feed(Outcome(arm, True, True))  # type: ignore[arg-type]
        trial.feed(Outcome(arm, None, False))  # type: ignore[arg-type]
    counts = trial.counts()
    assert (counts.candidate.calls, counts.candidate.failed, counts.candidate.judged) == (2, 1, 0)
    assert counts.incumbent == counts.candidate


def test_what_a_stop_says_and_that_nothing_comes_after_it() -> None:
    trial = Trial(one())
    for outcome in outcomes(random.Random(1), Arms(0.95, 0.3), 3000):
        trial.feed(outcome)
    assert trial.verdict is not None and trial.verdict.state == "stopped" and trial.closed
    assert "keeps its contract less often" in trial.verdict.why
    assert f"of {trial.counts().candidate.judged} answers against" in trial.verdict.why
    failing = Trial(one())
    for outcome in outcomes(random.Random(1), Arms(0.95, 0.95, candidate_failures=0.5), 3000):
        failing.feed(outcome)
    assert failing.verdict is not None and "calls fail more often" in failing.verdict.why


def test_a_complete_canary_is_watched_on_and_can_still_be_stopped() -> None:
    trial = Trial(one(planned=300))
    for outcome in outcomes(random.Random(5), Arms(0.99, 0.99, 0.0, 0.0), 4000):
        trial.feed(outcome)
    assert trial.verdict is not None and (trial.verdict.state, trial.verdict.ends, trial.closed) == ("complete", False, False)
    assert "worse by more than 5 points is ruled out after 300 calls" in trial.verdict.why
    for outcome in outcomes(random.Random(6), Arms(0.99, 0.2, 0.0, 0.0), 1500):
        trial.feed(outcome)
    assert (trial.verdict.state, trial.verdict.ends, trial.closed) == ("stopped", True, True)


def test_a_shadow_ends_when_it_is_complete() -> None:
    trial = Trial(one(planned=300, mode="shadow"))
    for outcome in outcomes(random.Random(5), Arms(0.99, 0.99, 0.0, 0.0), 4000):
        trial.feed(outcome)
    assert trial.verdict is not None and (trial.verdict.state, trial.verdict.ends, trial.closed) == ("complete", True, True)


def test_what_stays_undecided_ends_at_the_last_look() -> None:
    trial = Trial(one(planned=10))
    for number in range(80):
        trial.feed(Outcome("candidate", number % 2 == 0, False))
        trial.feed(Outcome("incumbent", number % 2 == 0, False))
    assert trial.verdict is not None and trial.verdict.state == "stopped"
    assert "is not ruled out after 80 calls" in trial.verdict.why


# --- states ---------------------------------------------------------------------------------------------------


def test_a_canary_is_seen_by_all_and_gone_after_its_end(store: CanaryFile, tmp_path: Path) -> None:
    other = CanaryFile(tmp_path / "canaries")
    assert other.active("t", "production") is None
    begun = store.start(one())
    assert other.active("t", "production") == begun
    assert other.active("t", "candidate") is None
    ended = store.settle(begun.id, Verdict("stopped", "enough"))
    assert other.active("t", "production") is None
    assert (ended.state, ended.why) == ("stopped", "enough") and ended.ended
    assert other.all() == (ended,)
    assert store.settle(begun.id, Verdict("complete", "later")) == ended
    with pytest.raises(UnknownName):
        store.settle("0" * 12, Verdict("stopped", ""))


def test_another_share_keeps_salt_id_and_outcomes(store: CanaryFile) -> None:
    begun = store.start(one())
    raised = store.start(one(share=0.5))
    assert raised == msgspec.structs.replace(begun, share=0.5)
    assert store.active("t", "production") == raised
    assert len(store.all()) == 1


def test_a_second_candidate_waits_and_a_shadow_makes_room(store: CanaryFile) -> None:
    begun = store.start(one(mode="shadow"))
    with pytest.raises(InputError, match=f"canary {begun.id} runs beside t@production"):
        store.start(one(candidate=C))
    follower = store.start(one())
    assert [(canary.mode, canary.state) for canary in store.all()] == [("shadow", "stopped"), ("canary", "running")]
    assert follower.id in store.all()[0].why
    # Beside a prompt that is no longer there nobody needs to end the old one first.
    assert store.start(one(candidate=C, incumbent=A)).candidate == C


def test_a_hundred_ended_ones_are_remembered(store: CanaryFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(canaries, "KEPT", 3)
    ids = []
    for _ in range(6):
        begun = store.start(one())
        store.append(begun.id, GOOD)
        store.close(begun.id)
        store.settle(begun.id, Verdict("stopped", "next"))
        ids.append(begun.id)
    assert [canary.id for canary in store.all()] == ids[-3:]
    assert {path.stem for path in (tmp_path / "canaries").glob("*.outcomes")} == set(ids[-3:])


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\xff\xfe", b'{"version": 2}', b'{"canaries": [{"id": "../../etc"}]}', b"[]", b"null"],
    ids=lambda damage: repr(damage)[:20],
)
def test_a_damaged_file_leaves_what_it_said_before_and_never_stops_an_answer(store: CanaryFile, tmp_path: Path, damage: bytes) -> None:
    begun = store.start(one())
    path = tmp_path / "canaries" / "canaries.json"
    watch, late = Watch(CanaryFile(tmp_path / "canaries")), Watch(CanaryFile(tmp_path / "canaries"))
    assert watch.canary("t", "production") == begun
    path.write_bytes(damage)
    with pytest.warns(CanaryWarning, match=r"canaries\.json can't be read"):
        assert watch.canary("t", "production") == begun
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert watch.canary("t", "production") == begun  # told once
        assert watch.outcome(begun, "candidate", True, False) == begun
    with pytest.warns(CanaryWarning, match="no canary runs"):
        assert late.canary("t", "production") is None
    with pytest.raises(StoreError, match="can't be read"):
        store.start(one(candidate=C))
    assert path.read_bytes() == damage


def test_a_removed_file_ends_all_without_a_word(store: CanaryFile, tmp_path: Path) -> None:
    begun = store.start(one())
    watch = Watch(store)
    (tmp_path / "canaries" / "canaries.json").unlink()
    assert watch.canary("t", "production") is None
    assert watch.outcome(begun, "candidate", True, False) == begun


def test_a_folder_that_takes_nothing_is_one_warning_and_the_stop_holds_in_this_process(
    store: CanaryFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(CanaryFile):
        def settle(self, *given: Any) -> Canary:
            raise OSError(28, "No space left on device")

    begun = store.start(one())
    watch = Watch(Full(tmp_path / "canaries"))
    with pytest.warns(CanaryWarning, match="No space left") as told:  # noqa: PT031 - which call stops it is not known
        for outcome in outcomes(random.Random(1), Arms(0.95, 0.3), 3000):
            begun = watch.outcome(begun, *outcome)
            if begun.state == "stopped":
                break
    assert begun.state == "stopped" and len(told) == 1
    assert watch.canary("t", "production") is None


def test_a_verdict_that_could_not_be_written_is_written_with_the_next_outcome(tmp_path: Path) -> None:
    class Full(CanaryFile):
        times = 0

        def settle(self, *given: Any) -> Canary:
            self.times += 1
            if self.times == 1:
                raise StoreError("the disk is full")
            return super().settle(*given)

    store, told = Full(tmp_path), []
    begun = store.start(one(planned=50, share=0.5))
    watch = Watch(store, told=told.append)

    def answered() -> None:
        for _ in range(120):
            for arm in ("candidate", "incumbent"):
                watch.outcome(begun, arm, True, False)  # type: ignore[arg-type]

    with pytest.warns(CanaryWarning, match="the disk is full"):
        answered()
    assert [each.state for each in store.all()] == [each.state for each in told] == ["complete"]


def test_a_canary_that_another_process_has_removed_is_no_trouble(tmp_path: Path) -> None:
    class Gone(CanaryFile):
        def settle(self, canary_id: str, *given: Any) -> Canary:
            raise UnknownName(f"there is no canary {canary_id}")

    store, told = Gone(tmp_path), []
    begun = store.start(one(planned=50, share=0.5))
    watch = Watch(store, told=told.append)
    for _ in range(120):
        for arm in ("candidate", "incumbent"):
            watch.outcome(begun, arm, True, False)  # type: ignore[arg-type]
    assert len(told) == 1


def test_outcomes_that_cannot_be_written_are_one_warning(store: CanaryFile, tmp_path: Path) -> None:
    begun = store.start(one())
    (tmp_path / "canaries" / f"{begun.id}.outcomes").mkdir()
    watch = Watch(store)
    with pytest.warns(CanaryWarning) as told:
        assert {watch.outcome(begun, "candidate", True, False) for _ in range(3)} == {begun}
    assert len(told) == 1


# --- outcomes -------------------------------------------------------------------------------------------------


def test_outcomes_come_back_in_order_and_from_any_place(store: CanaryFile) -> None:
    begun = store.start(one())
    given = [
        Outcome(arm, adherent, failed)
        for arm in ("candidate", "incumbent")
        for adherent, failed in ((True, False), (False, False), (None, False), (None, True))
    ]  # type: ignore[arg-type]
    assert store.outcomes(begun.id) == ((), 0)
    for outcome in given:
        store.append(begun.id, outcome)
    found, place = store.outcomes(begun.id)
    assert found == given
    assert store.outcomes(begun.id, place) == ([], place)
    store.append(begun.id, BAD)
    assert store.outcomes(begun.id, place)[0] == [BAD]


def test_many_outcomes_are_read_at_once(store: CanaryFile) -> None:
    begun = store.start(one())
    store.append(begun.id, BAD)
    path = store._outcomes_of(begun.id)
    Path(path).write_bytes(b"i+\n" * 700_000)
    found, place = store.outcomes(begun.id)
    assert (len(found), place) == (700_000, 2_100_000)


@pytest.mark.parametrize("torn", [b"c", b"c-", b"\0\0\0", b"c-\0", b"hello\n", b"\n\n"])
def test_a_torn_record_costs_itself_at_most_one_neighbour_and_never_the_order(store: CanaryFile, torn: bytes) -> None:
    begun = store.start(one())
    for outcome in (GOOD, GOOD):
        store.append(begun.id, outcome)
    with open(store._outcomes_of(begun.id), "ab") as file:
        file.write(torn)
    first, place = store.outcomes(begun.id)
    assert first == [GOOD, GOOD]
    for outcome in (BAD, BAD):
        store.append(begun.id, outcome)
    rest, _ = store.outcomes(begun.id, place)
    whole, _ = CanaryFile(store._folder).outcomes(begun.id)
    assert [*first, *rest] == whole
    assert whole.count(BAD) >= 1 and whole.count(GOOD) == 2


def test_no_other_file_is_reached_by_an_id(store: CanaryFile) -> None:
    with pytest.raises(InputError):
        store.append("../x", GOOD)


# --- several processes ----------------------------------------------------------------------------------------


def work(folder: Path, canary: Canary, seed: int, told: Any) -> None:
    """A worker: counts its own calls until the canary is over, and tells what it was over by."""
    watch = Watch(CanaryFile(folder))
    rng = random.Random(seed)
    found = canary
    for outcome in outcomes(rng, Arms(0.95, 0.6, share=0.3), 20_000):
        found = watch.outcome(canary, *outcome)
        if found.state != "running":
            break
    told.put((found.state, found.why, found.counts))


def test_four_processes_come_to_the_same_stop_at_the_same_record(store: CanaryFile, tmp_path: Path) -> None:
    begun = store.start(one(share=0.3))
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    workers = [context.Process(target=work, args=(tmp_path / "canaries", begun, seed, told)) for seed in range(4)]
    for worker in workers:
        worker.start()
    said = [told.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    (ended,) = store.all()
    assert ended.state == "stopped"
    assert said == [(ended.state, ended.why, ended.counts)] * 4
    # And so does one who only reads, afterwards.
    trial = Trial(begun)
    for outcome in store.outcomes(begun.id)[0]:
        trial.feed(outcome)
    assert trial.verdict is not None and (trial.verdict.why, trial.counts()) == (ended.why, ended.counts)


APPENDS = """
import sys
from promptsmith.registry.canaries import CanaryFile, Outcome
store = CanaryFile(sys.argv[1])
print("begun", flush=True)
while True:
    store.append(sys.argv[2], Outcome("incumbent", True, False))
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_worker_leaves_whole_records(store: CanaryFile, tmp_path: Path) -> None:
    begun = store.start(one())
    for _ in range(3):
        command = [sys.executable, "-c", APPENDS, str(tmp_path / "canaries"), begun.id]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None and worker.stdout.readline() == b"begun\n"
            place = 0
            while place < 3000:
                place = store.outcomes(begun.id)[1]
                time.sleep(0.001)
            worker.send_signal(signal.SIGKILL)
    size = (tmp_path / "canaries" / f"{begun.id}.outcomes").stat().st_size
    found, place = store.outcomes(begun.id)
    assert place == size == 3 * len(found)
    assert set(found) == {GOOD}


def test_states_written_at_once_lose_nothing(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def begin(number: int) -> str:
        canary = new_canary(f"t{number}", "production", candidate=A, incumbent=B, share=0.1)
        return CanaryFile(tmp_path / "canaries").start(canary).id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(begin, range(24)))
    assert {canary.id for canary in CanaryFile(tmp_path / "canaries").all()} == ids and len(ids) == 24


# --- the watch ------------------------------------------------------------------------------------------------


class Alias:
    """A registry with one alias."""

    def __init__(self, now: str | Exception | None) -> None:
        self.now = now

    def resolve(self, task: str, alias: str) -> str | None:
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


def test_a_stop_is_the_incumbent_for_all_at_the_next_request(store: CanaryFile, tmp_path: Path) -> None:
    canary = store.start(one())
    watch, other = Watch(store), Watch(CanaryFile(tmp_path / "canaries"))
    assert other.canary("t", "production") == canary
    for outcome in outcomes(random.Random(1), Arms(0.95, 0.2), 3000):
        canary = watch.outcome(canary, *outcome)
        if canary.state == "stopped":
            break
    assert canary.state == "stopped" and canary.counts is not None and canary.counts.candidate.judged > 0
    assert watch.canary("t", "production") is None
    assert other.canary("t", "production") is None
    # A call that was under way says nothing more.
    assert watch.outcome(canary, "candidate", True, False) == canary


def test_a_canary_goes_on_when_its_alias_names_its_incumbent_again(store: CanaryFile) -> None:
    """git takes the lock away before it writes the new one, and a busy machine may see that for long."""
    begun = store.start(one())
    alias = Alias(B)
    watch = Watch(store, alias)
    for now in (None, B):
        alias.now = now
        assert watch.canary("t", "production") == watch.look(begun) == begun
    assert [each.ended for each in store.all()] == [None]


@pytest.mark.parametrize(("now", "words"), [(C, "was moved to prompt cccccccccccc"), (A, "was moved to the candidate")])
def test_a_canary_ends_when_its_alias_has_moved(store: CanaryFile, now: str, words: str) -> None:
    begun = store.start(one())
    alias = Alias(B)
    watch = Watch(store, alias)
    assert watch.canary("t", "production") == begun
    watch.outcome(begun, "incumbent", True, False)
    alias.now = now
    assert watch.canary("t", "production") is None
    (ended,) = store.all()
    assert ended.state == "stopped" and words in ended.why
    assert ended.counts is not None and ended.counts.incumbent.calls == 1


def test_a_complete_one_keeps_its_share_until_its_alias_moves_to_it(store: CanaryFile) -> None:
    begun = store.start(one(planned=50, share=0.5))
    alias = Alias(B)
    watch = Watch(store, alias)
    for _ in range(120):
        for arm in ("candidate", "incumbent"):
            found = watch.outcome(begun, arm, True, False)  # type: ignore[arg-type]
    active = watch.canary("t", "production")
    assert active is not None and (active.state, active.ended) == ("complete", None)
    assert found.state in ("running", "complete")
    assert (
        course(store, active).words()[-1]
        == "this moves the alias: promptsmith promote t@aaaaaaaaaaaa --to production; until then the candidate answers 50 % of the callers"
    )
    alias.now = A
    assert watch.canary("t", "production") is None
    (ended,) = store.all()
    assert ended.state == "complete" and ended.ended and ended.why == active.why
    assert "the alias was moved to the candidate" in course(store, ended).words()[0]


def test_a_damaged_registry_ends_no_canary(store: CanaryFile) -> None:
    begun = store.start(one())
    assert Watch(store, Alias(StoreError("damaged"))).canary("t", "production") == begun


def test_a_shadow_answers_nobody_and_is_asked_for_its_share(store: CanaryFile) -> None:
    canary, watch = one(mode="shadow", share=0.3), Watch(store)
    assert {watch.arm(canary, str(n)) for n in range(200)} == {"incumbent"}
    assert 30 < sum(watch.shadows(canary, str(n)) for n in range(200)) < 90
    assert not watch.shadows(one(share=1.0), "x")


def test_files_of_ended_canaries_are_let_go(store: CanaryFile, tmp_path: Path) -> None:
    watch, hand = Watch(store), CanaryFile(tmp_path / "canaries")
    for _ in range(5):
        begun = store.start(one())
        watch.outcome(begun, "incumbent", True, False)
        hand.settle(begun.id, Verdict("stopped", "by hand"))
    assert len(store._open) == 1


# --- the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def project(make_project: Make, invoke: Invoke) -> Project:
    """A prompt in production, and a longer one compiled since."""
    made = make_project()
    invoke("compile", "sentiment", "--example-tokens", "30", project=made)
    invoke("promote", "sentiment", "--force", "--why", "first", project=made)
    invoke("compile", "sentiment", project=made)
    return made


def begin(project: Project, invoke: Invoke, *more: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        invoke("promote", "sentiment", *(more or ("--canary", "10")), "--force", "--why", "try it", "--json", project=project).stdout
    )
    return found


def kept(project: Project) -> CanaryFile:
    return CanaryFile(project.cache / "canaries")


def test_promote_canary_moves_no_alias_and_status_tells(project: Project, invoke: Invoke) -> None:
    before = project.lock.read_bytes()
    found = begin(project, invoke)
    assert project.lock.read_bytes() == before
    (canary,) = kept(project).all()
    assert found["canary"]["id"] == canary.id and found["moved"] is False and found["forced"] is True
    assert (canary.share, canary.mode, canary.state, canary.note) == (0.1, "canary", "running", "try it")
    assert canary.incumbent == LockFile(project.lock).resolve("sentiment", "production") == found["to"]
    watch = Watch(kept(project))
    for _ in range(4):
        watch.outcome(canary, "candidate", True, False)
        watch.outcome(canary, "incumbent", None, True)
    said = invoke("status", project=project).stdout
    assert f"sentiment@production: canary {canary.id} (forced) is running: the candidate answers 10 % of the callers" in said
    assert "contract kept in 100.0 % of 4 answers; failed: 0.0 % of 4 calls" in said
    assert "200 stops it" in said
    (row,) = json.loads(invoke("status", "--json", project=project).stdout)["canaries"]
    assert row["counts"]["candidate"] == {"calls": 4, "failed": 0, "judged": 4, "kept": 4}
    assert row["counts"]["incumbent"]["failed"] == 4
    assert row["canary"]["share"] == 0.1 and row["adherence_e"] == 1.0 and row["stop"] == 200


def test_a_canary_of_a_protected_alias_needs_the_gates_consent(project: Project, invoke: Invoke) -> None:
    """As a move does: without a holdout the gate decides nothing, and force needs a reason."""
    assert "has no holdout rows" in invoke("promote", "sentiment", "--canary", "10", project=project, code=3).output
    assert "needs a reason" in invoke("promote", "sentiment", "--canary", "10", "--force", project=project, code=2).output
    assert kept(project).all() == ()


HOLDOUT = "\nholdout:\n" + "".join(
    f'  - {{input: "a sealed message, number {n}", output: {label}}}\n' for n, label in enumerate(["neutral", "positive"] * 30)
)


def test_what_the_gate_does_not_let_through_is_no_canary_and_what_it_does_has_its_receipt(make_project: Make, invoke: Invoke) -> None:
    from tests.conftest import SENTIMENT

    made = make_project({"sentiment": SENTIMENT + HOLDOUT})
    invoke("compile", "sentiment", "--example-tokens", "30", project=made)
    invoke("promote", "sentiment", "--force", "--why", "first", project=made)
    invoke("compile", "sentiment", project=made)
    path = made.task_file("sentiment")
    path.write_text(path.read_text() + "gate: {require: {pass_rate: '>= 0.99'}}\n")
    ended = invoke("promote", "sentiment", "--canary", "10", project=made, code=1)
    assert "is rejected" in ended.output
    assert kept(made).all() == ()
    path.write_text(path.read_text().replace("gate: {require: {pass_rate: '>= 0.99'}}", "gate: {margin: 0.9}"))
    found = json.loads(invoke("promote", "sentiment", "--to", "production", "--canary", "10", "--json", project=made).stdout)
    (canary,) = kept(made).all()
    assert found["verdict"] == "promote" and found["forced"] is False
    assert found["receipt"] == canary.receipt is not None


def test_a_free_alias_takes_a_canary_without_a_gate(project: Project, invoke: Invoke) -> None:
    invoke("promote", "sentiment@production", "--to", "candidate", project=project)
    invoke("promote", "sentiment", "--to", "candidate", "--canary", "50", project=project)
    assert [(canary.alias, canary.forced, canary.receipt) for canary in kept(project).all()] == [("candidate", False, None)]


def test_stop_canary_ends_it_and_the_history_stays(project: Project, invoke: Invoke) -> None:
    begin(project, invoke)
    ended = invoke("promote", "sentiment", "--stop-canary", "--why", "too slow", project=project)
    assert "was stopped: ended by hand: too slow" in ended.stdout
    assert "ended by hand: too slow" in invoke("status", project=project).stdout
    assert "no canary runs beside sentiment@production" in invoke("promote", "sentiment", "--stop-canary", project=project, code=2).output
    assert "did you mean 'sentiment'" in invoke("promote", "sentimint", "--stop-canary", project=project, code=2).output
    begin(project, invoke, "--shadow", "--canary-calls", "70")
    assert [(one.mode, one.state, one.share, one.planned) for one in kept(project).all()][-1] == ("shadow", "running", 1.0, 70)
    assert len(json.loads(invoke("status", "--json", project=project).stdout)["canaries"]) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        ("--canary", "0"), ("--canary", "101"), ("--canary", "nan"), ("--canary", "some"), ("--canary-calls", "5"),
        ("--stop-canary", "--canary", "5"), ("--stop-canary", "--force"), ("--canary", "5", "--canary-calls", "0"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(project: Project, invoke: Invoke, wrong: tuple[str, ...]) -> None:
    invoke("promote", "sentiment", *wrong, project=project, code=2)
    assert kept(project).all() == ()


def test_what_cannot_have_a_canary_is_told_before_anything_is_evaluated(project: Project, invoke: Invoke) -> None:
    force = ("--force", "--why", "x", "--canary", "10")
    assert "already" in invoke("promote", "sentiment@production", *force, project=project, code=2).output
    assert "names no prompt yet" in invoke("promote", "sentiment", "--to", "staging", "--canary", "10", project=project, code=2).output
    begin(project, invoke)
    invoke("compile", "sentiment", "--example-tokens", "0", project=project)
    assert "end it first" in invoke("promote", "sentiment", *force, project=project, code=2).output


def test_status_decides_what_nobody_has_written_down_and_sees_a_moved_alias(project: Project, invoke: Invoke) -> None:
    begin(project, invoke)
    (canary,) = kept(project).all()
    writer = kept(project)
    for outcome in outcomes(random.Random(1), Arms(0.95, 0.2), 1500):
        writer.append(canary.id, outcome)
    assert "was stopped: the candidate keeps its contract less often" in invoke("status", project=project).stdout
    begin(project, invoke)
    invoke("promote", "sentiment", "--force", "--why", "now", project=project)
    assert "was moved to the candidate" in invoke("status", project=project).stdout
    invoke("rollback", "sentiment", "--why", "back", project=project)
    assert [one.state for one in kept(project).all()] == ["stopped", "stopped"]


def test_status_names_a_damaged_file(project: Project, invoke: Invoke) -> None:
    begin(project, invoke)
    (project.cache / "canaries" / "canaries.json").write_text("{")
    assert "canaries.json can't be read" in invoke("status", project=project, code=2).output
    assert "repair or remove" in invoke("promote", "sentiment", "--stop-canary", project=project, code=2).output


# --- a caller's key at run time -------------------------------------------------------------------------------


def test_a_key_serves_its_arm_and_none_serves_production(project: Project, invoke: Invoke) -> None:
    begin(project, invoke, "--canary", "50")
    (canary,) = kept(project).all()
    runtime = Runtime(project)
    assert runtime.run("sentiment", "I love it").prompt == canary.incumbent
    for number in range(12):
        key = f"user {number}"
        result = runtime.run(("sentiment", "sentiment@production")[number % 2], "I love it", canary_key=key)
        assert result.prompt == (canary.candidate if arm_of(canary, key) == "candidate" else canary.incumbent)
        assert f"canary {canary.id}" in result.chosen
    key = next(f"{n}" for n in range(100) if arm_of(canary, f"{n}") == "candidate")
    (many,) = runtime.run_many("sentiment", ["I love it"], canary_key=key)
    assert not isinstance(many, Failure) and many.prompt == canary.candidate
    assert runtime.run("sentiment@latest", "I love it", canary_key=key).chosen == "sentiment@latest"
    # The stop is seen by the next call.
    kept(project).settle(canary.id, Verdict("stopped", "enough"))
    assert runtime.run("sentiment", "I love it", canary_key=key).prompt == canary.incumbent
    with pytest.raises(InputError, match="canary_key"):
        runtime.run("sentiment", "I love it", canary_key=7)  # type: ignore[typeddict-item]


def test_a_key_gets_production_in_a_shadow_after_a_move_and_when_the_candidate_is_gone(project: Project, invoke: Invoke) -> None:
    begin(project, invoke, "--shadow")
    runtime = Runtime(project)
    (shadow,) = kept(project).all()
    assert runtime.run("sentiment", "x", canary_key="k").prompt == shadow.incumbent
    begin(project, invoke, "--canary", "100")
    assert runtime.run("sentiment", "x", canary_key="k").prompt == shadow.candidate
    runtime.close()
    invoke("cache", "clear", "--yes", project=project)
    gone = Runtime(project).run("sentiment", "x", canary_key="k")
    assert gone.prompt == shadow.incumbent and "is not here" in gone.chosen
    path = project.task_file("sentiment")
    path.write_text(path.read_text().replace("customer message", "message"))
    third = compile_task("sentiment", project=project)
    assert third.id not in {shadow.candidate, shadow.incumbent}
    invoke("promote", f"sentiment@{third.id[:12]}", "--force", "--why", "other", project=project)
    assert Runtime(project).run("sentiment", "x", canary_key="k").prompt == third.id


def test_a_key_goes_with_a_ref(project: Project) -> None:
    task = load_task(project.task_file("sentiment"))
    with pytest.raises(InputError, match="canary_key"):
        Runtime(project).run(task, "x", canary_key="k")
