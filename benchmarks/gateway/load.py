"""Load: by a generator of ours (``python -m benchmarks.gateway.load``), which checks every answer, or by wrk, which takes less CPU.

Both keep their connections and send the next request when the answer before it is whole (a closed loop).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import uvloop

from .http import Answer, Connection, address, request
from .processes import written

_LATE = 30.0
"""Seconds after the end of a load in which answers are waited for."""


class Target(msgspec.Struct, frozen=True):
    """What is asked: the same request each time, and what stands in every right answer (``expect`` is not checked by wrk)."""

    url: str
    headers: dict[str, str]
    body: str
    expect: str = ""


class Load(msgspec.Struct, frozen=True):
    """What a load came to. Times in milliseconds: of whole answers, and until the first byte of a body (wrk: not known)."""

    answers: int
    rate: float
    """Answers a second."""
    p50: float
    p99: float
    errors: dict[str, int] = {}
    """By kind: an HTTP status, ``lost`` (the connection), ``late`` (no answer), ``wrong`` (an answer that is not the one expected)."""
    first_p50: float | None = None
    first_p99: float | None = None


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of ``values`` (sorted) do not exceed; 0 of none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


# --- wrk -----------------------------------------------------------------------------------------------------

_LUA = """
wrk.method = "POST"
wrk.body = %(body)s
%(headers)s
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\nwrk-json {"answers":%%d,"us":%%d,"p50":%%f,"p99":%%f,"status":%%d,"lost":%%d,"late":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
"""


def _lua(text: str) -> str:
    """A Lua string: JSON's escapes are Lua's too, but for those of control characters, and bytes beyond ASCII may stand as they are."""
    return json.dumps(text, ensure_ascii=False)


def wrk(target: Target, *, connections: int, seconds: float, cores: Collection[int] = ()) -> Load:
    """The load of wrk, on ``cores`` if any are named. It takes no time to the first byte and checks no answer but its status."""
    headers = {"content-type": "application/json", **target.headers}
    lines = "\n".join(f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in headers.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LUA % {"body": _lua(target.body), "headers": lines})
        script.flush()
        options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", script.name]
        command = ["wrk", *options, target.url]
        said = written(command, cores).decode()
    found = json.loads(said.partition("\nwrk-json ")[2])
    errors = {kind: found[kind] for kind in ("status", "lost", "late") if found[kind]}
    good = found["answers"] - found["status"]
    return Load(answers=good, rate=good / found["us"] * 1e6, p50=found["p50"] / 1000, p99=found["p99"] / 1000, errors=errors)


# --- ours ----------------------------------------------------------------------------------------------------


class _Run:
    """One load in this process."""

    def __init__(self, target: Target, connections: int, seconds: float, count: int | None) -> None:
        self._request = request(target.url, target.headers, target.body.encode())
        self._expect = target.expect.encode()
        self._address = address(target.url)
        self._connections = connections
        self._seconds = seconds
        self._left = count if count is not None else sys.maxsize
        self._open: set[Connection] = set()
        self._times: list[float] = []
        self._firsts: list[float] = []
        self._errors: Counter[str] = Counter()
        self._ended = asyncio.Event()
        self._end = self._last = 0.0

    async def run(self) -> Load:
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            _, connection = await loop.create_connection(lambda: Connection(self._answered, self._lost), *self._address)
            self._open.add(connection)
        begin = loop.time()
        self._end = begin + self._seconds
        for connection in tuple(self._open):
            self._next(connection)
        try:
            await asyncio.wait_for(self._ended.wait(), self._seconds + _LATE)
        except TimeoutError:
            self._errors["late"] += sum(connection.waiting for connection in self._open)
        return self._load(max(self._last, begin + 1e-6) - begin)

    def _next(self, connection: Connection) -> None:
        if self._left and asyncio.get_running_loop().time() < self._end:
            self._left -= 1
            connection.send(self._request)
        else:
            connection.close()

    def _answered(self, connection: Connection, answer: Answer) -> None:
        self._last = asyncio.get_running_loop().time()
        status = answer.head[9:12]
        if status != b"200":
            self._errors[status.decode()] += 1
        elif self._expect and self._expect not in (_spoken(answer.body) if answer.chunked else answer.raw):
            self._errors["wrong"] += 1
        else:
            self._times.append(answer.last - answer.sent)
            self._firsts.append(answer.first - answer.sent)
        self._next(connection)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._errors["lost"] += connection.waiting
        if not self._open:
            self._ended.set()

    def _load(self, seconds: float) -> Load:
        times, firsts = sorted(self._times), sorted(self._firsts)
        return Load(
            answers=len(times),
            rate=len(times) / seconds,
            p50=percentile(times, 0.5) * 1000,
            p99=percentile(times, 0.99) * 1000,
            errors={kind: number for kind, number in self._errors.items() if number},
            first_p50=percentile(firsts, 0.5) * 1000,
            first_p99=percentile(firsts, 0.99) * 1000,
        )


def spoken(events: bytes) -> str:
    """The text in a stream's events, of chat completions or messages; of a body that is no stream, the body."""
    if b"data: " not in events:
        return events.decode()
    parts = []
    for line in events.split(b"\n"):
        if line.startswith(b"data: {"):
            event = msgspec.json.decode(line[6:])
            choices = event.get("choices") or ()
            parts += [choice["delta"].get("content") or "" for choice in choices]
            parts.append(event["delta"].get("text", "") if event.get("type") == "content_block_delta" else "")
    return "".join(parts)


def _spoken(body: bytes) -> bytes:
    return spoken(body).encode()


def ours(target: Target, *, connections: int, seconds: float, count: int | None = None, cores: Collection[int] = ()) -> Load:
    """The load of a process of ours, on ``cores`` if any are named; ``count`` is the most requests."""
    options = ["--connections", str(connections), "--seconds", str(seconds), *(["--count", str(count)] if count is not None else [])]
    command = [sys.executable, "-m", "benchmarks.gateway.load", *options]
    return msgspec.json.decode(written(command, cores, msgspec.json.encode(target)), type=Load)


async def _main(target: Target, options: argparse.Namespace) -> Any:
    return await _Run(target, options.connections, options.seconds, options.count).run()


def main() -> None:
    """Reads a target as JSON from standard input and writes what its load came to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.load", description=main.__doc__)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    target = msgspec.json.decode(sys.stdin.buffer.read(), type=Target)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(_main(target, options))) + b"\n")


if __name__ == "__main__":
    main()
