"""``python -m benchmarks.simulated``: every contender on every family of one half, and the table."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median

from .contenders import Contender, Row, contenders, measured
from .dev import DEV
from .held_out import HELD_OUT
from .world import Family

ROOT = Path(__file__).resolve().parents[2]
_NEAR = 0.95
_OURS, _EQUAL = "promptsmith -O3", 0.02
_COLUMNS = ("true", "bare", "scored", "meta", "claimed", "gain", "claim-gain", "tokens", "to 95 %")


def main(arguments: Sequence[str] | None = None, known: Sequence[Contender] | None = None) -> int:
    """Runs and prints; ``known`` are the contenders to choose from, by default all.

    Exit code 1 when a run broke (the others are shown), 2 when a name is unknown.
    """
    given = _parser().parse_args(arguments)
    chosen = _chosen(given.families, given.family)
    known = contenders() if known is None else known
    everybody = [one for one in known if not given.only or one.name in given.only]
    if not chosen or not everybody:
        sys.stderr.write(f"nothing to run: families {_names(DEV + HELD_OUT)}; contenders {', '.join(one.name for one in known)}\n")
        return 2
    present = [one for one in everybody if not one.absent()]
    absent = {one.name: one.absent() for one in everybody if one.absent()}
    rows, broken = _here(present, chosen, given.seeds, given.budget)
    if given.peers and absent:
        theirs, failed = _there(given.peers, list(absent), given)
        rows, broken = rows + theirs, broken + failed
        absent = {name: why for name, why in absent.items() if name not in {row.contender for row in rows}}
    if given.json:
        sys.stdout.writelines(json.dumps(row.as_json()) + "\n" for row in rows)
        return 1 if broken else 0
    order = [one.name for one in everybody]
    for family in chosen:
        _table(f"{family.name} ({family.character})", [row for row in rows if row.family == family.name], order)
    _table(f"all {given.families} families, {given.seeds} seeds, budget {given.budget} scored calls", rows, order)
    _lengths(rows, order)
    for name, why in absent.items():
        sys.stdout.write(f"absent: {name}: {why}\n")
    sys.stdout.writelines(f"broken: {what}\n" for what in broken)
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulated", description=__doc__)
    parser.add_argument("--families", choices=("dev", "held-out"), default="dev", help="held-out is for the reported table alone")
    parser.add_argument("--family", action="append", default=[], help="only this one of them (may be repeated)")
    parser.add_argument("--seeds", type=_count, default=3, metavar="N", help="worlds per family")
    parser.add_argument("--budget", type=_count, default=600, metavar="CALLS", help="scored calls of each run")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this contender (may be repeated)")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has gepa and dspy; runs those that are absent here")
    parser.add_argument("--json", action="store_true", help="one line for each run instead of tables")
    return parser


def _chosen(half: str, names: Sequence[str]) -> list[Family]:
    return [family for family in (DEV if half == "dev" else HELD_OUT) if not names or family.name in names]


def _names(families: Iterable[Family]) -> str:
    return ", ".join(family.name for family in families)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _here(present: Sequence[Contender], families: Sequence[Family], seeds: int, budget: int) -> tuple[list[Row], list[str]]:
    """The rows of all runs, and what broke."""
    rows, broken = [], []
    for family, contender, seed in itertools.product(families, present, range(seeds)):
        sys.stderr.write(f"{family.name}, {contender.name}, seed {seed} …\n")
        try:
            # Optimizers print; the table is this program's only output.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                rows.append(measured(contender, family, seed, budget))
        except Exception as error:  # an optimizer may break in any way, and the others still count
            broken.append(f"{contender.name} on {family.name}, seed {seed}: {type(error).__name__}: {error}")
            sys.stderr.write(f"{broken[-1]}\n")
    return rows, broken


def _there(python: str, names: Sequence[str], given: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """The rows that another interpreter measures: those contenders run there that it has."""
    command = [python, "-m", "benchmarks.simulated", "--json", "--families", given.families]
    command += ["--seeds", str(given.seeds), "--budget", str(given.budget)]
    command += [part for name in given.family for part in ("--family", name)] + [part for name in names for part in ("--only", name)]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        return [], [f"{python}: {error.strerror}"]
    rows = [Row.from_json(json.loads(line)) for line in done.stdout.splitlines()]
    return rows, [f"{python}: exit code {done.returncode}; what broke is told above"] if done.returncode else []


# --- the table --------------------------------------------------------------------------------------------------


def _table(title: str, rows: Sequence[Row], order: Sequence[str]) -> None:
    sys.stdout.write(f"\n{title}\n{'':<20}" + "".join(f"{column:>12}" for column in _COLUMNS) + "\n")
    goals = {
        (row.family, row.seed): _NEAR * max(one.truth for one in rows if (one.family, one.seed) == (row.family, row.seed)) for row in rows
    }
    for name in order:
        mine = [row for row in rows if row.contender == name]
        if mine:
            sys.stdout.write(f"{name:<20}" + "".join(f"{cell:>12}" for cell in _cells(mine, goals)) + "\n")


def _lengths(rows: Sequence[Row], order: Sequence[str]) -> None:
    """How long the prompts of our highest level and of each peer are, in the worlds where both came to about the same true score."""
    by_name = {name: {(row.family, row.seed): row for row in rows if row.contender == name} for name in order}
    ours = by_name.get(_OURS, {})
    for name, theirs in by_name.items():
        equal = [(ours[world], theirs[world]) for world in ours.keys() & theirs.keys() if name != _OURS]
        equal = [(one, other) for one, other in equal if abs(one.truth - other.truth) <= _EQUAL]
        if equal:
            mine, other = (median(row.tokens for row in side) for side in zip(*equal, strict=True))
            worlds = f"{len(equal)} worlds with true scores within {100 * _EQUAL:g} points"
            sys.stdout.write(f"tokens in the {worlds}: {_OURS} {mine:.0f}, {name} {other:.0f}\n")


def _cells(rows: Sequence[Row], goals: dict[tuple[str, int], float]) -> list[str]:
    claimed = [row.claimed for row in rows if row.claimed is not None]
    over = [row.overclaimed for row in rows if row.overclaimed is not None]
    reached = [row.calls_to(goals[row.family, row.seed]) for row in rows]
    hits = [calls for calls in reached if calls is not None]
    return [
        f"{fmean(row.truth for row in rows):.3f}",
        f"{fmean(row.begun for row in rows):.3f}",
        f"{fmean(row.scored for row in rows):.0f}",
        f"{fmean(row.meta for row in rows):.0f}",
        f"{100 * fmean(claimed):+.1f}" if claimed else "none",
        f"{100 * fmean(row.truth - row.begun for row in rows):+.1f}",
        f"{100 * fmean(over):+.1f}" if over else "-",
        f"{median(row.tokens for row in rows):.0f}",
        # Of the best true score that anybody in the table reached in the same world.
        f" {median(hits):.0f} ({len(hits)}/{len(rows)})" if hits else f" - (0/{len(rows)})",
    ]


if __name__ == "__main__":
    sys.exit(main())
