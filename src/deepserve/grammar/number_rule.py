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

_DIGITS: Final = b"0123456789"
_PARTS: Final = b"0123456789eE+-"
"""What an exponent or a row of digits is made of: a token with anything else in it begins anew."""
_EXPONENT: Final = re.compile(rb"[0-9][eE][+-]?\Z")
"""What stands before the digits of an exponent."""
_EXPONENT_BYTES: Final = 3
_IN_NUMBER: Final = b"0123456789+-.eE,]} \n<"
"""What may come within a number or after it; where anything else may come, the digits are those of a string."""
_TOKENS_BACK: Final = 8
"""So many tokens are looked at first, then so many times more: nearly all numbers are short."""


class NumberRule:
    """Which tokens begin with how many digits. Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.token_bytes = vocabulary.token_bytes
        leading = {token: _leading_digits(vocabulary.token_bytes[token]) for token in vocabulary.plain_ids}
        self.most_digits = max(leading.values())
        self.shorter = [
            ~vocabulary.bits([token for token, count in leading.items() if count > left])
            for left in range(self.most_digits)
        ]
        """Without the tokens that begin with more than so many digits."""
        self.elsewhere = vocabulary.bits(
            token for token in leading if vocabulary.token_bytes[token][0] not in _IN_NUMBER
        )
        self.digits = {token: count for token, count in leading.items() if count == len(self.token_bytes[token])}
        """Tokens of digits alone, and how many."""
        self.tails = frozenset(token for token in leading if self._may_end_number(self.token_bytes[token]))
        """Tokens behind which there may be too little room for some other token."""

    def _may_end_number(self, text: bytes) -> bool:
        if text[-1] not in _PARTS:
            return False
        return not text.strip(_PARTS) or _digits_left(text) < self.most_digits


class Numbers:
    """How long the number at the end of one answer is. A row of digits is read once and then counted on."""

    def __init__(self, rule: NumberRule) -> None:
        self._rule = rule
        self._num_read = 0
        self._left = 0

    def copy(self) -> Numbers:
        other = Numbers(self._rule)
        other._num_read, other._left = self._num_read, self._left
        return other

    def undo(self, num_left: int) -> None:
        """So many tokens are left."""
        if self._num_read > num_left:
            self._num_read = 0

    def narrowed(self, mask: bytes, tokens: Sequence[int]) -> bytes:
        """The mask behind these tokens without those that would make an exponent or a number too long."""
        rule = self._rule
        if not tokens or tokens[-1] not in rule.tails:
            return mask
        left = self._digits_left(tokens)
        if left >= rule.most_digits:
            return mask
        allowed = int.from_bytes(mask, "little")
        narrowed = allowed & rule.shorter[left]
        if allowed & rule.elsewhere or not narrowed:
            return mask
        return narrowed.to_bytes(len(mask), "little")

    def _digits_left(self, tokens: Sequence[int]) -> int:
        """How many more digits may follow at once."""
        more = self._rule.digits.get(tokens[-1])
        if more is not None and 0 < self._num_read == len(tokens) - 1:
            self._left = max(0, self._left - more)
        else:
            self._left = _digits_left(self._end_of(tokens))
        self._num_read = len(tokens)
        return self._left

    def _end_of(self, tokens: Sequence[int]) -> bytes:
        """Text from the end of the answer that holds the whole of a number there, or enough of it."""
        num_tokens = _TOKENS_BACK
        while True:
            text = b"".join([self._rule.token_bytes[token] for token in tokens[-num_tokens:]])
            if len(text.rstrip(_DIGITS)) >= _EXPONENT_BYTES or num_tokens >= min(len(tokens), MAX_DIGITS):
                return text
            num_tokens *= _TOKENS_BACK


def _digits_left(text: bytes) -> int:
    """The same behind a text."""
    before = text.rstrip(_DIGITS)
    is_exponent = _EXPONENT.search(before, max(0, len(before) - _EXPONENT_BYTES)) is not None
    return max(0, (MAX_EXPONENT_DIGITS if is_exponent else MAX_DIGITS) - (len(text) - len(before)))


def _leading_digits(text: bytes) -> int:
    return len(text) - len(text.lstrip(_DIGITS))
