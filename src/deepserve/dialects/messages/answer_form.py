"""The form of the answer: `output_config.format`, which older clients send as `output_format`."""

from __future__ import annotations

from deepserve.core.errors import InvalidField
from deepserve.core.request import ResponseFormat
from deepserve.dialects.answer_form import read_answer_schema
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading


def decode_answer_form(reading: Reading) -> ResponseFormat:
    """The vendor's own service acts on neither member, and strict mode does the same."""
    config = reading.root.optional("output_config")
    current = None if config is None else config.optional("format")
    older = reading.root.optional("output_format")
    if reading.is_strict:
        for name, node in (("output_config.format", current), ("output_format", older)):
            if node is not None:
                reading.ignore(name)
        return ResponseFormat()
    if current is not None and older is not None:
        raise InvalidField(
            "The form of the answer is asked for twice, by `output_config.format` and by `output_format`: leave out "
            "the second.",
            field="output_format",
        )
    node = current or older
    return ResponseFormat() if node is None else _form(reading, node)


def _form(reading: Reading, node: Node) -> ResponseFormat:
    node.required("type").variant(("json_schema",))
    reading.ignore_others(node, ("type", "schema"), node.field)
    return ResponseFormat(kind="json_schema", schema=read_answer_schema(reading, node.required("schema")), strict=True)
