"""One task's part of the lock: its aliases, kept prompts, history and receipts.

What serving needs (the aliases and the prompts under them) is read and verified at once; older prompts, history
and receipts only when asked for, so that damage to them does not stop an answer. :meth:`Entry.check` reads all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from .. import canonical
from ..errors import InputError, LockError, TamperedError
from ..prompt import Prompt
from ..receipt import Receipt
from .blocks import HEADER, cut
from .emit import Flow, Quoted, emit, key
from .lines import Declined, read_lines
from .protocol import Move, OutsideMove

KEPT = 4
"""How many prompts before the current one are kept in full, per alias."""

WHY_MOST = 500
"""The most characters of a move's reason."""

_SECTIONS = ("aliases", "prompts", "history", "receipts")
# It begins with one literal character, so that the search jumps from line end to line end (`^` looks at every place).
_SECTION = re.compile(r"\n(?! {5})([^\n]+)")
_PROMPT = "\n      - id: "
_PROMPT_ID = re.compile(r'"?([0-9a-f]{64})"?\n')
_ID = re.compile(r"[0-9a-f]{64}")
_ALIAS = re.compile(r"[a-z0-9_-]{1,64}")
_ORDER = ("id", "model", "parameters", "inputs", "contract", "renderer", "serve", "provenance", "system")
_CONTROLS = frozenset({"Cc", "Zl", "Zp"})  # categories of Unicode: controls, line and paragraph separators
_GIT = "restore the task's lines from git, or promote it again once they are removed"


def check_alias(alias: str) -> str:
    """``alias`` itself. Raises :class:`InputError` saying why it can't be one."""
    if not _ALIAS.fullmatch(alias):
        raise InputError(f"{alias[:80]!r} can't be an alias: up to 64 lower-case letters, digits, '-' and '_'")
    if re.fullmatch("[a-f0-9]+", alias):
        raise InputError(f"{alias!r} can't be an alias: it is all hex digits, so it could be the start of a prompt's id")
    if alias == "latest":
        raise InputError("'latest' can't be an alias: it always means the prompt compiled here last")
    return alias


def check_why(why: str) -> None:
    """Nothing. Raises :class:`InputError` for a move's reason that is no one line of at most :data:`WHY_MOST` characters."""
    if len(why) > WHY_MOST:
        raise InputError(f"the reason has {len(why)} characters, the most is {WHY_MOST}", hint="say it in a sentence and link to the rest")
    odd = next((character for character in why if unicodedata.category(character) in _CONTROLS), None)
    if odd is not None:
        raise InputError(
            f"the reason holds a line break or control character (U+{ord(odd):04X})", hint="write it as one line of plain text"
        )


class _Span(NamedTuple):
    """A part of the block: where its text begins and ends."""

    start: int
    end: int


