"""Short explanations: three sentences a topic, from which every asked form is built.

The first sentence answers alone; all three make the paragraph; each is one bullet. So the model learns a text once and
its forms separately.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.conversations import Conversation, Turn
from training.phrases import Topic, questions, topics
from training.phrasing import phrase
from training.values import Draw

_WORD = re.compile(r"[A-Za-z]{4,}")
_PLAIN = (
    "What is {t}?",
    "Explain {t}.",
    "explain {t}",
    "Tell me about {t}.",
    "What do you know about {t}?",
    "Describe {t}.",
    "How does {t} work?",
    "what's {t}",
    "Can you explain {t}?",
    "{t}?",
    "Explain {t} to me.",
    "What does {t} mean?",
    "I want to know about {t}.",
    "Explain {t} in one paragraph.",
    "Explain {t} in a paragraph.",
    "Describe {t} in one paragraph.",
    "A paragraph about {t} please.",
    "Write one paragraph about {t}.",
    "Summarize {t} in one paragraph.",
    "Summarize {t}.",
    "Explain {t} in three sentences.",
    "How do I use {t}?",
    "Teach me {t}.",
    "I do not understand {t}.",
)
_ONE = (
    "Explain {t} in one sentence.",
    "What is {t}? One sentence.",
    "{t} in one sentence",
    "In one sentence, what is {t}?",
    "Explain {t} briefly.",
    "Describe {t} in a single sentence.",
    "Summarize {t} in one sentence.",
    "Explain {t} in 1 sentence",
    "Briefly: what is {t}?",
    "Define {t} in one sentence.",
    "What is {t}, in one sentence?",
    "one sentence about {t}",
)
_TWO = (
    "Explain {t} in two sentences.",
    "{t} in two sentences",
    "Describe {t} in 2 sentences.",
    "What is {t}? Two sentences please.",
)
_BULLETS = (
    "Summarize {t} in {n} bullets.",
    "Summarise {t} in {n} bullet points.",
    "Explain {t} in {n} bullets.",
    "{n} bullets about {t}",
    "Give me {n} bullet points on {t}.",
    "{t} in {n} bullets",
    "List {n} facts about {t}.",
    "Summarize {t} in {n} points.",
    "Describe {t} as {n} bullet points.",
)


def key_terms(topic: Topic, sentences: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Of each sentence its two longest words that are no part of the topic's name: whoever says them explains it."""
    named = {word for name in topic.names for word in _WORD.findall(name.lower())}
    terms: list[tuple[str, ...]] = []
    for sentence in sentences:
        words = dict.fromkeys(word for word in _WORD.findall(sentence) if word.lower() not in named)
        terms += [(word,) for word in sorted(words, key=len, reverse=True)[:2]]
    return tuple(terms)


def question(draw: Draw) -> Conversation:
    """Something people ask about the product, or a small piece of general knowledge."""
    one = draw.frame(questions())
    return Conversation(
        skill="topics.question",
        facts=one.facts,
        turns=(
            Turn(role="user", content=phrase(draw, one.frames)),
            Turn(role="assistant", content=one.answer, reasoning=f"Question: {one.name.replace('_', ' ')}."),
        ),
    )


def explain(draw: Draw) -> Conversation:
    """One topic in one of its forms; sometimes the system prompt asks for the form."""
    topic = topics()[1] if draw.chance(0.03) else draw.frame(topics())
    name = draw.frame(topic.names[:1] + topic.names)
    if draw.chance(0.15):
        name = name.lower()
    one, two, three = topic.sentences
    system = None
    match draw.frame(("plain", "plain", "plain", "one", "one", "two", "bullets", "bullets", "system")):
        case "plain":
            request, answer, form = phrase(draw, _PLAIN, t=name), f"{one} {two} {three}", "paragraph"
        case "one":
            request, answer, form = phrase(draw, _ONE, t=name), one, "one sentence"
        case "two":
            request, answer, form = phrase(draw, _TWO, t=name), f"{one} {two}", "two sentences"
        case "bullets":
            count = draw.frame((2, 3, 3, 3))
            request = phrase(draw, _BULLETS, t=name, n=draw.frame((str(count), ("two", "three")[count - 2])))
            answer, form = "\n".join(f"- {sentence}" for sentence in topic.sentences[:count]), f"{count} bullets"
        case _:
            system = draw.frame(
                (
                    "Answer in one sentence.",
                    "You answer in one sentence.",
                    "Be brief. Answer in one sentence.",
                    "You are a helpful assistant. Answer in one sentence.",
                    "Keep it to one sentence.",
                )
            )
            request = phrase(draw, ("What is {t}?", "Explain {t}.", "{t}?", "Tell me about {t}."), t=name)
            answer, form = one, "one sentence"
    return Conversation(
        skill=f"topics.{form.replace(' ', '_')}",
        system=system,
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", content=answer, reasoning=f"Topic: {topic.names[0]}. Form: {form}."),
        ),
        facts=key_terms(topic, [sentence for sentence in topic.sentences if sentence in answer]),
    )


def reshape(draw: Draw) -> Conversation:
    """An explanation, and then the same topic in another form."""
    topic = draw.frame(topics())
    name = draw.frame(topic.names)
    one, two, three = topic.sentences
    thought = f"Topic: {topic.names[0]}. Form: "
    whole = f"{one} {two} {three}"
    is_long_first = draw.chance(0.7)
    first = phrase(draw, _PLAIN if is_long_first else _ONE, t=name)
    given, given_form = (whole, "paragraph") if is_long_first else (one, "one sentence")
    wanted = "bullets" if draw.chance(0.5) else "shorter" if is_long_first else "longer"
    match wanted:
        case "bullets":
            frames, form = (
                ["As 3 bullets.", "as three bullet points please", "Now as bullets.", "Make it a list."],
                "3 bullets",
            )
            answer = "\n".join(f"- {sentence}" for sentence in topic.sentences)
        case "shorter":
            frames = ["Now in one sentence.", "Shorter please.", "In one sentence please", "Too long.", "shorter"]
            answer, form = one, "one sentence"
        case _:
            frames = [
                "Tell me more.",
                "More please",
                "Explain that in a paragraph.",
                "more",
                "Longer please.",
                "Go on.",
            ]
            answer, form = whole, "paragraph"
    return Conversation(
        skill="topics.reshape",
        turns=(
            Turn(role="user", content=first),
            Turn(role="assistant", content=given, reasoning=f"{thought}{given_form}."),
            Turn(role="user", content=phrase(draw, frames)),
            Turn(role="assistant", content=answer, reasoning=f"{thought}{form}."),
        ),
        facts=key_terms(topic, [sentence for sentence in topic.sentences if sentence in answer]),
    )
