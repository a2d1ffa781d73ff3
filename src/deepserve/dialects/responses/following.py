"""A stream that follows a response worked on in the background: it may end before the response does.

`response.created` and `.queued` come at once, so that the client knows the id whatever happens to the stream. What
ends the stream but not the response is the event `error`; `response.failed` is the response's own failure.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from typing_extensions import override

from deepserve.core.errors import DeepserveError, EngineFailure
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.responses.errors import wire_error
from deepserve.dialects.responses.request import ResponsesRequest
from deepserve.dialects.responses.response import open_response
from deepserve.dialects.responses.stream import StreamEncoder


class FollowingEncoder(StreamEncoder):
    """Turns the events of an answer in the background into frames: `open`, `encode` for each event, `finish`.

    The response is kept by whoever works on it, and not by this.
    """

    def __init__(self, asked: ResponsesRequest, head: AnswerHead, *, now: Callable[[], datetime]) -> None:
        super().__init__(asked, head, now=now, on_end=lambda _: None)
        self._queued = open_response(asked, head, status="queued")

    def open(self) -> bytes:
        """What is told before the work begins."""
        return self._frame("response.created", response=self._queued) + self._frame(
            "response.queued", response=self._queued
        )

    @override
    def _start(self) -> bytes:
        self._has_started = True
        return self._frame("response.in_progress", response=self._response)

    @override
    def finish(self, error: DeepserveError | None = None) -> bytes:
        """The end of the stream; error: why it follows the response no longer."""
        if self._has_ended:
            return b""
        self._has_ended = True
        wire = wire_error(error or EngineFailure("The answer stopped without an end."))
        message = f"{wire.message} What became of the response is told at /responses/{self._queued.id}."
        return self._frame("error", code=wire.code, message=message, param=wire.param)
