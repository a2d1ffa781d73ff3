"""The body as JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepserve.config import Limits
from deepserve.dialects import body_schema as schema
from deepserve.dialects.answer_form import MAX_SCHEMA_NAME
from deepserve.dialects.body_schema import BOOLEAN, STRING, Schema
from deepserve.dialects.chat.fields import IGNORED
from deepserve.dialects.chat.flavour import Flavour

_MAX_U32 = 2**32 - 1


def request_schema(
    flavour: Flavour,
    limits: Limits,
    names: Sequence[str],
    *,
    ignored: Mapping[str, str] = IGNORED,
) -> Schema:
    """names: of the models that may be asked for. What a flavour's own modules read is not described."""
    effort = schema.one_of(tuple(flavour.efforts))
    budget = schema.integer(0, _MAX_U32, "Most tokens the trace may take.")
    tool = _tool(flavour)
    properties: dict[str, Schema] = {
        "model": schema.model(names),
        "messages": schema.list_of(_message(), at_least=1, at_most=limits.messages),
        "thinking": schema.any_of(
            BOOLEAN,
            schema.record(
                {
                    "type": schema.one_of(("enabled", "disabled", "adaptive")),
                    "budget_tokens": budget,
                    "effort": effort,
                    "reasoning_effort": effort,
                }
            ),
        ),
        "reasoning_effort": effort,
        "reasoning": schema.record({"enabled": BOOLEAN, "effort": effort, "max_tokens": budget, "exclude": BOOLEAN}),
        "output_config": schema.record({"effort": effort}),
        "chat_template_kwargs": schema.record(
            {"thinking": BOOLEAN, "enable_thinking": BOOLEAN, "reasoning_effort": effort}
        ),
        "enable_thinking": BOOLEAN,
        "thinking_budget": budget,
        "include_reasoning": BOOLEAN | {"description": "False: think, but do not send the trace."},
        "max_tokens": schema.integer(1, flavour.max_output_tokens, "Reasoning and answer together."),
        "max_completion_tokens": schema.integer(1, flavour.max_output_tokens),
        "response_format": _answer_form(),
        "stop": schema.stop_strings(limits),
        "stream": BOOLEAN,
        "stream_options": schema.record({"include_usage": BOOLEAN}),
        "tools": schema.list_of(tool, at_most=limits.tools),
        "tool_choice": _tool_choice(),
        "parallel_tool_calls": BOOLEAN,
        "logprobs": BOOLEAN,
        "top_logprobs": schema.integer(0, 20, "Needs `logprobs`."),
        "n": schema.integer(1, limits.num_results, "Independent answers."),
        "seed": schema.seed(),
        "logit_bias": schema.logit_bias(limits),
        "user_id": schema.user_id(limits),
        "user": schema.user_id(limits),
        "guided_json": schema.any_of(schema.json_schema(), STRING, description="As vLLM spells it."),
        "guided_regex": STRING | {"description": "What the whole answer must match, as vLLM spells it."},
        "guided_choice": _choices() | {"description": "As vLLM spells it."},
        "structured_outputs": schema.any_of(
            BOOLEAN,
            schema.record(
                {"json": schema.any_of(schema.json_schema(), STRING), "regex": STRING, "choice": _choices()}
                | {"json_object": BOOLEAN}
            ),
        ),
        "temperature": schema.knob("temperature"),
        "top_p": schema.knob("top_p"),
        "top_k": schema.knob("top_k"),
        "min_p": schema.knob("min_p"),
        "top_a": schema.knob("top_a"),
        "repetition_penalty": schema.knob("repetition_penalty"),
        "frequency_penalty": schema.knob("frequency_penalty"),
        "presence_penalty": schema.knob("presence_penalty"),
    }
    return schema.body(("model", "messages"), properties, ignored=ignored)


def _message() -> Schema:
    text_part = schema.record({"type": schema.constant("text"), "text": STRING}, required=("type", "text"))
    image_part = schema.record(
        {
            "type": schema.constant("image_url"),
            "image_url": schema.any_of(STRING, schema.record({"url": STRING, "detail": STRING}, required=("url",))),
        },
        required=("type", "image_url"),
    )
    content = schema.any_of(STRING, schema.list_of(schema.any_of(text_part, image_part)))
    call = schema.record(
        {
            "id": STRING,
            "type": schema.constant("function"),
            "function": schema.record({"name": STRING, "arguments": STRING}, required=("name", "arguments")),
        },
        required=("id", "function"),
    )
    said = schema.record(
        {
            "role": schema.one_of(("system", "developer", "user", "latest_reminder")),
            "content": content,
            "name": STRING,
        },
        required=("role", "content"),
    )
    answered = schema.record(
        {
            "role": schema.constant("assistant"),
            "content": content,
            "reasoning_content": STRING,
            "tool_calls": schema.list_of(call),
            "prefix": BOOLEAN | {"description": "The last message only: the answer continues it."},
            "name": STRING,
        },
        required=("role",),
    )
    result = schema.record(
        {"role": schema.constant("tool"), "tool_call_id": STRING, "content": content},
        required=("role", "tool_call_id"),
    )
    return schema.any_of(said, answered, result)


def _answer_form() -> Schema:
    named = schema.record(schema.named_schema(MAX_SCHEMA_NAME), required=("schema",))
    return schema.any_of(
        schema.record({"type": schema.constant("text")}, required=("type",)),
        schema.record({"type": schema.constant("json_object"), "schema": schema.json_schema()}, required=("type",)),
        schema.record({"type": schema.constant("json_schema"), "json_schema": named}, required=("type", "json_schema")),
    )


def _choices() -> Schema:
    return schema.list_of({"type": "string", "minLength": 1}, at_least=1)


def _tool_choice() -> Schema:
    function = schema.constant("function")
    named = schema.record(
        {"type": function, "function": schema.record({"name": STRING}, required=("name",))},
        required=("type", "function"),
    )
    allowed = schema.record(
        {"mode": schema.one_of(("auto", "required")), "tools": schema.list_of(named, at_least=1)},
        required=("mode", "tools"),
    )
    return schema.any_of(
        schema.one_of(("none", "auto", "required")),
        named,
        schema.record(
            {"type": schema.constant("allowed_tools"), "allowed_tools": allowed}, required=("type", "allowed_tools")
        ),
    )


def _tool(flavour: Flavour) -> Schema:
    function = schema.record(
        {
            "name": schema.tool_name(flavour.max_tool_name),
            "description": STRING,
            "parameters": schema.json_schema(),
            "strict": BOOLEAN | {"description": "True: a keyword that cannot be enforced is refused."},
        },
        required=("name",),
    )
    return schema.record({"type": schema.constant("function"), "function": function}, required=("type", "function"))
