"""Receipts: the gate's evidence for one promotion, sealed by a digest over all of it.

The rows (one per case) are held as one text, ``id:pass:base:score`` joined by blanks, so that a lock with
thousands of cases loads without parsing them; :meth:`Receipt.parse_rows` reads them. A receipt keeps the
digest of its rows beside them: without its rows it can still be verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from . import canonical
from .errors import InputError, TamperedError

Verdict = Literal["promote", "reject", "inconclusive", "forced"]
"""What the gate said; ``forced`` is a move that was made without it."""

_NONE = "-"
_FLAGS = {True: "1", False: "0", None: _NONE}
_PASSED = {"1": True, "0": False}
_SPLITS = re.compile(r"[\s:%\x00-\x1f\x7f-\x9f]")


class CaseRow(NamedTuple):
    """One case: whether it passed, whether the baseline passed it (``None``: it was not asked), the score 0..1."""

    id: str
    passed: bool
    base_passed: bool | None
    score: float


class Counts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Cases of one arm: how many there were, how many passed, how many have no score."""

    cases: int
    passed: int
    unscored: int = 0


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The evidence for one prompt on one suite; made by :func:`make_receipt`.

    New fields need a default: fields at their default do not enter the digest, so old receipts stay valid.
    """

    suite: str
    """Digest of the suite."""
    prompt: str
    """Id of the prompt that was judged."""
    model: str
    verdict: Verdict
    counts: Counts
    baseline: Counts | None = None
    against: str = ""
    """What the baseline was: a prompt id, or a word for it."""
    intervals: dict[str, tuple[float, float]] = {}
    """Named intervals, lower and upper end."""
    looks: int = 0
    """Distinct prompts ever scored on this holdout lineage."""
    cost: float | None = None
    """US dollars, ``None`` when a price was unknown."""
    rows_digest: str
    """sha256 of the rows' text."""
    rows: str = ""
    """The rows as text; empty when they were not kept."""
    digest: str

    def computed_digest(self) -> str:
        """The digest that this content has."""
        bare = msgspec.structs.replace(self, rows="", digest="")
        body = msgspec.json.encode(bare, order="deterministic").decode()
        return canonical.digest({"kind": "receipt", "body": canonical.sha256(body)})

    def verified(self) -> Receipt:
        """Itself. Raises :class:`TamperedError` when the content does not match its digest."""
        found = self.computed_digest()
        rows_fit = not self.rows or canonical.sha256(self.rows) == self.rows_digest
        if found != self.digest or not rows_fit:
            what = "content" if found != self.digest else "rows"
            raise TamperedError(
                f"the receipt {self.digest[:12]} of prompt {self.prompt[:12]} does not match its digest: its {what} changed since",
                hint="restore it from git or promote again",
            )
        return self

    def without_rows(self) -> Receipt:
        """The same receipt, still verifiable, without the rows."""
        return msgspec.structs.replace(self, rows="") if self.rows else self

    def parse_rows(self) -> tuple[CaseRow, ...]:
        """The rows; none when they were not kept. Raises :class:`TamperedError` for a row of another shape."""
        return parse_rows(self.rows)


def make_receipt(  # a receipt is this much evidence
    *,
    suite: str,
    prompt: str,
    model: str,
    verdict: Verdict,
    counts: Counts,
    rows: Iterable[CaseRow],
    baseline: Counts | None = None,
    against: str = "",
    intervals: dict[str, tuple[float, float]] | None = None,
    looks: int = 0,
    cost: float | None = None,
) -> Receipt:
    """A receipt with the digest that its content has. Raises :class:`InputError` for a value of a wrong type."""
    text = rows_text(rows)
    raw = Receipt(
        suite=suite, prompt=prompt, model=model, verdict=verdict, counts=counts, baseline=baseline, against=against,
        intervals=dict(sorted((intervals or {}).items())), looks=looks, cost=cost, rows_digest=canonical.sha256(text), rows=text, digest="",
    )  # fmt: skip
    try:
        # An int given for a float would come back from a file as a float, with another digest.
        receipt = msgspec.convert(msgspec.to_builtins(raw), Receipt)
    except msgspec.ValidationError as error:
        raise InputError(f"this can't be a receipt: {error}") from None
    return msgspec.structs.replace(receipt, digest=receipt.computed_digest())


def rows_text(rows: Iterable[CaseRow]) -> str:
    """All rows as one text, ``id:pass:base:score`` joined by blanks; blanks and ``:`` in an id are percent-encoded."""
    return " ".join(f"{_encode_id(row.id)}:{_FLAGS[row.passed]}:{_FLAGS[row.base_passed]}:{float(row.score)!r}" for row in rows)


def parse_rows(text: str) -> tuple[CaseRow, ...]:
    """What :func:`rows_text` wrote. Raises :class:`TamperedError` naming a row of another shape."""
    return tuple(map(_parse_row, text.split(" "))) if text else ()


def _parse_row(row: str) -> CaseRow:
    try:
        name, passed, base, score = row.split(":")
        return CaseRow(unquote(name, errors="strict"), _PASSED[passed], None if base == _NONE else _PASSED[base], float(score))
    except (ValueError, KeyError):
        raise TamperedError(f"{row[:80]!r} is no row of a receipt; a row is id:pass:base:score", hint="restore it from git") from None


def _encode_id(name: str) -> str:
    canonical.encode(name)
    return _SPLITS.sub(lambda match: quote(match[0], safe=""), name)
