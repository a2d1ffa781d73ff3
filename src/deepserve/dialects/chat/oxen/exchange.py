"""One request of this service and its answer, as the server runs them."""

from __future__ import annotations

import msgspec

from deepserve.config import Limits
from deepserve.core.answer import Answer
from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError, UnknownModel
from deepserve.core.model import ModelName
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.dialects.amounts import encode_amounts, plain
from deepserve.dialects.chat.oxen.errors import encode_error, no_messages, no_model
from deepserve.dialects.chat.oxen.flavour import OXEN
from deepserve.dialects.chat.request import ChatRequest, Names, decode_root, read_root
from deepserve.dialects.chat.response import encode_answer, encode_vendor_usage
from deepserve.dialects.chat.stream import KEEP_ALIVE, StreamEncoder
from deepserve.dialects.chat.wire import WireUsage
from deepserve.dialects.exchange import AnswerHead, Arrival, Decode, OfAsked


class CostedUsage(WireUsage):
    """The whole prompt is counted, with the cached part in the details. cost is absent for a model without a price."""

    cost: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class OxenNames:
    """The plain names, with this service's refusal of others."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def resolve(self, requested: str) -> ModelName:
        try:
            return self._names.resolve(requested)
        except UnknownModel as error:
            raise self.unknown(requested) from error

    def unknown(self, requested: str) -> UnknownModel:
        return UnknownModel(f"Model not found: {requested[:200]}", field="model")


class OxenExchange(OfAsked, msgspec.Struct, frozen=True, kw_only=True):
    """Implements `dialects.exchange.Exchange`."""

    asked: ChatRequest
    keep_alive: bytes = KEEP_ALIVE

    def open_stream(self, head: AnswerHead) -> StreamEncoder:
        return StreamEncoder(
            self.request,
            self._named(head),
            include_usage=self.asked.include_usage,
            encode_usage=self._encode_usage,
            encode_error=encode_error,
        )

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        return encode_answer(
            answer, self.request, self._named(head), validated=validated, encode_usage=self._encode_usage
        )

    def encode_error(self, error: DeepserveError) -> bytes:
        return encode_error(error)

    def _named(self, head: AnswerHead) -> AnswerHead:
        """Answers repeat the name that was asked for."""
        return AnswerHead(id=answer_id(head.id), created_at=head.created_at, model=self.request.requested_model)

    def _encode_usage(self, usage: Usage, request: Request, cost: Cost | None) -> WireUsage:
        wire = encode_vendor_usage(usage, request)
        raw = msgspec.UNSET if cost is None else msgspec.Raw(encode_amounts(plain(cost.total_usd)))
        return CostedUsage(cost=raw, **msgspec.structs.asdict(wire))


def answer_id(uuid: str) -> str:
    return f"chatcmpl-{uuid}"


def oxen_decoder(*, names: Names, limits: Limits) -> Decode:
    """How bodies are read."""
    known = OxenNames(names)

    def decode(raw: bytes, arrival: Arrival) -> OxenExchange:
        root = read_root(raw, limits)
        if root.optional("model") is None:
            raise no_model()
        messages = root.optional("messages")
        if messages is None or messages.value == []:
            raise no_messages()
        tolerant = msgspec.structs.replace(arrival, is_strict=False)
        chat = decode_root(root, tolerant, flavour=OXEN, names=known, limits=limits)
        if arrival.is_strict:
            chat = msgspec.structs.replace(chat, ignored=("x-deepserve-strict", *chat.ignored))
        return OxenExchange(asked=chat)

    return decode
