"""``promptsmith serve`` beside other gateways, with one provider on the loopback interface that costs almost nothing.

Ours runs with a key, its ledger and its metrics; the others are in their lightest form. Every answer of a load is checked to be the
one for its prompt and message (wrk checks only the status).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from . import peers
from .bench import Bench, placed
from .peers import Peer, Setup
from .processes import started_provider
from .project import MODELS, made, words
from .table import markdown, plain

PARTS = ("start", "load", "workers")


def _there(setup: Setup, options: argparse.Namespace) -> tuple[list[Peer], list[str]]:
    """The peers that can be measured, and why each of the others can't."""
    found, absent = [peers.direct(setup), peers.relay(setup)], []
    tried: dict[str, Callable[[], Peer]] = {peers.OURS: lambda: peers.ours(setup)}
    if options.litellm:
        tried["LiteLLM"] = lambda: peers.litellm(setup, options.litellm)
    else:
        absent.append("LiteLLM: --litellm or BENCH_LITELLM names its command, such as /tmp/peers/bin/litellm")
    if options.portkey:
        tried["Portkey"] = lambda: peers.portkey(setup, options.portkey)
    else:
        absent.append("Portkey: --portkey or BENCH_PORTKEY names its command, such as 'node …/@portkey-ai/gateway/build/start-server.js'")
    for name, make in tried.items():
        try:
            found.append(make())
        except (RuntimeError, OSError) as error:
            absent.append(f"{name}: {error}")
    return found, absent


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=5.0, help="of one load")
    add("--parts", nargs="+", choices=PARTS, default=PARTS)
    add("--only", nargs="+", metavar="PEER", help=f"besides {peers.DIRECT} and {peers.RELAY}")
    add("--litellm", default=os.environ.get("BENCH_LITELLM"), metavar="COMMAND")
    add("--portkey", default=os.environ.get("BENCH_PORTKEY"), metavar="COMMAND")
    add("--wrk", action="store_true", help="rates by wrk, which takes less of the cores than our generator")
    add("--json", type=Path, metavar="FILE", help="where everything that was measured is written")
    return parser


def _measured(bench: Bench, parts: Sequence[str]) -> list[str]:
    """Why a part was not measured to its end; what it had measured until then stands in the table all the same."""
    trouble = []
    for name, measure in {"start": bench.cold, "load": bench.warm, "workers": bench.scaling}.items():
        if name in parts:
            try:
                measure()
            except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                trouble.append(f"{name}, not measured to its end: {error}")
    return trouble


def main() -> None:
    """Measures, and writes the table to standard output."""
    options = _options().parse_args()
    if options.wrk and not shutil.which("wrk"):
        sys.exit("wrk is not on the PATH")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started_provider(folder, placed(1).provider) as (url, running):
            tasks = {task: (model, words(f"You sort messages for {task}.")) for task, model in MODELS.items()}
            project, prompts = made(folder / "project", url, tasks)
            setup = Setup(url, project, {task: prompt.system for task, prompt in prompts.items()}, folder)
            there, absent = _there(setup, options)
            wanted = [peer for peer in there if not options.only or peer.name in (*options.only, peers.DIRECT, peers.RELAY)]
            bench = Bench(setup, running, wanted, rounds=options.rounds, seconds=options.seconds, wrk=options.wrk)
            absent += bench.usable()
            trouble = _measured(bench, options.parts)
    about = {
        "cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine(), "rounds": options.rounds,
        "seconds": options.seconds, "generator": "wrk" if options.wrk else "ours", "one worker": str(placed(1)),
        "two workers": str(placed(2)), "absent": absent, "trouble": trouble,
    }  # fmt: skip
    sys.stdout.write(markdown(bench.samples, bench.names))
    for key in ("cores", "rounds", "seconds", "generator", "one worker", "two workers"):
        sys.stdout.write(f"- {key}: {about[key]}\n")
    for line in absent:
        sys.stdout.write(f"- absent: {line}\n")
    for line in trouble:
        sys.stdout.write(f"- {line}\n")
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(plain(bench.samples, about))) + b"\n")


if __name__ == "__main__":
    main()
