"""Repeating text exactly, in conversations and as bare strings: this teaches to fill slots letter by letter."""

from __future__ import annotations

from training.conversations import Conversation, Turn
from training.phrasing import phrase
from training.values import Draw


def string(draw: Draw) -> str:
    """Something to copy: words, codes, numbers, or a mixture."""
    match draw.between(0, 5):
        case 0:
            return draw.words(1, 8)
        case 1:
            return " ".join(draw.made_up() for _ in range(draw.between(1, 6)))
        case 2:
            return " ".join(draw.code() for _ in range(draw.between(1, 3)))
        case 3:
            return f"{draw.city()} {draw.frame(('and', 'or', 'to', ',', '-', 'with'))} {draw.name()}"
        case 4:
            return draw.words(1, 3).capitalize() + draw.frame((".", "!", "?", ""))
        case _:
            return " ".join(str(draw.number(0, 999999)) for _ in range(draw.between(1, 4)))


def repeat(draw: Draw) -> Conversation:
    """Say it back, once or twice, quoted or not."""
    text = string(draw)
    if draw.chance(0.2):
        text = text.split(" ")[0]
        return Conversation(
            skill="copying.twice",
            turns=(
                Turn(
                    role="user",
                    content=phrase(draw, ("Say {t} twice.", "Say {t} two times", "{t}, twice please"), t=text),
                ),
                Turn(role="assistant", content=f"{text} {text}", reasoning="I repeat it twice."),
            ),
        )
    request = phrase(
        draw,
        (
            "Repeat: {t}",
            "Repeat after me: {t}",
            "Say: {t}",
            "Say exactly: {t}",
            "Echo {t}",
            "Say '{t}'",
            "Copy this text: {t}",
            "Write: {t}",
            "Quote this: {t}",
            "Print {t}",
            "Return this string: {t}",
            'repeat "{t}"',
            'Say "{t}"',
            "Answer only with: {t}",
        ),
        t=text,
    )
    return Conversation(
        skill="copying.repeat",
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", content=text, reasoning="I repeat the text exactly."),
        ),
    )


def pick_word(draw: Draw) -> Conversation:
    """The first or the last word of a list."""
    words = [draw.word() for _ in range(draw.between(3, 6))]
    which, place = draw.frame((("first", 0), ("last", -1), ("second", 1)))
    request = phrase(
        draw,
        ("What is the {w} word of: {t}", "Give me the {w} word: {t}", '{w} word of "{t}"?'),
        w=which,
        t=" ".join(words),
    )
    return Conversation(
        skill="copying.pick",
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", content=words[place], reasoning=f"The {which} word: {words[place]}."),
        ),
    )
