"""A model's vocabulary as grammars see it: the bytes of every token, which are special, and which end an answer.

Building the library's index over it takes a few milliseconds for a small vocabulary and half a second for 128,000
tokens; it is built once, when the first grammar is compiled, off the event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_MAX_REMEMBERED_TEXTS: Final = 2_048
_MAX_REMEMBERED_CHARACTERS: Final = 256


class Vocabulary:
    """Immutable; safe to share between threads.

    token_bytes  by id; empty for ids that stand for nothing
    special_ids  tokens that are never text, whatever their spelling
    stop_ids     tokens that end an answer; the first is the one to force
    num_tokens   how many the network can draw: a mask has so many bits; at least as many as token_bytes
    encode       text to ids as the model was trained, without special tokens
    """

    def __init__(
        self,
        *,
        token_bytes: Sequence[bytes],
        special_ids: Collection[int],
        stop_ids: Sequence[int],
        num_tokens: int,
        encode: Callable[[str], Sequence[int]],
    ) -> None:
        self.token_bytes = [*token_bytes, *([b""] * (num_tokens - len(token_bytes)))]
        self.special_ids = frozenset(special_ids)
        self.stop_ids = tuple(stop_ids)
        self.num_tokens = num_tokens
        self.mask_bytes = -(-num_tokens // 8)
        self.encode = encode
        self._lock = threading.Lock()
        self._index: LLTokenizer | None = None
        self.constant_masks: dict[int, object] = {}

    @property
    def index(self) -> LLTokenizer:
        """The library's index over the tokens."""
        with self._lock:
            if self._index is None:
                self._index = _build_index(self)
            return self._index

    def mask(self, ids: Iterable[int]) -> bytes:
        """A mask that allows these tokens alone."""
        bits = bytearray(self.mask_bytes)
        for token in ids:
            bits[token // 8] |= 1 << token % 8
        return bytes(bits)

    def bits(self, ids: Iterable[int]) -> int:
        """The same as a number: bit i for token i."""
        return int.from_bytes(self.mask(ids), "little")

    def mask_without(self, ids: Iterable[int]) -> bytes:
        """A mask that allows every other token."""
        bits = bytearray(((1 << self.num_tokens) - 1).to_bytes(self.mask_bytes, "little"))
        for token in ids:
            bits[token // 8] &= ~(1 << token % 8)
        return bytes(bits)

    @cached_property
    def empty_ids(self) -> frozenset[int]:
        """Ids the network may draw that stand for nothing."""
        return frozenset(token for token, text in enumerate(self.token_bytes) if not text)

    @cached_property
    def blank_ids(self) -> frozenset[int]:
        """Tokens of white space alone."""
        return frozenset(token for token, text in enumerate(self.token_bytes) if text and not text.strip())

    @cached_property
    def plain_ids(self) -> tuple[int, ...]:
        """Tokens that are text."""
        stops = self.special_ids.union(self.stop_ids)
        return tuple(token for token, text in enumerate(self.token_bytes) if text and token not in stops)


def _build_index(vocabulary: Vocabulary) -> LLTokenizer:
    # Here and not above: whoever never constrains an answer need not load the library.
    from llguidance import LLTokenizer, TokenizerWrapper

    wrapper = TokenizerWrapper(_Described(vocabulary))
    return LLTokenizer(wrapper, n_vocab=vocabulary.num_tokens, eos_token=list(vocabulary.stop_ids))


class _Described:
    """A vocabulary as the library wants it described."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.stop_ids[0]
        self.bos_token_id = None
        # Ids without text get a name that no text has, so that none of them is ever taken for an empty token.
        self.tokens = [text or b"\xff<unused %d>" % token for token, text in enumerate(vocabulary.token_bytes)]
        self.special_token_ids = sorted(vocabulary.special_ids | vocabulary.empty_ids | set(vocabulary.stop_ids))
        self._encode = vocabulary.encode
        # What must follow somewhere is cut into tokens for every answer that goes there: names, tags, brackets.
        self._short = lru_cache(_MAX_REMEMBERED_TEXTS)(lambda text: tuple(vocabulary.encode(text)))

    def __call__(self, text: bytes | str) -> Sequence[int]:
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return list(self._short(text) if len(text) <= _MAX_REMEMBERED_CHARACTERS else self._encode(text))
