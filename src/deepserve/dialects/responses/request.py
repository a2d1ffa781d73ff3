"""Responses requests: a body to `core.Request`, and what its answer repeats of it.

Tolerant unless asked otherwise. Strict does as api.deepseek.com does: stateless, and everything it does not document
is ignored. In both, a field is honoured, refused by name, or named to the client as ignored (`fields`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from deepserve.config import Limits
from deepserve.core.errors import DeepserveError, InvalidField, MalformedBody
from deepserve.core.messages import Json
from deepserve.core.model import ModelName
from deepserve.core.request import Request, Thinking, ToolBudget
from deepserve.core.sampling import KNOBS, Sampling
from deepserve.dialects.body import JsonBody
from deepserve.dialects.deepseek import DOCUMENTED_EFFORTS, EFFORTS, MAX_OUTPUT_TOKENS, default_output_tokens
from deepserve.dialects.exchange import Arrival, Asked
from deepserve.dialects.knobs import read_extended_knob, read_knob, read_seed, read_token_limit, read_top_k
from deepserve.dialects.node import Node, not_json
from deepserve.dialects.past_traces import count_traces
from deepserve.dialects.reading import Reading
from deepserve.dialects.responses.fields import INCLUDABLE
from deepserve.dialects.responses.items import decode_conversation
from deepserve.dialects.responses.memory import Keeper, chain, listed
from deepserve.dialects.responses.reading import note_unknown, refuse_unserved
from deepserve.dialects.responses.tools import (
    OfferedTools,
    decode_response_format,
    decode_tool_choice,
    decode_tools,
)
from deepserve.dialects.routing_wishes import read_wishes

_MAX_METADATA = 16
_MAX_METADATA_KEY = 64
_MAX_METADATA_VALUE = 512


class Names(Protocol):
    """The model names that exist."""

    def resolve(self, requested: str) -> ModelName: ...

    def unknown(self, requested: str) -> DeepserveError: ...


class Echo(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer repeats of its request, in the client's own words."""

    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: Mapping[str, str] = {}
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning_summary: str | None = None
    safety_identifier: str | None = None
    text: Mapping[str, Json] = {}
    tool_choice: Json = "auto"
    tools: tuple[Json, ...] = ()
    user: str | None = None


class ResponsesRequest(Asked, frozen=True, kw_only=True):
    """A decoded request and what only this dialect needs to answer it.

    offered      the tools by the names that the model uses
    past, items  what was said before and what was sent this time, each item with an id
    is_kept      the response may be asked for later
    is_sealed    the trace is sent in a form for sending back, too
    included     what else is to be sent that is left out otherwise
    """

    echo: Echo
    offered: OfferedTools
    past: list[dict[str, Json]]
    items: list[dict[str, Json]]
    is_kept: bool = False
    is_background: bool = False
    is_sealed: bool = False
    included: frozenset[str] = frozenset()


def decode_request(raw: bytes, arrival: Arrival, *, names: Names, limits: Limits, keeper: Keeper) -> ResponsesRequest:
    """Read a body; blocks while it looks up earlier responses. Raises RequestError."""
    reading = open_body(raw, limits, is_strict=arrival.is_strict)
    root = reading.root
    requested = root.required("model").string()
    refuse_unserved(reading)
    previous_id = _text(reading.extension("previous_response_id"))
    past = listed(chain(keeper.find, previous_id, max_items=limits.messages))
    conversation = decode_conversation(reading, past=past, keeper=keeper, digits=arrival.id)
    model = names.resolve(requested)
    if arrival.is_strict and model.retired_at is not None and arrival.at >= model.retired_at:
        raise names.unknown(requested)
    thinking = _thinking(reading, default=model.thinking)
    offered = decode_tools(reading)
    tool_choice = decode_tool_choice(reading, thinking, offered)
    included = _included(reading)
    messages = conversation.messages
    echo = _echo(reading, previous_id)
    request = Request(
        id=arrival.id,
        model=model.id,
        requested_model=requested,
        dialect="responses",
        arrived_at=arrival.at,
        messages=messages,
        tools=offered.tools,
        server_tools=offered.server_tools,
        tool_budget=ToolBudget(max_calls=echo.max_tool_calls),
        tool_choice=tool_choice,
        response_format=decode_response_format(reading),
        thinking=thinking,
        sampling=_sampling(reading, thinking, shows_logprobs="message.output_text.logprobs" in included),
        max_output_tokens=read_token_limit(root.optional("max_output_tokens"), MAX_OUTPUT_TOKENS),
        default_output_tokens=default_output_tokens(thinking),
        tenant=arrival.tenant,
        user_id=_user(reading),
        schema_fields=reading.schema_fields,
        routing=read_wishes(
            arrival.headers, model, is_thinking=lambda default: _thinking(reading, default=default).enabled
        ),
        is_whole=not reading.flag("stream"),
        is_strict=arrival.is_strict,
    )
    store, background = reading.extension("store"), reading.extension("background")
    is_kept = keeper.can_keep and not arrival.is_strict and (store is None or store.boolean())
    is_background = background is not None and background.boolean()
    if is_background and not is_kept:
        raise InvalidField(
            "`background` needs `store`: without it nothing could be asked for later.", field="background"
        )
    _note_truncation(reading)
    note_unknown(reading)
    return ResponsesRequest(
        request=request,
        model=model,
        echo=echo,
        offered=offered,
        past=past,
        items=conversation.items,
        is_stream=not request.is_whole,
        is_kept=is_kept,
        is_background=is_background,
        is_sealed="reasoning.encrypted_content" in included,
        included=included,
        ignored=reading.ignored,
        past_reasoning=count_traces(
            messages, is_needed=thinking.enabled and bool(offered.tools or offered.server_tools)
        ),
    )


