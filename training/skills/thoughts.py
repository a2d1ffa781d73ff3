"""How long a thought is: a few words at effort low, each value at high, each alternative at max."""

from __future__ import annotations

from training.values import Draw


def thought(draw: Draw, *, low: str, high: str, longest: str) -> str:
    """The thought for the effort that the conversation asks for."""
    match draw.effort:
        case "low":
            return low
        case "max":
            return longest
        case _:
            return high
