"""The form of the answer: `outputFormat` and `jsonSchema`. Documented for Flash only; strict mode holds Pro to that."""

from __future__ import annotations

from collections.abc import Mapping

from deepserve.config import Limits
from deepserve.core.errors import InvalidField, MalformedBody
from deepserve.core.messages import Json
from deepserve.core.model import ModelName
from deepserve.core.request import ResponseFormat
from deepserve.core.schema_reading import read_schema
from deepserve.dialects.answer_form import MAX_SCHEMA_NAME, decode_schema_text, described
from deepserve.dialects.runware.errors import TaskRefused
from deepserve.dialects.runware.value import Value

_ENVELOPE = frozenset(("name", "description", "schema", "strict"))


def decode_answer_form(root: Value, model: ModelName, limits: Limits, *, is_strict: bool) -> ResponseFormat:
    """A schema asks for JSON by itself, whatever `outputFormat` says. Raises TaskRefused."""
    is_limited = is_strict and model.id.endswith("-pro")
    output, schema = root.optional("outputFormat"), root.optional("jsonSchema")
    is_json = output is not None and output.choice(("TEXT",) if is_limited else ("TEXT", "JSON")) == "JSON"
    if schema is None:
        return ResponseFormat(kind="json_object") if is_json else ResponseFormat()
    if is_limited:
        raise root.unsupported("jsonSchema", "the service documents it for V4 Flash only")
    return _schema(schema, limits)


def _schema(node: Value, limits: Limits) -> ResponseFormat:
    """A JSON schema, alone or in an envelope with its name; either may come as JSON text."""
    if isinstance(node.value, str):
        try:
            node = Value(decode_schema_text(node.value, limits), node.path)
        except MalformedBody as error:
            raise node.refuse(f"must be a JSON schema, or the text of one ({error.message})") from error
    if "schema" not in node.mapping() or not node.mapping().keys() <= _ENVELOPE:
        return ResponseFormat(kind="json_schema", schema=_checked(node), strict=True)
    name, description, strict = node.optional("name"), node.optional("description"), node.optional("strict")
    schema = _checked(node.required("schema", node.noun))
    return ResponseFormat(
        kind="json_schema",
        name=None if name is None else name.string(low=1, high=MAX_SCHEMA_NAME),
        schema=schema if description is None else described(schema, description.string()),
        strict=strict is None or strict.boolean(),
    )


def _checked(node: Value) -> Mapping[str, Json]:
    schema = node.mapping()
    try:
        read_schema(schema, field=node.path)
    except InvalidField as error:
        raise TaskRefused(f"invalid{node.noun}", error.message, parameter=node.path) from error
    return schema
