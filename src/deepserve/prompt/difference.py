"""Where two prompts part, and what usually stands behind it.

A prefix cache gives back what a prompt shares with an earlier one from its very beginning, so only the first
difference counts: everything after it is computed anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from deepserve.prompt.outline import Section

_AROUND = 60
_MOMENT = re.compile(
    r"\d{1,4}[-/.:]\d{1,2}([-/.:]\d{1,4})?|\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|"
    r"mon|tues|wednes|thurs|fri|satur|sun)[a-z]*\b",
    re.IGNORECASE,
)
_DRAWN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|\b[0-9a-f]{16,}\b|\b\d{6,}\b", re.IGNORECASE)
_PSEUDO_HEADER = re.compile(r"^x-[a-z0-9-]{1,64}:", re.IGNORECASE)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """path, offset: the place in the later prompt, and characters into it. before: what both share just before it.

    one, other: what follows there in the earlier and in the later prompt; empty where it has nothing there.
    cause: in words.
    shared_ratio: of all the later prompt's characters, those before it.
    """

    path: str
    offset: int
    before: str
    one: str
    other: str
    cause: str
    shared_ratio: float

    @property
    def place(self) -> str:
        return f"{self.path}@{self.offset}"


def first_difference(earlier: Sequence[Section], later: Sequence[Section]) -> Difference | None:
    """None where the later prompt is the earlier one, or only goes on after it."""
    total = sum(len(section.text) for section in later) or 1
    shared = 0
    for index, (one, other) in enumerate(zip(earlier, later, strict=False)):
        if (one.kind, one.text, one.name) == (other.kind, other.text, other.name):
            shared += len(other.text)
            continue
        offset = _num_shared(one.text, other.text) if one.kind == other.kind else 0
        return Difference(
            path=one.path if one.kind == "tool" != other.kind else other.path,
            offset=offset,
            before=other.text[max(0, offset - _AROUND) : offset],
            one=one.text[offset : offset + _AROUND] if one.kind == other.kind else _named(one),
            other=other.text[offset : offset + _AROUND] if one.kind == other.kind else _named(other),
            cause=_cause(earlier, later, index, offset),
            shared_ratio=min(1.0, (shared + offset) / total),
        )
    if len(later) < len(earlier):
        left = earlier[len(later)]
        return Difference(
            path=left.path,
            offset=0,
            before="",
            one=_named(left),
            other="",
            cause="the later prompt ends here: the earlier one goes on",
            shared_ratio=1.0,
        )
    return None


def _num_shared(one: str, other: str) -> int:
    """Characters before the first that differs; texts may be megabytes, so whole stretches are compared at once."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _named(section: Section) -> str:
    return f"({section.path}) {section.text[:_AROUND]}"


def _cause(earlier: Sequence[Section], later: Sequence[Section], index: int, offset: int) -> str:
    one, other = earlier[index], later[index]
    if "tool" in (one.kind, other.kind):
        return _tools_cause(earlier, later)
    if one.kind != other.kind:
        return f"{one.path} of the earlier request has no counterpart: a part was added, left out or moved"
    match other.kind:
        case "thinking":
            return f"thinking changed from {one.text} to {other.text}, and the prompt begins with what that means"
        case "reasoning" if one.text and not other.text:
            return "the thinking trace of this turn was not sent back"
        case "reasoning":
            return "the thinking trace of this turn is another one"
        case "form":
            return "another form of the answer is asked for, and the prompt describes it"
        case _:
            pass
    words = _line_at(one.text, offset), _line_at(other.text, offset)
    if all(_PSEUDO_HEADER.match(line) for line in words):
        return "a line that the client writes for a machine, and that differs in every session"
    around = _word_at(one.text, offset), _word_at(other.text, offset)
    if all(_DRAWN.search(word) for word in around):
        return "an id or a number that is another one in each request"
    if all(_MOMENT.search(word) for word in around):
        return "a date or a time that changes between requests"
    if other.kind == "text" and index and len(later) <= len(earlier):
        return "another text: from here on it is another conversation"
    return "another text"


def _tools_cause(earlier: Sequence[Section], later: Sequence[Section]) -> str:
    before = [section for section in earlier if section.kind == "tool"]
    after = [section for section in later if section.kind == "tool"]
    names_before, names_after = [tool.name for tool in before], [tool.name for tool in after]
    added = [name for name in names_after if name not in names_before]
    removed = [name for name in names_before if name not in names_after]
    if added or removed:
        parts = [f"added {', '.join(added)}"] if added else []
        parts += [f"left out {', '.join(removed)}"] if removed else []
        return f"tools changed: {'; '.join(parts)}. They stand before the conversation"
    if names_before != names_after and sorted(names_before) == sorted(names_after):
        return "the same tools in another order. They stand before the conversation"
    changed = [one.name for one, other in zip(before, after, strict=False) if one.text != other.text]
    return f"the definition of the tool {', '.join(changed[:1])} changed"


def _line_at(text: str, offset: int) -> str:
    begin = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    return text[begin : len(text) if end < 0 else end]


def _word_at(text: str, offset: int) -> str:
    """What stands between blanks around a place, and its neighbours: dates are written in several words."""
    begin = max(0, offset - 24)
    return text[text.find(" ", begin, offset) + 1 if begin else 0 : offset + 24]
