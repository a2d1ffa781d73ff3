"""Traces for OpenTelemetry: what a request, the calls of upstreams for it and the tools it ran took.

The names are those of the semantic conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/); what they have no name for begins with `deepserve.`.
Spans are made when what they tell of is over, with the ids that `Trace` gave it when it began, so that back ends need
know nothing of this. Imported only where traces are wanted.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from opentelemetry import trace as api
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from typing_extensions import override

from deepserve import __version__
from deepserve.backends.fleet.attempt import Attempt
from deepserve.core.errors import Cancelled, DeepserveError, RequestError
from deepserve.core.events import (
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
from deepserve.core.messages import Json, Message, Part, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Request
from deepserve.core.server_tool import ToolFault
from deepserve.core.trace import Trace
from deepserve.core.usage import Usage

_OWN = "deepserve"
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}", re.ASCII)

Attributes = dict[str, Any]  # Any: what an attribute can be


class _GivenIds(RandomIdGenerator):
    """Those of the span that is made next."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    @override
    def generate_span_id(self) -> int:
        return self.span_id

    @override
    def generate_trace_id(self) -> int:
        return self.trace_id


class _ToolRun(msgspec.Struct):
    name: str
    kind: str
    began_ns: int


class _Running(msgspec.Struct):
    """One request that is being answered. Times: nanoseconds since 1970."""

    began_ns: int
    first_ns: int | None = None
    started: Started | None = None
    usage: Usage | None = None
    cost: str | None = None
    reasons: dict[int, str] = {}
    open_tools: dict[tuple[int, int], ServerToolCallBlock] = {}
    runs: dict[str, _ToolRun] = {}
    blocks: dict[tuple[int, int], list[Json]] = {}


