"""Answers as server-sent events: `core` events to this dialect's, numbered, in OpenAI's order.

    created, in_progress, for each item (added, [part added], deltas, done, [part done], item done), and a terminal one

There is no `[DONE]`: `response.completed`, `.incomplete` or `.failed` ends the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import assert_never

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError, EngineFailure
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
    TokenLogprob,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.messages import Citation, Json, Part, ServerToolCall, Text, ToolCall
from deepserve.core.usage import Usage
from deepserve.core.verdict import is_judged, judge, validated_label
from deepserve.dialects.amounts import encode_amounts
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.responses.custom_input import InputReader
from deepserve.dialects.responses.request import ResponsesRequest
from deepserve.dialects.responses.response import (
    ItemForm,
    encode_citation,
    encode_logprob,
    failed_response,
    finished_response,
    open_response,
    output_text,
)
from deepserve.dialects.responses.wire import (
    CodeInterpreterItem,
    Item,
    ItemStatus,
    McpCallItem,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    WebSearchItem,
    WireResponse,
)

KEEP_ALIVE = b": keep-alive\n\n"

_encode = encode_amounts


class _Open(msgspec.Struct):
    """The item being told. closed: its block has ended; how it ended is known with the next event.

    told  the text of the item so far, in pieces
    """

    block: ReasoningBlock | TextBlock | ToolCallBlock
    index: int
    item: Item
    told: list[str] = []
    citations: list[Citation] = []
    logprobs: list[TokenLogprob] = []
    reader: InputReader | None = None
    closed: BlockClosed | None = None


class _Hosted(msgspec.Struct):
    """A call of a tool that the server runs. number: among the answer's. told: of its arguments, in pieces."""

    number: int
    index: int
    call: ServerToolCall
    told: list[str] = []
    has_ended: bool = False


