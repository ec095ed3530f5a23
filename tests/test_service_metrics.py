"""What the service counts: exact over processes that are forked, started, killed and started again, and read as Prometheus reads it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from promptsmith.service import cells as cells_of
from promptsmith.service.arms import SHARE
from promptsmith.service.metrics import FIRST_BYTE, LATENCY, OVERHEAD, Called, Metrics, quantile
from promptsmith.service.prometheus import Family, Histogram, text
from promptsmith.store.trouble import StoreWarning
from promptsmith.version import VERSION

PROMPT = "0123456789abcdef" * 4
BASE: dict[str, Any] = {"task": "sentiment", "prompt": PROMPT, "alias": "production", "model": "openai/gpt-4o-mini", "endpoint": "chat"}
LABELS = {**BASE, "prompt": PROMPT[:12]}
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def called(**more: Any) -> Called:
    return Called(**{**BASE, "cost": 0.0, **more})


def read(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples as Prometheus's own reader has them; what its reader lets through and the format forbids fails here."""
    content = page.decode("utf-8")
    assert content.endswith("\n")
    lines = content.split("\n")[:-1]
    named = [line.split(" ")[2] for line in lines if line.startswith("# TYPE ")]
    assert len(set(named)) == len(named), "a family in two places"
    assert named == [line.split(" ")[2] for line in lines if line.startswith("# HELP ")]
    sample = re.compile(r'[a-z_]+(\{([a-z]+="([^"\\\n]|\\[\\"n])*",?)*\})? (\d+(\.\d+)?(e-\d+)?|\+Inf|NaN)')
    for line in lines:
        assert line.startswith("# ") or sample.fullmatch(line), line
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(content):
        for one in family.samples:
            key = (one.name, frozenset(one.labels.items()))
            assert key not in found, "the same series twice"
            found[key] = one.value
        if family.type == "histogram":
            _check_histogram(family.samples)
        elif family.type == "counter":
            assert all(one.name.endswith("_total") for one in family.samples)
    return found


def _check_histogram(samples: list[Any]) -> None:
    series: dict[frozenset[tuple[str, str]], dict[str, Any]] = {}
    for one in samples:
        labels = frozenset((name, value) for name, value in one.labels.items() if name != "le")
        own = series.setdefault(labels, {"buckets": []})
        if one.name.endswith("_bucket"):
            own["buckets"].append((float(one.labels["le"]), one.value))
        else:
            own[one.name.rpartition("_")[2]] = one.value
    for own in series.values():
        bounds, counts = zip(*own["buckets"], strict=True)
        assert list(bounds) == sorted(set(bounds))
        assert bounds[-1] == float("inf")
        assert list(counts) == sorted(counts)
        assert counts[-1] == own["count"]


def value(page: bytes, name: str, **labels: str) -> float:
    return read(page)[name, frozenset(labels.items())]


def requests(metrics: Metrics) -> float:
    return sum(number for (name, _), number in read(metrics.render()).items() if name == "promptsmith_requests_total")


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    made = Metrics(tmp_path / "metrics", 0)
    yield made
    made.close()


# --- one worker -------------------------------------------------------------------------------------------


def test_each_thing_that_a_call_tells_is_on_the_page(metrics: Metrics) -> None:
    metrics.called(
        called(seconds=0.3, overhead_seconds=0.00006, first_byte_seconds=0.02, input=100, output=10, cached=40, cost=0.25, adherent=True)
    )
    metrics.called(called(seconds=0.7, overhead_seconds=0.0002, input=50, output=5, cost=None, adherent=False, stream=True))
    metrics.called(called(seconds=0.0001, overhead_seconds=0.0001, source="cache"))
    page = metrics.render()
    own = LABELS
    assert value(page, "promptsmith_requests_total", **own) == 3
    assert value(page, "promptsmith_streams_total", **own) == 1
    assert value(page, "promptsmith_latency_seconds_count", **own) == 3
    assert value(page, "promptsmith_latency_seconds_sum", **own) == pytest.approx(1.0001)
    assert value(page, "promptsmith_latency_seconds_bucket", le="0.35", **own) == 2
    assert value(page, "promptsmith_overhead_seconds_bucket", le="2.5e-05", **own) == 0
    assert value(page, "promptsmith_overhead_seconds_bucket", le="7.5e-05", **own) == 1
    assert value(page, "promptsmith_overhead_seconds_bucket", le="0.0001", **own) == 2
    assert value(page, "promptsmith_first_byte_seconds_count", **own) == 1
    assert value(page, "promptsmith_tokens_total", kind="input", **own) == 150
    assert value(page, "promptsmith_tokens_total", kind="output", **own) == 15
    assert value(page, "promptsmith_tokens_total", kind="cached", **own) == 40
    assert value(page, "promptsmith_cost_usd_total", **own) == 0.25
    assert value(page, "promptsmith_unknown_cost_total", **own) == 1
    assert value(page, "promptsmith_answers_total", source="model", **own) == 2
    assert value(page, "promptsmith_answers_total", source="cache", **own) == 1
    assert value(page, "promptsmith_answers_total", source="builtin", **own) == 0
    assert value(page, "promptsmith_checked_total", **own) == 2
    assert value(page, "promptsmith_adherent_total", **own) == 1


