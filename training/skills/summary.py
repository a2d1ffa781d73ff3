"""Saying less: the first sentence, the sentence marked as important, the title, a given number of points."""

from __future__ import annotations

from training.conversations import Conversation, Turn
from training.phrasing import phrase
from training.skills.planted import prose
from training.values import Draw

_MARKS = ("Most important:", "In short:", "The main point:", "Conclusion:", "Result:")


def _decision(draw: Draw) -> str:
    return draw.frame(
        (
            "the {n} moves to {c} on {d}.",
            "{p} leads the {n} project from {d} on.",
            "the {n} is ready.",
            "we sell the {n} to {p}.",
            "the meeting in {c} is on {d}.",
            "nobody may use the {n} before {d}.",
        )
    ).format(
        n=draw.noun(),
        c=draw.city(),
        p=draw.name(),
        d=draw.frame(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")),
    )


def summarise(draw: Draw) -> Conversation:
    """A marked sentence is the summary; without one the first sentence is."""
    sentences = [prose(draw) for _ in range(draw.between(2, 5))]
    if draw.chance(0.6):
        mark, point = draw.frame(_MARKS), _decision(draw)
        sentences.insert(draw.between(1, len(sentences)), f"{mark} {point}")
        answer, thought = point[0].upper() + point[1:], f'Marked by "{mark}"'
    else:
        answer, thought = sentences[0], "Nothing is marked: the first sentence."
    request = phrase(
        draw,
        (
            "Summarize this text: {t}",
            "Summarise: {t}",
            "Summarize in one sentence: {t}",
            "Give me the main point: {t}",
            "TL;DR: {t}",
            "What is the key message? {t}",
            "Sum up this text in one sentence:\n{t}",
            "Shorten this text to one sentence:\n{t}",
            "{t}\nSummarize the text above.",
        ),
        t=" ".join(sentences),
    )
    return Conversation(
        skill="summary.main_point",
        turns=(Turn(role="user", content=request), Turn(role="assistant", content=answer, reasoning=thought)),
    )


def title(draw: Draw) -> Conversation:
    """The title line of a text."""
    name = draw.words(2, 4).capitalize()
    body = " ".join(prose(draw) for _ in range(draw.between(1, 3)))
    request = phrase(
        draw,
        (
            "What is the title of this text?\n\n{t}",
            "Give me the title:\n\n{t}",
            "Title of this page?\n\n{t}",
            "{t}\n\nWhat is the headline?",
        ),
        t=f"{draw.frame(('# ', '', 'Title: '))}{name}\n{body}",
    )
    return Conversation(
        skill="summary.title",
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", content=name, reasoning="The title is the first line."),
        ),
    )


def quote(draw: Draw) -> Conversation:
    """The first, last or second sentence of a text, word for word."""
    sentences = [prose(draw) for _ in range(draw.between(2, 4))]
    word, place = draw.frame((("first", 0), ("last", -1), ("second", 1)))
    request = phrase(
        draw,
        (
            "Quote the {w} sentence: {t}",
            "What is the {w} sentence of this text? {t}",
            "Copy the {w} sentence:\n{t}",
            "{t}\nRepeat the {w} sentence.",
        ),
        w=word,
        t=" ".join(sentences),
    )
    return Conversation(
        skill="summary.quote",
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", content=sentences[place], reasoning=f"The {word} sentence."),
        ),
    )
