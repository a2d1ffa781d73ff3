"""What clients say that links a request to others."""

from __future__ import annotations

import pytest

from deepserve.core.trace import Trace, read_trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_header_is_read_and_written_again() -> None:
    trace = read_trace({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1", "x-request-id": "job-7"})
    assert trace == Trace(given_id="job-7", trace_id=TRACE, span_id=SPAN, state="vendor=1")
    assert trace.headers() == {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}


def test_who_works_for_us_is_told_our_span() -> None:
    trace = Trace(trace_id=TRACE, span_id=SPAN, is_sampled=False).child("1" * 16)
    assert trace.headers()["traceparent"] == f"00-{TRACE}-{'1' * 16}-00"
    assert trace.parent_id == SPAN


@pytest.mark.parametrize(
    "header",
    [
        *("", "nonsense", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01"),
        *(
            f"00-{TRACE}-{SPAN}-01-more",
            f"00-{TRACE.upper()}-{SPAN}-01",
            f"00-{TRACE}-{SPAN}",
            f"00-{TRACE}-{SPAN}-01\n00",
        ),
    ],
)
def test_a_malformed_trace_counts_as_none(header: str) -> None:
    assert read_trace({"traceparent": header}) is None
    assert read_trace({"traceparent": header, "x-request-id": "mine"}) == Trace(given_id="mine")


def test_later_versions_may_say_more() -> None:
    trace = read_trace({"traceparent": f"01-{TRACE}-{SPAN}-03-more"})
    assert trace is not None
    assert trace.headers()["traceparent"] == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("name", ["", "two words", "x" * 129, "näme", "a\r\nb", '"quoted"'])
def test_a_name_that_cannot_be_repeated_is_none(name: str) -> None:
    assert read_trace({"x-request-id": name}) is None


def test_state_that_cannot_be_repeated_is_left_out() -> None:
    trace = read_trace({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a\x00b"})
    assert trace is not None
    assert trace.state == ""