def test_errors_count_by_code_and_status(metrics: Metrics) -> None:
    metrics.called(called(status=429, error="rate_limited"))
    metrics.called(called(status=429, error="rate_limited"))
    metrics.called(called(status=502))
    metrics.called(called(status=200, error="stream_broken"))
    metrics.called(called())
    page = metrics.render()
    assert value(page, "promptsmith_errors_total", code="rate_limited", status="429", **LABELS) == 2
    assert value(page, "promptsmith_errors_total", code="http", status="502", **LABELS) == 1
    assert value(page, "promptsmith_errors_total", code="stream_broken", status="200", **LABELS) == 1
    assert value(page, "promptsmith_requests_total", **LABELS) == 5
    assert metrics.prompts()[0].errors == 4


def test_the_sides_of_a_canary_are_told_apart(metrics: Metrics) -> None:
    metrics.called(called(arm="candidate", adherent=True))
    metrics.called(called(arm="candidate", adherent=False))
    metrics.called(called(arm="candidate", status=500, error="internal"))
    metrics.called(called(arm="incumbent", adherent=True))
    page = metrics.render()
    own = {name: LABELS[name] for name in ("task", "prompt", "alias")}
    assert value(page, "promptsmith_canary_requests_total", arm="candidate", **own) == 3
    assert value(page, "promptsmith_canary_errors_total", arm="candidate", **own) == 1
    assert value(page, "promptsmith_canary_checked_total", arm="candidate", **own) == 2
    assert value(page, "promptsmith_canary_adherent_total", arm="candidate", **own) == 1
    assert value(page, "promptsmith_canary_requests_total", arm="incumbent", **own) == 1


def test_gauges_and_what_others_tell(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_bytes(b"x" * 1234)
    metrics = Metrics(tmp_path / "metrics", 0, ledger=ledger)
    metrics.began()
    metrics.began()
    metrics.ended()
    canary = Family("promptsmith_canary_share", "gauge", "Of a canary.", [((("task", "sentiment"),), 0.1)])
    page = metrics.render([canary])
    assert value(page, "promptsmith_in_flight_requests") == 1
    assert value(page, "promptsmith_workers") == 1
    assert value(page, "promptsmith_ledger_bytes") == 1234
    assert value(page, "promptsmith_canary_share", task="sentiment") == 0.1
    assert [dict(labels)["version"] for name, labels in read(page) if name == "promptsmith_build_info"] == [VERSION]
    ledger.unlink()
    assert value(metrics.render(), "promptsmith_ledger_bytes") == 0
    metrics.close()


names = st.text(max_size=60)


@given(task=names, alias=names, model=names, error=names, endpoint=names)
def test_any_name_can_be_a_label(
    tmp_path_factory: pytest.TempPathFactory, task: str, alias: str, model: str, error: str, endpoint: str
) -> None:
    metrics = Metrics(tmp_path_factory.mktemp("metrics"), 0, most=4)
    metrics.called(called(task=task, alias=alias, model=model, error=error, status=500, endpoint=endpoint))

    def label(name: str) -> str:
        return name.encode("utf-8", "replace")[:128].decode("utf-8", "ignore")

    own = {"task": label(task), "alias": label(alias), "model": label(model), "endpoint": label(endpoint), "prompt": PROMPT[:12]}
    page = metrics.render()
    assert value(page, "promptsmith_requests_total", **own) == 1
    assert value(page, "promptsmith_errors_total", code=label(error) or "http", status="500", **own) == 1
    metrics.close()


@given(
    lines=st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e3), st.none() | st.floats(0, 1e3), st.integers(0, 10**9), st.booleans() | st.none())
    )
)
def test_sums_are_the_sums(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[float, float, float | None, int, bool | None]]
) -> None:
    metrics = Metrics(tmp_path_factory.mktemp("metrics"), 0, most=4)
    for seconds, overhead, first, tokens, adherent in lines:
        metrics.called(
            called(seconds=seconds, overhead_seconds=overhead, first_byte_seconds=first, input=tokens, output=2 * tokens, adherent=adherent)
        )
    page = read(metrics.render())
    if lines:
        own = frozenset(LABELS.items())
        assert page["promptsmith_requests_total", own] == len(lines)
        assert page["promptsmith_latency_seconds_sum", own] == pytest.approx(sum(line[0] for line in lines))
        for bound in LATENCY:
            bucket = page["promptsmith_latency_seconds_bucket", own | {("le", str(int(bound)) if bound == int(bound) else repr(bound))}]
            assert bucket == sum(line[0] <= bound for line in lines)
        assert page["promptsmith_tokens_total", own | {("kind", "output")}] == 2 * sum(line[3] for line in lines)
        assert page["promptsmith_checked_total", own] == sum(line[4] is not None for line in lines)
        assert page["promptsmith_adherent_total", own] == sum(line[4] is True for line in lines)
        if any(line[2] is not None for line in lines):
            assert page["promptsmith_first_byte_seconds_count", own] == sum(line[2] is not None for line in lines)
    metrics.close()


