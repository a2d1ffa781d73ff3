"""Keeps numbers finite: JSON bounds neither digits nor exponents, but `1e999` is infinity or an error to whoever reads
it.

The mask compiler knows no such bounds, so they are put on top of its masks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from deepserve.grammar.vocabulary import Vocabulary

MAX_EXPONENT_DIGITS: Final = 2
MAX_DIGITS: Final = 200
"""In a row. With the largest exponent that makes a number of 299 digits, and a double holds 308."""

_EXPONENT: Final = re.compile(rb"[0-9][eE][+-]?([0-9]*)\Z")
_DIGITS: Final = re.compile(rb"[0-9]*\Z")
_IN_NUMBER: Final = b"0123456789+-.eE,]} \n<"
"""What may come within a number or after it; where anything else may come, the digits are those of a string."""
_TOKENS_BACK: Final = 8


class NumberRule:
    """Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._token_bytes = vocabulary.token_bytes
        leading = {token: _leading_digits(vocabulary.token_bytes[token]) for token in vocabulary.plain_ids}
        self._most_digits = max(leading.values())
        self._shorter = [
            ~vocabulary.bits([token for token, count in leading.items() if count > left])
            for left in range(self._most_digits)
        ]
        """Without the tokens that begin with more than so many digits."""
        self._elsewhere = vocabulary.bits(
            token for token in leading if vocabulary.token_bytes[token][0] not in _IN_NUMBER
        )
        self._tails = frozenset(token for token in leading if vocabulary.token_bytes[token][-1] in b"0123456789eE+-")

    def narrowed(self, mask: bytes, tokens: Sequence[int]) -> bytes:
        """The mask behind these tokens without those that would make an exponent or a number too long."""
        if not tokens or tokens[-1] not in self._tails:
            return mask
        left = self._digits_left(tokens)
        if left >= self._most_digits:
            return mask
        allowed = int.from_bytes(mask, "little")
        narrowed = allowed & self._shorter[left]
        if allowed & self._elsewhere or not narrowed:
            return mask
        return narrowed.to_bytes(len(mask), "little")

    def _digits_left(self, tokens: Sequence[int]) -> int:
        """How many more digits may follow at once."""
        num_tokens = _TOKENS_BACK
        while True:
            text = b"".join([self._token_bytes[token] for token in tokens[-num_tokens:]])
            exponent = _EXPONENT.search(text)
            if exponent is not None:
                return max(0, MAX_EXPONENT_DIGITS - len(exponent[1]))
            found = _DIGITS.search(text)
            num_digits = len(found[0]) if found is not None else 0
            if num_digits < len(text) or num_tokens >= min(len(tokens), MAX_DIGITS):
                return max(0, MAX_DIGITS - num_digits)
            num_tokens = MAX_DIGITS


def _leading_digits(text: bytes) -> int:
    return len(text) - len(text.lstrip(b"0123456789"))
