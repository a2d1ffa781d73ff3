"""Answers as server-sent events of this service.

Shapes and order as in public recordings of V4 through it: chunks with the trace under both its names, a chunk with the
finish reason, then one that repeats it and carries the usage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import msgspec
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
    FailedAttempt,
    Finished,
    ReasoningBlock,
    ServerToolCallBlock,
    ServerToolResultBlock,
    Started,
    TextBlock,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.messages import Part, ServerToolCall, ServerToolResult, Text, ToolCall
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.core.verdict import Judgement, is_judged, judge, validated_label
from deepserve.dialects.amounts import encode_amounts
from deepserve.dialects.chat.openrouter.response import (
    FINISH_WORDS,
    encode_logprobs,
    native_word,
)
from deepserve.dialects.chat.openrouter.tool_record import Annotator, encode_call
from deepserve.dialects.chat.openrouter.wire import (
    WireChoice,
    WireCompletion,
    WireMessage,
    WireReasoning,
    WireServerCall,
)
from deepserve.dialects.chat.response import FAILED_WORD
from deepserve.dialects.chat.wire import WireFunction, WireToolCall
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.openrouter.errors import wire_error
from deepserve.dialects.openrouter.ids import generation_id
from deepserve.dialects.openrouter.metadata import RoutingNotes
from deepserve.dialects.openrouter.provider import PROVIDER_NAME
from deepserve.dialects.openrouter.usage import encode_usage

KEEP_ALIVE = b": OPENROUTER PROCESSING\n\n"
DONE = b"data: [DONE]\n\n"


class _Result(msgspec.Struct):
    """One result on its way out; parts are kept only where they will be judged."""

    is_open: bool = True
    block: Block | None = None
    num_calls: int = 0
    texts: list[str] = []
    parts: list[Part] = []
    annotator: Annotator = msgspec.field(default_factory=Annotator)
    server_call: ServerToolCall | None = None
    server_calls: dict[str, ServerToolCall] = {}


class StreamEncoder:
    """Implements `dialects.exchange.StreamWriter`.

    An error is one last event with a finish reason of its own; the usage then comes before it, with what it cost
    all the same: mostly nothing.
    Not carried: what whole answers do not carry either.
    """

    def __init__(
        self,
        request: Request,
        head: AnswerHead,
        *,
        dated_name: str,
        name_of: Callable[[str], str],
        notes: RoutingNotes | None = None,
    ) -> None:
        self._request = request
        self._head = head
        self._id = generation_id(head)
        self._dated_name = dated_name
        self._name_of = name_of
        self._notes = notes
        self._earlier: tuple[FailedAttempt, ...] = ()
        self._served_by: ServedBy | None = None
        self._results = [_Result() for _ in range(request.num_results)]
        self._keeps_parts = is_judged(request)
        self._judgements: list[Judgement] = []
        self._usage: Usage | None = None
        self._cost: Cost | None = None
        self._errors: dict[int, DeepserveError] = {}

    def encode(self, event: Event) -> bytes:
        """Frames for one event; often none."""
        match event:
            case Started():
                self._served_by = event.served_by
                self._earlier = event.earlier
                if event.model is not None:
                    self._dated_name = self._name_of(event.model)
                self._usage = event.prompt_usage
                opening = WireMessage(role="assistant", content="")
                return b"".join(self._frame(index, opening) for index in range(self._request.num_results))
            case BlockOpened():
                return self._open(event)
            case BlockDelta():
                return self._delta(event)
            case BlockClosed():
                self._close(self._results[event.result])
                return b""
            case UsageReported():
                self._usage, self._cost = event.usage, event.cost
                return b""
            case Finished():
                return self._end(event.result, FINISH_WORDS[event.reason], native_word(event))
            case Failed():
                self._errors[event.result] = event.error
                return self._end(event.result, "error", FAILED_WORD)
            case _:
                assert_never(event)

    def finish(self, error: DeepserveError | None = None) -> bytes:
        """The end of the stream; error: what was raised instead of a terminal event."""
        frames = b""
        if error is not None:
            for index, result in enumerate(self._results):
                if result.is_open:
                    self._errors[index] = error
                    frames += self._end(index, "error", FAILED_WORD)
            self._errors = self._errors or {0: error}
        # One error may have ended several results; clients stop reading at the first.
        for index, one in self._errors.items():
            frames += self._error(index, one)
        return frames + DONE

    def _open(self, event: BlockOpened) -> bytes:
        result, block = self._results[event.result], event.block
        result.block = block
        match block:
            case TextBlock():
                result.annotator.begin_text()
                return b""
            case ServerToolCallBlock(id=call_id, tool=tool, name=name):
                result.annotator.ask()
                result.server_call = ServerToolCall(id=call_id, tool=tool, name=name, arguments="")
                return b""
            case ServerToolResultBlock():
                result.annotator.find(block.output)
                call = result.server_calls[block.call_id]
                record = ServerToolResult(call_id=block.call_id, tool=block.tool, output=block.output)
                details: list[WireReasoning | WireServerCall] = [encode_call(call, record)]
                return self._frame(event.result, WireMessage(role="assistant", content="", reasoning_details=details))
            case ReasoningBlock():
                return b""
            case ToolCallBlock():
                return self._open_call(event.result, block)
            case _:
                assert_never(block)

    def _open_call(self, number: int, block: ToolCallBlock) -> bytes:
        result = self._results[number]
        index, result.num_calls = result.num_calls, result.num_calls + 1
        call = WireToolCall(index=index, id=block.id, type="function", function=WireFunction(block.name, ""))
        return self._frame(number, WireMessage(role="assistant", content=None, tool_calls=[call]))

    def _delta(self, event: BlockDelta) -> bytes:
        result = self._results[event.result]
        if self._keeps_parts:
            result.texts.append(event.text)
        match result.block:
            case TextBlock():
                result.annotator.cite(event.citations)
                if event.citations and not event.text:
                    return b""
                told = result.annotator.say(event.text)
                choice = self._choice(event.result, WireMessage(role="assistant", content=told))
                choice.logprobs = encode_logprobs(event.logprobs, self._request)
                return self._chunk(choice)
            case ReasoningBlock():
                if self._request.thinking.exclude or not event.text:
                    return b""
                details: list[WireReasoning | WireServerCall] = [WireReasoning(event.text)]
                return self._frame(
                    event.result,
                    WireMessage(role="assistant", content="", reasoning=event.text, reasoning_details=details),
                )
            case ToolCallBlock():
                if not event.text:
                    return b""
                call = WireToolCall(index=result.num_calls - 1, function=WireFunction(arguments=event.text))
                return self._frame(event.result, WireMessage(role="assistant", content=None, tool_calls=[call]))
            case ServerToolCallBlock():
                if result.server_call is not None:
                    arguments = result.server_call.arguments + event.text
                    result.server_call = msgspec.structs.replace(result.server_call, arguments=arguments)
                return b""
            case ServerToolResultBlock() | None:
                return b""
            case _:
                assert_never(result.block)

    def _close(self, result: _Result) -> None:
        if result.server_call is not None:
            result.server_calls[result.server_call.id] = result.server_call
            result.server_call = None
        if self._keeps_parts:
            text = "".join(result.texts)
            match result.block:
                case TextBlock():
                    result.parts.append(Text(text))
                case ToolCallBlock(id=id, name=name):
                    result.parts.append(ToolCall(id=id, name=name, arguments=text))
        result.block, result.texts = None, []

    def _end(self, index: int, word: str, native: str) -> bytes:
        """The last chunk of a result; the last of all is followed by one with the usage and the judgement."""
        result = self._results[index]
        result.is_open = False
        if self._keeps_parts and word != "error":
            self._judgements.extend(judge(self._request, result.parts))
        result.texts, result.parts = [], []
        if self._served_by is None:
            return b""  # nothing has begun: the error alone tells it
        choice = self._choice(index, WireMessage(role="assistant", content=""))
        choice.finish_reason, choice.native_finish_reason = word, native
        # With an error, the event that names it is the one to say so.
        annotations = result.annotator.annotations()
        frames = b"" if not annotations else self._frame(index, WireMessage(role="assistant", annotations=annotations))
        frames += b"" if word == "error" else self._chunk(choice)
        if self._usage is None or any(one.is_open for one in self._results):
            return frames
        chunk = self._completion(choice)
        if word == "error":
            choice.finish_reason = choice.native_finish_reason = None
        tool_use = result.annotator.use(dict(self._usage.server_tool_calls).get("web_search", 0))
        chunk.usage = encode_usage(self._usage, self._cost, tool_use=tool_use)
        if self._notes is not None and word != "error":
            chunk.openrouter_metadata = self._notes.told(self._served_by, self._dated_name, self._earlier)
        if self._judgements:
            chunk.x_deepserve_validated = validated_label(self._judgements)
        return frames + b"data: " + encode_amounts(chunk) + b"\n\n"

    def _error(self, index: int, error: DeepserveError) -> bytes:
        choice = self._choice(index, WireMessage(content=""))
        choice.finish_reason, choice.native_finish_reason = "error", FAILED_WORD
        chunk = self._completion(choice)
        chunk.error = wire_error(error)
        return b"data: " + encode_amounts(chunk) + b"\n\n"

    def _frame(self, index: int, delta: WireMessage) -> bytes:
        return self._chunk(self._choice(index, delta))

    def _choice(self, index: int, delta: WireMessage) -> WireChoice:
        return WireChoice(index=index, delta=delta, message=UNSET)

    def _chunk(self, choice: WireChoice) -> bytes:
        return b"data: " + encode_amounts(self._completion(choice)) + b"\n\n"

    def _completion(self, choice: WireChoice) -> WireCompletion:
        served_by = self._served_by
        return WireCompletion(
            id=self._id,
            object="chat.completion.chunk",
            created=self._head.created,
            model=self._dated_name,
            provider=PROVIDER_NAME if served_by is None else served_by.provider,
            system_fingerprint=None if served_by is None else served_by.fingerprint,
            choices=[choice],
        )