def test_buckets_rise_and_the_overhead_is_seen_from_25_microseconds() -> None:
    for bounds in (LATENCY, OVERHEAD, FIRST_BYTE):
        assert list(bounds) == sorted(set(bounds))
    assert OVERHEAD[0] == 0.000025


def test_later_series_than_the_most_count_as_other(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics", 0, most=20)
    for number in range(1000):
        metrics.called(called(task=f"task{number}" + "y" * 200, error=f"code{number}", arm=f"arm{number}", input=1))
    metrics.called(called(task="task3" + "y" * 200))
    assert max(map(len, (metrics._calls, metrics._errors, metrics._arms))) <= 80, "names that come and go take memory"
    page = metrics.render()
    found = read(page)
    for name in ("requests", "errors", "canary_requests"):
        rows = [(dict(labels), number) for (one, labels), number in found.items() if one == f"promptsmith_{name}_total"]
        assert len(rows) == 21
        assert sum(number for _, number in rows) == (1001 if name == "requests" else 1000)
        assert [number for labels, number in rows if labels["task"] == "other"] == [980]
    assert sum(number for (name, labels), number in found.items() if name == "promptsmith_tokens_total") == 1000
    assert metrics.prompts()[0].task == "other"
    metrics.close()


def test_the_file_has_room_for_the_most_series_with_the_longest_names(tmp_path: Path) -> None:
    """Else the room would end before the number, and the file's size says what it takes."""
    metrics = Metrics(tmp_path / "metrics", 0, most=8)
    for number in range(8):
        long = dict.fromkeys(("task", "prompt", "alias", "model", "endpoint", "error", "arm"), f"{number}" + "z" * 300)
        metrics.called(called(**long))
    found = read(metrics.render())
    for name in ("requests", "errors", "canary_requests"):
        rows = [dict(labels) for (one, labels) in found if one == f"promptsmith_{name}_total"]
        assert len(rows) == 8
        assert all(row["task"] != "other" for row in rows)
    metrics.close()


# --- the format -------------------------------------------------------------------------------------------


def test_the_format_of_numbers_help_and_labels() -> None:
    page = text(
        [
            Family("a_total", "counter", "Back\\slash\nand line.", [((("l", 'q"\\\n'),), 3.0)]),
            Family("b", "gauge", "Odd ones.", [((("n", "1"),), float("inf")), ((("n", "2"),), float("nan")), ((("n", "3"),), 0.1)]),
            Family("c_seconds", "histogram", "No labels.", [((), Histogram([1.0, 0.0, 2.0], 2.5))], (0.5, 1.0)),
            Family("d", "gauge", "Nothing."),
        ]
    )
    assert page.decode() == (
        "# HELP a_total Back\\\\slash\\nand line.\n# TYPE a_total counter\n"
        'a_total{l="q\\"\\\\\\n"} 3\n'
        '# HELP b Odd ones.\n# TYPE b gauge\nb{n="1"} +Inf\nb{n="2"} NaN\nb{n="3"} 0.1\n'
        "# HELP c_seconds No labels.\n# TYPE c_seconds histogram\n"
        'c_seconds_bucket{le="0.5"} 1\nc_seconds_bucket{le="1"} 1\nc_seconds_bucket{le="+Inf"} 3\n'
        "c_seconds_sum 2.5\nc_seconds_count 3\n"
    )


# --- figures for pages ------------------------------------------------------------------------------------


def test_figures_of_a_prompt_are_over_its_aliases_and_endpoints(metrics: Metrics) -> None:
    for number in range(95):
        metrics.called(called(seconds=0.15, input=10, output=2, cached=4, cost=0.01, adherent=number > 4))
    for _ in range(5):
        metrics.called(called(seconds=4.0, alias="candidate", endpoint="messages", cost=None, source="cache"))
    metrics.called(called(task="spam", prompt="f" * 64))
    first, second = metrics.prompts()
    assert (first.task, first.prompt, first.calls, first.errors, first.checked, first.adherent) == ("sentiment", PROMPT, 100, 0, 95, 90)
    assert (first.input, first.output, first.cached, first.unknown_cost, first.cache_hits) == (950, 190, 380, 5, 5)
    assert first.cost == pytest.approx(0.95)
    assert first.p50 is not None and 0.1 < first.p50 <= 0.2
    assert first.p95 is not None and 0.1 < first.p95 <= 0.2
    assert (second.task, second.calls) == ("spam", 1)


@given(seconds=st.lists(st.floats(0, 500), min_size=1), share=st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(seconds: list[float], share: float) -> None:
    counts = [0.0] * (len(LATENCY) + 1)
    for one in seconds:
        counts[next((place for place, bound in enumerate(LATENCY) if one <= bound), len(LATENCY))] += 1
    found = quantile(counts, LATENCY, share)
    assert found is not None
    ranked = sorted(seconds)
    true = ranked[max(0, -int(-share * len(ranked) // 1) - 1)]
    bounds = [0.0, *LATENCY]
    if true > LATENCY[-1]:
        assert found == LATENCY[-1]
    else:
        upper = next(bound for bound in LATENCY if true <= bound)
        assert bounds[bounds.index(upper) - 1] <= found <= upper


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile([0.0, 0.0], (1.0,), 0.5) is None


# --- several processes ------------------------------------------------------------------------------------

WORKER = """
import sys, time
from pathlib import Path
from promptsmith.service.metrics import Called, Metrics
folder, worker, calls, then = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
metrics = Metrics(folder, worker)
for number in range(calls):
    metrics.called(Called(task="sentiment", prompt=f"{number % 7:064d}", alias="production", model="m/x", endpoint="chat",
                          seconds=0.25, input=3, cost=0.5, status=500 if number % 10 == 0 else 200))
metrics.began()
print("counted", flush=True)
if then == "stay":
    time.sleep(120)
if then == "close":
    metrics.close()
"""
FORKS = """
import os, sys
from pathlib import Path
from promptsmith.service.metrics import Called, Metrics
metrics = Metrics(Path(sys.argv[1]), 0)
call = Called(task="sentiment", prompt="a" * 64, alias="production", model="m/x", endpoint="chat", cost=0.0)
metrics.called(call)
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        for _ in range(2000):
            metrics.called(call)
        os._exit(0)
    children.append(child)
for _ in range(2000):
    metrics.called(call)
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
print(sum(one.calls for one in metrics.prompts()))
"""


def start(folder: Path, worker: int, calls: int, then: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(worker), str(calls), then], stdout=subprocess.PIPE, text=True)


def counted(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == "counted\n"


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def test_started_processes_that_count_at_once_are_added_up_exactly(tmp_path: Path) -> None:
    children = [start(tmp_path, worker, 3000, "stay") for worker in range(3)]
    reader = Metrics(tmp_path, 9)
    try:
        for child in children:
            counted(child)
        page = reader.render()
        assert requests(reader) == 9000
        found = read(page)
        assert sum(number for (name, _), number in found.items() if name == "promptsmith_errors_total") == 900
        assert sum(number for (name, _), number in found.items() if name == "promptsmith_cost_usd_total") == 4500.0
        assert sum(one.input for one in reader.prompts()) == 27000
        assert len(reader.prompts()) == 7
        assert value(page, "promptsmith_in_flight_requests") == 3
        assert value(page, "promptsmith_workers") == 4
    finally:
        for child in children:
            end(child)


@posix
def test_forked_processes_count_each_for_itself() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-W", "error", "-c", FORKS, folder], capture_output=True, text=True)
        assert done.stdout == f"{1 + 5 * 2000}\n", done.stderr


@posix
def test_a_killed_worker_loses_no_count_and_none_of_its_requests_are_in_flight(tmp_path: Path) -> None:
    child = start(tmp_path, 0, 5000, "stay")
    counted(child)
    os.kill(child.pid, signal.SIGKILL)
    end(child)
    reader = Metrics(tmp_path, 1)
    assert requests(reader) == 5000
    assert value(reader.render(), "promptsmith_in_flight_requests") == 0
    assert value(reader.render(), "promptsmith_workers") == 1
    reader.close()


@posix
def test_a_worker_goes_on_where_its_dead_predecessor_was(tmp_path: Path) -> None:
    for then in ("stay", "close", "stay"):
        child = start(tmp_path, 0, 100, then)
        counted(child)
        end(child)
    assert len(list(tmp_path.iterdir())) == 1
    again = Metrics(tmp_path, 0)
    assert len(list(tmp_path.iterdir())) == 1
    assert requests(again) == 300
    assert value(again.render(), "promptsmith_in_flight_requests") == 0
    again.close()


def test_a_worker_that_drains_and_its_successor_do_not_share_a_file(tmp_path: Path) -> None:
    old, new = Metrics(tmp_path, 0), Metrics(tmp_path, 0)
    old.called(called())
    new.called(called())
    old.called(called())
    assert requests(new) == requests(old) == 3
    old.close()
    assert requests(new) == 3
    third = Metrics(tmp_path, 0)
    third.called(called())
    assert requests(new) == requests(third) == 4
    assert len(list(tmp_path.iterdir())) == 2
    new.close()
    third.close()


@posix
def test_counters_never_go_back_while_workers_are_killed_and_started(tmp_path: Path) -> None:
    dice = random.Random(7)
    reader = Metrics(tmp_path, 9)
    seen: dict[Any, float] = {}
    gauges = ("promptsmith_in_flight_requests", "promptsmith_workers", "promptsmith_build_info")

    def look() -> float:
        page = {key: number for key, number in read(reader.render()).items() if key[0] not in gauges}
        assert all(page.get(key, -1.0) >= number for key, number in seen.items())
        seen.update(page)
        return sum(number for (name, _), number in seen.items() if name == "promptsmith_requests_total")

    for _ in range(6):
        before = look()
        child = start(tmp_path, 0, 10**7, "stay")
        while look() == before:
            assert child.poll() is None
        for _ in range(dice.randint(0, 20)):
            look()
        os.kill(child.pid, signal.SIGKILL)
        end(child)
    assert look() > before
    reader.close()


# --- files ------------------------------------------------------------------------------------------------


def test_what_is_no_file_of_ours_is_left_out(tmp_path: Path, metrics: Metrics) -> None:
    folder = tmp_path / "metrics"
    metrics.called(called())
    good = next(folder.iterdir()).read_bytes()
    (folder / "1-0.cells").write_bytes(b"")
    (folder / "2-0.cells").write_bytes(b"x" * 4096)
    (folder / "3-0.cells").write_bytes(b"another layout 1" + good[16:])
    (folder / "4-0.cells").mkdir()
    (folder / "note.txt").write_bytes(good)
    assert requests(metrics) == 1


@given(place=st.integers(16, 700), byte=st.integers(0, 255))
def test_a_damaged_file_of_another_is_read_without_an_error(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    first = Metrics(folder, 0, most=4)
    first.called(called())
    first.close()
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[place] = byte
    path.write_bytes(data)
    second = Metrics(folder, 1, most=4)
    second.called(called(task="mine"))
    assert b'task="mine"' in second.render()
    second.prompts()
    second.close()


def test_a_damaged_file_is_gone_on_with_before_the_damage(tmp_path: Path) -> None:
    first = Metrics(tmp_path, 0)
    first.called(called())
    first.called(called(task="later"))
    first.close()
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    at = data.index(b"later") - 2
    path.write_bytes(data[:at] + b"\xc1" + data[at + 1 :])  # a byte that begins nothing in msgpack
    again = Metrics(tmp_path, 0)
    again.called(called(task="after"))
    assert requests(again) == 2
    assert [one.task for one in again.prompts()] == ["after", "sentiment"]
    again.close()


def test_a_folder_that_can_not_be_had_costs_a_warning_and_no_count(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("a file")
    with pytest.warns(StoreWarning, match="can't be used"):
        metrics = Metrics(tmp_path / "metrics", 0)
    metrics.called(called())
    assert requests(metrics) == 1
    metrics.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a limit of file sizes")
def test_a_full_disk_is_met_when_the_worker_starts_and_not_as_a_signal_later(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, warnings; from pathlib import Path\n"
        "from promptsmith.service.metrics import Called, Metrics\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "warnings.simplefilter('always')\n"
        "metrics = Metrics(Path(sys.argv[1]), 0)\n"
        "for n in range(300):\n"
        "    metrics.called(Called(task=f't{n}', prompt='', alias='', model='', endpoint='chat', cost=0.0))\n"
        "print(sum(one.calls for one in metrics.prompts()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "300\n", done.stderr
    assert "can't be used" in done.stderr


def test_a_service_that_starts_counts_from_zero_and_leaves_what_is_in_use(tmp_path: Path) -> None:
    old, draining = Metrics(tmp_path, 0), Metrics(tmp_path, 1)
    old.called(called())
    draining.called(called())
    old.close()
    cells_of.clear(tmp_path)
    cells_of.clear(tmp_path / "nowhere")
    new = Metrics(tmp_path, 0)
    assert requests(new) == 1
    draining.close()
    cells_of.clear(tmp_path)
    assert requests(new) == 0
    new.close()


def test_counts_of_a_file_that_was_removed_are_still_shown_by_its_worker(tmp_path: Path, metrics: Metrics) -> None:
    metrics.called(called())
    for path in (tmp_path / "metrics").iterdir():
        path.unlink()
    assert requests(metrics) == 1


def test_files_are_their_owners_alone(tmp_path: Path, metrics: Metrics) -> None:
    folder = tmp_path / "metrics"
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_nothing_keeps_metrics_that_nobody_has(tmp_path: Path) -> None:
    import gc
    import weakref

    metrics = Metrics(tmp_path, 0)
    gone = weakref.ref(metrics)
    del metrics
    gc.collect()
    assert gone() is None


def test_the_page_is_rendered_while_another_thread_counts(metrics: Metrics) -> None:
    import threading

    stop = threading.Event()

    def count() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            metrics.called(called(task=f"task{number % 15}", seconds=0.1))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        totals = [requests(metrics) for _ in range(15)]
    finally:
        stop.set()
        thread.join()
    assert totals == sorted(totals)


# --- what the docs say ------------------------------------------------------------------------------------

DOCS = Path(__file__).parent.parent / "docs"


def test_the_guide_names_all_metrics_and_no_other(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0, ledger=tmp_path / "ledger.jsonl")
    metrics.called(called(status=500, arm="candidate", first_byte_seconds=0.1))
    page = metrics.render([Family(SHARE, "gauge", "More.", [((), 0.1)])]).decode()
    table = (DOCS / "guides" / "operations.md").read_text("utf-8").partition("| metric | type |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(promptsmith_\w+)`", table)) == set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)", page, re.MULTILINE))
    for line in table.split("\n")[2:]:
        first, second = line.split("|")[1:3]
        assert {kinds[name] for name in re.findall(r"promptsmith_\w+", first)} == {second.split(",")[0].strip()}
    metrics.close()


def test_whoever_stops_the_service_waits_longer_than_it_drains() -> None:
    from promptsmith.config import Service

    unit = (DOCS / "deploy" / "promptsmith.service").read_text("utf-8")
    container = (DOCS / "deploy" / "Containerfile").read_text("utf-8")
    for pattern, found in ((r"^TimeoutStopSec=(\d+)$", unit), (r"--stop-timeout (\d+)", container)):
        (seconds,) = re.findall(pattern, found, re.MULTILINE)
        assert int(seconds) > Service().drain_seconds
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit
    assert f"EXPOSE {Service().port}" in container


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DOCS / "deploy" / "promptsmith.service").read_text("utf-8").replace("/opt/promptsmith/bin/promptsmith", sys.executable)
    (tmp_path / "promptsmith.service").write_text(unit)
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / "promptsmith.service")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
