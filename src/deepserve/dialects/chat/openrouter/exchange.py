"""One request of this service and its answer, as the server runs them."""

from __future__ import annotations

import msgspec

from deepserve.config import Limits
from deepserve.core.answer import Answer
from deepserve.core.errors import DeepserveError
from deepserve.core.events import PastReasoning
from deepserve.core.model import ModelName
from deepserve.core.request import Request
from deepserve.dialects.chat.openrouter.request import OpenRouterRequest, decode_request
from deepserve.dialects.chat.openrouter.response import encode_answer
from deepserve.dialects.chat.openrouter.stream import KEEP_ALIVE, StreamEncoder
from deepserve.dialects.exchange import AnswerHead, Arrival, Decode
from deepserve.dialects.openrouter.errors import encode_error
from deepserve.dialects.openrouter.routing import Directory


class OpenRouterExchange(msgspec.Struct, frozen=True, kw_only=True):
    """Implements `dialects.exchange.Exchange`."""

    asked: OpenRouterRequest
    keep_alive: bytes = KEEP_ALIVE

    @property
    def request(self) -> Request:
        return self.asked.chat.request

    @property
    def model(self) -> ModelName:
        return self.asked.chat.model

    @property
    def is_stream(self) -> bool:
        return self.asked.chat.is_stream

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.asked.chat.ignored

    @property
    def past_reasoning(self) -> PastReasoning:
        return self.asked.chat.past_reasoning

    def open_stream(self, head: AnswerHead) -> StreamEncoder:
        asked = self.asked
        return StreamEncoder(self.request, head, dated_name=asked.dated_name, name_of=asked.name_of, notes=asked.notes)

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        return encode_answer(
            answer,
            self.request,
            head,
            dated_name=self.asked.dated_name,
            name_of=self.asked.name_of,
            notes=self.asked.notes,
            validated=validated,
        )

    def encode_error(self, error: DeepserveError) -> bytes:
        return encode_error(error, self.asked.caller)


def openrouter_decoder(*, directory: Directory, limits: Limits) -> Decode:
    """How bodies are read."""

    def decode(raw: bytes, arrival: Arrival) -> OpenRouterExchange:
        return OpenRouterExchange(asked=decode_request(raw, arrival, directory=directory, limits=limits))

    return decode
