"""Keeps numbers finite: JSON bounds no exponent, but `1e999` is infinity or an error to whoever reads it.

The mask compiler knows no bound on exponents, so one is put on top of its masks: at most two digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from deepserve.grammar.vocabulary import Vocabulary

MAX_EXPONENT_DIGITS: Final = 2

_EXPONENT: Final = re.compile(rb"[0-9][eE][+-]?([0-9]*)\Z")
_IN_NUMBER: Final = b"0123456789+-,]} \n<"
"""What may come within a number or after it; where anything else may come, the digits are those of a string."""
_TOKENS_BACK: Final = 8


class NumberRule:
    """Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._token_bytes = vocabulary.token_bytes
        leading = {token: _leading_digits(vocabulary.token_bytes[token]) for token in vocabulary.plain_ids}
        self._too_long = [
            ~_bits(vocabulary, [token for token, count in leading.items() if count > MAX_EXPONENT_DIGITS - written])
            for written in range(MAX_EXPONENT_DIGITS + 1)
        ]
        self._elsewhere = _bits(
            vocabulary, [token for token in leading if vocabulary.token_bytes[token][0] not in _IN_NUMBER]
        )
        self._tails = frozenset(token for token in leading if vocabulary.token_bytes[token][-1] in b"0123456789eE+-")

    def narrowed(self, mask: bytes, tokens: Sequence[int]) -> bytes:
        """The mask behind these tokens without those that would make an exponent too long."""
        if not tokens or tokens[-1] not in self._tails:
            return mask
        text = b"".join(self._token_bytes[token] for token in tokens[-_TOKENS_BACK:])
        exponent = _EXPONENT.search(text)
        if exponent is None:
            return mask
        allowed = int.from_bytes(mask, "little")
        narrowed = allowed & self._too_long[min(len(exponent[1]), MAX_EXPONENT_DIGITS)]
        if allowed & self._elsewhere or not narrowed:
            return mask
        return narrowed.to_bytes(len(mask), "little")


def _leading_digits(text: bytes) -> int:
    return len(text) - len(text.lstrip(b"0123456789"))


def _bits(vocabulary: Vocabulary, tokens: Sequence[int]) -> int:
    return int.from_bytes(vocabulary.mask(tokens), "little")
