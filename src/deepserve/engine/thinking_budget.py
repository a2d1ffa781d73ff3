"""A bound on the thinking trace."""

from __future__ import annotations

from collections.abc import Sequence


class ThinkingBudget:
    """Forces the end of one result's thinking when the trace has used its tokens up; a TokenGuide.

    budget_tokens counts the trace without the token that ends it.
    call_token    begins a tool call, which ends the trace too where the model forgets to say so; None without tools
    """

    def __init__(self, *, budget_tokens: int, end_token: int, call_token: int | None = None) -> None:
        self._left_tokens = budget_tokens
        self._end_token = end_token
        self._call_token = call_token
        self._is_over = False

    def accept(self, token: int) -> int:
        self._left_tokens -= 1
        self._is_over = self._is_over or token in (self._end_token, self._call_token)
        return token

    def forced(self) -> Sequence[int]:
        if self._is_over or self._left_tokens > 0:
            return ()
        self._is_over = True
        return (self._end_token,)

    def mask(self) -> bytes | None:
        return None
