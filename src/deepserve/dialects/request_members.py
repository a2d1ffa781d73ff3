"""Members of a request body that the vendor's OpenAI-shaped dialects spell alike, besides those that draw tokens."""

from __future__ import annotations

from deepserve.core.errors import InvalidField
from deepserve.dialects.reading import Reading


def read_user_id(reading: Reading) -> str | None:
    """`user_id`, or what other services call `user`."""
    named, spelled = reading.root.optional("user_id"), reading.extension("user")
    if named is not None and spelled is not None:
        reading.ignore("user")
    node = named or spelled
    if node is None:
        return None
    if len(node.string().encode()) > reading.limits.user_id_bytes:
        raise InvalidField(
            f"Invalid {node.field}: at most {reading.limits.user_id_bytes} bytes are read", field=node.field
        )
    return node.string()


def read_include_usage(reading: Reading, *, is_stream: bool) -> bool:
    """`stream_options.include_usage`."""
    node = reading.root.optional("stream_options")
    if node is None:
        return False
    if not is_stream:
        if reading.is_strict:
            raise InvalidField("stream_options should be set along with stream = true", field="stream_options")
        reading.ignore("stream_options")
    reading.ignore_others(node, ("include_usage",), "stream_options")
    include = node.optional("include_usage")
    return include is not None and include.boolean()
