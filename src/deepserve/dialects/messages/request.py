"""Messages requests: body to `core.Request`.

Tolerant unless asked otherwise, as in Chat. Strict repeats the refusals of api.deepseek.com as far as they are known
for this dialect. In both, a field is honoured, refused by name, or named to the client as ignored (`fields`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from deepserve.config import Limits
from deepserve.core.errors import DeepserveError, InvalidField, MalformedBody, UnknownModel, UnsupportedFeature
from deepserve.core.model import ModelName
from deepserve.core.request import Request, RequestId, Thinking
from deepserve.core.sampling import Sampling
from deepserve.core.tenant import Tenant
from deepserve.dialects.body import JsonBody
from deepserve.dialects.deepseek import MAX_OUTPUT_TOKENS, default_output_tokens
from deepserve.dialects.exchange import Asked
from deepserve.dialects.knobs import read_knob
from deepserve.dialects.messages.answer_form import decode_answer_form
from deepserve.dialects.messages.conversation import check_traces, decode_messages, decode_system
from deepserve.dialects.messages.end_user import end_user
from deepserve.dialects.messages.fields import HONOURED, REFUSED
from deepserve.dialects.messages.thinking import decode_thinking
from deepserve.dialects.messages.tools import decode_tool_choice, decode_tools
from deepserve.dialects.node import Node, not_json
from deepserve.dialects.past_traces import count_traces
from deepserve.dialects.reading import Reading
from deepserve.dialects.routing_wishes import read_wishes

_CONTEXT_SUFFIX = re.compile(r"\[\d+[mk]\]\s*\Z", re.IGNORECASE)
"""`deepseek-v4-pro[1m]`: how users of Claude Code ask for the long context, which every request here has."""


class Names(Protocol):
    """The model names that exist."""

    def resolve(self, requested: str) -> ModelName: ...

    def resolve_family(self, requested: str) -> ModelName | None: ...

    def unknown(self, requested: str) -> DeepserveError: ...


class MessagesRequest(Asked, frozen=True, kw_only=True):
    """A decoded request and what only this dialect needs to answer it.

    has_context_edits  the client asked for edits of the conversation, and is told that none were made
    """

    has_context_edits: bool = False


def decode_request(
    raw: bytes,
    *,
    names: Names,
    limits: Limits,
    request_id: RequestId,
    arrived_at: datetime,
    tenant: Tenant,
    is_strict: bool = False,
    headers: Mapping[str, str] = {},
) -> MessagesRequest:
    """Read a body. Raises RequestError."""
    try:
        body = JsonBody(raw, limits)
    except MalformedBody as error:
        raise not_json(error) from error
    root = Node(body, body.value)
    reading = Reading(root, limits, is_strict=is_strict)
    model = _model(root.required("model").string(), names)
    if is_strict and model.retired_at is not None and arrived_at >= model.retired_at:
        raise names.unknown(model.requested)
    _refuse_unserved(reading)
    messages = (*decode_system(reading), *decode_messages(reading))
    thinking = decode_thinking(reading, default=model.thinking)
    tools, server_tools = decode_tools(reading)
    if is_strict and thinking.enabled:
        check_traces(messages)
    request = Request(
        id=request_id,
        model=model.id,
        requested_model=model.requested,
        dialect="messages",
        arrived_at=arrived_at,
        messages=messages,
        tools=tools,
        server_tools=server_tools,
        tool_choice=decode_tool_choice(reading, thinking, (*tools, *server_tools)),
        response_format=decode_answer_form(reading),
        thinking=thinking,
        sampling=_sampling(reading, thinking),
        max_output_tokens=_max_tokens(reading),
        default_output_tokens=default_output_tokens(thinking),
        stop=reading.stop_strings("stop_sequences"),
        tenant=tenant,
        user_id=_user_id(reading),
        schema_fields=reading.schema_fields,
        routing=read_wishes(
            headers, model, is_thinking=lambda default: decode_thinking(reading, default=default).enabled
        ),
        is_whole=not reading.flag("stream"),
        is_strict=is_strict,
    )
    for name in root.keys():  # noqa: SIM118 - a Node, not a dict
        if name not in HONOURED and root.optional(name) is not None:
            reading.ignore(name)
    return MessagesRequest(
        request=request,
        model=model,
        is_stream=not request.is_whole,
        ignored=reading.ignored,
        past_reasoning=count_traces(messages, is_needed=thinking.enabled and bool(tools or server_tools)),
        has_context_edits=root.optional("context_management") is not None,
    )


def _model(requested: str, names: Names) -> ModelName:
    """The vendor's own names first, then families of Anthropic's. Raises UnknownModel."""
    plain = _CONTEXT_SUFFIX.sub("", requested)
    try:
        model = names.resolve(plain)
    except UnknownModel:
        family = names.resolve_family(plain)
        if family is None:
            raise
        model = family
    return msgspec.structs.replace(model, requested=requested)


def _refuse_unserved(reading: Reading) -> None:
    """Raises UnsupportedFeature for a field of `REFUSED`; in strict mode too, for ignored they would do harm."""
    for path, instead in REFUSED.items():
        name, _, inner = path.partition(".")
        node = reading.root.optional(name)
        if node is not None and inner:
            node = node.optional(inner)
        if node is not None:
            raise UnsupportedFeature(f"`{path}` is not supported: {instead}.", field=path)


def _sampling(reading: Reading, thinking: Thinking) -> Sampling:
    temperature, top_p = read_knob(reading.root, "temperature"), read_knob(reading.root, "top_p")
    top_k = read_knob(reading.root, "top_k")
    if reading.is_strict:
        # The vendor checks ranges, then draws as it likes: api-docs.deepseek.com/guides/anthropic_api.
        overruled = {"top_k": top_k}
        if thinking.enabled:
            overruled |= {"temperature": temperature, "top_p": top_p}
            temperature = top_p = None
        for name, value in overruled.items():
            if value is not None:
                reading.ignore(name)
        top_k = None
    return Sampling(temperature=temperature, top_p=top_p, top_k=None if top_k is None else int(top_k))


def _max_tokens(reading: Reading) -> int | None:
    """Anthropic requires the field; without it the vendor's defaults for Chat apply."""
    node = reading.root.optional("max_tokens")
    if node is None:
        return None
    value = node.integer("u32", low=-(2**63), high=2**63 - 1)
    if not 1 <= value <= MAX_OUTPUT_TOKENS:
        raise InvalidField(
            f"Invalid max_tokens value, the valid range of max_tokens is [1, {MAX_OUTPUT_TOKENS}]", field="max_tokens"
        )
    return value


def _user_id(reading: Reading) -> str | None:
    node = reading.root.optional("metadata")
    if node is None:
        return None
    reading.ignore_others(node, ("user_id",), "metadata")
    user_id = node.optional("user_id")
    return None if user_id is None else end_user(user_id.string())
