"""Strings that end an answer, found in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Release(msgspec.Struct, frozen=True):
    """Text that is certainly part of the answer, and the stop string that ended it, if one did."""

    text: str
    stop_string: str | None = None


class StopStrings:
    """Lets text through up to the first stop string, holding back what may be the beginning of one.

    The string that is complete first wins; of two complete at the same character, the longer. The outcome depends on
    the text alone, not on its pieces. Matching is Knuth-Morris-Pratt for each string: constant work a character.

    They apply to the answer's text and not to the thinking trace or to tool arguments: DeepSeek's documentation does
    not say, and a client that stops at a blank line means its answer.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._borders = [_borders(string) for string in self._strings]
        self._matched = [0] * len(self._strings)
        self._held = ""

    def feed(self, text: str) -> Release:
        """Add text; after a stop string has been reported the rest is dropped and nothing more may be fed."""
        if not self._strings:
            return Release(text)
        released = self._held + text
        length = len(self._held)
        for character in text:
            length += 1
            found = self._advance(character)
            if found is not None:
                self._held = ""
                return Release(released[: length - len(found)], found)
        keep = max(self._matched)
        self._held = released[len(released) - keep :]
        return Release(released[: len(released) - keep])

    def flush(self) -> str:
        """The text still held back, once it is known that nothing follows it. The next text starts afresh."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self._strings)
        return held

    def _advance(self, character: str) -> str | None:
        found: str | None = None
        for index, string in enumerate(self._strings):
            matched, borders = self._matched[index], self._borders[index]
            while matched and string[matched] != character:
                matched = borders[matched - 1]
            if string[matched] == character:
                matched += 1
            self._matched[index] = matched
            if matched == len(string) and (found is None or len(string) > len(found)):
                found = string
        return found


def _borders(string: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(string)
    length = 0
    for index in range(1, len(string)):
        while length and string[index] != string[length]:
            length = borders[length - 1]
        if string[index] == string[length]:
            length += 1
        borders[index] = length
    return borders
