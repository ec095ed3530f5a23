"""Receipts: rows return as they went in, and any change shows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.errors import InputError, TamperedError
from promptsmith.receipt import CaseRow, Counts, Receipt, Rules, make_receipt, parse_rows, rows_text

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
shares = st.floats(0, 1)
cases = st.builds(CaseRow, ids, st.none() | shares, st.none() | shares, shares, st.none() | shares)
ROWS = (CaseRow("a", 1.0, None, 1.0), CaseRow("b c", 0.0, 1.0, 0.25, 0.5))


def receipt(**fields: Any) -> Receipt:
    given: dict[str, Any] = {
        "suite": "a" * 64,
        "prompt": "b" * 64,
        "model": "builtin/nearest",
        "verdict": "promote",
        "counts": Counts(2, 1),
        "rows": ROWS,
        "baseline": Counts(2, 1, 1),
        "against": "c" * 64,
        "intervals": {"score": (0.1, 0.9)},
        "looks": 3,
        "cost": 0.5,
    }
    return make_receipt(**{**given, **fields})


@given(st.lists(cases, max_size=6))
def test_property_rows_return_from_their_text(rows: list[CaseRow]) -> None:
    text = rows_text(rows)
    assert parse_rows(text) == tuple(rows)
    assert len(text.split()) == len(text.split(" ")) == max(len(rows), 1) or not rows
    assert all(row.count(":") == 3 for row in text.split(" ") if text)


def test_a_row_reads_as_id_pass_base_score() -> None:
    assert rows_text(ROWS) == "a:1:-:1.0 b%20c:0:1:0.25;0.5"
    assert receipt().parse_rows() == ROWS


@pytest.mark.parametrize("text", ["a", "a:1:0", "a:2:0:1", "a:1:x:1", "a:1:0:z", "a:1:0:1:1", "a:1:0:1  b:1:0:1", " ", "%ff:1:0:1"])
def test_a_row_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(TamperedError, match="no row"):
        parse_rows(text)


def test_every_field_is_under_the_digest() -> None:
    """A list of changes, one for each field, that must all be refused."""
    good = receipt()
    assert good.verified() is good
    changes: dict[str, Any] = {
        "suite": "x",
        "prompt": "x",
        "model": "x",
        "verdict": "reject",
        "counts": Counts(2, 2),
        "baseline": None,
        "against": "x",
        "intervals": {"score": (0.2, 0.9)},
        "looks": 4,
        "cost": None,
        "rows_digest": "x",
        "rows": "a:1:-:1.0",
        "rules": Rules(margin=0.2),
        "metrics": {"p95_ms": 1.0},
        "must_pass": ("a",),
        "repeats": 2,
        "left": 1,
        "rejections": ("x",),
        "doubts": ("x",),
        "reveals": 1,
        "digest": "x",
    }
    assert set(changes) == set(Receipt.__struct_fields__)
    for name, value in changes.items():
        with pytest.raises(TamperedError, match="does not match its digest"):
            msgspec.structs.replace(good, **{name: value}).verified()


def test_without_its_rows_a_receipt_still_verifies() -> None:
    bare = receipt().without_rows()
    assert bare.verified() is bare
    assert bare.parse_rows() == ()
    assert bare.digest == receipt().digest
    with pytest.raises(TamperedError):
        msgspec.structs.replace(bare, looks=9).verified()


def test_whole_numbers_given_for_fractions_do_not_change_the_digest() -> None:
    """A file gives 1.0 where a caller gave 1."""
    whole = receipt(cost=1, intervals={"score": (0, 1)})
    assert msgspec.convert(msgspec.to_builtins(whole), Receipt).verified().digest == whole.digest
    assert whole.digest == receipt(cost=1.0, intervals={"score": (0.0, 1.0)}).digest


def test_a_value_of_a_wrong_type_and_a_lone_surrogate_are_input_errors() -> None:
    with pytest.raises(InputError, match="can't be a receipt"):
        receipt(verdict="maybe")
    with pytest.raises(InputError, match="surrogate"):
        receipt(rows=[CaseRow("\ud800", True, None, 1.0)])


def test_a_receipt_without_cases_verifies() -> None:
    assert receipt(rows=()).verified().parse_rows() == ()
