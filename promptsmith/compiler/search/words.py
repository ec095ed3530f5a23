"""What every form says of a search in the same words: the end of a compile, ``show --provenance``, the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from ...catalog.tokens import estimate
from ...evals.gate import points
from ...evals.show.words import count, dollars, plain, tokens, visible
from ...prompt import Prompt, Searched
from .gain import words as gain_words
from .record import CandidateRecord, Gain, SearchRecord
from .values import BASELINES, UNFINISHED, Kind, Origin, Reason, Spent

Table = tuple[list[str], list[list[str]]]
"""Header and rows; empty cells say that there is nothing to say."""

_ENDS: dict[Reason, str] = {
    "done": "every stage was run",
    "perfect": "a candidate solved every dev case",
    "plateau": "nothing better was found any more",
    "budget": "the budget was spent",
    "time": "the time was up",
    "provider": "the provider failed for good",
}
_NAMES: dict[Kind, str] = {
    "template": "the -O0 prompt",
    "description": "the bare description",
    "start": "the prompt to start from",
    "draft": "draft",
    "reflection": "reflection",
    "shrink": "shrink",
}
MARK = "*"
"""Stands beside the chosen one."""


# --- the end of a compile ---------------------------------------------------------------------------------


def told_search(record: SearchRecord) -> list[str]:
    """What ``compile`` says of a search that has ended, a line each, beside its notes."""
    lines = [f"search ended: {ended(record)}", f"tried {tried(record)}"]
    if record.chosen:
        lines.append(f"chosen {chosen(record)}")
    lines += gains(record)
    lines += [f"front {row}" for row in front_lines(record)]
    lines += [f"spent {spent(record.spent)}{_again(record)}", *unscored(record)]
    lines.append(f"more: promptsmith show {record.task} --provenance")
    return [visible(line) for line in lines]


def ended(record: SearchRecord) -> str:
    """Why the search ended, and what that means for the next one."""
    why = record.why or _ENDS[record.reason]
    return f"{record.reason}: {why}" + ("; unfinished: the same compile goes on from here" if record.reason in UNFINISHED else "")


def tried(record: SearchRecord) -> str:
    """How many candidates of which fate, on how many cases."""
    baselines = [one for one in record.candidates if one.origin.kind in BASELINES]
    others = [one for one in record.candidates if one not in baselines]
    whole = [one for one in others if record.dev_cases and len(one.scores) == len(record.dev_cases)]
    rejected = [one for one in others if one.state == "rejected"]
    fates = {
        "baseline" if len(baselines) == 1 else "baselines": len(baselines),
        "scored in full": len(whole),
        "out early": len(others) - len(whole) - len(rejected),
        "rejected on a minibatch": len(rejected),
    }
    told = ", ".join(f"{number} {fate}" for fate, number in fates.items() if number)
    of = f"{count(len(record.candidates), 'candidate')} on {count(len(record.dev_cases), 'dev case')}"
    return f"{of}: {told}" if told else of


def chosen(record: SearchRecord) -> str:
    """Which candidate was chosen and why; empty when none was."""
    one = found(record, record.chosen)
    if one is None:
        return record.chosen
    return f"{one.id} ({called(one.origin)}), score {score(one)}" + (f": {record.chosen_why}" if record.chosen_why else "")


def gains(record: SearchRecord) -> list[str]:
    """What the chosen prompt gains over each baseline, corrected for the choice; or why nothing can be said."""
    return [
        _gain(record, record.over_template, "-O0", "template"),
        _gain(record, record.over_description, "the bare description", "description"),
    ]


def _gain(record: SearchRecord, gain: Gain | None, over: str, kind: Kind) -> str:
    if gain is not None:
        return gain_words(gain, over)
    one = found(record, record.chosen)
    if one is not None and one.origin.kind == kind:
        return f"no gain over {over}: it is what was chosen"
    return f"nothing is known of a gain over {over}: not both were scored on all dev cases"


def front_lines(record: SearchRecord) -> list[str]:
    """The front, a line each."""
    lines = []
    for one in _front(record):
        per_call = "" if one.tokens_per_call is None else f", {tokens(one.tokens_per_call)} tokens per call"
        price = f", {dollars(one.usd_per_1k)} per 1,000 calls warm" if one.usd_per_1k is not None else ", price unknown"
        lines.append(f"{one.id} {called(one.origin)}: score {score(one)}{per_call}{price}{', chosen' if one.id == record.chosen else ''}")
    return lines


def unscored(record: SearchRecord) -> list[str]:
    """A line on the dev cases that the chosen prompt has no score on; none when it has all."""
    one = found(record, record.chosen)
    missing = [] if one is None else [case for case in record.dev_cases if case not in one.scores]
    if not missing:
        return []
    named = ", ".join(missing[:5]) + (f" and {len(missing) - 5:,} more" if len(missing) > 5 else "")
    return [f"unscored: {len(missing):,} of {count(len(record.dev_cases), 'dev case')} ({named})"]


def _again(record: SearchRecord) -> str:
    """What of the calls an earlier run had made already."""
    replayed = f"; {count(record.replayed, 'call')} answered by the journal of an earlier run" if record.replayed else ""
    return replayed + (
        f"; {count(record.repeated, 'call')} under way when it was killed may have been paid twice" if record.repeated else ""
    )


def spent(amount: Spent) -> str:
    """Calls, tokens and dollars."""
    cost = "cost unknown" if amount.usd is None else dollars(amount.usd)
    return f"{count(amount.calls, 'call')}, {amount.tokens:,} tokens, {cost}"


# --- one candidate ----------------------------------------------------------------------------------------


def called(origin: Origin) -> str:
    """A candidate's name for people; its parents stand beside it in a lineage."""
    name = _NAMES[origin.kind]
    if origin.kind == "draft":
        return " ".join(filter(None, [name, ", ".join(filter(None, [origin.strategy, origin.selection]))]))
    return f"{name} {origin.round}" if origin.round else name


