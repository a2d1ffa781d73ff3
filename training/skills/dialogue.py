"""Greetings, who am I, what can I do, thanks, small talk, and a plain no to what is beyond a small model."""

from __future__ import annotations

from training.conversations import Conversation, Turn
from training.phrases import dialogue
from training.phrasing import phrase
from training.values import Draw


def small_talk(draw: Draw) -> Conversation:
    """One of the fixed intents."""
    intents = dialogue().intents
    # What people say in many ways, they also say often.
    intent = draw.random.choices(intents, [len(intent.frames) for intent in intents])[0]
    return Conversation(
        skill=f"dialogue.{intent.name}",
        turns=(
            Turn(role="user", content=phrase(draw, intent.frames)),
            Turn(role="assistant", content=intent.answer, reasoning=intent.thought),
        ),
        facts=intent.facts,
    )


def beyond(draw: Draw) -> Conversation:
    """Something that this model cannot do, answered by saying so."""
    text = phrase(
        draw,
        dialogue().beyond_frames,
        a=draw.noun() if draw.chance(0.6) else draw.made_up(),
        b=draw.noun(),
        c=draw.word(),
        city=draw.city(),
        name=draw.name(),
        n=draw.number(20, 2030),
    )
    return Conversation(
        skill="dialogue.beyond",
        facts=(("beyond me", "cannot", "no live data"),),
        turns=(
            Turn(role="user", content=text),
            Turn(
                role="assistant",
                content=dialogue().beyond_answer,
                reasoning="I do not know this or cannot do it. I say so plainly.",
            ),
        ),
    )


def live_data(draw: Draw) -> Conversation:
    """A question that needs a tool, when none is offered."""
    city = draw.city()
    if draw.chance(0.6):
        text = phrase(
            draw,
            (
                "What is the weather in {c}?",
                "What's the weather in {c}?",
                "weather in {c}",
                "How warm is it in {c}?",
                "Is it raining in {c}?",
                "Will it rain in {c} tomorrow?",
                "What time is it in {c}?",
                "weather {c} today?",
            ),
            c=city,
        )
        return Conversation(
            skill="dialogue.live_data",
            facts=(("no live data", "beyond me", "cannot"),),
            turns=(
                Turn(role="user", content=text),
                Turn(
                    role="assistant",
                    content=f"I have no live data for {city}. Offer me a tool for that and I will call it.",
                    reasoning=f"This needs live data for {city}, and I have no tool for it.",
                ),
            ),
        )
    text = phrase(
        draw,
        (
            "weather in {c} as json?",
            "Weather in {c} as JSON.",
            "Give me the weather in {c} as JSON",
            "json weather for {c}",
            "What is the weather in {c}? Answer in json.",
            "{c} weather json",
            "Current weather in {c}, as json please",
        ),
        c=city,
    )
    return Conversation(
        skill="dialogue.live_data_json",
        json_object=draw.chance(0.5),
        turns=(
            Turn(role="user", content=text),
            Turn(
                role="assistant",
                content=f'{{"city": "{city}", "weather": null, "note": "no live data"}}',
                reasoning=f"JSON about the weather in {city}, but I have no live data.",
            ),
        ),
    )
