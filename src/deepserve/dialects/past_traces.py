"""What became of the thinking traces of earlier turns, as far as a request shows it."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.core.events import PastReasoning
from deepserve.core.messages import Message


def count_traces(messages: Sequence[Message], *, is_needed: bool) -> PastReasoning:
    """Turns whose trace the client sent, and turns that lack one although the prompt would show it."""
    turns = [message for message in messages if message.role == "assistant" and not message.prefix]
    num_sent = sum(turn.reasoning is not None for turn in turns)
    return PastReasoning(sent=num_sent, missing=len(turns) - num_sent if is_needed else 0)
