"""Chat Completions requests: body to `core.Request` and back.

Tolerant unless asked otherwise: what can be served is served. Strict repeats the refusals of api.deepseek.com, text for
text, so that client authors can test against them. In both, a field is honoured, refused by name, or named to the
client as ignored (`fields`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import msgspec

from deepserve.config import Limits
from deepserve.core.errors import DeepserveError, MalformedBody
from deepserve.core.messages import Json
from deepserve.core.model import ModelName
from deepserve.core.request import Request, RequestId, ServerTool
from deepserve.core.sampling import KNOBS
from deepserve.core.tenant import Tenant
from deepserve.dialects.body import JsonBody
from deepserve.dialects.chat.answer_form import decode_answer_form, encode_answer_form
from deepserve.dialects.chat.flavour import Flavour
from deepserve.dialects.chat.messages import decode_messages, encode_message
from deepserve.dialects.chat.reading import ChatReading
from deepserve.dialects.chat.sampling import (
    decode_default_output_tokens,
    decode_max_output_tokens,
    decode_sampling,
)
from deepserve.dialects.chat.sequence import check_sequence, check_traces
from deepserve.dialects.chat.thinking import decode_thinking
from deepserve.dialects.chat.tools import decode_tool_choice, decode_tools, encode_tool, encode_tool_choice
from deepserve.dialects.exchange import Arrival, Asked
from deepserve.dialects.knobs import read_num_results
from deepserve.dialects.node import Node, not_json
from deepserve.dialects.past_traces import count_traces
from deepserve.dialects.request_members import read_include_usage, read_user_id


class Names(Protocol):
    """The model names that exist."""

    def resolve(self, requested: str) -> ModelName: ...

    def unknown(self, requested: str) -> DeepserveError: ...


class ChatRequest(Asked, frozen=True, kw_only=True):
    """A decoded request and what only this dialect needs to answer it."""

    include_usage: bool = False


def decode_request(
    raw: bytes,
    *,
    flavour: Flavour,
    names: Names,
    limits: Limits,
    request_id: RequestId,
    arrived_at: datetime,
    tenant: Tenant,
    is_strict: bool = False,
    is_beta: bool = False,
) -> ChatRequest:
    """Read a body. Raises RequestError; is_beta: it came to a `/beta` address, where strict tools are checked."""
    arrival = Arrival(id=request_id, at=arrived_at, tenant=tenant, is_strict=is_strict)
    root = read_root(raw, limits)
    return decode_root(root, arrival, flavour=flavour, names=names, limits=limits, is_beta=is_beta)


def read_root(raw: bytes, limits: Limits) -> Node:
    """The value of a body. Raises MalformedBody in the vendor's words."""
    try:
        body = JsonBody(raw, limits)
    except MalformedBody as error:
        raise not_json(error) from error
    return Node(body, body.value)


def decode_root(
    root: Node,
    arrival: Arrival,
    *,
    flavour: Flavour,
    names: Names,
    limits: Limits,
    is_beta: bool = False,
    server_tools: tuple[ServerTool, ...] = (),
    is_own_tool: Callable[[Node], bool] | None = None,
) -> ChatRequest:
    """Read the value of a body. Raises RequestError.

    server_tools: what a service runs itself, read by its own modules. is_own_tool: tells it among `tools`
    """
    is_strict = arrival.is_strict
    reading = ChatReading(root, flavour, limits, is_strict=is_strict, is_beta=is_beta)
    requested = root.required("model").string()
    messages = decode_messages(reading, root.required("messages"))
    reading.refuse_unserved()
    model = names.resolve(requested)
    if is_strict and model.retired_at is not None and arrival.at >= model.retired_at:
        raise names.unknown(requested)
    resolved = decode_thinking(root, flavour, default=model.thinking, is_strict=is_strict)
    thinking = resolved.thinking
    for path in resolved.overruled:
        reading.ignore(path)
    is_stream = reading.flag("stream")
    sampling = decode_sampling(reading, thinking)
    tools = decode_tools(reading, is_own=is_own_tool)
    called = [tool.name for tool in server_tools if not tool.is_first]
    tool_choice = decode_tool_choice(reading, thinking, [*(tool.name for tool in tools), *called])
    response_format = decode_answer_form(reading, messages)
    check_sequence(messages)
    if is_strict and thinking.enabled:
        check_traces(messages)
    request = Request(
        id=arrival.id,
        model=model.id,
        requested_model=requested,
        arrived_at=arrival.at,
        messages=messages,
        tools=tools,
        server_tools=server_tools,
        tool_choice=tool_choice,
        response_format=response_format,
        thinking=thinking,
        sampling=sampling,
        max_output_tokens=decode_max_output_tokens(reading),
        default_output_tokens=decode_default_output_tokens(reading, thinking),
        stop=reading.stop_strings("stop"),
        num_results=read_num_results(reading),
        tenant=arrival.tenant,
        user_id=read_user_id(reading),
        schema_fields=reading.schema_fields,
        is_strict=is_strict,
    )
    include_usage = read_include_usage(reading, is_stream=is_stream)
    reading.note_unknown()
    return ChatRequest(
        request=request,
        model=model,
        is_stream=is_stream,
        include_usage=include_usage,
        ignored=reading.ignored,
        past_reasoning=count_traces(messages, is_needed=thinking.enabled and bool(tools or called)),
    )


def encode_request(
    request: Request,
    *,
    is_stream: bool = False,
    include_usage: bool = False,
    reasoning_field: str = "reasoning_content",
) -> bytes:
    """The body that asks another server of this dialect the same question.

    Not carried, because the dialect has no word for it: infill, server tools, provider preferences, fallback models,
    tool namespaces, citations, message ids and tasks, file names of images, and whether a tool result is an error.
    """
    sampling, thinking = request.sampling, request.thinking
    fields: dict[str, Json] = {
        "model": request.model,
        "messages": [encode_message(message, reasoning_field) for message in request.messages],
        "thinking": {"type": "enabled" if thinking.enabled else "disabled"},
        "reasoning_effort": thinking.effort if thinking.enabled else None,
        "thinking_budget": thinking.budget_tokens,
        "include_reasoning": False if thinking.exclude else None,
        "max_tokens": request.max_output_tokens,
        "stop": list(request.stop) or None,
        "stream": is_stream or None,
        "stream_options": {"include_usage": True} if is_stream and include_usage else None,
        "n": request.num_results if request.num_results > 1 else None,
        "user_id": request.user_id,
        "logit_bias": {str(token): bias for token, bias in request.sampling.logit_bias.items()} or None,
        "seed": sampling.seed,
        "logprobs": True if sampling.num_top_logprobs is not None else None,
        "top_logprobs": sampling.num_top_logprobs or None,
    }
    fields.update({name: getattr(sampling, name) for name in KNOBS})
    if request.tools:
        fields["tools"] = [encode_tool(tool) for tool in request.tools]
    fields["tool_choice"] = encode_tool_choice(request.tool_choice)
    if not request.tool_choice.is_parallel:
        fields["parallel_tool_calls"] = False
    fields |= encode_answer_form(request.response_format)
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})
