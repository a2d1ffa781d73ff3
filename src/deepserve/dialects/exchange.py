"""What every dialect gives the server: a decoded request, and how its answer is written.

The server knows no wire format. It decodes with a dialect's `Decode`, runs the answer, and writes what the exchange
encodes; failures before a request is understood are written by the dialect's `ErrorCodec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from deepserve.core.answer import Answer
from deepserve.core.errors import DeepserveError
from deepserve.core.events import Event, PastReasoning
from deepserve.core.model import ModelName
from deepserve.core.request import Request, RequestId
from deepserve.core.tenant import LOCAL_TENANT, Tenant


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request besides its body. id: 32 hex digits; headers: names in lower case."""

    id: RequestId
    at: datetime
    tenant: Tenant = LOCAL_TENANT
    is_strict: bool = False
    headers: Mapping[str, str] = {}


class AnswerHead(msgspec.Struct, frozen=True, kw_only=True):
    """What every body and chunk of one answer repeats. id is a UUID in its usual form."""

    id: str
    created_at: datetime
    model: str

    @property
    def created(self) -> int:
        return int(self.created_at.timestamp())


class StreamWriter(Protocol):
    """Turns the events of one answer into frames. `encode` for each event, then `finish` once."""

    def encode(self, event: Event) -> bytes:
        """Frames for one event; often none."""
        ...

    def finish(self, error: DeepserveError | None = None) -> bytes:
        """The end of the stream; error: what was raised instead of a terminal event."""
        ...


class Exchange(Protocol):
    """One request and its answer in one dialect.

    ignored         paths of fields that change nothing, in the client's spelling
    past_reasoning  traces that came with the conversation; a back end may restore more
    keep_alive      what a waiting stream hears
    """

    @property
    def request(self) -> Request: ...

    @property
    def model(self) -> ModelName: ...

    @property
    def is_stream(self) -> bool: ...

    @property
    def ignored(self) -> tuple[str, ...]: ...

    @property
    def past_reasoning(self) -> PastReasoning: ...

    @property
    def keep_alive(self) -> bytes: ...

    def open_stream(self, head: AnswerHead) -> StreamWriter: ...

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        """The body of a whole answer. validated: what a check found, where no header can say it any more."""
        ...

    def encode_error(self, error: DeepserveError) -> bytes:
        """The body of an error whose status can no longer be sent."""
        ...


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request; each dialect adds what only it needs to answer. Fields as in `Exchange`."""

    request: Request
    model: ModelName
    is_stream: bool = False
    ignored: tuple[str, ...] = ()
    past_reasoning: PastReasoning = PastReasoning()


class OfAsked:
    """The part of an `Exchange` that its decoded request tells."""

    __slots__ = ()
    asked: Asked

    @property
    def request(self) -> Request:
        return self.asked.request

    @property
    def model(self) -> ModelName:
        return self.asked.model

    @property
    def is_stream(self) -> bool:
        return self.asked.is_stream

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.asked.ignored

    @property
    def past_reasoning(self) -> PastReasoning:
        return self.asked.past_reasoning


Decode = Callable[[bytes, Arrival], Exchange]
"""A body as an exchange. Raises RequestError."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whose request failed, and how it asked. headers: names in lower case."""

    tenant: Tenant = LOCAL_TENANT
    headers: Mapping[str, str] = {}


NOBODY = Caller()
"""Nothing is known of the client."""


class ErrorCodec(Protocol):
    """A dialect's form for failures."""

    def status(self, error: DeepserveError) -> int: ...

    def encode(
        self, error: DeepserveError, *, request_id: str, is_strict: bool = False, caller: Caller = NOBODY
    ) -> bytes:
        """The JSON body. request_id: the trace id of the request, for dialects that repeat it."""
        ...
