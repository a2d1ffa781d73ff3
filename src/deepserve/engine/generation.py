"""What a scheduler is asked for and what it reports back: a prompt to continue, and the tokens as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NewType, Protocol

import msgspec

from deepserve.core.errors import DeepserveError
from deepserve.engine.interface import Draw, Drawn
from deepserve.engine.prefix_index import CacheKey

GenerationId = NewType("GenerationId", int)


class TokenGuide(Protocol):
    """Restricts which token may come next.

    Called in the step loop, so it must be quick; its answer depends on `output` alone, so that an answer computed
    anew after a preemption comes out the same. What it raises ends this generation only.
    """

    def allowed(self, output: Sequence[int]) -> bytes | None:
        """The tokens that may follow, as `Draw.allowed`; None allows all."""
        ...


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and the results wanted of it.

    prompt       at least one token
    draws        one for each result, with its own seed; the scheduler fills in position, penalty counts and mask
    max_tokens   most tokens of a result, at least 1
    stop_tokens  end a result; reported as its last token
    boundaries   positions in the prompt that later prompts are likely to share: worth a snapshot
    """

    prompt: Sequence[int]
    draws: tuple[Draw, ...]
    max_tokens: int
    stop_tokens: frozenset[int]
    cache_key: CacheKey
    boundaries: tuple[int, ...] = ()
    guide: TokenGuide | None = None


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """Computing has begun. hit_tokens came from the prefix index; common_tokens could have, with a snapshot there."""

    hit_tokens: int
    common_tokens: int


class TokenDrawn(msgspec.Struct, frozen=True, kw_only=True):
    result: int
    drawn: Drawn


class ResultEnded(msgspec.Struct, frozen=True, kw_only=True):
    """The last word about a result.

    stop: a stop token was drawn; length: max_tokens were; failed: `error` says why
    """

    result: int
    reason: Literal["stop", "length", "failed"]
    error: DeepserveError | None = None


Progress = Admitted | TokenDrawn | ResultEnded
