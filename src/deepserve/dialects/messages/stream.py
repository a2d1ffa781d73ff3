"""Answers as server-sent events: `core` events to Anthropic's, in its order.

    message_start, ping, (content_block_start, content_block_delta…, content_block_stop)…, message_delta, message_stop

A thinking block ends with a `signature_delta`. An error in the middle is an `error` event, and the last.
Order and members: platform.claude.com/docs, "Streaming messages".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from msgspec import UNSET

from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    ReasoningBlock,
    ServerToolCallBlock,
    ServerToolResultBlock,
    Started,
    TextBlock,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.messages import Citation, Part, ServerToolResult, Text, ToolCall
from deepserve.core.usage import Usage
from deepserve.core.verdict import is_judged, judge, validated_label
from deepserve.dialects.amounts import encode_amounts
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.messages.errors import encode_error
from deepserve.dialects.messages.request import MessagesRequest
from deepserve.dialects.messages.response import (
    STOP_REASONS,
    context_management,
    encode_citation,
    encode_usage,
    message_id,
    signature_of,
)
from deepserve.dialects.messages.server_tools import encode_call, encode_result
from deepserve.dialects.messages.wire import (
    WireBlock,
    WireMessage,
    WireMessageDelta,
    WireStop,
    WireText,
    WireThinking,
    WireToolUse,
)

PING = b'event: ping\ndata: {"type":"ping"}\n\n'

_BEFORE_ARGUMENTS = b'{"type":"input_json_delta","partial_json":'

_STOPPED = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_encode = encode_amounts


class StreamEncoder:
    """Turns the events of one answer into frames. `encode` for each event, then `finish` once.

    Not carried: what `response.encode_answer` does not carry either.
    """

    def __init__(self, messages: MessagesRequest, head: AnswerHead, *, tells_cost: bool = False) -> None:
        """tells_cost: for a service that says it, with the last usage."""
        self._tells_cost = tells_cost
        self._cost: Cost | None = None
        self._messages = messages
        self._head = head
        self._keeps_parts = is_judged(messages.request)
        self._parts: list[Part] = []
        self._texts: list[str] = []
        self._block: Block | None = None
        self._index = -1  # of the open block on the wire, which has more blocks than the core has
        self._usage = Usage()
        self._error: DeepserveError | None = None
        self._before_delta = b""
        self._has_finished = False

    def encode(self, event: Event) -> bytes:
        """Frames for one event; often none."""
        match event:
            case BlockDelta():
                return self._delta(event.text) + self._cite(event.citations)
            case BlockOpened():
                return self._open(event.block)
            case BlockClosed():
                return self._close(event)
            case Started():
                self._usage = event.prompt_usage or self._usage
                return self._start()
            case UsageReported():
                self._usage, self._cost = event.usage, event.cost if self._tells_cost else None
                return b""
            case Finished():
                self._has_finished = True
                return self._end(event)
            case Failed():
                self._error = event.error
                return b""
            case _:
                assert_never(event)

    def finish(self, error: DeepserveError | None = None) -> bytes:
        """The end of the stream; error: what was raised instead of a terminal event."""
        error = error or self._error
        if error is None:
            return _STOPPED if self._has_finished else b""
        request = self._messages.request
        return b"event: error\ndata: %b\n\n" % encode_error(error, request_id=request.id, is_strict=request.is_strict)

    def _start(self) -> bytes:
        message = WireMessage(
            id=message_id(self._head),
            role="assistant",
            model=self._head.model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=encode_usage(self._usage),
        )
        return b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % _encode(message) + PING

    def _open(self, block: Block) -> bytes:
        self._block = block
        match block:
            case ReasoningBlock():
                return self._begin(WireThinking("", ""), b'{"type":"thinking_delta","thinking":')
            case TextBlock():
                return self._begin(WireText(""), b'{"type":"text_delta","text":')
            case ToolCallBlock():
                return self._begin(WireToolUse(block.id, block.name, {}), _BEFORE_ARGUMENTS)
            case ServerToolCallBlock():
                return self._begin(encode_call(block.id, block.tool, block.name, {}), _BEFORE_ARGUMENTS)
            case ServerToolResultBlock():
                result = ServerToolResult(call_id=block.call_id, tool=block.tool, output=block.output)
                return self._begin(encode_result(result, self._head.created_at), b"")
            case _:
                assert_never(block)

    def _begin(self, block: WireBlock, before_delta: bytes) -> bytes:
        self._index += 1
        self._before_delta = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b'
            % (self._index, before_delta)
        )
        return b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n' % (
            self._index,
            _encode(block),
        )

    def _stop(self) -> bytes:
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index

    def _delta(self, text: str) -> bytes:
        if self._keeps_parts:
            self._texts.append(text)
        if not text or (isinstance(self._block, ReasoningBlock) and self._messages.request.thinking.exclude):
            return b""
        return b"%b%b}}\n\n" % (self._before_delta, _encode(text))

    def _cite(self, citations: Sequence[Citation]) -> bytes:
        return b"".join(
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
            % (self._index, _encode({"type": "citations_delta", "citation": encode_citation(citation)}))
            for citation in citations
        )

    def _close(self, closed: BlockClosed) -> bytes:
        block, self._block = self._block, None
        self._keep(block)
        match block:
            case ReasoningBlock():
                signature = signature_of(closed.signature, closed.sealed, self._head)
                delta = b'{"type":"signature_delta","signature":%b}' % _encode(signature)
                frame = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
                return frame % (self._index, delta) + self._stop()
            case _:
                return self._stop()

    def _keep(self, block: Block | None) -> None:
        """What will be judged at the end."""
        if not self._keeps_parts:
            return
        text = "".join(self._texts)
        self._texts = []
        match block:
            case TextBlock():
                self._parts.append(Text(text))
            case ToolCallBlock(id=call_id, name=name):
                self._parts.append(ToolCall(id=call_id, name=name, arguments=text))

    def _end(self, finished: Finished) -> bytes:
        label = validated_label(judge(self._messages.request, self._parts)) if self._keeps_parts else ""
        delta = WireMessageDelta(
            delta=WireStop(
                stop_reason=STOP_REASONS[finished.reason],
                stop_sequence=finished.stop_string,
            ),
            usage=encode_usage(self._usage, self._cost),
            context_management=context_management(self._messages),
            x_deepserve_validated=label or UNSET,
        )
        return b"event: message_delta\ndata: %b\n\n" % _encode(delta)
