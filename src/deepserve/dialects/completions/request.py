"""Completion requests: body to `core.Request`.

Tolerant unless asked otherwise, like Chat. The prompt is text: token ids are refused, because they could spell what
only the server may write.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from deepserve.config import Limits
from deepserve.core.errors import DeepserveError, InvalidField, MalformedBody, UnsupportedFeature
from deepserve.core.model import ModelName
from deepserve.core.request import Infill, Request, RequestId, Thinking
from deepserve.core.sampling import Sampling
from deepserve.core.tenant import Tenant
from deepserve.dialects import deepseek
from deepserve.dialects.body import JsonBody
from deepserve.dialects.completions.fields import (
    DOCUMENTED,
    EXTENSIONS,
    MAX_LOGPROBS,
    MAX_OUTPUT_TOKENS,
    REFUSED,
)
from deepserve.dialects.exchange import Arrival, Asked
from deepserve.dialects.knobs import (
    read_extended_knob,
    read_knob,
    read_logit_bias,
    read_num_results,
    read_seed,
    read_token_limit,
    read_top_k,
)
from deepserve.dialects.node import Node, not_json
from deepserve.dialects.reading import Reading
from deepserve.dialects.request_members import read_include_usage, read_user_id
from deepserve.dialects.routing_wishes import read_wishes


class Names(Protocol):
    """The model names that exist."""

    def resolve(self, requested: str) -> ModelName: ...

    def unknown(self, requested: str) -> DeepserveError: ...


class CompletionRequest(Asked, frozen=True, kw_only=True):
    """A decoded request and what only this dialect needs to answer it."""

    infill: Infill
    include_usage: bool = False


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
) -> CompletionRequest:
    """Read a body. Raises RequestError."""
    arrival = Arrival(id=request_id, at=arrived_at, tenant=tenant, is_strict=is_strict, headers=headers)
    return decode_root(read_root(raw, limits), arrival, names=names, limits=limits)


def read_root(raw: bytes, limits: Limits) -> Node:
    """The value of a body. Raises MalformedBody in the vendor's words."""
    try:
        body = JsonBody(raw, limits)
    except MalformedBody as error:
        raise not_json(error) from error
    return Node(body, body.value)


def decode_root(
    root: Node, arrival: Arrival, *, names: Names, limits: Limits, own_fields: frozenset[str] = frozenset()
) -> CompletionRequest:
    """Read the value of a body. Raises RequestError. own_fields: those that the caller reads."""
    is_strict = arrival.is_strict
    reading = Reading(root, limits, is_strict=is_strict)
    requested = root.required("model").string()
    prompt = _prompt(reading, root.required("prompt"))
    for name, instead in REFUSED.items():
        node = reading.extension(name)
        if node is not None and not (name == "best_of" and node.value == 1):
            raise UnsupportedFeature(f"`{name}` is not supported: {instead}.", field=name)
    model = names.resolve(requested)
    if is_strict and model.retired_at is not None and arrival.at >= model.retired_at:
        raise names.unknown(requested)
    suffix = root.optional("suffix")
    infill = Infill(prompt=prompt, suffix=None if suffix is None else suffix.string(), echo=reading.flag("echo"))
    is_stream = reading.flag("stream")
    request = Request(
        id=arrival.id,
        model=model.id,
        requested_model=requested,
        dialect="completions",
        arrived_at=arrival.at,
        infill=infill,
        thinking=Thinking(enabled=False),
        sampling=_sampling(reading, infill),
        max_output_tokens=read_token_limit(
            root.optional("max_tokens"), MAX_OUTPUT_TOKENS if is_strict else deepseek.MAX_OUTPUT_TOKENS
        ),
        default_output_tokens=MAX_OUTPUT_TOKENS,
        stop=reading.stop_strings("stop"),
        num_results=read_num_results(reading),
        tenant=arrival.tenant,
        user_id=read_user_id(reading),
        routing=read_wishes(arrival.headers, model, is_thinking=None),
        is_whole=not is_stream,
        is_strict=is_strict,
    )
    include_usage = read_include_usage(reading, is_stream=is_stream)
    known = DOCUMENTED if is_strict else DOCUMENTED | EXTENSIONS | own_fields
    for name in root.keys():  # noqa: SIM118 - a Node, not a dict
        if name not in known and root.optional(name) is not None:
            reading.ignore(name)
    return CompletionRequest(
        request=request,
        infill=infill,
        model=model,
        is_stream=is_stream,
        include_usage=include_usage,
        ignored=reading.ignored,
    )


def _prompt(reading: Reading, node: Node) -> str:
    """A text; tolerant mode also takes a list with one text, as some clients wrap it."""
    if isinstance(node.value, list) and not reading.is_strict:
        items = list(node.items())
        if any(isinstance(item.value, int | list) for item in items):
            raise UnsupportedFeature("A prompt of token ids is not supported: send text.", field="prompt")
        if len(items) != 1:
            raise UnsupportedFeature(
                f"{len(items)} prompts in one request are not supported: send one request for each.", field="prompt"
            )
        return items[0].string()
    return node.string()


def _sampling(reading: Reading, infill: Infill) -> Sampling:
    num_top_logprobs = None
    node = reading.root.optional("logprobs")
    if node is not None:
        num_top_logprobs = node.integer("u8")
        if num_top_logprobs > MAX_LOGPROBS:
            raise InvalidField(
                f"Invalid logprobs value, the valid range of logprobs is [0, {MAX_LOGPROBS}].", field="logprobs"
            )
        if infill.echo:
            raise UnsupportedFeature(
                "`echo` together with `logprobs` is not supported: the prompt has no log-probabilities here. "
                "Leave one of them out.",
                field="echo",
            )
    return Sampling(
        temperature=read_knob(reading.root, "temperature"),
        top_p=read_knob(reading.root, "top_p"),
        top_k=read_top_k(reading),
        min_p=read_extended_knob(reading, "min_p"),
        top_a=read_extended_knob(reading, "top_a"),
        repetition_penalty=read_extended_knob(reading, "repetition_penalty"),
        frequency_penalty=read_extended_knob(reading, "frequency_penalty"),
        presence_penalty=read_extended_knob(reading, "presence_penalty"),
        logit_bias=read_logit_bias(reading),
        seed=read_seed(reading),
        num_top_logprobs=num_top_logprobs,
    )
