"""One request of this dialect and its answer, as the server runs them: a response, or a conversation made shorter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NoReturn

import msgspec

from deepserve.config import Limits
from deepserve.core.answer import Answer
from deepserve.core.errors import BackendFailure, DeepserveError, InvalidField
from deepserve.core.events import PastReasoning
from deepserve.core.messages import Text
from deepserve.core.model import ModelName
from deepserve.core.request import Request, ResponseFormat
from deepserve.dialects.amounts import encode_amounts
from deepserve.dialects.exchange import AnswerHead, Arrival, OfAsked
from deepserve.dialects.responses.compaction import ask_for_summary, kept_messages
from deepserve.dialects.responses.errors import encode_error
from deepserve.dialects.responses.following import FollowingEncoder
from deepserve.dialects.responses.memory import Keeper, ResponseMemory, Sealing, item_id, response_id
from deepserve.dialects.responses.request import Names, ResponsesRequest, decode_request
from deepserve.dialects.responses.response import encode_answer, encode_usage
from deepserve.dialects.responses.stream import KEEP_ALIVE, StreamEncoder
from deepserve.dialects.responses.wire import CompactionItem, WireCompaction, WireResponse


class ResponsesExchange(OfAsked, msgspec.Struct, frozen=True, kw_only=True):
    """Implements `dialects.exchange.Exchange`. The response is kept where the request allows it.

    digest  see `Remembered`
    tells_cost  answers say what they cost
    """

    asked: ResponsesRequest
    keeper: Keeper
    now: Callable[[], datetime]
    digest: str | None = None
    tells_cost: bool = False
    keep_alive: bytes = KEEP_ALIVE

    def open_stream(self, head: AnswerHead) -> StreamEncoder:
        return StreamEncoder(self.asked, head, now=self.now, on_end=self.keep, tells_cost=self.tells_cost)

    def follow(self, head: AnswerHead) -> FollowedExchange:
        """The same for a client that follows the work on it."""
        return FollowedExchange(asked=self.asked, encoder=FollowingEncoder(self.asked, head, now=self.now))

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:
        response = encode_answer(answer, self.asked, head, at=self.now(), tells_cost=self.tells_cost)
        if validated is not None:
            response.x_deepserve_validated = validated
        self.keep(response)
        return encode_amounts(response)

    def encode_error(self, error: DeepserveError) -> bytes:
        return encode_error(error, is_strict=self.request.is_strict)

    def keep(self, response: WireResponse) -> None:
        if self.asked.is_kept:
            record = encode_amounts({"response": response, "input": self.asked.items, "digest": self.digest})
            self.keeper.keep(response.id, record)


class FollowedExchange(OfAsked, msgspec.Struct, frozen=True, kw_only=True):
    """Implements `dialects.exchange.Exchange` for a response in the background. Always a stream."""

    asked: ResponsesRequest
    encoder: FollowingEncoder
    keep_alive: bytes = KEEP_ALIVE

    def open_stream(self, head: AnswerHead) -> FollowingEncoder:  # noqa: ARG002 - opened when the work was handed in
        return self.encoder

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> NoReturn:  # noqa: ARG002
        raise AssertionError("a response that is followed is streamed")

    def encode_error(self, error: DeepserveError) -> bytes:
        return encode_error(error, is_strict=self.request.is_strict)


class CompactExchange(msgspec.Struct, frozen=True, kw_only=True):
    """Implements `dialects.exchange.Exchange` for `/responses/compact`. Never a stream."""

    asked: ResponsesRequest
    keeper: Keeper
    keep_alive: bytes = b"\n"
    is_stream: bool = False

    @property
    def request(self) -> Request:
        """The conversation, tools and thinking as they are, so that its cached prefix is used."""
        request = self.asked.request
        return msgspec.structs.replace(
            request, messages=ask_for_summary(request.messages), response_format=ResponseFormat()
        )

    @property
    def model(self) -> ModelName:
        return self.asked.model

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.asked.ignored

    @property
    def past_reasoning(self) -> PastReasoning:
        return self.asked.past_reasoning

    def open_stream(self, head: AnswerHead) -> NoReturn:  # noqa: ARG002 - the protocol's
        raise AssertionError("a compaction is answered whole")

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:  # noqa: ARG002
        """A summary has no form to be validated. Raises InvalidField, BackendFailure where there is none."""
        [result] = answer.results
        summary = "".join(part.text for part in result.parts if isinstance(part, Text)).strip()
        if not summary and result.finished.reason == "length" and self.request.max_output_tokens is not None:
            raise InvalidField(
                "The limit was reached before the summary had begun: allow more tokens.", field="max_output_tokens"
            )
        if not summary:
            raise BackendFailure("The model wrote no summary of the conversation. Please retry.")
        digits = head.id.replace("-", "")
        kept = kept_messages([*self.asked.past, *self.asked.items])
        item = CompactionItem(id=item_id("compaction", digits, len(kept)), encrypted_content=self.keeper.seal(summary))
        return msgspec.json.encode(
            WireCompaction(
                id=response_id(digits),
                created_at=head.created,
                output=[*kept, item],
                usage=encode_usage(answer.usage),
            )
        )

    def encode_error(self, error: DeepserveError) -> bytes:
        return encode_error(error, is_strict=self.request.is_strict)


class Decoders(msgspec.Struct, frozen=True, kw_only=True):
    """How bodies are read. Both block while they look up a response that is continued.

    limits: in force at the moment. tells_cost: for a service whose answers say what they cost
    """

    names: Names
    limits: Callable[[], Limits]
    memory: ResponseMemory
    sealing: Sealing
    now: Callable[[], datetime]
    tells_cost: bool = False

    def response(self, raw: bytes, arrival: Arrival) -> ResponsesExchange:
        limits = self.limits()
        keeper = Keeper(self.memory, self.sealing, arrival.tenant.id, max_bytes=limits.body_bytes)
        asked = decode_request(raw, arrival, names=self.names, limits=limits, keeper=keeper)
        return ResponsesExchange(asked=asked, keeper=keeper, now=self.now, tells_cost=self.tells_cost)

    def compaction(self, raw: bytes, arrival: Arrival) -> CompactExchange:
        exchange = self.response(raw, arrival)
        return CompactExchange(asked=exchange.asked, keeper=exchange.keeper)


def may_block(raw: bytes) -> bool:
    """Whether reading a body may need what was kept earlier."""
    return b"previous_response_id" in raw or b"item_reference" in raw or b'"id"' in raw


def is_background(raw: bytes) -> bool:
    """Whether a body asks for work in the background; False for one that cannot be read."""
    if b'"background"' not in raw:
        return False
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("background") is True
