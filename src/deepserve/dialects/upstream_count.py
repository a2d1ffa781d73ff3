"""What services that count a prompt's tokens answer: Messages and Responses say it alike."""

from __future__ import annotations

import msgspec

from deepserve.core.errors import BackendFailure


class ReadCount(msgspec.Struct, frozen=True):
    input_tokens: int


def decode_count(body: bytes, *, title: str) -> int:
    """The number of prompt tokens. Raises BackendFailure."""
    try:
        count = msgspec.json.decode(body, type=ReadCount).input_tokens
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BackendFailure(f"{title} sent a count of tokens that cannot be read: {error}") from error
    if count < 0:
        raise BackendFailure(f"{title} counted {count} tokens.")
    return count
