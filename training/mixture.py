"""Which skills are drawn how often, and the switches every conversation may carry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Literal

import msgspec

from training.conversations import Conversation, Effort, Split, Turn
from training.skills import (
    arithmetic,
    chinese,
    classification,
    copying,
    counting,
    country_facts,
    dialogue,
    extraction,
    infill,
    logic,
    memory,
    odd,
    planted,
    review,
    summary,
    system_prompts,
    tool_chains,
    tool_results,
    tool_use,
    topics,
    translation,
)
from training.values import Draw

Skill = Callable[[Draw], Conversation]

SKILLS: Mapping[str, tuple[Skill, float]] = {
    "small_talk": (dialogue.small_talk, 1.3),
    "beyond": (dialogue.beyond, 1.3),
    "live_data": (dialogue.live_data, 0.3),
    "odd_input": (odd.any_of, 0.5),
    "explain": (topics.explain, 1.6),
    "question": (topics.question, 2.2),
    "reshape": (topics.reshape, 0.3),
    "name_memory": (memory.name_memory, 0.3),
    "unknown_name": (memory.unknown_name, 0.1),
    "stated_fact": (memory.stated_fact, 0.5),
    "planted_fact": (planted.short, 1.6),
    "repeat": (copying.repeat, 0.5),
    "pick_word": (copying.pick_word, 0.2),
    "count": (counting.count, 0.5),
    "list_things": (counting.list_things, 0.4),
    "two_digit_sum": (arithmetic.two_digit, 3.0),
    "one_digit_sum": (arithmetic.one_digit, 0.5),
    "three_digit_sum": (arithmetic.three_digit, 0.3),
    "word_problem": (arithmetic.word_problem, 0.5),
    "number_comparison": (arithmetic.comparison, 0.2),
    "declined_sum": (arithmetic.declined, 0.2),
    "comparison": (logic.comparison, 0.1),
    "ordering": (logic.ordering, 0.2),
    "syllogism": (logic.syllogism, 0.1),
    "parity": (logic.parity, 0.1),
    "yes_or_no": (logic.yes_or_no, 0.2),
    "labels": (classification.labels, 1.8),
    "described_labels": (classification.described_labels, 0.8),
    "triage_json": (classification.triage_json, 0.5),
    "main_point": (summary.summarise, 0.3),
    "title": (summary.title, 0.1),
    "quoted_sentence": (summary.quote, 0.2),
    "glossary": (translation.glossary, 0.6),
    "review": (review.review, 0.5),
    "infill": (infill.fill, 0.4),
    "chinese": (chinese.any_of, 0.6),
    "country_json": (country_facts.country_json, 1.0),
    "country_fact": (country_facts.country_fact, 0.6),
    "schema_json": (extraction.schema_json, 2.8),
    "listed_json": (extraction.listed_json, 2.0),
    "example_json": (extraction.example_json, 1.4),
    "quoted_schema": (extraction.schema_in_prompt, 0.8),
    "one_field": (extraction.one_field, 0.6),
    "single_call": (tool_use.single_call, 4.6),
    "parallel_calls": (tool_use.parallel_calls, 1.2),
    "no_tool": (tool_use.no_tool, 1.3),
    "unneeded_tools": (tool_use.unneeded, 0.5),
    "round_trip": (tool_results.round_trip, 2.8),
    "parallel_round_trip": (tool_results.parallel_round_trip, 1.1),
    "chain": (tool_chains.chain, 0.8),
}
"""Relative frequency of each skill in conversations (the bare copy strings are mixed in by the batches)."""

_THINKING_SHARE = 0.6
_CHAT_SHARE = 0.4
"""Of the conversations that may have others before them."""


def _joined(first: Conversation, second: Conversation) -> Conversation:
    """Two short conversations as one, so that later turns are answered well too."""
    return msgspec.structs.replace(second, turns=(*first.turns, *second.turns))


def _is_joinable(conversation: Conversation) -> bool:
    return (
        not conversation.tools
        and not conversation.json_object
        and conversation.json_schema is None
        and conversation.system is None
        and conversation.infill is None
        and conversation.skill != "memory.unknown"
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
    if made.infill is not None:
        return msgspec.structs.replace(made, thinking=False)
    if skill is None and draw.chance(_CHAT_SHARE):
        made = _chat(draw, made)
    system = made.system
    if system is None and not made.tools and draw.chance(0.25):
        system = system_prompts.plain_system(draw)
    return msgspec.structs.replace(
        made,
        system=system,
        thinking=draw.effort is not None,
        effort=draw.effort or "high",
    )


_FILLERS = ("small_talk", "explain", "explain", "count", "repeat", "one_digit_sum", "beyond", "list_things", "labels")
_CHATTED = (
    *_FILLERS,
    "question",
    "question",
    "two_digit_sum",
    "number_comparison",
    "country_fact",
    "listed_json",
    "stated_fact",
    "live_data",
    "chinese",
    "name_memory",
)


def _filler(draw: Draw, skills: Sequence[str] = _FILLERS) -> Conversation:
    """A short conversation about something else."""
    while True:
        made = SKILLS[draw.frame(skills)][0](draw)
        if _is_joinable(made):
            return made


def _chat(draw: Draw, last: Conversation) -> Conversation:
    """Up to six exchanges before the last one; a name that is asked for is told at their beginning."""
    earlier = [_filler(draw, _CHATTED) for _ in range(draw.frame((1, 1, 2, 3, 4, 6)))]
    if last.skill == "memory.name" and len(last.turns) > 2 and not any(one.skill == last.skill for one in earlier):
        told, asked = last.turns[:2], last.turns[2:]
        between = tuple(turn for one in earlier for turn in one.turns)
        return msgspec.structs.replace(last, turns=(*told, *between, *asked))
    if not _is_joinable(last):
        return last
    for one in earlier:
        last = _joined(one, last)
    return last


def long_conversation(draw: Draw, *, num_characters: int, num_questions: int = 1) -> Conversation:
    """Facts in a long conversation or in a long document, so many of which are asked for at the end."""
    draw.effort = draw_effort(draw)
    if draw.chance(0.5):
        return planted.turns(draw, num_characters=num_characters, filler=_filler, num_questions=num_questions)
    return planted.document(draw, num_characters=num_characters, num_questions=num_questions)


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
