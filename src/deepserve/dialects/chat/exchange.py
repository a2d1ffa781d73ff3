"""One Chat Completions request and its answer, as the server runs them."""

from __future__ import annotations

import msgspec
from typing_extensions import override

from deepserve.config import Limits
from deepserve.core.answer import Answer
from deepserve.core.errors import DeepserveError
from deepserve.dialects.chat.flavour import Flavour
from deepserve.dialects.chat.request import ChatRequest, Names, decode_request
from deepserve.dialects.chat.response import encode_answer
from deepserve.dialects.chat.stream import KEEP_ALIVE, StreamEncoder
from deepserve.dialects.exchange import NOBODY, AnswerHead, Arrival, Caller, Decode, ErrorCodec, OfAsked
from deepserve.dialects.vendor_errors import encode_error, form_of


class ChatExchange(OfAsked, msgspec.Struct, frozen=True):
    """Implements `dialects.exchange.Exchange`."""

    asked: ChatRequest
    keep_alive: bytes = KEEP_ALIVE

    def open_stream(self, head: AnswerHead) -> StreamEncoder:
        return StreamEncoder(self.asked.request, head, include_usage=self.asked.include_usage)

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        return encode_answer(answer, self.asked.request, head, validated=validated)

    def encode_error(self, error: DeepserveError) -> bytes:
        return encode_error(error, is_strict=self.asked.request.is_strict)


def chat_decoder(flavour: Flavour, *, names: Names, limits: Limits, is_beta: bool) -> Decode:
    """How this flavour's bodies are read. is_beta: at an address with the vendor's Beta features."""

    def decode(raw: bytes, arrival: Arrival) -> ChatExchange:
        return ChatExchange(
            decode_request(
                raw,
                flavour=flavour,
                names=names,
                limits=limits,
                request_id=arrival.id,
                arrived_at=arrival.at,
                tenant=arrival.tenant,
                is_strict=arrival.is_strict,
                is_beta=is_beta,
                headers=arrival.headers,
            )
        )

    return decode


class ChatErrors(ErrorCodec):
    """The vendor's form."""

    @override
    def status(self, error: DeepserveError) -> int:
        return form_of(error).status

    @override
    def encode(
        self, error: DeepserveError, *, request_id: str, is_strict: bool = False, caller: Caller = NOBODY
    ) -> bytes:
        return encode_error(error, is_strict=is_strict)
