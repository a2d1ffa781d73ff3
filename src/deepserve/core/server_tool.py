"""What the tools that run on the server bring back, in one form for all dialects.

What is in here was written by strangers (pages, programs): it is text to show and to read, never instructions, and
never markup of ours.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ToolKind = Literal["web_search", "web_fetch", "code_interpreter", "datetime", "mcp"]
"""What a tool of the server's does, whatever a dialect calls it. mcp: a function of a server the operator added."""

ToolErrorCode = Literal[
    "invalid_input",
    "input_too_long",
    "max_uses_exceeded",
    "too_many_requests",
    "timed_out",
    "not_allowed",
    "not_accessible",
    "unsupported_content",
    "unavailable",
    "failed",
]


CUT_NOTE = "\n[The rest was left out.]"
"""What stands where something was cut."""


class SearchHit(msgspec.Struct, frozen=True, kw_only=True):
    """age: how the source dates the page, as it says so (`2026-10-01`, `3 days ago`)."""

    url: str
    title: str
    snippet: str
    age: str | None = None


class SearchResults(msgspec.Struct, frozen=True, kw_only=True, tag="search"):
    """What a search found, best first; nothing is a result too."""

    query: str
    hits: tuple[SearchHit, ...] = ()


class FetchedPage(msgspec.Struct, frozen=True, kw_only=True, tag="page"):
    """A page as text. url: where it was found in the end. is_cut: more of it was left out."""

    url: str
    title: str
    text: str
    media_type: str
    is_cut: bool = False

    @property
    def shown_text(self) -> str:
        """The text, with a word where it was cut."""
        return self.text + CUT_NOTE if self.is_cut else self.text


class OutputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a program left behind; name is a plain name, without folders."""

    name: str
    media_type: str
    content: bytes


class CodeOutput(msgspec.Struct, frozen=True, kw_only=True, tag="code"):
    """What a program did.

    stdout, stderr  what was kept of them
    value           the last expression's `repr`
    exit_code       0 unless it raised or was ended
    stopped_by      the limit that ended it, in words
    """

    code: str
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    exit_code: int = 0
    stopped_by: str | None = None
    files: tuple[OutputFile, ...] = ()

    @property
    def printed(self) -> str:
        """Standard output, and the last expression's value as an interactive session shows it: below."""
        return _stacked(self.stdout, self.value)

    @property
    def complaints(self) -> str:
        """Standard error, and what ended the program."""
        return _stacked(self.stderr, None if self.stopped_by is None else f"Stopped: {self.stopped_by}")


def _stacked(text: str, last: str | None) -> str:
    if last is None:
        return text
    return f"{text}{last}" if not text or text.endswith("\n") else f"{text}\n{last}"


class PlainOutput(msgspec.Struct, frozen=True, kw_only=True, tag="plain"):
    """Text from a tool of the operator's."""

    text: str


class ToolFault(msgspec.Struct, frozen=True, kw_only=True, tag="fault"):
    """The tool could not do what was asked; the model reads why and the conversation goes on."""

    code: ToolErrorCode
    message: str


ToolOutput = SearchResults | FetchedPage | CodeOutput | PlainOutput | ToolFault
