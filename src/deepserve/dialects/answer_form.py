"""The form that an answer must have, where the bodies of several dialects spell it alike.

Whether a schema is one, and small enough, is decided in `core.schema_reading`; refusals name the member as the client
wrote it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from deepserve.config import Limits
from deepserve.core.messages import Json
from deepserve.core.request import ResponseFormat
from deepserve.core.schema_reading import read_schema
from deepserve.dialects.body import JsonBody
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading
from deepserve.dialects.tool_name import read_tool_name

MAX_SCHEMA_NAME = 64
"""Characters; the service that named schemas first allows no more."""


def read_answer_schema(reading: Reading, node: Node) -> Mapping[str, Json]:
    """Raises InvalidField and UnsupportedFeature."""
    schema = node.mapping()
    read_schema(schema, field=node.field)
    reading.note_schema(node)
    return schema


def read_parameters(reading: Reading, node: Node, tool: str, *, is_strict: bool) -> Mapping[str, Json]:
    """The schema of a tool's arguments. Clients send all sorts of them, so only those of strict tools are looked at."""
    schema = node.mapping()
    if is_strict:
        read_schema(schema, field=node.field)
    reading.note_schema(node, tool=tool)
    return schema


def decode_schema_text(text: str, limits: Limits) -> Json:
    """What the JSON text of a schema says. Raises MalformedBody, also for what no body may hold."""
    return JsonBody(text.encode(), limits).value


def described(schema: Mapping[str, Json], description: str) -> Mapping[str, Json]:
    """The schema with a description that the model reads; one that it has already stays."""
    return {**schema, "description": description} if description and "description" not in schema else schema


def read_named_schema(reading: Reading, node: Node, path: str, *, own: Collection[str] = ()) -> ResponseFormat:
    """A schema with a name, as OpenAI's dialects ask for one. path: of `node`; own: its members that were read before.

    Its description is put into the schema.
    """
    reading.ignore_others(node, (*own, "name", "description", "schema", "strict"), path)
    name, description, strict = node.optional("name"), node.optional("description"), node.optional("strict")
    schema = read_answer_schema(reading, node.required("schema"))
    if description is not None:
        schema = described(schema, description.string())
    return ResponseFormat(
        kind="json_schema",
        name=None if name is None else read_tool_name(name, MAX_SCHEMA_NAME),
        schema=schema,
        strict=strict is not None and strict.boolean(),
    )