class Entry:
    """One task of the lock; never changed after it was made."""

    def __init__(self, task: str, text: str, *, file: str, line: int = 1) -> None:
        """``text`` is the task's block. Raises :class:`LockError` naming file and line of what is damaged."""
        self.task = task
        self.text = text
        self.file = file
        self.line = line
        self._sections = self._find_sections()
        self._spans = self._find_prompts()
        self._read: dict[str, Prompt] = {}
        self.ids = tuple(self._spans)
        """Ids of the prompts kept in full: those under an alias first, then the most recent first."""
        self.aliases: Mapping[str, str] = self._read_aliases()
        for prompt_id in self.aliases.values():
            self.prompt(prompt_id)

    @classmethod
    def from_text(cls, task: str, text: str) -> Entry:
        """An entry from a kept copy of its block (:attr:`text`)."""
        file = f"the last good copy of {task}"
        found = cut(HEADER + canonical.encode(text), file)
        if tuple(found.blocks) != (task,) or len(found.pieces) != 1 or found.damaged:
            raise LockError(f"{file} does not hold that task alone", hint="clear the cache; the lock is not affected")
        return cls(task, text, file=file)

    def prompt(self, prompt_id: str) -> Prompt | None:
        """A kept prompt by its whole id, verified; ``None`` when it is not kept here."""
        span = self._spans.get(prompt_id)
        if span is None:
            return None
        if prompt_id not in self._read:
            self._read[prompt_id] = self._read_prompt(prompt_id, span)
        return self._read[prompt_id]

    def prompts(self) -> tuple[Prompt, ...]:
        """All kept prompts, in the order of :attr:`ids`."""
        return tuple(prompt for prompt_id in self.ids if (prompt := self.prompt(prompt_id)) is not None)

    @cached_property
    def history(self) -> tuple[Move, ...]:
        """Every recorded move, oldest first."""
        found: tuple[Move, ...] = self._convert("history", tuple[Move, ...], ())
        return found

    @cached_property
    def receipts(self) -> Mapping[str, Receipt]:
        """Receipts by prompt id; only those of prompts under an alias still have rows."""
        raw = self._convert("receipts", dict[str, dict[str, Any]], {})
        found = {}
        for prompt_id, value in raw.items():
            try:
                receipt = msgspec.convert({"prompt": prompt_id, **value}, Receipt).verified()
            except (msgspec.ValidationError, TamperedError) as error:
                what = error.message if isinstance(error, TamperedError) else str(error)
                raise self._refuse(self._sections["receipts"].start, f"has a damaged receipt: {what}") from None
            # What the digest does not cover must not stand there either: a field of this name may mean something later.
            if receipt_value(receipt) != value:
                raise self._refuse(self._sections["receipts"].start, f"has a receipt of prompt {prompt_id[:12]} in another shape")
            found[prompt_id] = receipt
        return found

    def forced(self, alias: str) -> Move | None:
        """The move that forced the prompt now under ``alias`` there, unless the gate has let it through since.

        A rollback proves nothing: what was forced stays so when it comes back.
        """
        moves = [move for move in self.history if move.alias == alias and move.to == self.aliases.get(alias) and not move.rollback]
        return moves[-1] if moves and moves[-1].forced else None

    def check(self) -> Entry:
        """Itself, after reading everything. Raises :class:`LockError` for the first damage."""
        self.prompts()
        _ = self.history, self.receipts
        return self

    def outside_moves(self) -> tuple[OutsideMove, ...]:
        """Aliases that stand elsewhere than the history says."""
        last = {move.alias: move.to for move in self.history}
        names = sorted({*last, *self.aliases})
        return tuple(
            OutsideMove(name, last.get(name), self.aliases.get(name)) for name in names if last.get(name) != self.aliases.get(name)
        )

    def _refuse(self, at: int, what: str, below: int = 0) -> LockError:
        """The error for the line at a place of the text, or one some lines below it."""
        line = self.line + self.text.count("\n", 0, at) + below
        return LockError(f"{self.file}:{line}: task {self.task!r} {what}", hint=_GIT)

    def _find_sections(self) -> dict[str, _Span]:
        found: dict[str, _Span] = {}
        expected = list(_SECTIONS)
        header = f"  {key(self.task)}:\n"
        matches = list(_SECTION.finditer(self.text))
        if not self.text.startswith(header) or not matches or matches[0].start() != len(header) - 1:
            raise self._refuse(len(header), f"does not begin with one of {', '.join(_SECTIONS)}")
        for match, after in zip(matches, [*(m.start() + 1 for m in matches[1:]), len(self.text)], strict=True):
            name = match[1].strip(" ")[:-1]
            if match[1] != f"    {name}:" or name not in expected:
                raise self._refuse(match.start() + 1, f"has {match[1][:60]!r} where it has only {', '.join(_SECTIONS)}, in this order")
            del expected[: expected.index(name) + 1]
            found[name] = _Span(match.end() + 1, after)
        return found

    def _find_prompts(self) -> dict[str, _Span]:
        section = self._sections.get("prompts")
        if section is None:
            return {}
        starts = list(self._prompt_starts(section))
        if not starts or starts[0][1] != section.start:
            raise self._refuse(section.start, "has no prompt with an id there")
        found: dict[str, _Span] = {}
        for (prompt_id, start), after in zip(starts, [*(start for _, start in starts[1:]), section.end], strict=True):
            if prompt_id in found:
                raise self._refuse(start, f"has prompt {prompt_id[:12]} twice")
            found[prompt_id] = _Span(start, after)
        return found

    def _prompt_starts(self, section: _Span) -> Iterator[tuple[str, int]]:
        at = section.start - 1
        while (at := self.text.find(_PROMPT, at, section.end)) >= 0:
            match = _PROMPT_ID.match(self.text, at + len(_PROMPT))
            if match:
                yield match[1], at + 1
            at += 1

    def _value(self, span: _Span) -> Any:
        text = self.text[span.start : span.end]
        try:
            return read_lines(text)
        except Declined:
            # Here, not above: as long as nobody but promptsmith wrote the file, no answer needs a YAML package.
            from .reader import read

            return read(text, lambda line, what: self._refuse(span.start, what, line))

    def _convert(self, section: str, shape: Any, default: Any) -> Any:
        span = self._sections.get(section)
        if span is None:
            return default
        try:
            return msgspec.convert(self._value(span), shape)
        except msgspec.ValidationError as error:
            raise self._refuse(span.start, f"has no {section} of the right shape: {error}") from None

    def _read_aliases(self) -> dict[str, str]:
        found: dict[str, str] = self._convert("aliases", dict[str, str], {})
        at = self._sections["aliases"].start if found else 0
        for alias, prompt_id in found.items():
            try:
                check_alias(alias)
            except InputError as error:
                raise self._refuse(at, error.message) from None
            if not _ID.fullmatch(prompt_id):
                raise self._refuse(at, f"has an alias {alias!r} that names no prompt: {prompt_id[:80]!r}")
            if prompt_id not in self._spans:
                raise self._refuse(at, f"has an alias {alias!r} for prompt {prompt_id[:12]}, which is not among its prompts")
        return found

    def _read_prompt(self, prompt_id: str, span: _Span) -> Prompt:
        body = _Span(self.text.index("\n", span.start) + 1, span.end)
        item = self._value(body)
        if not isinstance(item, dict) or "id" in item or "task" in item:
            raise self._refuse(span.start, "has a prompt of another shape")
        try:
            prompt: Prompt = msgspec.convert({**item, "id": prompt_id, "task": self.task}, Prompt)
            return prompt.verified()
        except msgspec.ValidationError as error:
            raise self._refuse(span.start, f"has a prompt of another shape: {error}") from None
        except (TamperedError, InputError) as error:
            raise self._refuse(span.start, f"is damaged: {error.message}") from None


