"""Log-probabilities as other services tell them: token by token, in Chat and in Responses alike."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Protocol

from deepserve.core.events import TokenLogprob


class ReadToken(Protocol):
    """bytes: None or empty where the token is whole characters, and for some services always."""

    @property
    def token(self) -> str: ...
    @property
    def logprob(self) -> float: ...
    @property
    def bytes(self) -> Sequence[int] | None: ...


class ReadDrawn(ReadToken, Protocol):
    """A token that was drawn, and those that might have been."""

    @property
    def top_logprobs(self) -> Sequence[ReadToken] | None: ...


def decode_logprobs(tokens: Sequence[ReadDrawn] | None) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            token=token.token,
            logprob=token.logprob,
            bytes=_decode_bytes(token),
            top=tuple(
                TokenLogprob(token=other.token, logprob=other.logprob, bytes=_decode_bytes(other))
                for other in token.top_logprobs or ()
            ),
        )
        for token in tokens or ()
    )


def _decode_bytes(token: ReadToken) -> builtins.bytes:
    values = token.bytes
    if not values or any(not 0 <= value < 256 for value in values):
        return token.token.encode()
    return bytes(values)
