"""Chat Completions requests: body to `core.Request`; the way back is `upstream_request`.

Tolerant unless asked otherwise: what can be served is served. Strict repeats the refusals of api.deepseek.com, text for
text, so that client authors can test against them. In both, a field is honoured, refused by name, or named to the
client as ignored (`fields`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from deepserve.config import Limits
from deepserve.core.errors import DeepserveError, MalformedBody
from deepserve.core.model import ModelName
from deepserve.core.request import Request, RequestId, ServerTool
from deepserve.core.tenant import Tenant
from deepserve.dialects.body import JsonBody
from deepserve.dialects.chat.answer_form import decode_answer_form
from deepserve.dialects.chat.flavour import Flavour
from deepserve.dialects.chat.messages import decode_messages
from deepserve.dialects.chat.reading import ChatReading
from deepserve.dialects.chat.sampling import (
    decode_default_output_tokens,
    decode_max_output_tokens,
    decode_sampling,
)
from deepserve.dialects.chat.sequence import check_sequence, check_traces
from deepserve.dialects.chat.thinking import decode_thinking
from deepserve.dialects.chat.tools import decode_tool_choice, decode_tools
from deepserve.dialects.exchange import Arrival, Asked
from deepserve.dialects.knobs import read_num_results
from deepserve.dialects.node import Node, not_json
from deepserve.dialects.past_traces import count_traces
from deepserve.dialects.request_members import read_include_usage, read_user_id
from deepserve.dialects.routing_wishes import read_wishes


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
    headers: Mapping[str, str] = {},
) -> ChatRequest:
    """Read a body. Raises RequestError; is_beta: it came to a `/beta` address, where strict tools are checked."""
    arrival = Arrival(id=request_id, at=arrived_at, tenant=tenant, is_strict=is_strict, headers=headers)
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

    def is_thinking(default: bool) -> bool:
        return decode_thinking(root, flavour, default=default, is_strict=is_strict).thinking.enabled

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
        dialect=flavour.dialect,
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
        routing=read_wishes(arrival.headers, model, is_thinking=is_thinking),
        is_whole=not is_stream,
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
