"""The live view of a search: what it draws, and what stands on a real terminal in the end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.budget import NO_LIMITS, Limits
from promptsmith.cli.live import MOST, Look, Pace, bar, frame, lasting, live, summed_up
from promptsmith.compiler.search.values import Candidate, Origin, Spent, Standing, Status
from promptsmith.config import Project
from promptsmith.evals.show.terminal import columns

from .made_reports import HOSTILE
from .provider import KEY, Ask, Provider


def standing(place: int, mean: float = 0.5, *, name: str = "draft contract_first, coverage", **more: object) -> Standing:
    values: dict[str, object] = {
        "id": f"{place:012x}", "name": name, "mean": mean, "lower": max(0.0, mean - 0.1), "upper": min(1.0, mean + 0.1), "cases": 40,
        "tokens": 300 + place,
    }  # fmt: skip
    return Standing(**{**values, **more})  # type: ignore[arg-type]


def status(
    calls: int = 120, seconds: float = 30.0, *, candidates: tuple[Standing, ...] | None = None, usd: float | None = 0.25, **more: object
) -> Status:
    if candidates is None:
        candidates = tuple(standing(place, 0.4 + 0.05 * place, out=place % 3 == 0) for place in range(1, 11))
    best = Candidate(id=candidates[-1].id, instructions="", shown=(), system="x", origin=Origin(kind="draft")) if candidates else None
    values: dict[str, object] = {
        "stage": "race", "round": 2, "spent": Spent(calls=calls, tokens=calls * 400, usd=usd), "seconds": seconds, "dev": 60,
        "candidates": candidates, "front": tuple(one.id for one in candidates[-2:]), "best": best,
    }  # fmt: skip
    return Status(**{**values, **more})  # type: ignore[arg-type]


# --- what is drawn ----------------------------------------------------------------------------------------


def test_a_drawing_says_stage_budget_and_the_best_candidates() -> None:
    lines = frame(status(), Limits(calls=240, usd=2.0), ("calls", 30.0), Look(120, 40))
    assert lines[0] == "race, round 2: 10 candidates, 3 out, 60 dev cases, 0:30"
    assert lines[1] == "120 of 240 calls, 48,000 tokens, $0.2500 of $2.0000"
    assert lines[2] == "██████████░░░░░░░░░░ 50 % of the calls, calls used up in about 0:30"
    rows = lines[3 : 3 + MOST]
    means = [float(re.search(r"\d\.\d{3}", row)[0]) for row in rows]  # type: ignore[index]
    assert means[:7] == sorted(means[:7], reverse=True)
    assert means[7] == 0.85, "those that are out come last"
    assert [row.startswith("* ") for row in rows] == [True, *[False] * 6, True]
    assert "draft contract_first, coverage" in rows[0]
    assert lines[-2] == "  and 2 more"


def test_what_is_out_is_dimmed_and_the_best_is_bold() -> None:
    lines = frame(status(), NO_LIMITS, None, Look(120, 40, color=True))
    assert next(line for line in lines if "00000000000a" in line).startswith("\x1b[1m")
    assert next(line for line in lines if "000000000009" in line).startswith("\x1b[2m")
    assert all(line.endswith("\x1b[0m") for line in lines if "\x1b" in line)


def test_without_limits_nothing_is_invented() -> None:
    lines = frame(status(usd=None), NO_LIMITS, None, Look(120, 40))
    assert lines[1] == "120 calls, 48,000 tokens, cost unknown"
    assert not any("%" in line or "about" in line for line in lines)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    named = (standing(1, name="entwurf für „alles“ " + "x" * 200),)
    for line in frame(status(candidates=named), Limits(calls=200), None, Look(80, 40, unicode=False)):
        assert line.isascii()


@given(
    width=st.integers(1, 200),
    height=st.integers(0, 30),
    names=st.lists(st.text(max_size=80), max_size=15),
    mean=st.floats(0, 1),
    calls=st.integers(0, 10**12),
    limit=st.none() | st.integers(0, 10**12),
)
def test_no_line_is_wider_than_the_terminal_and_there_are_no_more_than_fit(
    width: int, height: int, names: list[str], mean: float, calls: int, limit: int | None
) -> None:
    candidates = tuple(standing(place, mean, name=name + HOSTILE) for place, name in enumerate(names))
    limits = Limits(calls=limit, tokens=limit, seconds=None if limit is None else float(limit))
    lines = frame(status(calls, candidates=candidates), limits, ("calls", 1e9), Look(width, height))
    assert len(lines) <= max(1, height)
    for line in lines:
        assert columns(line) <= max(1, width - 1)
        assert line.isprintable()


def test_a_bar_has_the_mean_within_the_interval() -> None:
    assert bar(standing(1, 0.5)) == "········──●──·······"
    assert bar(standing(1, 0.5), unicode=False) == "........--o--......."
    assert bar(standing(1, 1.0), unicode=False) == "..................-o"
    assert bar(standing(1, 0.0), unicode=False) == "o--................."


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00"), (42.4, "0:42"), (59.6, "1:00"), (725, "12:05"), (3729, "1:02:09")])
def test_spans_of_time(seconds: float, told: str) -> None:
    assert lasting(seconds) == told


# --- the time to go ---------------------------------------------------------------------------------------


def paced(*points: tuple[float, int], usd: float | None = 0.0) -> Pace:
    pace = Pace()
    for seconds, calls in points:
        pace.note(status(calls, seconds, usd=usd if usd is None else calls * 0.01))
    return pace


def test_the_time_to_go_is_told_from_the_limit_that_ends_first() -> None:
    pace = paced((0, 0), (10, 100))
    assert pace.to_go(Limits(calls=200)) == ("calls", pytest.approx(10))
    assert pace.to_go(Limits(calls=200, usd=1.5)) == ("dollars", pytest.approx(5))
    assert pace.to_go(Limits(calls=200, tokens=10**9, seconds=12)) == ("time", pytest.approx(2))
    assert paced((0, 0), (10, 300)).to_go(Limits(calls=200)) == ("calls", 0.0)


def test_the_time_to_go_is_left_out_where_nothing_tells_it() -> None:
    assert Pace().to_go(Limits(calls=5)) is None
    assert paced((0, 0), (10, 100)).to_go(NO_LIMITS) is None
    assert paced((0, 0), (1, 100)).to_go(Limits(calls=200)) is None, "too early"
    assert paced((0, 50), (10, 50)).to_go(Limits(calls=200)) is None, "nothing moves"
    assert paced((0, 0), (10, 100), usd=None).to_go(Limits(usd=2)) is None, "no price"


def test_the_pace_is_that_of_the_last_minute() -> None:
    """A resumed run answers its first calls from the journal: that tells nothing of the calls to come."""
    pace = paced((0, 1000), (61, 1010), (71, 1020), (121, 1070))
    assert pace.to_go(Limits(calls=1100)) == ("calls", pytest.approx(30))


# --- a real terminal --------------------------------------------------------------------------------------

CHILD = """
import sys, warnings
from promptsmith.budget import Limits
from promptsmith.cli.live import live
from tests.test_live import status
import click
warnings.showwarning = lambda message, *_a, **_m: click.echo(f"warning: {message}", err=True)

