"""What became of the thinking traces of earlier turns, as far as a request shows it."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.core.events import PastReasoning
from deepserve.core.messages import Message


def count_traces(messages: Sequence[Message], *, is_needed: bool) -> PastReasoning:
    """Turns whose trace the client sent or named, and turns that lack one although the prompt would show it."""
    turns = [message for message in messages if message.role == "assistant" and not message.prefix]
    num_there = sum(turn.reasoning is not None for turn in turns)
    num_named = sum(turn.is_reasoning_recalled for turn in turns)
    return PastReasoning(
        sent=num_there - num_named, restored=num_named, missing=len(turns) - num_there if is_needed else 0
    )
