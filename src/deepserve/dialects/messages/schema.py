"""The body as JSON Schema."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.config import Limits
from deepserve.dialects import body_schema as schema
from deepserve.dialects import deepseek
from deepserve.dialects.body_schema import BOOLEAN, STRING, Schema
from deepserve.dialects.messages.fields import IGNORED
from deepserve.dialects.messages.server_tools import KINDS, MAX_NAME

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
        "output_config": schema.record({"effort": schema.one_of(tuple(deepseek.EFFORTS)), "format": _answer_form()}),
        "output_format": _answer_form() | {"description": "The older place of `output_config.format`."},
        "tools": schema.list_of(
            schema.any_of(
                schema.record(
                    {
                        "name": schema.tool_name(deepseek.MAX_TOOL_NAME),
                        "description": STRING,
                        "input_schema": schema.json_schema(),
                        "strict": BOOLEAN,
                    },
                    required=("name", "input_schema"),
                ),
                _server_tool(),
            ),
            at_most=limits.tools,
        ),
        "mcp_servers": schema.list_of(
            schema.record({"name": {**STRING, "description": "One that the operator has added."}}, required=("name",))
        ),
        "tool_choice": schema.any_of(
            schema.record(
                {"type": schema.one_of(("auto", "any", "none")), "disable_parallel_tool_use": BOOLEAN},
                required=("type",),
            ),
            schema.record(
                {"type": schema.constant("tool"), "name": STRING, "disable_parallel_tool_use": BOOLEAN},
                required=("type", "name"),
            ),
        ),
    }
    return schema.body(("model", "messages"), properties, ignored=IGNORED)


def _answer_form() -> Schema:
    return schema.record(
        {"type": schema.constant("json_schema"), "schema": schema.json_schema()}, required=("type", "schema")
    )


def _server_tool() -> Schema:
    """One that the server runs; dates of types are not checked."""
    domains = schema.list_of({**STRING, "pattern": r"^[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*$"}, at_most=100)
    return schema.record(
        {
            "type": {**STRING, "pattern": f"^({'|'.join(kind.type_prefix for kind in KINDS)})"},
            "name": schema.tool_name(MAX_NAME),
            "max_uses": schema.integer(1, _MAX_U32, "More calls in one answer are refused to the model."),
            "allowed_domains": domains,
        },
        required=("type", "name"),
    )


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
