"""What a scheduler is asked for and what it reports back: a prompt to continue, and the tokens as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NewType, Protocol

import msgspec

from deepserve.core.errors import DeepserveError
from deepserve.engine.interface import Draw, Drawn
from deepserve.engine.mask_source import MaskSource
from deepserve.engine.prefix_index import CacheKey

GenerationId = NewType("GenerationId", int)


class TokenGuide(Protocol):
    """Decides which tokens may come next in one result.

    Has state, and is called in order: masks are asked for the output accepted so far, which only grows (a result that
    is computed anew after a preemption keeps its output). Its answers depend on that output alone. What it raises ends
    its own result only. Calls come from one thread at a time, not always the same.
    """

    def accept(self, token: int) -> int:
        """Take the token just drawn. Returns the token that stands in the output: this one, or another that the last
        mask allowed, where after this one the rest of the answer would no longer fit its limit."""
        ...

    def forced(self) -> Sequence[int]:
        """Tokens that must follow, whatever the model thinks; they count as accepted. Asked after every `accept` and
        once at the start; empty when there is a choice or the output has ended."""
        ...

    def mask(self) -> bytes | MaskSource | None:
        """The tokens that may follow, as `Draw.allowed`; None allows all.

        A mask that has to be computed is better returned as the function that does it: an engine calls it in another
        thread, while it goes through the layers. Nothing else is asked of the guide until that is done.
        """
        ...


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and the results wanted of it.

    prompt       at least one token
    draws        one for each result, with its own seed; the scheduler fills in position, penalty counts and, from its
                 guide if it has one, the mask
    max_tokens   most tokens of a result, at least 1
    stop_tokens  end a result; reported as its last token
    boundaries   positions in the prompt that later prompts are likely to share: worth a snapshot
    guides       one for each result, or none at all
    """

    prompt: Sequence[int]
    draws: tuple[Draw, ...]
    max_tokens: int
    stop_tokens: frozenset[int]
    cache_key: CacheKey
    boundaries: tuple[int, ...] = ()
    guides: tuple[TokenGuide, ...] = ()


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
