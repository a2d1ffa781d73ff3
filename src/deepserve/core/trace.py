"""What links a request to those of others: the name its client gave it, and its place in a trace.

The place is that of W3C's Trace Context (https://www.w3.org/TR/trace-context/): the trace, and within it the span of
whoever asks. Values only: who records spans gives them their ids, and everybody else hands them on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
REQUEST_ID: Final = "x-request-id"

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._:/=+@-]{1,128}", re.ASCII)
_STATE = re.compile(r"[ -~]{1,512}", re.ASCII)
_SAMPLED = 1


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """given_id    what the client calls this request; None: nothing that can be repeated
    trace_id    hexadecimal; empty: it belongs to none
    span_id     whose calls are told to be its children: ours, or the client's where nobody here records spans
    parent_id   of the span that asked us; empty: none did
    is_sampled  somebody keeps this trace
    is_recorded by us: each call of an upstream is to have a span id of its own
    state       what others have to say of the trace, handed on as it is
    """

    given_id: str | None = None
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""
    is_sampled: bool = True
    is_recorded: bool = False
    state: str = ""

    def child(self, span_id: str) -> Trace:
        """As it is for one who works for us under this id."""
        return msgspec.structs.replace(self, span_id=span_id, parent_id=self.span_id)

    def headers(self) -> Mapping[str, str]:
        """For whoever is called in the course of it."""
        if not self.trace_id:
            return {}
        parent = f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"
        return {TRACEPARENT: parent, **({TRACESTATE: self.state} if self.state else {})}


def read_trace(headers: Mapping[str, str]) -> Trace | None:
    """What a client's header says; None where that is nothing. What is malformed counts as not said, as W3C wants it.

    headers: by names in lower case
    """
    given = headers.get(REQUEST_ID)
    parent = headers.get(TRACEPARENT)
    if given is None and parent is None:
        return None
    name = given if given is not None and _NAME.fullmatch(given) else None
    found = None if parent is None else _PARENT.fullmatch(parent.strip())
    # Only versions to come may say more than the four parts.
    is_valid = found is not None and not (found[4] and parent is not None and parent.strip().startswith("00"))
    if not is_valid or found is None or not int(found[1], 16) or not int(found[2], 16):
        return None if name is None else Trace(given_id=name)
    state = headers.get(TRACESTATE, "")
    return Trace(
        given_id=name,
        trace_id=found[1],
        span_id=found[2],
        is_sampled=bool(int(found[3], 16) & _SAMPLED),
        state=state if _STATE.fullmatch(state) else "",
    )
