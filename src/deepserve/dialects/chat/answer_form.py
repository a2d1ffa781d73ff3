"""The form of the answer: `response_format`, and the fields that vLLM's clients use instead.

All of them ask for one of the forms of the core; two of them at once contradict each other, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

from deepserve.core.errors import InvalidField, MalformedBody, UnsupportedFeature
from deepserve.core.messages import Json, Message, Text
from deepserve.core.request import ResponseFormat
from deepserve.core.schema_reading import read_schema
from deepserve.dialects.answer_form import decode_schema_text, read_answer_schema, read_named_schema
from deepserve.dialects.chat.reading import ChatReading
from deepserve.dialects.node import Node

_NO_GRAMMARS = "grammars are not taken from clients; use a JSON schema, a regular expression or a list of choices"


def decode_answer_form(reading: ChatReading, messages: tuple[Message, ...]) -> ResponseFormat:
    if not reading.mentions(_FIELDS):
        return ResponseFormat()
    asked = {"response_format": _response_format(reading, messages)}
    for name, read in _GUIDES.items():
        node = reading.extension(name)
        if node is not None:
            asked[name] = read(reading, node)
    asked["structured_outputs"] = _structured_outputs(reading)
    forms = {name: form for name, form in asked.items() if form.kind != "text"}
    if len(forms) > 1:
        first, second, *_ = forms
        raise InvalidField(
            f"The form of the answer is asked for twice, by `{first}` and by `{second}`: leave one out.", field=second
        )
    return next(iter(forms.values()), ResponseFormat())


def _response_format(reading: ChatReading, messages: tuple[Message, ...]) -> ResponseFormat:
    node = reading.root.optional("response_format")
    if node is None:
        return ResponseFormat()
    kind = node.required("type")
    if kind.value in ("grammar", "python") and not reading.is_strict:
        raise UnsupportedFeature(
            f"response_format of type `{kind.value}` is not supported: {_NO_GRAMMARS}.", field=kind.field
        )
    match kind.variant(("text", "json_object", "json_schema")):
        case "text":
            reading.ignore_others(node, ("type",), "response_format")
            return ResponseFormat()
        case "json_object":
            if reading.is_strict and not any(map(_says_json, messages)):
                raise InvalidField(
                    "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'.",
                    field="response_format",
                )
            # Where some services take a schema.
            schema = None if reading.is_strict else node.optional("schema")
            reading.ignore_others(node, ("type",) if schema is None else ("type", "schema"), "response_format")
            if schema is None:
                return ResponseFormat(kind="json_object")
            return ResponseFormat(kind="json_schema", schema=read_answer_schema(reading, schema), strict=True)
        case _ if reading.is_strict:
            raise InvalidField("This response_format type is unavailable now", field="response_format.type")
        case _:
            reading.ignore_others(node, ("type", "json_schema"), "response_format")
            return read_named_schema(reading, node.required("json_schema"), "response_format.json_schema")


def _says_json(message: Message) -> bool:
    texts = [message.text]
    texts += [part.text for result in message.tool_results for part in result.content if isinstance(part, Text)]
    return "json" in "".join(texts).lower()


# The fields of vLLM's server (docs.vllm.ai, "Structured Outputs"), which many self-hosted clients send.


def _schema(reading: ChatReading, node: Node) -> ResponseFormat:
    """A schema, or the JSON text of one."""
    if isinstance(node.value, str):
        try:
            node = Node(node.body, decode_schema_text(node.value, reading.limits), node.path)
        except MalformedBody as error:
            raise InvalidField(f"{node.field}: not a JSON schema: {error.message}", field=node.field) from error
    return ResponseFormat(kind="json_schema", schema=read_answer_schema(reading, node), strict=True)


def _regex(reading: ChatReading, node: Node) -> ResponseFormat:
    """The pattern must match the whole answer. Its limits are those of patterns inside schemas."""
    pattern = node.string()
    read_schema({"type": "string", "pattern": pattern}, field=node.field)
    reading.note_schema(node)
    return ResponseFormat(kind="regex", pattern=pattern)


def _choice(reading: ChatReading, node: Node) -> ResponseFormat:
    choices = tuple(item.string() for item in node.items())
    if not choices or "" in choices:
        raise InvalidField(f"{node.field}: at least one choice, and none of them empty.", field=node.field)
    unique = tuple(dict.fromkeys(choices))
    read_schema({"type": "string", "enum": list(unique)}, field=node.field)
    reading.note_schema(node)
    return ResponseFormat(kind="choice", choices=unique)


def _object(_: ChatReading, node: Node) -> ResponseFormat:
    return ResponseFormat(kind="json_object") if node.boolean() else ResponseFormat()


def _refused(_: ChatReading, node: Node) -> ResponseFormat:
    raise UnsupportedFeature(f"`{node.field}` is not supported: {_NO_GRAMMARS}.", field=node.field)


_Reader = Callable[[ChatReading, Node], ResponseFormat]

_GUIDES: Mapping[str, _Reader] = {
    "guided_json": _schema,
    "guided_regex": _regex,
    "guided_choice": _choice,
}
_FIELDS = frozenset(("response_format", "structured_outputs", *_GUIDES))

_STRUCTURED: Mapping[str, _Reader] = {
    "json": _schema,
    "regex": _regex,
    "choice": _choice,
    "json_object": _object,
    "grammar": _refused,
    "structural_tag": _refused,
}


def _structured_outputs(reading: ChatReading) -> ResponseFormat:
    """vLLM's newer spelling is an object; OpenRouter's is a flag that says only that a form is wanted."""
    node = reading.extension("structured_outputs")
    if node is None or isinstance(node.value, bool):
        return ResponseFormat()
    given = {name: inner for name in _STRUCTURED if (inner := node.optional(name)) is not None}
    found = [_STRUCTURED[name](reading, inner) for name, inner in given.items()]
    reading.ignore_others(node, _STRUCTURED, "structured_outputs")
    forms = [form for form in found if form.kind != "text"]
    if len(forms) > 1:
        raise InvalidField("structured_outputs: only one form of the answer at a time.", field="structured_outputs")
    return forms[0] if forms else ResponseFormat()


def encode_answer_form(form: ResponseFormat) -> dict[str, Json]:
    """The fields that ask another server for it."""
    match form.kind:
        case "text":
            return {}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {"name": form.name or "answer", "schema": form.schema, "strict": form.strict}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "regex":
            return {"guided_regex": form.pattern}
        case "choice":
            return {"guided_choice": list(form.choices)}
        case _:
            assert_never(form.kind)