class Telemetry:
    """Hears the gateway as an `Observer`, and the fleet. Gives requests their place in traces by `enter`.

    processors        hand spans on
    includes_content  what is said to models, and what they answer, is told, too
    now_ns            nanoseconds since 1970
    """

    def __init__(
        self,
        processors: Sequence[SpanProcessor],
        *,
        includes_content: bool = False,
        resource: Resource | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        new_span_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            resource=resource or Resource.create(), id_generator=self._ids, shutdown_on_exit=False
        )
        for processor in processors:
            self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(_OWN, __version__)
        self._includes_content = includes_content
        self._now_ns = now_ns
        self._new_span_id = new_span_id
        self._running: dict[str, _Running] = {}

    def close(self) -> None:
        """Hands on what has not been yet. Blocks, for as long as the collector takes."""
        self._provider.shutdown()

    def enter(self, request: Request) -> Request:
        """The request with a span of its own, within its client's where that has one."""
        trace = request.trace or Trace()
        if not trace.trace_id:
            # The request's own id, so that either leads to the other.
            is_fit = _TRACE_ID.fullmatch(request.id) is not None
            trace_id = str(request.id) if is_fit else hashlib.blake2b(request.id.encode(), digest_size=16).hexdigest()
            sampler = self._provider.sampler
            decision = sampler.should_sample(None, int(trace_id, 16), _name_of(request)).decision
            is_sampled = decision is Decision.RECORD_AND_SAMPLE
            trace = msgspec.structs.replace(trace, trace_id=trace_id, is_sampled=is_sampled)
        own = msgspec.structs.replace(trace.child(self._new_span_id()), is_recorded=True)
        return msgspec.structs.replace(request, trace=own)

    # As an observer of the gateway.

    def on_accepted(self, request: Request) -> None:
        trace = request.trace
        if trace is not None and trace.is_recorded and trace.is_sampled:
            self._running[trace.span_id] = _Running(
                began_ns=self._now_ns(), reasons={}, open_tools={}, runs={}, blocks={}
            )

    def on_event(self, request: Request, event: Event) -> None:
        running = None if request.trace is None else self._running.get(request.trace.span_id)
        if running is None:
            return
        match event:
            case BlockDelta():
                if running.first_ns is None:
                    running.first_ns = self._now_ns()
                if self._includes_content:
                    block = running.blocks.get((event.result, event.index))
                    if block is not None:
                        block.append(event.text)
            case BlockOpened(block=ServerToolCallBlock() as call):
                running.open_tools[event.result, event.index] = call
            case BlockOpened(block=ServerToolResultBlock() as result):
                self._end_tool(request, running, result)
            case BlockOpened():
                if self._includes_content:
                    running.blocks[event.result, event.index] = [event.block]
            case BlockClosed():
                made = running.open_tools.pop((event.result, event.index), None)
                if made is not None:
                    running.runs[made.id] = _ToolRun(name=made.name, kind=made.tool, began_ns=self._now_ns())
            case Started():
                running.started = event
            case UsageReported():
                running.usage = event.usage
                running.cost = None if event.cost is None else f"{event.cost.total_usd:f}"
            case Finished():
                running.reasons[event.result] = event.reason
            case Failed():
                running.reasons[event.result] = "error"

    def on_ended(self, request: Request, error: DeepserveError | None) -> None:
        trace = request.trace
        running = None if trace is None else self._running.pop(trace.span_id, None)
        if running is None or trace is None:
            return
        started = running.started
        attributes = {
            **_asked(request),
            **_usage(running.usage or (None if started is None else started.prompt_usage)),
            "gen_ai.response.id": request.answer_id or request.id,
            "deepserve.request.id": request.id,
            "deepserve.dialect": request.dialect or None,
            "deepserve.client_request.id": trace.given_id,
            "deepserve.cost_usd": running.cost,
        }
        if started is not None:
            attributes |= {
                "gen_ai.provider.name": started.served_by.provider,
                "gen_ai.response.model": started.model or request.model,
                "deepserve.served_by": started.served_by.label,
                "deepserve.route": started.route,
                "deepserve.num_failed_attempts": len(started.earlier),
            }
        if running.reasons:
            attributes["gen_ai.response.finish_reasons"] = [running.reasons[one] for one in sorted(running.reasons)]
        if running.first_ns is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = (running.first_ns - running.began_ns) / 1e9
        if self._includes_content:
            attributes |= _content(request.messages, running)
        self._emit(
            _name_of(request),
            trace,
            kind=SpanKind.SERVER,
            span_id=trace.span_id,
            parent_id=trace.parent_id,
            began_ns=running.began_ns,
            ended_ns=self._now_ns(),
            attributes=attributes,
            error=error,
        )

    def _end_tool(self, request: Request, running: _Running, result: ServerToolResultBlock) -> None:
        run = running.runs.pop(result.call_id, None)
        if run is None or request.trace is None:
            return
        fault = result.output if isinstance(result.output, ToolFault) else None
        self._emit(
            f"execute_tool {run.name}",
            request.trace,
            kind=SpanKind.INTERNAL,
            span_id=self._new_span_id(),
            parent_id=request.trace.span_id,
            began_ns=run.began_ns,
            ended_ns=self._now_ns(),
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": run.name,
                "gen_ai.tool.call.id": result.call_id,
                "gen_ai.tool.type": "extension",
                "deepserve.tool.kind": run.kind,
                "error.type": None if fault is None else fault.code,
            },
        )

    # As an observer of the fleet.

    def on_settled(self, attempt: Attempt, error: DeepserveError | None) -> None:
        trace = attempt.request.trace
        if trace is None or not trace.is_recorded or not trace.is_sampled:
            return
        ended_ns = self._now_ns()
        began_ns = ended_ns - round(attempt.elapsed_s * 1e9)
        first_s = attempt.first_content_s
        self._emit(
            _name_of(attempt.request),
            trace,
            kind=SpanKind.CLIENT,
            span_id=trace.span_id,
            parent_id=trace.parent_id,
            began_ns=began_ns,
            ended_ns=ended_ns,
            attributes={
                **_asked(attempt.request),
                **_usage(attempt.watch.usage),
                "gen_ai.provider.name": attempt.member.kind,
                "gen_ai.response.model": attempt.lane.served.served_by.model,
                "gen_ai.response.time_to_first_chunk": first_s,
                "deepserve.upstream": attempt.member.id,
            },
            error=error,
        )

    def _emit(
        self,
        name: str,
        trace: Trace,
        *,
        kind: SpanKind,
        span_id: str,
        parent_id: str,
        began_ns: int,
        ended_ns: int,
        attributes: Attributes,
        error: DeepserveError | None = None,
    ) -> None:
        context = None
        self._ids.trace_id, self._ids.span_id = int(trace.trace_id, 16), int(span_id, 16)
        if parent_id:
            flags = TraceFlags(TraceFlags.SAMPLED if trace.is_sampled else TraceFlags.DEFAULT)
            parent = SpanContext(self._ids.trace_id, int(parent_id, 16), is_remote=True, trace_flags=flags)
            context = api.set_span_in_context(NonRecordingSpan(parent))
        else:
            context = api.set_span_in_context(api.INVALID_SPAN)
        span = self._tracer.start_span(
            name,
            context=context,
            kind=kind,
            start_time=began_ns,
            attributes={key: value for key, value in attributes.items() if value is not None},
        )
        if error is not None:
            span.set_attribute("error.type", error.code)
            # What a client got wrong is no fault of who tells so.
            if kind is not SpanKind.SERVER or not isinstance(error, RequestError | Cancelled):
                span.set_status(Status(StatusCode.ERROR, error.message if self._includes_content else None))
        span.end(end_time=ended_ns)


