"""A response that is worked on while nobody waits: what is handed in, and how it looks before it has ended."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.core.errors import DeepserveError
from deepserve.core.messages import Json
from deepserve.core.task import TaskStatus
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.responses.errors import wire_error
from deepserve.dialects.responses.exchange import ResponsesExchange
from deepserve.dialects.responses.memory import Remembered
from deepserve.dialects.responses.response import open_response

STATUSES: Mapping[TaskStatus, str] = {
    "queued": "queued",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""How far the work is, in this dialect's words."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The work as it is handed in: the body as it came, and what is shown until there is an answer."""

    request: msgspec.Raw
    shown: Remembered

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, body: bytes) -> Order:
        return msgspec.json.decode(body, type=cls)

    def seen(self, status: TaskStatus) -> Remembered:
        """The response as it is now."""
        return msgspec.structs.replace(self.shown, response={**self.shown.response, "status": STATUSES[status]})

    def failed(self, error: DeepserveError) -> Remembered:
        wire = wire_error(error)
        response: dict[str, Json] = {
            **self.shown.response,
            "status": "failed",
            "error": {"code": wire.code, "message": wire.message},
        }
        return msgspec.structs.replace(self.shown, response=response)


def order_of(exchange: ResponsesExchange, raw: bytes, head: AnswerHead) -> Order:
    response = msgspec.to_builtins(open_response(exchange.asked, head, status="queued"))
    shown = Remembered(response=response, input=exchange.asked.items, digest=exchange.digest)
    return Order(request=msgspec.Raw(raw), shown=shown)
