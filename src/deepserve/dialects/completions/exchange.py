"""One completion request and its answer, as the server runs them."""

from __future__ import annotations

import msgspec

from deepserve.config import Limits
from deepserve.core.answer import Answer
from deepserve.core.errors import DeepserveError
from deepserve.core.events import PastReasoning
from deepserve.dialects.completions.request import CompletionRequest, Names, decode_request
from deepserve.dialects.completions.response import VENDOR, Service, encode_answer
from deepserve.dialects.completions.stream import KEEP_ALIVE, StreamEncoder
from deepserve.dialects.exchange import AnswerHead, Arrival, Decode, OfAsked


class CompletionsExchange(OfAsked, msgspec.Struct, frozen=True):
    """Implements `dialects.exchange.Exchange`."""

    asked: CompletionRequest
    service: Service = VENDOR
    keep_alive: bytes = KEEP_ALIVE
    past_reasoning: PastReasoning = PastReasoning()

    def open_stream(self, head: AnswerHead) -> StreamEncoder:
        completion = self.asked
        return StreamEncoder(
            completion.request, completion.infill, head, include_usage=completion.include_usage, service=self.service
        )

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        assert validated is None, "completions ask for no form, so there is never a verdict"
        return encode_answer(answer, self.asked.infill, head, self.service)

    def encode_error(self, error: DeepserveError) -> bytes:
        return self.service.encode_error(error, self.asked.request.is_strict)


def completions_decoder(*, names: Names, limits: Limits) -> Decode:
    """How this dialect's bodies are read."""

    def decode(raw: bytes, arrival: Arrival) -> CompletionsExchange:
        return CompletionsExchange(
            decode_request(
                raw,
                names=names,
                limits=limits,
                request_id=arrival.id,
                arrived_at=arrival.at,
                tenant=arrival.tenant,
                is_strict=arrival.is_strict,
                headers=arrival.headers,
            )
        )

    return decode
