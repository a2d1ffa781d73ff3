"""The body as JSON Schema."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.config import Limits
from deepserve.dialects import body_schema as schema
from deepserve.dialects import deepseek
from deepserve.dialects.body_schema import BOOLEAN, STRING, Schema
from deepserve.dialects.messages.fields import IGNORED

_MAX_U32 = 2**32 - 1


def request_schema(limits: Limits, names: Sequence[str]) -> Schema:
    """names: of the models that may be asked for; names of Anthropic's models are understood too."""
    text_block = schema.record({"type": schema.constant("text"), "text": STRING}, required=("type", "text"))
    properties: dict[str, Schema] = {
        "model": schema.model(names),
        "messages": schema.list_of(_message(text_block), at_least=1, at_most=limits.messages),
        "system": schema.any_of(STRING, schema.list_of(text_block)),
        "max_tokens": schema.integer(1, deepseek.MAX_OUTPUT_TOKENS, "Thinking and answer together."),
        "stop_sequences": schema.stop_strings(limits),
        "stream": BOOLEAN,
        "temperature": schema.knob("temperature"),
        "top_p": schema.knob("top_p"),
        "top_k": schema.knob("top_k") | {"minimum": 0},
        "metadata": schema.record({"user_id": STRING}),
        "thinking": schema.record(
            {
                "type": schema.one_of(("enabled", "disabled", "adaptive", "between_tools")),
                "budget_tokens": schema.integer(0, _MAX_U32, "Most tokens the trace may take."),
                "display": schema.one_of(("summarized", "omitted")),
            },
            required=("type",),
        ),
        "output_config": schema.record({"effort": schema.one_of(tuple(deepseek.EFFORTS)), "format": {"type": "null"}}),
        "tools": schema.list_of(
            schema.record(
                {
                    "name": schema.tool_name(deepseek.MAX_TOOL_NAME),
                    "description": STRING,
                    "input_schema": {"type": "object", "description": "A JSON Schema."},
                    "strict": BOOLEAN,
                },
                required=("name", "input_schema"),
            ),
            at_most=limits.tools,
        ),
        "tool_choice": schema.record(
            {"type": schema.one_of(("auto", "none")), "disable_parallel_tool_use": BOOLEAN}, required=("type",)
        ),
    }
    return schema.body(("model", "messages"), properties, ignored=IGNORED)


def _message(text_block: Schema) -> Schema:
    thinking = schema.record(
        {"type": schema.constant("thinking"), "thinking": STRING, "signature": STRING}, required=("type", "thinking")
    )
    redacted = schema.record({"type": schema.constant("redacted_thinking"), "data": STRING}, required=("type", "data"))
    call = schema.record(
        {"type": schema.constant("tool_use"), "id": STRING, "name": STRING, "input": {"type": "object"}},
        required=("type", "id", "name", "input"),
    )
    result = schema.record(
        {
            "type": schema.constant("tool_result"),
            "tool_use_id": STRING,
            "content": schema.any_of(STRING, schema.list_of(text_block)),
            "is_error": BOOLEAN,
        },
        required=("type", "tool_use_id"),
    )
    image = schema.record(
        {
            "type": schema.constant("image"),
            "source": schema.record({"type": schema.constant("url"), "url": STRING}, required=("type", "url")),
        },
        required=("type", "source"),
    )
    said = schema.any_of(text_block, image, result)
    answered = schema.any_of(text_block, thinking, redacted, call)
    return schema.any_of(
        schema.record(
            {"role": schema.constant("user"), "content": schema.any_of(STRING, schema.list_of(said))},
            required=("role", "content"),
        ),
        schema.record(
            {"role": schema.constant("assistant"), "content": schema.any_of(STRING, schema.list_of(answered))},
            required=("role", "content"),
        ),
        schema.record(
            {"role": schema.constant("system"), "content": schema.any_of(STRING, schema.list_of(text_block))},
            required=("role", "content"),
        ),
    )
