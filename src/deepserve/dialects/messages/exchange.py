"""One Messages request and its answer, as the server runs them."""

from __future__ import annotations

import msgspec
from typing_extensions import override

from deepserve.config import Limits
from deepserve.core.answer import Answer
from deepserve.core.errors import DeepserveError
from deepserve.dialects.exchange import NOBODY, AnswerHead, Arrival, Caller, Decode, ErrorCodec, OfAsked
from deepserve.dialects.messages.errors import encode_error, form_of
from deepserve.dialects.messages.request import MessagesRequest, Names, decode_request
from deepserve.dialects.messages.response import encode_answer
from deepserve.dialects.messages.stream import PING, StreamEncoder


class MessagesExchange(OfAsked, msgspec.Struct, frozen=True):
    """Implements `dialects.exchange.Exchange`. tells_cost: answers say what they cost."""

    asked: MessagesRequest
    tells_cost: bool = False
    keep_alive: bytes = PING

    def open_stream(self, head: AnswerHead) -> StreamEncoder:
        return StreamEncoder(self.asked, head, tells_cost=self.tells_cost)

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        return encode_answer(answer, self.asked, head, validated=validated, tells_cost=self.tells_cost)

    def encode_error(self, error: DeepserveError) -> bytes:
        return encode_error(error, request_id=self.request.id, is_strict=self.request.is_strict)


def messages_decoder(*, names: Names, limits: Limits, tells_cost: bool = False) -> Decode:
    """How bodies of this dialect are read. tells_cost: for a service whose answers say it."""

    def decode(raw: bytes, arrival: Arrival) -> MessagesExchange:
        return MessagesExchange(
            decode_request(
                raw,
                names=names,
                limits=limits,
                request_id=arrival.id,
                arrived_at=arrival.at,
                tenant=arrival.tenant,
                is_strict=arrival.is_strict,
                headers=arrival.headers,
            ),
            tells_cost=tells_cost,
        )

    return decode


class MessagesErrors(ErrorCodec):
    """One form for clients of both vendors."""

    @override
    def status(self, error: DeepserveError) -> int:
        return form_of(error).status

    @override
    def encode(
        self, error: DeepserveError, *, request_id: str, is_strict: bool = False, caller: Caller = NOBODY
    ) -> bytes:
        return encode_error(error, request_id=request_id, is_strict=is_strict)