def found(record: SearchRecord, candidate_id: str) -> CandidateRecord | None:
    """The candidate with this id, if there is one."""
    return next((one for one in record.candidates if one.id == candidate_id), None)


def score(one: CandidateRecord) -> str:
    """Mean score with its interval, and on how many cases."""
    if one.mean is None:
        return "-"
    if one.lower is None or one.upper is None:
        return plain(one.mean)
    return f"{plain(one.mean)} ({one.lower:.3f} to {one.upper:.3f})"


class Step(NamedTuple):
    """A candidate against its first parent, on the cases that both were scored on. ``difference`` is a share."""

    difference: float
    cases: int
    better: int
    worse: int
    part: Literal["dev", "compile"]


def step(record: SearchRecord, one: CandidateRecord) -> Step | None:
    """What an edit gained, on dev cases where there are any, else on its minibatch of the compile part; not corrected for the choice."""
    parent = found(record, one.origin.parents[0]) if one.origin.parents else None
    if parent is None:
        return None
    return _step(one.scores, parent.scores, "dev") or _step(one.practice, parent.practice, "compile")


def _step(now: Mapping[str, float], before: Mapping[str, float], part: Literal["dev", "compile"]) -> Step | None:
    differences = [now[case] - before[case] for case in now if case in before]
    if not differences:
        return None
    better, worse = sum(one > 0 for one in differences), sum(one < 0 for one in differences)
    return Step(sum(differences) / len(differences), len(differences), better, worse, part)


def step_line(made: Step) -> str:
    """What an edit gained, in words."""
    where = f"{made.part} case"
    return f"{points(made.difference)} on {count(made.cases, where)} ({made.better} better, {made.worse} worse)"


class Placed(NamedTuple):
    """A candidate in the lineage: ``depth`` 0 has no parent here."""

    depth: int
    candidate: CandidateRecord


def lineage(record: SearchRecord) -> list[Placed]:
    """Every candidate behind the first of its parents, with what was made from it; children in the order in which they came up."""
    children: dict[str, list[CandidateRecord]] = {"": []}
    for one in record.candidates:
        # Only what came up earlier can be a parent, so there is no circle whatever a record says.
        parent = next((name for name in one.origin.parents[:1] if name in children), "")
        children[parent].append(one)
        children.setdefault(one.id, [])
    placed, waiting = [], [Placed(0, one) for one in reversed(children[""])]
    while waiting:
        placed.append(last := waiting.pop())
        waiting += [Placed(last.depth + 1, one) for one in reversed(children.pop(last.candidate.id, []))]
    return placed


# --- tables -----------------------------------------------------------------------------------------------


def _front(record: SearchRecord) -> Iterator[CandidateRecord]:
    for name in record.front:
        one = found(record, name)
        if one is not None:
            yield one


def front_table(record: SearchRecord) -> Table:
    """The candidates that no other beats in score, tokens and dollars at once."""
    header = ["", "id", "candidate", "score", "tokens per call", "$ per 1,000 warm"]
    rows = [
        [
            MARK if one.id == record.chosen else "", one.id, visible(called(one.origin)), score(one),
            tokens(one.tokens_per_call), dollars(one.usd_per_1k),
        ]
        for one in _front(record)
    ]  # fmt: skip
    return header, rows


def candidate_table(record: SearchRecord) -> Table:
    """Every candidate with its fate, in the order in which they came up; tokens are those of its system prompt, cost that of scoring it."""
    header = ["", "id", "candidate", "state", "score", "cases", "tokens", "cost"]
    rows = [
        [
            MARK if one.id == record.chosen else "", one.id, visible(called(one.origin)), one.state, score(one),
            f"{len(one.scores):,}", f"{one.tokens:,}", dollars(one.usd),
        ]
        for one in record.candidates
    ]  # fmt: skip
    return header, rows