def _name_of(request: Request) -> str:
    return f"{_operation(request)} {request.model}"


def _operation(request: Request) -> str:
    return "chat" if request.infill is None else "text_completion"


def _asked(request: Request) -> Attributes:
    sampling = request.sampling
    return {
        "gen_ai.operation.name": _operation(request),
        "gen_ai.request.model": request.model,
        "gen_ai.request.max_tokens": request.max_output_tokens,
        "gen_ai.request.choice.count": request.num_results if request.num_results != 1 else None,
        "gen_ai.request.stream": not request.is_whole,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.seed": sampling.seed,
    }


def _usage(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.hit_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens or None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }


# Content, in the conventions' own JSON.


def _content(messages: Sequence[Message], running: _Running) -> Attributes:
    said = [
        {"role": message.role, "parts": [shown for part in message.parts if (shown := _part(part)) is not None]}
        for message in messages
    ]
    answers: dict[int, list[Json]] = {}
    for (result, _), (block, *texts) in sorted(running.blocks.items()):
        shown = _answered(block, "".join(texts))
        if shown is not None:
            answers.setdefault(result, []).append(shown)
    told = [
        {"role": "assistant", "parts": parts, "finish_reason": running.reasons.get(result, "error")}
        for result, parts in answers.items()
    ]
    return {
        "gen_ai.input.messages": msgspec.json.encode(said).decode(),
        "gen_ai.output.messages": msgspec.json.encode(told).decode(),
    }


def _part(part: Part) -> Json:
    match part:
        case Text():
            return {"type": "text", "content": part.text}
        case Reasoning():
            return {"type": "reasoning", "content": part.text}
        case ToolCall():
            return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.arguments}
        case ToolResult():
            text = "".join(one.text for one in part.content if isinstance(one, Text))
            return {"type": "tool_call_response", "id": part.call_id, "response": text}
        case _:
            return None


def _answered(block: object, text: str) -> Json:
    match block:
        case TextBlock():
            return {"type": "text", "content": text}
        case ReasoningBlock():
            return {"type": "reasoning", "content": text}
        case ToolCallBlock():
            return {"type": "tool_call", "id": block.id, "name": block.name, "arguments": text}
        case _:
            return None
