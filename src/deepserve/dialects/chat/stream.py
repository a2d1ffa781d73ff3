"""Answers as server-sent events: `core` events to chunks, in the vendor's order.

Order and shapes of the deltas as captured from api.deepseek.com: the public fixtures of the `@ai-sdk/deepseek` client.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import assert_never

import msgspec

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
from deepserve.core.messages import Part, Text, ToolCall
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.core.verdict import Judgement, is_judged, judge, validated_label
from deepserve.dialects.chat.response import (
    FAILED_WORD,
    FINISH_WORDS,
    UsageEncoder,
    encode_logprobs,
    encode_vendor_usage,
)
from deepserve.dialects.chat.wire import WireFunction, WireToolCall
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.joined_text import RoundGap
from deepserve.dialects.vendor_errors import encode_error as vendor_error

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class _Result(msgspec.Struct):
    """One result on its way out; parts are kept only where they will be judged."""

    before: bytes
    is_open: bool = True
    block: Block | None = None
    num_calls: int = 0
    texts: list[str] = []
    parts: list[Part] = []
    gap: RoundGap = msgspec.field(default_factory=RoundGap)


class StreamEncoder:
    """Turns the events of one answer into frames. `encode` for each event, then `finish` once.

    A failed result gets a last chunk with finish reason `insufficient_system_resource`; the error objects come after
    all chunks, before the terminator, because most clients stop reading at an error.

    Not carried, because the dialect has no word for it: signatures and sealed forms of reasoning, citations,
    server-tool blocks, cost, seeds, log-probabilities of tool calls, and which stop string was met.
    """

    def __init__(
        self,
        request: Request,
        head: AnswerHead,
        *,
        include_usage: bool,
        encode_usage: UsageEncoder = encode_vendor_usage,
        encode_error: Callable[[DeepserveError], bytes] | None = None,
    ) -> None:
        """encode_usage, encode_error: how a service writes them, where that is not as the vendor does."""
        self._request = request
        self._encode_usage = encode_usage
        self._encode_error = encode_error or partial(vendor_error, is_strict=request.is_strict)
        self._head = head
        self._include_usage = include_usage
        self._is_thinking = request.thinking.enabled and not request.thinking.exclude
        self._keeps_parts = is_judged(request)
        self._results: list[_Result] = []
        self._num_open = request.num_results
        self._usage: Usage | None = None
        self._cost: Cost | None = None
        self._errors: list[DeepserveError] = []
        self._judgements: list[Judgement] = []
        self._rest = b',"usage":null}\n\n' if include_usage else b"}\n\n"

    def encode(self, event: Event) -> bytes:
        """Frames for one event; often none."""
        match event:
            case BlockDelta():
                return self._delta(self._results[event.result], event)
            case BlockOpened():
                return self._open(self._results[event.result], event.block)
            case BlockClosed():
                self._close(self._results[event.result])
                return b""
            case Started():
                self._usage = event.prompt_usage
                return self._start(event.served_by)
            case UsageReported():
                self._usage, self._cost = event.usage, event.cost
                return b""
            case Finished():
                return self._end(event.result, FINISH_WORDS[event.reason])
            case Failed():
                self._errors.append(event.error)
                return self._end(event.result, FAILED_WORD) if self._results else b""
            case _:
                assert_never(event)

    def finish(self, error: DeepserveError | None = None) -> bytes:
        """The end of the stream; error: what was raised instead of a terminal event."""
        frames = b""
        if error is not None:
            self._errors.append(error)
            open_results = [index for index, result in enumerate(self._results) if result.is_open]
            frames = b"".join(self._end(index, FAILED_WORD) for index in open_results)
        seen: set[int] = set()
        for one in self._errors:
            if id(one) not in seen:
                seen.add(id(one))
                frames += b"data: " + self._encode_error(one) + b"\n\n"
        return frames + DONE

    def _start(self, served_by: ServedBy) -> bytes:
        head = self._head
        common = (
            b'data: {"id":' + _encode(head.id) + b',"object":"chat.completion.chunk","created":' + _encode(head.created)
        )
        common += b',"model":' + _encode(head.model) + b',"system_fingerprint":' + _encode(served_by.fingerprint)
        common += b',"choices":[{"index":'
        self._results = [_Result(before=common + b'%d,"delta":' % index) for index in range(self._request.num_results)]
        opening = (
            b'{"role":"assistant","content":null,"reasoning_content":""}'
            if self._is_thinking
            else b'{"role":"assistant","content":""}'
        )
        return b"".join(self._frame(result, opening) for result in self._results)

    def _frame(self, result: _Result, delta: bytes, logprobs: bytes = b"null") -> bytes:
        return result.before + delta + b',"logprobs":' + logprobs + b',"finish_reason":null}]' + self._rest

    def _open(self, result: _Result, block: Block) -> bytes:
        result.block = block
        if isinstance(block, ServerToolResultBlock):
            result.gap.pause()
        if not isinstance(block, ToolCallBlock):
            return b""
        index, result.num_calls = result.num_calls, result.num_calls + 1
        call = WireToolCall(
            index=index, id=block.id, type="function", function=WireFunction(name=block.name, arguments="")
        )
        return self._frame(result, b'{"tool_calls":[' + _encode(call) + b"]}")

    def _delta(self, result: _Result, delta: BlockDelta) -> bytes:
        if self._keeps_parts:
            result.texts.append(delta.text)
        match result.block:
            case TextBlock():
                if delta.citations and not delta.text:
                    return b""
                after = b',"reasoning_content":null}' if self._is_thinking else b"}"
                piece = b'{"content":' + _encode(result.gap.before(delta.text) + delta.text) + after
                logprobs = encode_logprobs(delta.logprobs, (), self._request)
            case ReasoningBlock():
                if self._request.thinking.exclude:
                    return b""
                piece = b'{"content":null,"reasoning_content":' + _encode(delta.text) + b"}"
                logprobs = encode_logprobs((), delta.logprobs, self._request)
            case ToolCallBlock():
                if not delta.text:
                    return b""
                index = result.num_calls - 1
                arguments = _encode(delta.text)
                return self._frame(
                    result, b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (index, arguments)
                )
            case ServerToolCallBlock() | ServerToolResultBlock() | None:
                return b""
            case _:
                assert_never(result.block)
        return self._frame(result, piece, b"null" if logprobs is None else _encode(logprobs))

    def _close(self, result: _Result) -> None:
        if self._keeps_parts:
            text = "".join(result.texts)
            match result.block:
                case TextBlock():
                    result.parts.append(Text(text))
                case ToolCallBlock(id=id, name=name):
                    result.parts.append(ToolCall(id=id, name=name, arguments=text))
        result.block, result.texts = None, []

    def _end(self, index: int, word: str) -> bytes:
        """The last chunk of a result; the last of all carries the usage and the judgement."""
        result = self._results[index]
        result.is_open = False
        self._num_open -= 1
        if self._keeps_parts and word != FAILED_WORD:
            self._judgements.extend(judge(self._request, result.parts))
        result.texts, result.parts = [], []
        delta = b'{"content":"","reasoning_content":null}' if self._is_thinking else b'{"content":""}'
        frame = result.before + delta + b',"logprobs":null,"finish_reason":"%b"}]' % word.encode()
        if self._num_open == 0 and self._usage is not None:
            frame += b',"usage":' + _encode(self._encode_usage(self._usage, self._request, self._cost))
        elif self._include_usage:
            frame += b',"usage":null'
        if self._num_open == 0 and self._judgements:
            frame += b',"x_deepserve_validated":' + _encode(validated_label(self._judgements))
        return frame + b"}\n\n"
