"""One Chat Completions request and its answer, as the server runs them."""

from __future__ import annotations

import msgspec
from typing_extensions import override

from deepserve.config import Limits
from deepserve.core.answer import Answer
from deepserve.core.errors import DeepserveError
from deepserve.core.events import PastReasoning
from deepserve.core.model import ModelName
from deepserve.core.request import Request
from deepserve.dialects.chat.flavour import Flavour
from deepserve.dialects.chat.request import ChatRequest, Names, decode_request
from deepserve.dialects.chat.response import encode_answer
from deepserve.dialects.chat.stream import KEEP_ALIVE, StreamEncoder
from deepserve.dialects.exchange import AnswerHead, Arrival, Decode, ErrorCodec
from deepserve.dialects.vendor_errors import encode_error, form_of


class ChatExchange(msgspec.Struct, frozen=True):
    """Implements `dialects.exchange.Exchange`."""

    chat: ChatRequest
    keep_alive: bytes = KEEP_ALIVE

    @property
    def request(self) -> Request:
        return self.chat.request

    @property
    def model(self) -> ModelName:
        return self.chat.model

    @property
    def is_stream(self) -> bool:
        return self.chat.is_stream

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.chat.ignored

    @property
    def past_reasoning(self) -> PastReasoning:
        return self.chat.past_reasoning

    def open_stream(self, head: AnswerHead) -> StreamEncoder:
        return StreamEncoder(self.chat.request, head, include_usage=self.chat.include_usage)

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        return encode_answer(answer, self.chat.request, head, validated=validated)

    def encode_error(self, error: DeepserveError) -> bytes:
        return encode_error(error, is_strict=self.chat.request.is_strict)


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
            )
        )

    return decode


class ChatErrors(ErrorCodec):
    """The vendor's form."""

    @override
    def status(self, error: DeepserveError) -> int:
        return form_of(error).status

    @override
    def encode(self, error: DeepserveError, *, request_id: str, is_strict: bool = False) -> bytes:
        return encode_error(error, is_strict=is_strict)
