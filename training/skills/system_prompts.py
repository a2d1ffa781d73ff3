"""System prompts that change nothing."""

from __future__ import annotations

from training.values import Draw

_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You can call tools.",
    "Use the tools when they help.",
    "Be helpful.",
    "You are an assistant with tools.",
    "You are a concise assistant.",
    "Answer briefly.",
    "You help with everyday tasks.",
)


def plain_system(draw: Draw) -> str | None:
    """No system prompt, or one that changes nothing."""
    if draw.chance(0.6):
        return None
    return (
        draw.frame(_SYSTEMS) if draw.chance(0.7) else f"You are {draw.name()}'s assistant for {draw.noun()} questions."
    )
