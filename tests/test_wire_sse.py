"""Server-sent events: the same events however the bytes are cut, nothing read into what is no stream."""

from __future__ import annotations

from itertools import pairwise

import pytest
from anthropic._streaming import SSEDecoder
from hypothesis import example, given
from hypothesis import strategies as st

from promptsmith.errors import MalformedReply
from promptsmith.models.wire.sse import MAX_EVENT, Event, EventParser

words = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8)
others = st.sampled_from(["event: a", "event:b", ": ping", ":", "id: 1", "retry: 5", "data", "data:", "", "", "data: ü"])
lines = st.lists(st.one_of(st.builds("data: {}".format, words), others), max_size=12)
ends = st.sampled_from(["\n", "\r\n", "\r"])


def parsed(pieces: list[bytes]) -> list[Event]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.close()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(borders)]


@given(lines, ends, st.lists(st.integers(0, 200), max_size=20))
@example(["data: x", "", "data: y"], "\r\n", [8, 9, 10])
def test_cutting_changes_nothing(written: list[str], end: str, places: list[int]) -> None:
    data = end.join(written).encode()
    whole = parsed([data])
    assert parsed(cut(data, places)) == whole
    assert parsed([bytes([byte]) for byte in data]) == whole


@given(lines, ends)
def test_events_are_those_of_the_official_sdk(written: list[str], end: str) -> None:
    data = end.join([*written, "", ""]).encode()
    theirs = [Event(one.event or "", one.data) for one in SSEDecoder().iter_bytes(iter([data])) if one.data]
    assert [event for event in parsed([data]) if event.data] == theirs


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"data: a\ndata: b\n\n", [("", "a\nb")]),
        (b"event: x\ndata:a\n\n", [("x", "a")]),
        (b"event: x\n\ndata: a\n\n", [("", "a")]),
        (b"data:  a\n\n", [("", " a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", "a")]),
        (b": OPENROUTER PROCESSING\n\ndata: a\n\n", [("", "a")]),
        (b"x-unknown: 1\ndata: a\n\n", [("", "a")]),
        (b"data: a\r\rdata: b\r\n\r\n", [("", "a"), ("", "b")]),
        (b"data: a", [("", "a")]),
        (b"data: a\n", [("", "a")]),
        (b"", []),
        (b"\n\n\n", []),
        (b"data: \xe2\x80\xa8\n\n", [("", "\u2028")]),  # a line separator of Unicode ends no line here
    ],
)
def test_the_grammar(data: bytes, events: list[tuple[str, str]]) -> None:
    expected = [Event(*event) for event in events]
    assert parsed([data]) == expected
    assert parsed([bytes([byte]) for byte in data]) == expected


@pytest.mark.parametrize(
    "data", [b"<html><body>\n", b'{"error": {}}\n', b"Bad Gateway\n", b"data: \xff\xfe\n", b"\x1f\x8b\x08\x00\n", b"data: \xed\xa0\x80\n"]
)
def test_what_is_no_stream_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedReply, match="stream"):
        list(EventParser().feed(data))


def test_an_unfinished_line_of_garbage_is_refused_at_the_end() -> None:
    parser = EventParser()
    assert list(parser.feed(b"<html>")) == []
    with pytest.raises(MalformedReply):
        parser.close()


def test_an_event_of_5_mb_in_pieces_of_100_bytes() -> None:
    """50,000 pieces; a parser that joins at each of them would copy 125 GB."""
    parser, piece = EventParser(), b"x" * 100
    assert list(parser.feed(b"data: ")) == []
    for _ in range(50_000):
        assert list(parser.feed(piece)) == []
    (event,) = parser.feed(b"\n\n")
    assert event.data == "x" * 5_000_000


def test_an_endless_event_is_refused_and_endless_comments_are_not() -> None:
    endless = EventParser()
    line = b"data: " + b"x" * 2**20 + b"\n"
    for _ in range(MAX_EVENT // len(line)):
        list(endless.feed(line))
    with pytest.raises(MalformedReply, match="longer than 64 MB"):
        list(endless.feed(line))
    quiet = EventParser()
    for _ in range(MAX_EVENT // 2**20 + 2):
        assert list(quiet.feed(b": " + b"x" * 2**20 + b"\n")) == []