def step():
    print("ready", flush=True)
    return sys.stdin.readline().strip()

sys.stderr.write("before\\n")
with live(Limits(calls=1000)) as seen:
    print("watched" if seen else "unwatched", flush=True)
    for number in range(1000):
        word = step()
        if word == "end":
            break
        if word == "fail":
            raise RuntimeError("broken")
        if word == "warn":
            warnings.warn("careful")
        elif word == "half":
            sys.stderr.write("half a line")
        elif seen:
            seen(status(100 + number, 10.0 * (number + 1)))
print("done", flush=True)
click.echo("after", err=True)
"""


class Screen:
    """What a terminal shows: text, line ends, cursor up, erase below, colours; anything else is an error."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rows: list[str] = [""]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]|\x1b", text):
            self._one(part)

    def _one(self, part: str) -> None:
        if part == "\r":
            self.column = 0
        elif part == "\n":
            self.row += 1
            self.rows += [""] * (self.row + 1 - len(self.rows))
        elif part.startswith("\x1b["):
            self._control(part[2:-1], part[-1])
        else:
            assert part.isprintable(), repr(part)
            if self.column >= self.width:
                self.column = 0
                self._one("\n")
            line = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = line[: self.column] + part + line[self.column + 1 :]
            self.column += columns(part)

    def _control(self, number: str, letter: str) -> None:
        if letter == "A":
            top = max(0, len(self.rows) - self.height)
            self.row = max(top, self.row - int(number))
        elif letter == "J" and number == "":
            self.rows = self.rows[: self.row + 1]
            self.rows[self.row] = self.rows[self.row][: self.column]
        else:
            assert letter == "m", f"no other control is expected: {number}{letter}"

    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.rows)


