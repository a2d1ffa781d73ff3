"""What reading another service's answer takes in every dialect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.errors import BackendFailure, DeepserveError
from deepserve.core.events import Event, Started, UsageReported
from deepserve.core.messages import Json
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage
from deepserve.dialects.upstream_errors import decode_error_value
from deepserve.dialects.upstream_usage import CountedUsage

_DONE: Final = b"[DONE]"
"""The frame that ends a stream in OpenAI's dialect. Some gateways write it at the end of every other, too."""

Read = TypeVar("Read")


class UpstreamDecoder(ABC):
    """Reads one answer: `chunk` for the data of each event or `whole` once, then `finish` once.

    A dialect reads its own words, and tells what begins through `_begun`. What the service says of usage it gives to
    `_settle`, or sets `usage`, `doubt` and `_cost` where that comes piece by piece.

    provider   id of the service, for `ServedBy`; title: its name, for messages
    call_id    names a call whose own id is missing or not the only one; gets the number of the call in its result
    served_by  what the service's headers say about who answers; None: what its answer says
    """

    def __init__(
        self, *, provider: str, title: str, call_id: Callable[[int], str], served_by: ServedBy | None = None
    ) -> None:
        self._provider = provider
        self._title = title
        self._call_id = call_id
        self._served_by = served_by
        self._model = self._fingerprint = ""
        self._cost: Cost | None = None
        self._error: DeepserveError | None = None
        self._has_ended = False
        self.has_begun = False
        self.usage: Usage | None = None
        self.doubt: str | None = None
        """What was wrong with the usage, which then is an estimate."""

    @property
    def is_complete(self) -> bool:
        """Nothing that is to come can matter."""
        if self._has_ended or self._error is not None:
            return True
        return self.has_all_ends and self.usage is not None

    @property
    @abstractmethod
    def has_all_ends(self) -> bool:
        """What may still come is usage, or the reason of a failure."""

    def chunk(self, value: bytes) -> list[Event]:
        """The events of one frame's data. Raises DeepserveError for a failure before anything was told."""
        if value == _DONE:
            self._has_ended = True
            return []
        return self._hear(value)

    @abstractmethod
    def whole(self, body: bytes) -> list[Event]:
        """The events of a body that is the whole answer, but for those of `finish`."""

    def finish(self, error: DeepserveError | None = None) -> list[Event]:
        """The terminal events. error: why nothing more came, where it was not the service's own end.

        Raises the error instead where nothing was told.
        """
        error = self._error or error
        if not self.has_begun:
            raise error or BackendFailure(f"{self._title} ended its answer before it began. Please retry.")
        events = self._unsaid_ends() if self._has_ended and error is None else []
        if self.usage is not None:
            events.append(UsageReported(usage=self.usage, cost=self._cost))
        return [*events, *self._ends(error)]

    @abstractmethod
    def _hear(self, value: bytes) -> list[Event]:
        """As `chunk`, for a frame that is not the terminator."""

    @abstractmethod
    def _unsaid_ends(self) -> list[Event]:
        """End what has not ended, in a stream with its terminator: some services name no reason."""

    @abstractmethod
    def _ends(self, error: DeepserveError | None) -> list[Event]:
        """One terminal event for each result."""

    def _broken_off(self) -> DeepserveError:
        return BackendFailure(f"{self._title} closed the stream before the end of the answer. Please retry.")

    def _started(self) -> Started:
        served_by = self._served_by or ServedBy(provider=self._provider, model=self._model, fingerprint="")
        fingerprint = served_by.fingerprint or self._fingerprint
        return Started(served_by=msgspec.structs.replace(served_by, fingerprint=fingerprint))

    def _begun(self, events: list[Event]) -> list[Event]:
        if self.has_begun:
            return events
        self.has_begun = True
        return [self._started(), *events]

    def _decoded(self, value: bytes, read: Callable[[bytes], Read]) -> Read:
        try:
            return read(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BackendFailure(f"{self._title} sent something that cannot be read: {error}") from error

    def _fail(self, error: Json) -> list[Event]:
        self._error = decode_error_value(error, title=self._title)
        if not self.has_begun:
            raise self._error
        return []

    def _settle(self, raw: msgspec.Raw, count: Callable[[msgspec.Raw], CountedUsage | None]) -> None:
        """Take what the service says of usage. A wrong one is as good as none: it is no reason to lose the answer."""
        try:
            counted = count(raw)
        except msgspec.MsgspecError:
            self.doubt = "it cannot be read"
            return
        if counted is not None:
            self._take(counted)

    def _take(self, counted: CountedUsage) -> None:
        self.usage, self._cost = counted.usage, counted.cost
        self.doubt = counted.doubt or self.doubt
