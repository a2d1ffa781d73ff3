"""Translating word for word with a glossary that the prompt gives; the language may be one that nobody speaks."""

from __future__ import annotations

import json

from training.conversations import Conversation, Turn
from training.phrasing import phrase
from training.values import Draw


def glossary(draw: Draw) -> Conversation:
    """Each word has one entry; words without an entry stay as they are."""
    words: list[str] = []
    while len(words) < draw.between(3, 7):
        word = draw.word()
        if word not in words:
            words.append(word)
    entries: dict[str, str] = {}
    for word in words:
        made_up = draw.made_up()
        if made_up not in entries.values() and made_up not in words:
            entries[word] = made_up
    text = [draw.frame(list(entries)) for _ in range(draw.between(1, 5))]
    if draw.chance(0.2):
        name = draw.name()
        text.insert(draw.between(0, len(text)), name)
    language = draw.made_up().capitalize()
    match draw.between(0, 3):
        case 0:
            listed = ", ".join(f"{word} = {other}" for word, other in entries.items())
        case 1:
            listed = "\n".join(f"{word}: {other}" for word, other in entries.items())
        case 2:
            listed = "\n".join(f"- {word} -> {other}" for word, other in entries.items())
        case _:
            listed = json.dumps(entries)
    request = phrase(
        draw,
        (
            "Glossary:\n{g}\nTranslate: {t}",
            "Translate into {l} with this glossary:\n{g}\n\n{t}",
            "Use these words: {g}\nTranslate: {t}",
            "{g}\nWith this glossary, translate: {t}",
            "Translate word by word: {t}\nGlossary:\n{g}",
        ),
        g=listed,
        t=" ".join(text),
        l=language,
    )
    answer = " ".join(entries.get(word, word) for word in text)
    steps = ", ".join(f"{word} = {entries.get(word, word)}" for word in text)
    return Conversation(
        skill="translation.glossary",
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", content=answer, reasoning=f"{steps}."),
        ),
    )