def prompt_value(prompt: Prompt) -> dict[str, Any]:
    """A prompt as it stands in the lock, keys in the order in which they are written."""
    value: dict[str, Any] = msgspec.to_builtins(prompt)
    provenance = value["provenance"]
    if "visible" in provenance:
        provenance["visible"] = Quoted(provenance["visible"])
    build = provenance["build"]
    for holder, name in ((value, "parameters"), (build, "inputs"), (build, "sources"), (build, "options")):
        if name in holder:
            holder[name] = dict(sorted(holder[name].items()))
    provenance["build"] = Flow(build)
    return {name: value[name] for name in _ORDER if name in value and value[name] not in ({}, ())}


def _lists(value: Any) -> Any:
    """``value`` with lists for tuples, as a file gives it back."""
    if isinstance(value, dict):
        return {name: _lists(item) for name, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def receipt_value(receipt: Receipt) -> dict[str, Any]:
    """A receipt as it stands in the lock, below its prompt's id."""
    value: dict[str, Any] = _lists(msgspec.to_builtins(receipt))
    del value["prompt"]
    if "rows" in value:
        value["rows"] = Quoted(value["rows"])
    return value


def block(
    task: str, aliases: Mapping[str, str], prompts: Iterable[Prompt], history: Iterable[Move], receipts: Mapping[str, Receipt]
) -> str:
    """The text of one task's block; the same values give the same text."""
    under = set(aliases.values())
    parts: dict[str, Any] = {
        "aliases": dict(sorted(aliases.items())),
        "prompts": [prompt_value(prompt) for prompt in prompts],
        "history": [msgspec.to_builtins(move) for move in history],
        "receipts": {
            prompt_id: receipt_value(receipt if prompt_id in under else receipt.without_rows())
            for prompt_id, receipt in sorted(receipts.items())
        },
    }
    return emit({task: {name: part for name, part in parts.items() if part}}, 2)