class StreamEncoder:
    """Turns the events of one answer into frames. `encode` for each event, then `finish` once.

    now     the wall clock, which says when the response was complete
    on_end  hears the response as the terminal event tells it
    tells_cost  for a service that says what an answer costs
    """

    def __init__(
        self,
        asked: ResponsesRequest,
        head: AnswerHead,
        *,
        now: Callable[[], datetime],
        on_end: Callable[[WireResponse], None],
        tells_cost: bool = False,
    ) -> None:
        self._tells_cost = tells_cost
        self._cost: Cost | None = None
        self._asked = asked
        self._now = now
        self._on_end = on_end
        self._form = ItemForm(asked, head)
        self._response = open_response(asked, head)
        self._output: list[Item] = []
        self._parts: list[Part] = []
        self._keeps_parts = is_judged(asked.request)
        self._open: _Open | None = None
        self._hosted: _Hosted | None = None  # the call that is being told
        self._hosted_calls: dict[str, _Hosted] = {}
        self._usage: Usage | None = None
        self._number = 0
        self._has_started = self._has_ended = False

    def encode(self, event: Event) -> bytes:
        """Frames for one event; often none."""
        match event:
            case BlockDelta():
                return self._tell(event)
            case BlockOpened():
                return self._close("completed") + self._begin(event.block)
            case BlockClosed():
                if self._hosted is not None:
                    return self._carry_out(self._hosted)
                if self._open is not None:
                    self._open.closed = event
                return b""
            case Started():
                self._usage = event.prompt_usage
                self._response.system_fingerprint = event.served_by.fingerprint
                return self._start()
            case UsageReported():
                self._usage, self._cost = event.usage, event.cost if self._tells_cost else None
                return b""
            case Finished():
                return self._finish(event)
            case Failed():
                return self._fail(event.error)
            case _:
                assert_never(event)

    def finish(self, error: DeepserveError | None = None) -> bytes:
        """The end of the stream; error: what was raised instead of a terminal event."""
        if self._has_ended:
            return b""
        return self._fail(error or EngineFailure("The answer stopped without an end. Please retry."))

    # The response.

    def _start(self) -> bytes:
        self._has_started = True
        return self._frame("response.created", response=self._response) + self._frame(
            "response.in_progress", response=self._response
        )

    def _finish(self, finished: Finished) -> bytes:
        response = finished_response(
            self._response,
            finished,
            output=self._output,
            usage=self._usage or Usage(),
            at=self._now(),
            cost=self._cost,
        )
        frames = self._close("completed" if response.status == "completed" else "incomplete")
        frames += self._give_up_hosted()
        if self._keeps_parts:
            label = validated_label(judge(self._asked.request, self._parts))
            if label:
                response.x_deepserve_validated = label
        return frames + self._end(response)

    def _fail(self, error: DeepserveError) -> bytes:
        frames = b"" if self._has_started else self._start()
        frames += self._close("incomplete") + self._give_up_hosted()
        is_strict = self._asked.request.is_strict
        return frames + self._end(
            failed_response(self._response, error, output=self._output, usage=self._usage, is_strict=is_strict)
        )

    def _end(self, response: WireResponse) -> bytes:
        self._has_ended = True
        self._on_end(response)
        return self._frame(f"response.{response.status}", response=response)

    # Items.

    def _begin(self, block: Block) -> bytes:
        index = len(self._output)
        item: Item
        match block:
            case ReasoningBlock():
                item = self._form.reasoning(index, None, None, "in_progress")
                part: ReasoningText | OutputText | None = ReasoningText(text="")
            case TextBlock():
                item, part = self._form.message(index, None, "in_progress"), OutputText(text="")
            case ToolCallBlock():
                item = self._form.call(
                    index, call_id=block.id, flat_name=block.name, arguments="", status="in_progress"
                )
                part = None
            case ServerToolCallBlock():
                return self._begin_hosted(block)
            case ServerToolResultBlock():
                return self._end_hosted(block)
            case _:
                assert_never(block)
        is_custom = isinstance(block, ToolCallBlock) and self._form.name_of(block.name).kind == "custom"
        self._open = _Open(block=block, index=index, item=item, reader=InputReader() if is_custom else None)
        self._output.append(item)
        frames = self._frame("response.output_item.added", output_index=index, item=item)
        if part is not None:
            frames += self._item_frame("response.content_part.added", content_index=0, part=part)
        return frames

    def _tell(self, delta: BlockDelta) -> bytes:
        opened = self._open
        if self._hosted is not None:
            self._hosted.told.append(delta.text)
            return b""
        if opened is None:
            return b""
        match opened.block:
            case ReasoningBlock():
                opened.told.append(delta.text)
                return self._item_frame("response.reasoning_text.delta", content_index=0, delta=delta.text)
            case TextBlock():
                return self._tell_text(opened, delta)
            case ToolCallBlock():
                text = delta.text if opened.reader is None else opened.reader.feed(delta.text)
                if self._keeps_parts or opened.reader is None:
                    opened.told.append(delta.text)
                return self._item_frame(_call_event(opened, "delta"), delta=text) if text else b""
            case _:
                assert_never(opened.block)

    def _tell_text(self, opened: _Open, delta: BlockDelta) -> bytes:
        opened.told.append(delta.text)
        opened.logprobs.extend(delta.logprobs)
        logprobs = [encode_logprob(token) for token in delta.logprobs]
        frames = b""
        if delta.text or logprobs or not delta.citations:
            frames = self._item_frame(
                "response.output_text.delta", content_index=0, delta=delta.text, logprobs=logprobs
            )
        for citation in delta.citations:
            frames += self._item_frame(
                "response.output_text.annotation.added",
                content_index=0,
                annotation_index=len(opened.citations),
                annotation=encode_citation(citation),
            )
            opened.citations.append(citation)
        return frames

    # Tools that the server runs: an item each, from the call to what it brought.

    def _begin_hosted(self, block: ServerToolCallBlock) -> bytes:
        call = ServerToolCall(id=block.id, tool=block.tool, name=block.name, arguments="{}")
        number, index = len(self._hosted_calls), len(self._output)
        self._hosted = hosted = _Hosted(number=number, index=index, call=call)
        self._hosted_calls[block.id] = hosted
        item = self._form.hosted.item(number, call, None, "in_progress")
        self._output.append(item)
        return self._frame("response.output_item.added", output_index=index, item=item) + self._hosted_frame(
            hosted, "in_progress"
        )

    def _carry_out(self, hosted: _Hosted) -> bytes:
        """The call is complete, and is being carried out."""
        self._hosted = None
        arguments = "".join(hosted.told)
        hosted.call = msgspec.structs.replace(hosted.call, arguments=arguments)
        self._output[hosted.index] = item = self._form.hosted.item(hosted.number, hosted.call, None, "incomplete")
        match item:
            case WebSearchItem():
                return self._hosted_frame(hosted, "searching")
            case CodeInterpreterItem(code=code):
                return (
                    self._hosted_frame(hosted, "delta", of="code_interpreter_call_code", delta=code)
                    + self._hosted_frame(hosted, "done", of="code_interpreter_call_code", code=code)
                    + self._hosted_frame(hosted, "interpreting")
                )
            case McpCallItem():
                return self._hosted_frame(
                    hosted, "delta", of="mcp_call_arguments", delta=arguments
                ) + self._hosted_frame(hosted, "done", of="mcp_call_arguments", arguments=arguments)
            case _:
                assert_never(item)

    def _end_hosted(self, block: ServerToolResultBlock) -> bytes:
        hosted = self._hosted_calls[block.call_id]
        hosted.has_ended = True
        self._output[hosted.index] = item = self._form.hosted.item(hosted.number, hosted.call, block.output)
        # Only calls of MCP servers have an event for failure; the others' items say it.
        moment = "failed" if isinstance(item, McpCallItem) and item.status == "failed" else "completed"
        return self._hosted_frame(hosted, moment) + self._frame(
            "response.output_item.done", output_index=hosted.index, item=item
        )

    def _give_up_hosted(self) -> bytes:
        """The answer ends, and some calls were not carried out."""
        frames = b""
        for hosted in self._hosted_calls.values():
            if not hosted.has_ended:
                call = msgspec.structs.replace(hosted.call, arguments="".join(hosted.told))
                item = self._form.hosted.item(hosted.number, call, None, "incomplete")
                self._output[hosted.index] = item
                frames += self._frame("response.output_item.done", output_index=hosted.index, item=item)
        self._hosted = None
        return frames

    def _hosted_frame(self, hosted: _Hosted, moment: str, *, of: str | None = None, **members: Json) -> bytes:
        item = self._output[hosted.index]
        kind = of or str(item.__struct_config__.tag)
        return self._frame(f"response.{kind}.{moment}", item_id=item.id, output_index=hosted.index, **members)

    def _close(self, status: ItemStatus) -> bytes:
        """End the open item: `incomplete` where the answer ended inside it."""
        opened, frames = self._open, b""
        if opened is None:
            return b""
        told, item = "".join(opened.told), opened.item
        match opened.block:
            case ReasoningBlock():
                assert isinstance(item, ReasoningItem)
                part = ReasoningText(text=told)
                sealed = None if opened.closed is None else opened.closed.sealed
                item = self._form.reasoning(opened.index, told, sealed, status)
                frames += self._item_frame("response.reasoning_text.done", content_index=0, text=told)
                frames += self._item_frame("response.content_part.done", content_index=0, part=part)
            case TextBlock():
                assert isinstance(item, MessageItem)
                content = output_text(told, opened.citations, opened.logprobs)
                item = self._form.message(opened.index, content, status)
                frames += self._item_frame(
                    "response.output_text.done", content_index=0, text=told, logprobs=content.logprobs
                )
                frames += self._item_frame("response.content_part.done", content_index=0, part=content)
                self._note(Text(told))
            case ToolCallBlock(id=call_id, name=name):
                arguments = told
                if opened.reader is not None:
                    arguments, rest = opened.reader.whole, opened.reader.finish()
                    frames += self._item_frame(_call_event(opened, "delta"), delta=rest) if rest else b""
                member = "arguments" if opened.reader is None else "input"
                frames += self._item_frame(_call_event(opened, "done"), **{member: arguments})
                item = self._form.call(
                    opened.index, call_id=call_id, flat_name=name, arguments=arguments, status=status
                )
                self._note(ToolCall(id=call_id, name=name, arguments=told))
            case _:
                assert_never(opened.block)
        self._output[opened.index] = item
        self._open = None
        return frames + self._frame("response.output_item.done", output_index=opened.index, item=item)

    def _note(self, part: Part) -> None:
        if self._keeps_parts:
            self._parts.append(part)

    # Frames.

    def _item_frame(self, kind: str, **members: Json) -> bytes:
        """About the open item."""
        assert self._open is not None
        return self._frame(kind, item_id=self._open.item.id, output_index=self._open.index, **members)

    def _frame(self, kind: str, **members: Json) -> bytes:
        number, self._number = self._number, self._number + 1
        body = _encode({"type": kind, "sequence_number": number, **members})
        return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"


def _call_event(opened: _Open, moment: str) -> str:
    kind = "function_call_arguments" if opened.reader is None else "custom_tool_call_input"
    return f"response.{kind}.{moment}"
