"""Receipts: the gate's evidence for one promotion, sealed by a digest over all of it.

The rows (one per case) are held as one text, ``id:pass:base:score`` joined by blanks, so that a lock with
thousands of cases loads without parsing them; :meth:`Receipt.parse_rows` reads them. A receipt keeps the
digest of its rows beside them: without its rows it can still be verified. Rows, rules and metrics together are all
that a verdict is made of, so it can be computed again from the receipt alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from . import canonical
from .errors import InputError, TamperedError

Verdict = Literal["promote", "reject", "inconclusive", "forced"]
"""What the gate said; ``forced`` is a move that was made without it."""

_NONE = "-"
_SPLITS = re.compile(r"[\s:%\x00-\x1f\x7f-\x9f]")


class CaseRow(NamedTuple):
    """One case: its pass rate and score, and the baseline's.

    A pass rate is the share of the case's answers that passed: 0 or 1 unless it was asked several times. ``None``: it
    has no score; for the baseline also: it was not asked. Scores are 0 to 1.
    """

    id: str
    passed: float | None
    base_passed: float | None
    score: float
    base_score: float | None = None


class Rules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the gate demanded, as far as a verdict depends on it."""

    require: dict[str, str] = {}
    """Conditions by metric, such as ``>= 0.92`` or ``lower95 >= 0.9``."""
    versus: str = "production"
    """The alias whose prompt is the baseline."""
    margin: float = 0.1
    """The drop that may go unseen, as a share: 0.1 is 10 points."""
    metric: str = "pass_rate"
    """What is compared with the baseline: ``pass_rate`` or ``score``."""
    must_pass: tuple[str, ...] = ()
    """Tags whose cases may not regress."""


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
    rules: Rules = Rules()
    metrics: dict[str, float | None] = {}
    """What was observed of each metric that the rules name and the rows do not show; ``None``: unknown."""
    must_pass: tuple[str, ...] = ()
    """Ids of the cases that may not regress."""
    repeats: int = 1
    """Answers asked for each case."""
    left: int = 0
    """Cases that left the suite because the prompt knows them."""
    rejections: tuple[str, ...] = ()
    """What rules the prompt out whatever it scored, in words."""
    doubts: tuple[str, ...] = ()
    """What leaves the verdict open whatever was scored, in words."""
    reveals: int = 0
    """How often the holdout's texts were shown before."""
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


# See chat.py.
msgspec.json.Decoder(Receipt)


def make_receipt(*, rows: Iterable[CaseRow], **evidence: Any) -> Receipt:
    """A receipt of ``rows`` and the other fields, with the digest that this content has.

    Raises :class:`InputError` for a value of a wrong type.
    """
    text = rows_text(rows)
    raw = Receipt(**evidence, rows_digest=canonical.sha256(text), rows=text, digest="")
    try:
        # An int given for a float would come back from a file as a float, with another digest.
        receipt = msgspec.convert(msgspec.to_builtins(raw), Receipt)
    except msgspec.ValidationError as error:
        raise InputError(f"this can't be a receipt: {error}") from None
    ordered = {name: dict(sorted(getattr(receipt, name).items())) for name in ("intervals", "metrics")}
    receipt = msgspec.structs.replace(receipt, **ordered)
    return msgspec.structs.replace(receipt, digest=receipt.computed_digest())


def rows_text(rows: Iterable[CaseRow]) -> str:
    """All rows as one text, ``id:pass:base:score`` joined by blanks; blanks and ``:`` in an id are percent-encoded.

    A pass is ``1``, ``0``, the share of several answers, or ``-`` for none; the baseline's score follows the case's
    after a ``;`` where it is known.
    """
    return " ".join(f"{_encode_id(row.id)}:{_rate(row.passed)}:{_rate(row.base_passed)}:{_scores(row)}" for row in rows)


def parse_rows(text: str) -> tuple[CaseRow, ...]:
    """What :func:`rows_text` wrote. Raises :class:`TamperedError` naming a row of another shape."""
    return tuple(map(_parse_row, text.split(" "))) if text else ()


def _rate(rate: float | None) -> str:
    if rate is None:
        return _NONE
    return str(int(rate)) if rate in (0, 1) else repr(float(rate))


def _scores(row: CaseRow) -> str:
    score = repr(float(row.score))
    return score if row.base_score is None else f"{score};{float(row.base_score)!r}"


def _parse_row(row: str) -> CaseRow:
    try:
        name, passed, base, scores = row.split(":")
        score, _, base_score = scores.partition(";")
        return CaseRow(
            unquote(name, errors="strict"), _share(passed), _share(base), _number(score), _number(base_score) if base_score else None
        )
    except ValueError:
        raise TamperedError(f"{row[:80]!r} is no row of a receipt; a row is id:pass:base:score", hint="restore it from git") from None


def _share(text: str) -> float | None:
    return None if text == _NONE else _number(text)


def _number(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise ValueError(text)
    return number


def _encode_id(name: str) -> str:
    canonical.encode(name)
    return _SPLITS.sub(lambda match: quote(match[0], safe=""), name)
