"""The body as JSON Schema: an array of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.config import Limits
from deepserve.dialects import body_schema as schema
from deepserve.dialects.body_schema import BOOLEAN, STRING, Schema
from deepserve.dialects.runware import fields
from deepserve.dialects.runware.conversation import SERVER_TOOLS

_UUID: Schema = {
    "type": "string",
    "format": "uuid",
    "pattern": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$",
    "description": "Of version 4, new for each task; what makes a repetition harmless.",
}


def request_schema(limits: Limits, names: Sequence[str]) -> Schema:
    """names: of the models that may be asked for."""
    kinds = [
        _inference(limits, names),
        _task("authentication", {"apiKey": STRING, "connectionSessionUUID": STRING}, required=("apiKey",)),
        _task("getResponse", {"taskUUID": _UUID}, required=("taskUUID",)),
        _task("getTaskDetails", {"taskUUID": _UUID}, required=("taskUUID",)),
        _task("modelSearch", {"taskUUID": _UUID, "search": STRING}, required=("taskUUID",)),
        _task("ping", {"ping": BOOLEAN}),
    ]
    return schema.list_of(schema.any_of(*kinds), at_least=1, at_most=fields.MAX_TASKS)


def _task(name: str, properties: dict[str, Schema], *, required: Sequence[str] = ()) -> Schema:
    return schema.record({"taskType": schema.constant(name), **properties}, required=("taskType", *required))


def _inference(limits: Limits, names: Sequence[str]) -> Schema:
    properties: dict[str, Schema] = {
        "taskUUID": _UUID,
        "model": schema.model(names),
        "messages": schema.list_of(_message(), at_least=1, at_most=limits.messages),
        "settings": _closed(_settings()),
        "tools": schema.list_of(_tool(), at_least=1, at_most=limits.tools),
        "toolChoice": _closed({"type": schema.one_of(("auto", "any", "tool", "none")), "name": STRING}, ("type",)),
        "numberResults": schema.integer(1, fields.MAX_RESULTS, "Each with a seed of its own."),
        "seed": schema.integer(0, fields.HIGHEST_SEED),
        "deliveryMethod": schema.one_of(("sync", "async", "stream")),
        "webhookURL": {"type": "string", "minLength": 1, "maxLength": fields.MAX_URL_CHARACTERS},
        "includeCost": BOOLEAN,
        "includeUsage": BOOLEAN,
        "outputFormat": schema.one_of(("TEXT", "JSON")),
        "jsonSchema": schema.any_of(
            schema.json_schema("A JSON Schema, or an object with its `name`, `description`, `strict` and `schema`."),
            STRING,
        ),
        "providerSettings": _closed({"deepseek": {"description": _ignored("providerSettings.deepseek")}}),
        "routing": {"description": _ignored("routing")},
    }
    task = _task("textInference", properties, required=("taskUUID", "model", "messages"))
    return task | {"additionalProperties": False}


def _ignored(name: str) -> str:
    return f"Ignored: {fields.IGNORED[name]}."


def _closed(properties: dict[str, Schema], required: Sequence[str] = ()) -> Schema:
    return schema.record(properties, required=required) | {"additionalProperties": False}


def _settings() -> dict[str, Schema]:
    stop: Schema = {"type": "string", "minLength": 1, "maxLength": fields.MAX_STOP_CHARACTERS}
    numbers: dict[str, Schema] = {
        name: {"type": "number", "minimum": low, "maximum": high} for name, (low, high) in fields.NUMBERS.items()
    }
    return {
        **numbers,
        "systemPrompt": {"type": "string", "minLength": 1, "maxLength": fields.MAX_SYSTEM_CHARACTERS},
        "maxTokens": schema.integer(1, fields.MAX_OUTPUT_TOKENS, f"By default {fields.DEFAULT_OUTPUT_TOKENS}."),
        "stopSequences": schema.list_of(stop, at_most=fields.MAX_STOPS),
        "thinkingLevel": schema.one_of((*fields.LEVELS, *fields.TOLERATED_LEVELS)),
    }


def _message() -> Schema:
    texts = schema.any_of(STRING, schema.list_of(schema.record({"type": schema.constant("text"), "text": STRING})))
    call = schema.record({"id": STRING, "name": STRING, "input": {}}, required=("id", "name"))
    return schema.record(
        {
            "role": schema.one_of(("system", "user", "assistant", "tool")),
            "content": texts,
            "tools": schema.list_of(call),
            "reasoningContent": schema.any_of(STRING, schema.list_of(STRING)),
            "id": STRING,
        },
        required=("role",),
    )


def _tool() -> Schema:
    function = schema.record(
        {
            "type": schema.constant("function"),
            "name": {"type": "string", "pattern": f"^[a-zA-Z0-9_-]{{1,{fields.MAX_TOOL_NAME_CHARACTERS}}}$"},
            "description": STRING,
            "schema": {"type": "object", "description": "JSON Schema of the arguments."},
        },
        required=("type", "name", "schema"),
    )
    return schema.any_of(function, _closed({"type": schema.one_of(tuple(SERVER_TOOLS))}, required=("type",)))
