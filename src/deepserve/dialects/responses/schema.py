"""The body as JSON Schema."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.config import Limits
from deepserve.dialects import body_schema as schema
from deepserve.dialects import deepseek
from deepserve.dialects.answer_form import MAX_SCHEMA_NAME
from deepserve.dialects.body_schema import BOOLEAN, STRING, Schema
from deepserve.dialects.responses.fields import IGNORED, INCLUDABLE
from deepserve.dialects.responses.server_tools import SEARCHES
from deepserve.dialects.web_options import RESULTS_OF_SIZE


def request_schema(limits: Limits, names: Sequence[str]) -> Schema:
    """names: of the models that may be asked for. `input` may be left out only beside `instructions`."""
    properties: dict[str, Schema] = {
        "model": schema.model(names),
        "input": schema.any_of(STRING, schema.list_of(_item(), at_least=1, at_most=limits.messages)),
        "instructions": STRING | {"description": "The first system message."},
        "stream": BOOLEAN,
        "background": BOOLEAN | {"description": "Answer later; needs `store`, and no `stream`."},
        "store": BOOLEAN | {"description": "Whether the response may be asked for or continued later."},
        "previous_response_id": STRING,
        "max_output_tokens": schema.integer(1, deepseek.MAX_OUTPUT_TOKENS, "Reasoning and answer together."),
        "tools": schema.list_of(
            schema.any_of(
                schema.record(
                    {
                        "type": schema.constant("function"),
                        "name": schema.tool_name(deepseek.MAX_TOOL_NAME),
                        "description": STRING,
                        "parameters": schema.json_schema(),
                        "strict": BOOLEAN,
                    },
                    required=("type", "name"),
                ),
                schema.record(
                    {
                        "type": schema.one_of(SEARCHES),
                        "search_context_size": schema.one_of(tuple(RESULTS_OF_SIZE)),
                        "user_location": schema.record({"country": STRING, "city": STRING}),
                    },
                    required=("type",),
                ),
                schema.record({"type": schema.constant("code_interpreter")}, required=("type",)),
                schema.record(
                    {"type": schema.constant("mcp"), "server_label": STRING}, required=("type", "server_label")
                ),
            ),
            at_most=limits.tools,
        ),
        "max_tool_calls": schema.integer(0, 2**32 - 1, "Of tools that the server runs."),
        "tool_choice": _tool_choice(),
        "parallel_tool_calls": BOOLEAN,
        "reasoning": schema.record({"effort": schema.one_of(tuple(deepseek.EFFORTS))}),
        "text": schema.record({"format": _answer_form()}),
        "include": schema.list_of(schema.any_of(schema.one_of(sorted(INCLUDABLE)), STRING)),
        "truncation": schema.one_of(("auto", "disabled")),
        "metadata": {
            "type": "object",
            "maxProperties": 16,
            "propertyNames": {"maxLength": 64},
            "additionalProperties": {"type": "string", "maxLength": 512},
        },
        "user": schema.user_id(limits),
        "top_logprobs": schema.integer(0, 20),
        "seed": schema.seed(),
        "temperature": schema.knob("temperature"),
        "top_p": schema.knob("top_p"),
        "top_k": schema.knob("top_k"),
        "min_p": schema.knob("min_p"),
        "top_a": schema.knob("top_a"),
        "repetition_penalty": schema.knob("repetition_penalty"),
        "frequency_penalty": schema.knob("frequency_penalty"),
        "presence_penalty": schema.knob("presence_penalty"),
    }
    return schema.body(("model", "input"), properties, ignored=IGNORED)


def _answer_form() -> Schema:
    named = {"type": schema.constant("json_schema"), **schema.named_schema(MAX_SCHEMA_NAME)}
    return schema.any_of(
        schema.record({"type": schema.one_of(("text", "json_object"))}, required=("type",)),
        schema.record(named, required=("type", "schema")),
    )


def _tool_choice() -> Schema:
    named = schema.record(
        {"type": schema.one_of(("function", "custom")), "name": STRING, "namespace": STRING}, required=("type", "name")
    )
    allowed = {
        "type": schema.constant("allowed_tools"),
        "mode": schema.one_of(("auto", "required")),
        "tools": schema.list_of(named, at_least=1),
    }
    return schema.any_of(
        schema.one_of(("none", "auto", "required")), named, schema.record(allowed, required=("type", "mode", "tools"))
    )


def _item() -> Schema:
    def texts(kind: str) -> Schema:
        part = schema.record({"type": schema.constant(kind), "text": STRING}, required=("type", "text"))
        return schema.list_of(part)

    said = schema.record(
        {
            "type": schema.constant("message"),
            "role": schema.one_of(("user", "system", "developer")),
            "content": schema.any_of(STRING, texts("input_text")),
        },
        required=("role", "content"),
    )
    answered = schema.record(
        {
            "type": schema.constant("message"),
            "role": schema.constant("assistant"),
            "content": schema.any_of(STRING, texts("output_text")),
        },
        required=("role", "content"),
    )
    trace = schema.record(
        {
            "type": schema.constant("reasoning"),
            "id": STRING,
            "content": texts("reasoning_text"),
            "summary": texts("summary_text"),
            "encrypted_content": STRING,
        },
        required=("type",),
    )
    call = schema.record(
        {"type": schema.constant("function_call"), "call_id": STRING, "name": STRING, "arguments": STRING},
        required=("type", "call_id", "name", "arguments"),
    )
    result = schema.record(
        {
            "type": schema.constant("function_call_output"),
            "call_id": STRING,
            "output": schema.any_of(STRING, texts("input_text")),
        },
        required=("type", "call_id", "output"),
    )
    return schema.any_of(said, answered, trace, call, result)
