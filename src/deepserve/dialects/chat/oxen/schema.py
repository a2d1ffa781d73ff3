"""The body as this service's model lists describe it, from which forms are drawn.

Made from the schema that the decoder is held to; only what a form needs is added here: titles, order, defaults.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.config import Limits
from deepserve.core.messages import Json
from deepserve.core.sampling import KNOBS
from deepserve.dialects.body_schema import Schema
from deepserve.dialects.chat.oxen.flavour import IGNORED, OXEN
from deepserve.dialects.chat.schema import request_schema

BASIC = ("temperature", "max_tokens", "stream")
"""Shown at once; the rest stands under advanced settings."""

_ORDER = (
    *("messages", *BASIC, "top_p", "thinking", "reasoning_effort", "frequency_penalty", "presence_penalty"),
    *("response_format", "tools", "tool_choice", "parallel_tool_calls", "stop", "seed", "top_k", "min_p"),
    *("repetition_penalty", "max_completion_tokens", "n", "logprobs", "top_logprobs", "logit_bias", "stream_options"),
    *("user", "user_id", "reasoning", "include_reasoning", "thinking_budget", "enable_thinking", "output_config"),
    *("chat_template_kwargs", "guided_json", "guided_regex", "guided_choice", "structured_outputs"),
)

_HIDDEN = frozenset(_ORDER[_ORDER.index("n") :])
"""Taken, but not drawn: for programs, or another spelling of a field that is drawn."""

_DEFAULTS: dict[str, Json] = {
    "stream": False,
    "parallel_tool_calls": True,
    "reasoning_effort": "high",
    "tool_choice": "auto",
    "frequency_penalty": KNOBS["frequency_penalty"].neutral,
    "presence_penalty": KNOBS["presence_penalty"].neutral,
}
"""Not of temperature and its like: the served model brings its own."""

_UNSERVED = frozenset(("model", "top_a"))
"""The model is chosen elsewhere; `top_a` is read, and refused by the engine."""


def model_schema(limits: Limits, names: Sequence[str]) -> Schema:
    """What a request to one of these models may hold besides its name."""
    body = request_schema(OXEN, limits, names, ignored=IGNORED)
    properties: dict[str, Schema] = body["properties"]
    fields = [name for name in _ORDER if name in properties]
    fields += [name for name in properties if name not in _ORDER and name not in _UNSERVED and name not in IGNORED]
    return {
        "title": "Input",
        "type": "object",
        "required": ["messages"],
        "basic": list(BASIC),
        "properties": {name: _field(name, properties[name], order) for order, name in enumerate(fields)},
    }


def _field(name: str, schema: Schema, order: int) -> Schema:
    field: Schema = {"title": name.replace("_", " ").capitalize(), **_nullable(schema), "x-order": order}
    if name in _DEFAULTS:
        field["default"] = _DEFAULTS[name]
    if name in _HIDDEN:
        field["x-hidden"] = True
    return field


def _nullable(schema: Schema) -> Schema:
    """Null as a member of its own instead of one among several types, as forms expect it."""
    match schema:
        case {"type": [kind, "null"], **rest}:
            return {"type": kind, "nullable": True, **rest}
        case {"anyOf": [one, {"type": "null"}], **rest}:
            return {**one, **rest, "nullable": True}
        case _:
            return schema
