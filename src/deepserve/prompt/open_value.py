"""Where the value of a parameter ends: at its closing tag, or where the markup goes on without one."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, Literal

from deepserve.prompt.arguments import Arguments
from deepserve.prompt.pieces import Marks
from deepserve.prompt.tags import TAG_START, Tag, Unread, skip_blanks

ValueEnd = Literal["closes", "lost", "not"]
"""A tag closes the value, shows that its closing tag is lost, or is part of the value."""

AnswerEnd = Literal["open", "cut", "model"]
"""The answer goes on, somebody cut it, or the model ended it."""


class OpenValue:
    """The value that `tag` opened."""

    def __init__(self, tag: Tag, arguments: Arguments, *, marks: Marks, tools: AbstractSet[str]) -> None:
        self._tag = tag
        self._arguments = arguments
        self._marks: Marks = marks
        self._tools = tools

    def judge(
        self, tag: Tag, text: str, scan: Callable[[int], Tag | Unread | None], *, end: AnswerEnd
    ) -> ValueEnd | Unread:
        """What a tag inside the value means. scan: reads the tag at a place of `text`."""
        ends_call = tag.is_closing and (tag.kind in ("invoke", "block") or tag.name in self._tools)
        name = tag.argument_name
        if tag.is_certain and tag.is_closing and tag.has_angle:
            return "closes" if self._is_own(tag) else "lost" if ends_call else "not"
        if tag.is_certain and not tag.is_closing and name is not None and tag.kind in ("parameter", "invoke"):
            return "lost" if self._is_next(tag) or self._marks == "special" else "not"
        if self._is_own(tag) and (tag.is_closing or (tag.is_certain and name is None)):
            return self._confirmed("closes", text, tag.end, scan, end)
        if ends_call and (tag.is_certain or not self._tag.is_certain):
            return self._confirmed("lost", text, tag.end, scan, end)
        return "not"

    def _confirmed(
        self, meant: ValueEnd, text: str, at: int, scan: Callable[[int], Tag | Unread | None], end: AnswerEnd
    ) -> ValueEnd | Unread:
        """A closing tag that could be part of the value is one if what follows continues the markup."""
        while True:
            start, at = at, skip_blanks(text, at)
            if at - start > MAX_BLANKS:
                return "not"
            if at == len(text):
                return Unread.PENDING if end == "open" else meant if end == "model" else "not"
            if TAG_START.match(text, at) is None:
                return "not"
            tag = scan(at)
            if isinstance(tag, Unread):
                return tag
            if tag is None:
                return "not"
            if tag.is_certain:
                is_closing_again = self._is_own(tag) and (tag.is_closing or tag.argument_name is None)
                return "not" if is_closing_again else meant
            if not tag.is_closing:
                is_meant = self._is_next(tag) or (not self._tag.is_certain and tag.argument_name is not None)
                return meant if is_meant else "not"
            if self._is_own(tag) or tag.kind == "other":
                return "not"
            if not self._tag.is_certain:
                return meant
            at = tag.end

    def _is_own(self, tag: Tag) -> bool:
        return tag.kind == "parameter" or tag.name == self._tag.name

    def _is_next(self, tag: Tag) -> bool:
        """An opening tag that could well follow: of a parameter the call lacks, or of a tool that was offered."""
        name = tag.argument_name
        return name is not None and (self._arguments.lacks(name) if tag.kind == "parameter" else name in self._tools)


MAX_BLANKS: Final = 64
"""So many may lie between two tags when one of them has to explain the other."""
