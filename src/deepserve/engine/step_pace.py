"""How much prompt to compute in one step so that the step stays short."""

from __future__ import annotations

from deepserve.engine.interface import CHUNK_TOKENS

TARGET_STEP_S = 0.05
"""A step is how long a cancellation or a new request may have to wait, and the gap between a reader's tokens."""

SHORTEST_ROW_TOKENS = 32
"""Below this a row of a prompt costs as much time as a longer one; a divisor of CHUNK_TOKENS."""

_SMOOTHING = 0.2


class StepPace:
    """Learns from measured steps what a decode row and a prompt token cost, and says what a step may hold.

    Only how a prompt is cut into rows depends on it, and no result depends on that: no result depends on time.
    """

    def __init__(self, *, target_s: float = TARGET_STEP_S) -> None:
        self._target_s = target_s
        self._row_s = 0.0
        self._token_s: float | None = None

    @property
    def prompt_token_s(self) -> float | None:
        """Seconds to compute a prompt token; None before the first."""
        return self._token_s

    def observe(self, *, num_decoded: int, prompt_tokens: int, seconds: float) -> None:
        """Learn from one step of so many decode rows and prompt tokens."""
        if prompt_tokens == 0:
            self._row_s += _SMOOTHING * (seconds / num_decoded - self._row_s)
            return
        measured = max(0.0, seconds - num_decoded * self._row_s) / prompt_tokens
        if self._token_s is None:
            self._token_s = measured
        else:
            self._token_s += _SMOOTHING * (measured - self._token_s)

    def prompt_allowance(self, *, num_decoded: int) -> int:
        """Prompt tokens a step beside so many decode rows may compute; one chunk until something was measured."""
        if self._token_s is None:
            return CHUNK_TOKENS
        left_s = self._target_s - num_decoded * self._row_s
        return max(0, int(left_s / max(self._token_s, 1e-9)))

    def row_tokens(self, *, num_decoded: int) -> int:
        """Longest row of a prompt in such a step: CHUNK_TOKENS, halved until it fits the allowance, but not for ever.

        Deep in a long history a whole chunk takes many times the target.
        """
        allowance, tokens = self.prompt_allowance(num_decoded=num_decoded), CHUNK_TOKENS
        while tokens > max(allowance, SHORTEST_ROW_TOKENS):
            tokens //= 2
        return tokens
