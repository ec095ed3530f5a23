"""``python -m tests.provider``: the provider as a process, for benchmarks. Prints its address when it is ready."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any

from .answers import constant, echo, nearest
from .bare import serve_bare
from .faults import Fault
from .server import Provider
from .settings import KEY, Settings
from .values import Answer


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.provider", description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=0, help="default: any free one")
    add("--latency", type=float, default=0.0, metavar="SECONDS", help="before the first byte of an answer")
    add("--pace", type=float, default=0.0, metavar="SECONDS", help="between two events of a stream")
    add("--answer", default="echo", help="echo, nearest, or constant:TEXT")
    add("--key", action="append", help=f"a key that is let in, or 'any' (default: {KEY})")
    add("--foreign", action="store_true", help="be a third party's server")
    add("--max-in-flight", type=int, metavar="N", help="more at a time: 429")
    add("--rpm", type=int, metavar="N", help="more a minute: 429")
    add("--fault", action="append", default=[], metavar="SHARE:FAULT", help="such as 0.05:429,retry_after_ms=50")
    add("--seed", type=int, default=0, help="of the faults' chances")
    add("--keyless-hits", action="store_true", help="from gpt-5.6: cached prefixes are found without prompt_cache_key")
    add("--keep-records", type=int, default=1000, metavar="N", help="requests kept (GET /_provider/stats sums over them)")
    add("--bare", action="store_true", help="a constant answer at full speed: no checks, cache, records or streams")
    add("--loop", choices=("uvloop", "asyncio"), default="", help="default: uvloop where it is installed")
    return parser


def _answer(name: str) -> Answer:
    kind, _, text = name.partition(":")
    if kind == "constant":
        return constant(text)
    return {"echo": lambda: echo, "nearest": nearest}[kind]()


def _provider(options: argparse.Namespace) -> Provider:
    keys = None if options.key == ["any"] else frozenset(options.key or [KEY])
    settings = Settings(
        keys=keys,
        foreign=options.foreign,
        latency=options.latency,
        pace=options.pace,
        max_in_flight=options.max_in_flight,
        rpm=options.rpm,
        keyless_hits=options.keyless_hits,
        keep_records=options.keep_records,
    )
    provider = Provider(_answer(options.answer), settings, port=options.port)
    for wanted in options.fault:
        share, _, fault = wanted.partition(":")
        provider.faults.chance(float(share), Fault.parse(fault), seed=options.seed)
    return provider


def _serving(options: argparse.Namespace) -> Coroutine[Any, Any, None]:
    def ready(port: int) -> None:
        print(f"http://127.0.0.1:{port}", flush=True)

    if options.bare:
        _, _, text = options.answer.partition(":")
        return serve_bare(options.port, ready, latency=options.latency, text=text or "positive")
    provider = _provider(options)
    return provider.serve(lambda: ready(provider.port))


async def _until_told(serving: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(serving)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    options = _options().parse_args()
    factory = None
    if options.loop != "asyncio":
        try:
            import uvloop

            factory = uvloop.new_event_loop
        except ImportError:
            if options.loop:
                raise
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_until_told(_serving(options)))


if __name__ == "__main__":
    main()
