"""Which skills are drawn how often, and the switches every conversation may carry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Literal

import msgspec

from training.conversations import Conversation, Effort, Split, Turn
from training.skills import copying, counting, dialogue, extraction, memory, tool_use, topics
from training.values import Draw

Skill = Callable[[Draw], Conversation]

SKILLS: Mapping[str, tuple[Skill, float]] = {
    "small_talk": (dialogue.small_talk, 3.0),
    "beyond": (dialogue.beyond, 1.0),
    "live_data": (dialogue.live_data, 0.5),
    "explain": (topics.explain, 3.0),
    "reshape": (topics.reshape, 0.9),
    "name_memory": (memory.name_memory, 0.4),
    "unknown_name": (memory.unknown_name, 0.2),
    "stated_fact": (memory.stated_fact, 0.9),
    "repeat": (copying.repeat, 0.8),
    "pick_word": (copying.pick_word, 0.2),
    "count": (counting.count, 1.8),
    "list_things": (counting.list_things, 0.9),
    "calculation": (counting.calculation, 1.0),
    "country_json": (extraction.country_json, 2.0),
    "country_fact": (extraction.country_fact, 1.2),
    "extract": (extraction.extract, 1.8),
    "schema_json": (extraction.schema_json, 0.6),
    "single_call": (tool_use.single_call, 3.4),
    "parallel_calls": (tool_use.parallel_calls, 0.5),
    "round_trip": (tool_use.round_trip, 1.6),
    "parallel_round_trip": (tool_use.parallel_round_trip, 0.4),
    "no_call": (tool_use.no_call, 1.2),
}
"""Relative frequency of each skill in conversations (the bare copy strings are mixed in by the batches)."""

_THINKING_SHARE = 0.6


def _joined(first: Conversation, second: Conversation) -> Conversation:
    """Two short conversations as one, so that later turns are answered well too."""
    return msgspec.structs.replace(
        second,
        turns=(*first.turns, *second.turns),
        system=second.system or first.system,
        json_object=first.json_object or second.json_object,
    )


def _is_joinable(conversation: Conversation) -> bool:
    return (
        not conversation.tools
        and not conversation.json_object
        and conversation.json_schema is None
        and conversation.system is None
        and not conversation.skill.startswith("memory")
    )


def draw_effort(draw: Draw) -> Effort | None:
    """How much to think, or not at all."""
    return draw.frame(("high", "high", "high", "low", "max")) if draw.chance(_THINKING_SHARE) else None


def conversation(
    draw: Draw, *, skill: str | None = None, effort: Effort | Literal["any"] | None = "any"
) -> Conversation:
    """One conversation of the mixture (or of one skill), with a harmless system prompt now and then.

    Its effort is drawn, too, unless it is given; None is an answer without thinking. It is set before the skill
    writes its thoughts, so that they may be as long as it asks for.
    """
    draw.effort = draw_effort(draw) if effort == "any" else effort
    weights = [weight for _, weight in SKILLS.values()]
    name = draw.random.choices(list(SKILLS), weights)[0] if skill is None else skill
    made = SKILLS[name][0](draw)
    if skill is None and _is_joinable(made) and draw.chance(0.2):
        earlier = SKILLS[
            draw.frame(("small_talk", "small_talk", "explain", "count", "repeat", "calculation", "beyond"))
        ][0](draw)
        if _is_joinable(earlier):
            made = _joined(earlier, made)
    system = made.system
    if system is None and not made.tools and draw.chance(0.25):
        system = tool_use.plain_system(draw)
    return msgspec.structs.replace(
        made,
        system=system,
        thinking=draw.effort is not None,
        effort=draw.effort or "high",
    )


def long_conversation(draw: Draw, *, num_characters: int) -> Conversation:
    """A fact, much small talk, and the fact asked for at the end."""
    draw.effort = draw_effort(draw)
    key, value = draw.frame(memory.THINGS), memory.fact(draw)
    turns = [
        Turn(role="user", content=f"{draw.frame(('Remember: the', 'Note: the', 'The', 'My'))} {key} is {value}."),
        Turn(role="assistant", content="Noted.", reasoning="A fact to remember."),
    ]
    length = 0
    while length < num_characters:
        filler = SKILLS[
            draw.frame(("small_talk", "explain", "explain", "count", "repeat", "calculation", "beyond", "list_things"))
        ][0](draw)
        if _is_joinable(filler):
            turns += filler.turns
            length += sum(len(turn.content) for turn in filler.turns)
    turns += [
        Turn(
            role="user",
            content=draw.frame((f"What is the {key}?", f"Tell me the {key}.", f"Which {key} did I give you?")),
        ),
        Turn(role="assistant", content=f"The {key} is {value}.", reasoning=f"The {key}: {value}."),
    ]
    return Conversation(
        skill="memory.distant",
        turns=tuple(turns),
        thinking=draw.effort is not None,
        effort=draw.effort or "high",
    )


def conversations(seed: int, split: Split) -> Iterator[Conversation]:
    """An endless stream, the same for the same seed and side."""
    draw = Draw(Random(f"{split}:{seed}"), split)
    while True:
        yield conversation(draw)


def evaluation_set(per_skill: int, seed: int = 2026) -> list[Conversation]:
    """A fixed set from the held-out side, equally many of each skill, thinking and not."""
    draw = Draw(Random(f"evaluation:{seed}"), "held_out")
    return [
        conversation(draw, skill=name, effort="high" if k % 2 == 0 else None)
        for name in SKILLS
        for k in range(per_skill)
    ]


def fingerprint(made: list[Conversation]) -> str:
    """A hash of a set of conversations, to record before training."""
    return hashlib.sha256(msgspec.json.encode(made)).hexdigest()


def texts(turns: tuple[Turn, ...]) -> Iterator[str]:
    """All text of some turns, for building a vocabulary."""
    for turn in turns:
        yield turn.content
        yield turn.reasoning