def open_body(raw: bytes, limits: Limits, *, is_strict: bool) -> Reading:
    """Raises MalformedBody, in the vendor's words."""
    try:
        body = JsonBody(raw, limits)
    except MalformedBody as error:
        raise not_json(error) from error
    return Reading(Node(body, body.value), limits, is_strict=is_strict)


def _text(node: Node | None) -> str | None:
    return None if node is None else node.string()


def _thinking(reading: Reading, *, default: bool | None) -> Thinking:
    node = reading.root.optional("reasoning")
    effort = None if node is None else node.optional("effort")
    if node is not None:
        reading.ignore_others(node, ("effort",), "reasoning")
    if effort is None:
        return Thinking(enabled=default is not False)
    spelled = effort.variant(DOCUMENTED_EFFORTS if reading.is_strict else tuple(EFFORTS))
    level = EFFORTS[spelled]
    return Thinking(enabled=False) if level == "none" else Thinking(effort=level)


_SAMPLING_FIELDS = frozenset((*KNOBS, "seed", "top_logprobs"))


def _sampling(reading: Reading, thinking: Thinking, *, shows_logprobs: bool) -> Sampling:
    if not reading.mentions(_SAMPLING_FIELDS):
        return Sampling(num_top_logprobs=0 if shows_logprobs else None)
    temperature, top_p = read_knob(reading.root, "temperature"), read_knob(reading.root, "top_p")
    if reading.is_strict and thinking.enabled:
        # The vendor checks the range, then draws as it likes: api-docs.deepseek.com/guides/thinking_mode.
        for name, value in (("temperature", temperature), ("top_p", top_p)):
            if value is not None:
                reading.ignore(name)
        temperature = top_p = None
    num_top = reading.root.optional("top_logprobs")
    num_top_logprobs = 0 if shows_logprobs else None
    if num_top is not None and num_top.integer("u8") > 0:
        num_top_logprobs = num_top.integer("u8")
        if num_top_logprobs > 20:
            raise InvalidField(
                "Invalid top_logprobs value, the valid range of top_logprobs is [0, 20].", field="top_logprobs"
            )
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=read_top_k(reading),
        min_p=read_extended_knob(reading, "min_p"),
        top_a=read_extended_knob(reading, "top_a"),
        repetition_penalty=read_extended_knob(reading, "repetition_penalty"),
        frequency_penalty=read_extended_knob(reading, "frequency_penalty"),
        presence_penalty=read_extended_knob(reading, "presence_penalty"),
        seed=read_seed(reading),
        num_top_logprobs=num_top_logprobs,
    )


def _included(reading: Reading) -> frozenset[str]:
    node = reading.extension("include")
    names = frozenset() if node is None else frozenset(item.string() for item in node.items())
    if names - INCLUDABLE:
        reading.ignore("include")
    return names


def _user(reading: Reading) -> str | None:
    """What the vendor calls `user_id` elsewhere."""
    user = _text(reading.root.optional("user"))
    if user is not None and len(user.encode()) > reading.limits.user_id_bytes:
        raise InvalidField(f"Invalid user: at most {reading.limits.user_id_bytes} bytes are read", field="user")
    return user


def _note_truncation(reading: Reading) -> None:
    node = reading.extension("truncation")
    if node is not None and node.variant(("auto", "disabled")) == "auto":
        reading.ignore("truncation")


def _metadata(reading: Reading) -> dict[str, str]:
    node = reading.extension("metadata")
    if node is None:
        return {}
    pairs = {key: node.child(key).string() for key in node.keys()}  # noqa: SIM118 - a Node, not a dict
    too_long = [key for key, value in pairs.items() if len(key) > _MAX_METADATA_KEY or len(value) > _MAX_METADATA_VALUE]
    if len(pairs) > _MAX_METADATA or too_long:
        raise InvalidField(
            f"Invalid metadata: at most {_MAX_METADATA} pairs, keys of {_MAX_METADATA_KEY} and values of "
            f"{_MAX_METADATA_VALUE} characters.",
            field="metadata",
        )
    return pairs


def _echo(reading: Reading, previous_id: str | None) -> Echo:
    root = reading.root
    reasoning, text, tools = root.optional("reasoning"), root.optional("text"), root.optional("tools")
    summary = None if reasoning is None else reasoning.optional("summary")
    choice, max_tool_calls = root.optional("tool_choice"), reading.extension("max_tool_calls")
    return Echo(
        instructions=_text(root.optional("instructions")),
        max_output_tokens=read_token_limit(root.optional("max_output_tokens"), MAX_OUTPUT_TOKENS),
        max_tool_calls=None if max_tool_calls is None else max_tool_calls.integer("u32"),
        metadata=_metadata(reading),
        previous_response_id=previous_id,
        prompt_cache_key=_text(reading.extension("prompt_cache_key")),
        reasoning_summary=_text(summary),
        safety_identifier=_text(reading.extension("safety_identifier")),
        text={} if text is None else text.mapping(),
        tool_choice="auto" if choice is None else choice.value,
        tools=() if tools is None else tuple(tools.sequence()),
        user=_text(root.optional("user")),
    )
