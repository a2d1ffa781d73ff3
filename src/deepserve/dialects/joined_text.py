"""The text of an answer in whose middle the server ran tools, for dialects that show one text and no blocks."""

from __future__ import annotations

from collections.abc import Iterable

from deepserve.core.messages import Part, Refusal, ServerToolResult, Text

BETWEEN_ROUNDS = "\n\n"
"""What the model wrote before it was given results, and what it wrote then, are different paragraphs."""


def joined_text(parts: Iterable[Part]) -> str:
    joined = ""
    has_paused = False
    for part in parts:
        match part:
            case ServerToolResult():
                has_paused = True
            case Text(text=text) | Refusal(text=text) if text:
                joined += BETWEEN_ROUNDS + text if joined and has_paused else text
                has_paused = False
    return joined


class RoundGap:
    """The same for a stream: what is to be told before the next piece of text."""

    def __init__(self) -> None:
        self._has_said = self._has_paused = False

    def pause(self) -> None:
        """A tool of the server's has answered."""
        self._has_paused = True

    def before(self, text: str) -> str:
        if not text:
            return ""
        gap = BETWEEN_ROUNDS if self._has_said and self._has_paused else ""
        self._has_said, self._has_paused = True, False
        return gap