class Terminal:
    """A child whose stderr is a pseudo-terminal."""

    def __init__(self, command: Sequence[str], width: int = 100, height: int = 30, env: Mapping[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self.resize(width, height)
        self.seen = b""
        self.watched = ""
        keep = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
        self.child = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=slave, text=True, bufsize=1, cwd=Path(__file__).parent.parent,
            env={**keep, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **(env or {})},
        )  # fmt: skip
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the child's end is closed
                return
            if not data:
                return
            self.seen += data

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def line(self) -> str:
        """The next line that the child writes to its stdout."""
        assert self.child.stdout is not None
        return self.child.stdout.readline().strip()

    def step(self, word: str = "draw") -> str:
        """Tells the child what to do next; what it says then."""
        assert self.child.stdin is not None
        self.child.stdin.write(f"{word}\n")
        self.child.stdin.flush()
        return self.line()

    def end(self) -> str:
        """Waits for the child; everything that it wrote to its terminal."""
        self.child.wait()
        self._reader.join()
        return self.seen.decode()

    def close(self) -> None:
        self.child.kill()
        for stream in (self.child.stdin, self.child.stdout):
            assert stream is not None
            stream.close()
        self.child.wait()
        self._reader.join()
        os.close(self._master)


@contextmanager
def terminal(width: int = 100, height: int = 30, **env: str) -> Iterator[Terminal]:
    """The child of these tests, waiting for its first step."""
    found = Terminal(["-c", CHILD], width, height, env)
    try:
        found.watched = found.line()
        assert found.line() == "ready"
        yield found
    finally:
        found.close()


def screen(text: str, width: int = 100, height: int = 30) -> str:
    found = Screen(width, height)
    found.feed(text)
    assert found.column == 0, "the cursor is at the beginning of a line"
    return found.text()


def test_in_the_end_one_line_stays() -> None:
    with terminal() as at:
        assert at.watched == "watched"
        for _ in range(5):
            at.step()
        assert at.step("end") == "done"
        text = at.end()
    assert text.count("race, round 2") == 5
    assert screen(text) == "before\nsearched 10 candidates in 0:50: 104 calls, 41,600 tokens, $0.2500\nafter\n"
    assert "\x1b[?" not in text, "no mode of the terminal is changed"


def test_each_drawing_takes_the_place_of_the_last() -> None:
    with terminal() as at:
        for _ in range(3):
            at.step()
        at.step("end")
        text = at.end()
    middle = screen(text[: text.index("searched")].rsplit("\r\x1b[", 1)[0])
    assert middle.count("race, round 2") == 1
    assert "102 of 1,000 calls" in middle
    assert middle.startswith("before\nrace")


def test_an_error_leaves_the_terminal_as_it_was() -> None:
    with terminal() as at:
        at.step()
        at.step("fail")
        text = at.end()
        assert at.child.returncode == 1
    lines = screen(text).splitlines()
    assert lines[:3] == [
        "before",
        "stopped after 10 candidates in 0:10: 100 calls, 40,000 tokens, $0.2500",
        "Traceback (most recent call last):",
    ]
    assert lines[-1] == "RuntimeError: broken"


def test_ctrl_c_leaves_the_terminal_as_it_was() -> None:
    with terminal() as at:
        at.step()
        at.child.send_signal(signal.SIGINT)
        text = at.end()
        assert at.child.returncode == -signal.SIGINT
    lines = screen(text).splitlines()
    assert lines[0] == "before"
    assert lines[1].startswith("stopped after 10 candidates")
    assert lines[-1] == "KeyboardInterrupt"
    assert "race, round" not in screen(text)


def test_a_kill_leaves_no_mode_behind() -> None:
    with terminal() as at:
        at.step()
        at.child.kill()
        text = at.end()
    assert screen(text).splitlines()[1].startswith("race, round 2")
    assert "\x1b[?" not in text


@pytest.mark.parametrize(("width", "height"), [(20, 10), (20, 4), (1, 1), (40, 24), (300, 80)])
def test_terminals_of_any_size(width: int, height: int) -> None:
    with terminal(width, height) as at:
        for _ in range(3):
            at.step()
        at.step("end")
        text = at.end()
    drawn = text[text.index("before\r\n") + 8 : text.index("searched")]
    for line in re.split(r"\r\n|\r\x1b\[\d+A\x1b\[J", re.sub(r"\x1b\[\d+m", "", drawn)):
        assert columns(line) <= max(1, width - 1)
    assert drawn.count("\r\n") <= 3 * max(1, height - 1), "the drawing fits, so that it can be drawn over"
    if width >= 20 and height > 4:
        assert screen(text, width, height).startswith("before\nsearched")


def test_a_resize_is_followed_and_takes_away_nothing_of_others() -> None:
    with terminal(120, 30) as at:
        at.step()
        at.resize(30, 12)
        at.step()
        at.resize(90, 30)
        at.step()
        at.step("end")
        text = at.end()
    shown = screen(text, 120, 30)
    assert shown == "before\nsearched 10 candidates in 0:30: 102 calls, 40,800 tokens, $0.2500\nafter\n"
    second = text.split("\x1b[J")[1]
    assert max(columns(line) for line in re.sub(r"\x1b\[\d+m", "", second).splitlines()) <= 29


def test_what_others_write_stands_above() -> None:
    with terminal() as at:
        at.step()
        at.step("warn")
        at.step()
        at.step("end")
        text = at.end()
    assert screen(text).splitlines()[:3] == [
        "before",
        "warning: careful",
        "searched 10 candidates in 0:30: 102 calls, 40,800 tokens, $0.2500",
    ]


def test_half_a_line_of_somebody_is_not_drawn_over() -> None:
    with terminal() as at:
        at.step()
        at.step("half")
        at.step()
        at.step("end")
        text = at.end()
    assert screen(text).splitlines()[:3] == ["before", "half a line", "searched 10 candidates in 0:30: 102 calls, 40,800 tokens, $0.2500"]


def test_no_color_is_kept_to() -> None:
    with terminal(NO_COLOR="1") as at:
        at.step()
        at.step("end")
        assert not re.search(r"\x1b\[\d+m", at.end())


def test_a_dumb_terminal_gets_nothing() -> None:
    with terminal(TERM="dumb") as at:
        assert at.watched == "unwatched"
        at.step()
        at.step("end")
        assert at.end() == "before\r\nafter\r\n"


def test_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr
    with live(NO_LIMITS) as seen:
        assert seen is None
        assert sys.stderr is before
    assert capsys.readouterr().err == ""


def test_nothing_is_said_when_nothing_was_searched() -> None:
    """The cache had the prompt."""
    with terminal() as at:
        at.step("end")
        assert at.end() == "before\r\nafter\r\n"


def test_the_line_in_the_end_says_what_is_unknown() -> None:
    assert summed_up(status(usd=None)) == "10 candidates in 0:30: 120 calls, 48,000 tokens, cost unknown"


# --- a compile --------------------------------------------------------------------------------------------

PRODUCTION, META = "openai/gpt-4o-mini", "anthropic/claude-opus-5-5"
PROMPT = "Say how the customer feels.\n\nAnswer with exactly one of these labels and nothing else:\n- good\n- bad\n"


def answered(ask: Ask) -> str:
    """The meta-model writes one prompt; with it the production model is right, with any other it always says the same."""
    if ask.model.startswith("claude"):
        return PROMPT
    right = "bad" if "sad" in ask.text else "good"
    return right if ask.system.startswith("Say how") else "good"


@pytest.fixture
def searching(make_project: Callable[..., Project]) -> Iterator[Project]:
    """A task that a search solves, with the loopback provider behind both models."""
    rows = "".join(
        f'  - {{input: "message {place} of somebody {("glad", "sad")[place % 2]}", output: {("good", "bad")[place % 2]}}}\n'
        for place in range(60)
    )
    task = f"task: Sort it.\noutput: [good, bad]\nmodels: {{production: {PRODUCTION}, meta: {META}}}\nexamples:\n{rows}"
    with Provider(answered) as provider:
        settings = "".join(
            f'[endpoints.{name}]\nprotocol = "{name}"\nbase_url = "{provider.url}{path}"\napi_key_env = "LIVE_KEY"\nforeign = false\n'
            for name, path in (("openai", "/v1"), ("anthropic", ""))
        )
        yield make_project({"mood": task}, config=settings)


def compiling(project: Project, *more: str) -> list[str]:
    return ["-m", "promptsmith", "--project", str(project.root), "compile", "mood", "-O2", "--yes", "--max-calls", "600", *more]


def test_a_compile_on_a_terminal_shows_its_search_and_tells_its_end(searching: Project) -> None:
    at = Terminal(compiling(searching), 120, 40, {"LIVE_KEY": KEY})
    try:
        text = at.end()
        assert at.child.returncode == 0, text
        result = at.line()
    finally:
        at.close()
    assert result.startswith("mood@")
    assert re.search(r"\d+ of 600 calls", text)
    assert "% of the calls" in text
    shown = screen(text, 120, 40)
    assert "% of the calls" not in shown
    lines = shown.splitlines()
    ended = next(place for place, line in enumerate(lines) if line.startswith("searched "))
    assert lines[ended + 1].startswith("mood: search ended: ")
    assert "mood: more: promptsmith show mood --provenance" in lines
    assert any("over -O0" in line for line in lines)


def test_a_compile_for_a_program_draws_nothing(searching: Project) -> None:
    at = Terminal(compiling(searching, "--json"), 120, 40, {"LIVE_KEY": KEY})
    try:
        text = at.end()
        assert at.child.returncode == 0, text
    finally:
        at.close()
    assert "\x1b" not in text
    assert "searched " not in text
