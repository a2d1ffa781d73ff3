"""Events are the same however their bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.outgoing.errors import InvalidAnswer
from deepserve.outgoing.event_stream import EventStreamReader

_STREAM = (
    b': hello\n\ndata: {"a":1}\n\nevent: x\r\nid: 7\r\ndata:two\r\ndata: lines\r\n\r\ndata\r\rretry: 1\n\ndata: end'
)
_EVENTS = [b'{"a":1}', b"two\nlines", b"", b"end"]


def _read(pieces: list[bytes], *, max_bytes: int = 1000) -> list[bytes]:
    reader = EventStreamReader(max_bytes=max_bytes)
    return [event for piece in pieces for event in reader.feed(piece)] + reader.finish()


@given(st.lists(st.integers(0, len(_STREAM))))
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    edges = sorted({0, *cuts, len(_STREAM)})
    assert _read([_STREAM[a:b] for a, b in pairwise(edges)]) == _EVENTS


def test_events_are_the_same_byte_by_byte_and_between_empty_pieces() -> None:
    assert _read([piece for byte in _STREAM for piece in (bytes([byte]), b"")]) == _EVENTS


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert _read([b"\xef\xbb\xbfdata: x\n\n"]) == [b"x"]


def test_a_line_end_cut_in_two_is_one() -> None:
    reader = EventStreamReader(max_bytes=100)
    assert reader.feed(b"data: a\r") == []
    assert reader.feed(b"\n\r") == [b"a"]
    assert reader.feed(b"\ndata: b\n\n") == [b"b"]


@pytest.mark.parametrize("endless", [b"x" * 10, b"data: yyyy\n", b": never ends "])
def test_an_event_that_grows_without_end_is_refused(endless: bytes) -> None:
    reader = EventStreamReader(max_bytes=100)
    with pytest.raises(InvalidAnswer, match="100 bytes"):
        [reader.feed(endless) for _ in range(100)]


def test_comments_may_come_for_ever() -> None:
    reader = EventStreamReader(max_bytes=100)
    assert [event for _ in range(1000) for event in reader.feed(b": keep-alive\n\n")] == []


def test_events_before_one_that_is_too_large_are_not_lost() -> None:
    reader = EventStreamReader(max_bytes=100)
    assert reader.feed(b"data: a\n\ndata: " + b"x" * 200) == [b"a"]
    with pytest.raises(InvalidAnswer):
        reader.feed(b"")
