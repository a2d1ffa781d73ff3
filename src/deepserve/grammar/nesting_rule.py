"""Keeps JSON shallow: many readers refuse more than a hundred brackets inside each other, and some fail at them.

The mask compiler knows no bound on nesting, so one is put on top of its masks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from deepserve.grammar.vocabulary import Vocabulary

MAX_NESTING: Final = 64

_STRUCTURE: Final = re.compile(rb'"(?:[^"\\]|\\.)*(?P<end>"|\\?\Z)|[\[{\]}]', re.DOTALL)
"""A string, whole or as far as it goes, or a bracket outside of strings."""
_OUTSIDE: Final = b'"0123456789-+.eEtfn[]{},: \n<'
"""What may begin a token outside of strings; where anything else may come, the place is inside of one."""


class NestingRule:
    """Which tokens open how many brackets. Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        texts = {token: vocabulary.token_bytes[token] for token in vocabulary.plain_ids}
        opened = {token: number for token, text in texts.items() if (number := _openings(text))}
        opened_behind = {token: number for token in opened if (number := _openings(texts[token].partition(b'"')[2]))}
        closed = max(text.count(b"]") + text.count(b"}") for text in texts.values())
        self.most = max(1, closed, *opened.values())
        """Most brackets that one token opens or closes."""
        self.outside = [_without(vocabulary, opened, left) for left in range(self.most)]
        """Without the tokens that open more than so many brackets."""
        self.inside = [_without(vocabulary, opened_behind, left) for left in range(self.most)]
        """The same within a string: what stands before its end opens nothing."""
        self.elsewhere = vocabulary.bits([token for token, text in texts.items() if text[0] not in _OUTSIDE])


class Nesting:
    """How deep one answer is nested. Looked at only when so many tokens have come that it can be too deep."""

    def __init__(self, rule: NestingRule) -> None:
        self._rule = rule
        self._num_read = 0
        self._depth = 0
        self._tail = b""  # the quotation mark of a string that is open, and a backslash that ends it
        self._look_at = MAX_NESTING // rule.most

    def copy(self) -> Nesting:
        other = Nesting(self._rule)
        other._num_read, other._depth, other._tail = self._num_read, self._depth, self._tail
        other._look_at = self._look_at
        return other

    def undo(self, num_left: int, num_undone: int) -> None:
        """So many tokens are left, and so many were taken back."""
        self._look_at -= num_undone
        if self._num_read > num_left:
            self._num_read, self._depth, self._tail = 0, 0, b""

    def narrowed(self, mask: bytes, tokens: Sequence[int]) -> bytes:
        """The mask behind these tokens without those that would open too many brackets."""
        if len(tokens) < self._look_at:
            return mask
        self._read(tokens)
        left = max(0, MAX_NESTING - self._depth)
        self._look_at = len(tokens) + left // self._rule.most
        if left >= self._rule.most:
            return mask
        allowed = int.from_bytes(mask, "little")
        is_inside = allowed & self._rule.elsewhere
        narrowed = allowed & (self._rule.inside if is_inside else self._rule.outside)[left]
        return narrowed.to_bytes(len(mask), "little") if narrowed else mask

    def _read(self, tokens: Sequence[int]) -> None:
        special, token_bytes = self._rule.vocabulary.special_ids, self._rule.vocabulary.token_bytes
        new = tokens[self._num_read :]
        self._num_read = len(tokens)
        for place in range(len(new) - 1, -1, -1):
            if new[place] in special:  # a tag of tool markup: no value goes on behind it
                new, self._depth, self._tail = new[place + 1 :], 0, b""
                break
        text, self._tail = self._tail + b"".join([token_bytes[token] for token in new]), b""
        for found in _STRUCTURE.finditer(text):
            match found[0][:1]:
                case b'"':
                    if found["end"] != b'"':
                        self._tail = b'"' + found["end"]
                case b"[" | b"{":
                    self._depth += 1
                case _:
                    self._depth = max(0, self._depth - 1)


def _openings(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _without(vocabulary: Vocabulary, opened: Mapping[int, int], left: int) -> int:
    return ~vocabulary.bits([token for token, count in opened.items() if count > left])
