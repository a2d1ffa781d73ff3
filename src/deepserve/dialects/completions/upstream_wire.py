"""Answers of other services as they stand on the wire, read with patience: what is left out or null has a default,
unknown members are skipped. What we write ourselves is in `wire`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from deepserve.core.messages import Json
from deepserve.dialects.upstream_results import ReadEnd

NOTHING: Final = msgspec.Raw(b"null")


class ReadLogprobs(msgspec.Struct, frozen=True):
    """Columns with one entry for each token. A token that is not whole characters is spelled `bytes:\\xe2`."""

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class ReadChoice(ReadEnd, frozen=True):
    index: int = 0
    text: str | None = None
    logprobs: ReadLogprobs | None = None


class ReadAnswer(msgspec.Struct, frozen=True):
    """A whole answer, or a chunk of one.

    usage  decoded apart, for a wrong one is no reason to lose the answer
    error  as it came
    """

    model: str | None = None
    system_fingerprint: str | None = None
    choices: list[ReadChoice] | None = None
    usage: msgspec.Raw = NOTHING
    error: Json = None
