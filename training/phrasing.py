"""How people really type: the same request with other case, missing marks, politeness and slips of the finger."""

from __future__ import annotations

import re

from training.values import Draw

_SLOT = re.compile(r"(\{[a-z_0-9]+\})")


def _slip(draw: Draw, text: str) -> str:
    """Swap, drop or double one letter."""
    letters = [i for i, letter in enumerate(text) if letter.isalpha()]
    if len(letters) < 4:
        return text
    i = draw.frame(letters[1:])
    match draw.between(0, 2):
        case 0:
            return text[:i] + text[i + 1 :]
        case 1:
            return text[:i] + text[i] + text[i:]
        case _:
            return text[: i - 1] + text[i] + text[i - 1] + text[i + 1 :]


def _ends_itself(pieces: list[str], slots: dict[str, object]) -> bool:
    """Whether the text ends in a value of several lines or with its own mark, which then must stay as it is."""
    if pieces[-1] or len(pieces) < 2:
        return False
    value = str(slots[pieces[-2][1:-1]])
    return "\n" in value or not value[-1:].isalnum()


def phrase(draw: Draw, frames: tuple[str, ...] | list[str], /, **slots: object) -> str:
    """Pick a frame, roughen it as a person would, and fill its slots with exact values.

    Only the frame's own words are changed: what stands in a slot must be copied letter by letter.
    """
    frame = draw.wording(frames)
    if draw.chance(0.12):
        frame = draw.frame(("please ", "Please ", "pls ", "hey, ", "Hi! ", "Could you ", "can you ", "ok, ")) + (
            frame[:1].lower() + frame[1:]
        )
    pieces = _SLOT.split(frame)
    if draw.chance(0.2):
        pieces = [piece if piece.startswith("{") else piece.lower() for piece in pieces]
    if draw.chance(0.1):
        k = draw.between(0, len(pieces) - 1)
        if not pieces[k].startswith("{"):
            pieces[k] = _slip(draw, pieces[k])
    if draw.chance(0.15) and not _ends_itself(pieces, slots):
        last = pieces[-1]
        pieces[-1] = (
            last.rstrip(".!?") if draw.chance(0.6) else last.rstrip(".!?") + draw.frame((".", "!", "?", " ?", "..."))
        )
    return "".join(pieces).format(**slots)