def stage_table(record: SearchRecord) -> Table:
    """What each stage took."""
    header = ["stage", "calls", "tokens", "cost"]
    rows = [(visible(stage.name), stage.spent) for stage in record.stages]
    rows.append(("in all", record.spent))
    return header, [[name, f"{one.calls:,}", f"{one.tokens:,}", dollars(one.usd)] for name, one in rows]


def summary_front(searched: Searched) -> Table:
    """The front as the prompt itself carries it."""
    header = ["id", "score", "tokens per call", "$ per 1,000 warm"]
    return header, [[row.id, plain(row.score), tokens(row.tokens), dollars(row.usd_per_1k)] for row in searched.front]


# --- facts ------------------------------------------------------------------------------------------------

Facts = list[tuple[str, str]]
"""Label and text."""


def made(prompt: Prompt) -> Facts:
    """What every prompt says of itself."""
    source, build = prompt.provenance, prompt.provenance.build
    model = " ".join([prompt.model, *(f"{name}={value}" for name, value in prompt.parameters.items())])
    rows = [
        ("id", prompt.id),
        ("model", model),
        ("compiled", f"{source.created} by promptsmith {source.version}, -O{source.level} ({source.level_why})"),
        ("meta-model", source.meta or "none"),
        ("seed", str(source.seed)),
        ("examples", f"{source.shown} in the prompt, about {estimate(prompt.system)} tokens in all (estimated)"),
        ("options", _options(build.options)),
        ("build", f"{build.key[:12]}, epoch {build.epoch}"),
        ("started from", build.start[:12]),
        *(("source", f"{path} sha256 {digest[:12]}") for path, digest in build.sources.items()),
        *(("note", note) for note in source.notes),
    ]
    return _plain(rows)


def no_search(prompt: Prompt) -> str:
    """That a prompt had no search, and what it had instead; empty when it had one."""
    level = prompt.provenance.level
    if prompt.provenance.search is not None:
        return ""
    how = {0: "a template wrote it, no model was asked", 1: "the meta-model wrote it once, nothing was scored"}
    return f"no search: this prompt was compiled at -O{level}: {how.get(level, 'nothing was compared, and its notes say why')}"


def searched(record: SearchRecord, digest: str = "") -> Facts:
    """What a search was given, and how it ended; ``digest`` is that of the record."""
    rows = [
        ("ended", ended(record)),
        ("engine", f"{record.engine}, -O{record.level}, prefer {record.prefer}, by promptsmith {record.version}"),
        ("models", f"production {record.production}, meta {record.meta or 'none'}"),
        ("seed", f"{record.seed}, of the data {record.data_seed}"),
        ("data", f"{count(record.compile_cases, 'compile case')}, {count(len(record.dev_cases), 'dev case')}"),
        ("options", _options(record.options)),
        *(("source", f"{path} sha256 {digest[:12]}") for path, digest in record.sources.items()),
        ("tried", tried(record)),
        ("chosen", chosen(record)),
        *(("gain", line) for line in gains(record)),
        *(("method", gain.method) for gain in (record.over_template or record.over_description,) if gain is not None),
        ("spent", spent(record.spent) + _again(record) + (f"; {record.seconds:,.0f} s" if record.seconds else "")),
        *(("unscored", line.removeprefix("unscored: ")) for line in unscored(record)),
        *(("note", note) for note in record.notes),
        ("record", digest),
    ]
    return _plain(rows)


def summarised(short: Searched) -> Facts:
    """What the prompt itself carries of a search whose record is not here."""
    rows = [
        ("record", f"{short.record[:12] or 'none'} is not in this cache: it stands in the cache of whoever compiled the prompt"),
        ("ended", short.reason),
        ("engine", f"{short.engine}, prefer {short.prefer}"),
        ("tried", f"{count(short.candidates, 'candidate')} on {count(short.dev, 'dev case')}"),
        ("score", f"{plain(short.score)} on the dev cases, as seen: not corrected for the choice"),
        ("-O0", f"{plain(short.template)} on the same cases" if short.template is not None else ""),
        ("gain", _summary_gain(short)),
        ("spent", f"{count(short.calls, 'call')}, {'cost unknown' if short.usd is None else dollars(short.usd)}"),
    ]
    return _plain(rows)


def _summary_gain(short: Searched) -> str:
    if short.gain is None:
        return ""
    estimate_, lower, upper = short.gain
    return gain_words(Gain(estimate=estimate_, lower=lower, upper=upper, cases=short.dev, compared=short.compared), "-O0")


def _options(options: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _plain(rows: Sequence[tuple[str, str]]) -> Facts:
    """One line each, nothing in it that does not print, and none that says nothing."""
    return [(label, visible(" ".join(text.split()))) for label, text in rows if text]
