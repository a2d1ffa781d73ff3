"""A bound on the thinking trace."""

from __future__ import annotations

from collections.abc import Sequence


class ThinkingBudget:
    """Forces the end of thinking when the trace has used its tokens up; a TokenGuide.

    budget_tokens counts the trace without the token that ends it.
    call_token    begins a tool call, which ends the trace too where the model forgets to say so; None without tools
    """

    def __init__(self, *, budget_tokens: int, end_token: int, vocab_size: int, call_token: int | None = None) -> None:
        self._budget_tokens = budget_tokens
        self._ends = {end_token, call_token}
        mask = bytearray(-(-vocab_size // 8))
        mask[end_token // 8] = 1 << (end_token % 8)
        self._only_end = bytes(mask)

    def allowed(self, output: Sequence[int]) -> bytes | None:
        if len(output) == self._budget_tokens and self._ends.isdisjoint(output):
            return self._only_end
        return None
