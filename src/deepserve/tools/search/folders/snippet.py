"""The part of a passage that answers a query best."""

from __future__ import annotations

import re

from deepserve.tools.search.provider import one_line

_WORD = re.compile(r"[^\W_]+")
_ENDING_CHARACTERS = 3
_STEM_CHARACTERS = 3


def snippet(text: str, query: str, max_characters: int) -> str:
    """A window of the text with as many words of the query as possible, on one line.

    Words count as equal when one begins like the other: what the index found by its stem is found here, too.
    """
    flat = " ".join(text.split())
    if len(flat) <= max_characters:
        return one_line(flat, max_characters)
    stems = {_stem(word) for word in _WORD.findall(query.lower())}
    places = [match.start() for match in _WORD.finditer(flat) if _begins_like(match[0].lower(), stems)]
    start = _best_start(places, max_characters, len(flat))
    if start:
        # From the beginning of a word.
        start = flat.find(" ", start) + 1 or start
    window = flat[start : start + max_characters]
    if start + max_characters < len(flat):
        window = one_line(flat[start:], max_characters - 2 * bool(start))
    return f"… {window}" if start else window


def _best_start(places: list[int], width: int, length: int) -> int:
    """Where a window of this width begins that holds the most places, with some text before the first of them."""
    best, best_count, first = 0, 0, 0
    for last, place in enumerate(places):
        while place - places[first] > width * 3 // 4:
            first += 1
        if last - first + 1 > best_count:
            best, best_count = places[first], last - first + 1
    return max(0, min(best - width // 8, length - width))


def _begins_like(word: str, stems: set[str]) -> bool:
    return any(word[:length] in stems for length in range(min(_STEM_CHARACTERS, len(word)), len(word) + 1))


def _stem(word: str) -> str:
    return word[: max(_STEM_CHARACTERS, len(word) - _ENDING_CHARACTERS)]
