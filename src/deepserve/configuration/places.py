"""Where each key of a TOML text stands. The standard library reads TOML but does not say where it read it.

A text is scanned after the library has taken it, so that nothing is judged here.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final

import msgspec

from deepserve.configuration.declarations import Path


class Place(msgspec.Struct, frozen=True):
    """Counted from 1, in characters."""

    line: int
    column: int


_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE: Final = re.compile(r"[^,\]}#\n]*")
_BASIC: Final = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_LITERAL: Final = re.compile(r"'([^'\n]*)'")
_LONG_BASIC: Final = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL)
_LONG_LITERAL: Final = re.compile(r"'''.*?'{3,5}", re.DOTALL)


class Places:
    """of: where keys, tables and items of lists begin, by their path. repeated: keys that are given again.

    A table that stands nowhere by itself, as `a` in `[a.b]`, begins where it is first spoken of.
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError for a text whose TOML is not in order, sooner or later."""
        self._text = text.replace("\r\n", "\n")
        self._lines = [0, *(match.end() for match in re.finditer("\n", self._text))]
        self._at = 0
        self._counts: dict[Path, int] = {}
        self.of: dict[Path, Place] = {}
        self._implied: dict[Path, Place] = {}
        self.repeated: list[tuple[Path, Place]] = []
        self._scan()

    def nearest(self, path: Path) -> Place | None:
        """Of the value, or of what it stands in."""
        while path:
            place = self.of.get(path) or self._implied.get(path)
            if place is not None:
                return place
            path = path[:-1]
        return None

    def _scan(self) -> None:
        table: Path = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        begin = self._at
        is_item = self._text.startswith("[[", begin)
        self._at += 2 if is_item else 1
        keys = self._key()
        self._expect("]]" if is_item else "]")
        path: Path = ()
        for number, key in enumerate(keys, start=1):
            path += (key,)
            if number < len(keys):
                self._implied.setdefault(path, self._place(begin))
            if number < len(keys) or is_item:
                path = self._in_list(path, begin, is_new=number == len(keys))
        self._note(path, begin)
        return path

    def _in_list(self, path: Path, begin: int, *, is_new: bool) -> Path:
        if is_new:
            self._counts[path] = self._counts.get(path, 0) + 1
            self.of.setdefault(path, self._place(begin))
        return (*path, self._counts[path] - 1) if path in self._counts else path

    def _pair(self, table: Path) -> None:
        begin = self._at
        keys = self._key()
        path = (*table, *keys)
        for number in range(1, len(keys)):
            self._implied.setdefault((*table, *keys[:number]), self._place(begin))
        self._note(path, begin)
        self._expect("=")
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            for pattern in (_BARE_KEY, _BASIC, _LITERAL):
                match = pattern.match(self._text, self._at)
                if match is not None:
                    break
            else:
                raise ValueError("no key")
            self._at = match.end()
            parts.append(match[match.lastindex or 0])
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return tuple(parts)
            self._at += 1

    def _value(self, path: Path) -> None:
        for pattern in (_LONG_BASIC, _LONG_LITERAL, _BASIC, _LITERAL):
            match = pattern.match(self._text, self._at)
            if match is not None:
                self._at = match.end()
                return
        if self._text.startswith("[", self._at):
            self._array(path)
        elif self._text.startswith("{", self._at):
            self._inline_table(path)
        else:
            self._skip(_BARE_VALUE)

    def _array(self, path: Path) -> None:
        self._at += 1
        number = 0
        while True:
            self._skip(_BLANK)
            if self._text.startswith("]", self._at):
                self._at += 1
                return
            self.of[(*path, number)] = self._place(self._at)
            self._value((*path, number))
            number += 1
            self._skip(_BLANK)
            if not self._text.startswith("]", self._at):
                self._expect(",")

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while True:
            self._skip(_BLANK)
            if self._text.startswith("}", self._at):
                self._at += 1
                return
            self._pair(path)
            self._skip(_BLANK)
            if not self._text.startswith("}", self._at):
                self._expect(",")

    def _note(self, path: Path, offset: int) -> None:
        place = self._place(offset)
        if path in self.of:
            self.repeated.append((path, place))
        else:
            self.of[path] = place

    def _place(self, offset: int) -> Place:
        line = bisect_right(self._lines, offset)
        return Place(line, offset - self._lines[line - 1] + 1)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        assert match is not None, "matches nothing, too"
        self._at = match.end()

    def _expect(self, mark: str) -> None:
        self._skip(_SPACE)
        if not self._text.startswith(mark, self._at):
            raise ValueError(f"no {mark}")
        self._at += len(mark)
