"""A prompt as pieces: special tokens that we put there, plain text, and turns replayed token by token.

The split is the protection against injected special tokens: a tokenizer turns only `Special` into special ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from deepserve.core.messages import Json
from deepserve.core.request import Tool
from deepserve.prompt.special_tokens import ASSISTANT, SPECIAL_TOKENS


class Special(msgspec.Struct, frozen=True):
    """One special token, by its spelling."""

    token: str


class Text(msgspec.Struct, frozen=True):
    """Plain text, whatever it spells."""

    text: str


class Tokens(msgspec.Struct, frozen=True):
    """Ids as the model once drew them."""

    ids: tuple[int, ...]


Segment = Special | Text | Tokens

Stage = Literal["reasoning", "reasoning_continued", "text", "text_continued", "tool_calls"]
"""What the model writes first. A continued stage goes on with words the client gave: its first newlines count."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Where the answer begins; the decoder must be given the very value that the encoder returned.

    offers_tools  tool markup is a tool call; without tools it is text
    """

    stage: Stage
    offers_tools: bool = False


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer has to obey, for whoever can enforce it.

    json                any JSON value, or one that the schema admits
    regex, choice       as asked for in the response format
    tool_call           calls, if any, must fit `tools`
    required_tool_call  at least one call of one of `tools` (after the thinking, if there is thinking)
    """

    kind: Literal["json", "regex", "choice", "tool_call", "required_tool_call"]
    schema: Mapping[str, Json] | None = None
    pattern: str | None = None
    choices: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What the model reads, and how to read its answer.

    segments  no two texts stand side by side, so word pieces never depend on how the prompt was put together
    outputs   half-open ranges of segments that the model itself writes, one for each assistant turn; the last one is
              open-ended work of the future in a prompt for generation, and is therefore not listed
    """

    segments: tuple[Segment, ...]
    start: Start
    constraint: Constraint | None = None
    outputs: tuple[tuple[int, int], ...] = ()

    @property
    def text(self) -> str:
        """The prompt as one string, for engines that take nothing else; loses what is special and what is text.

        Raises ValueError for a prompt with replayed tokens.
        """
        pieces: list[str] = []
        for segment in self.segments:
            match segment:
                case Special(token):
                    pieces.append(token)
                case Text(text):
                    pieces.append(text)
                case Tokens():
                    raise ValueError("a prompt with replayed tokens has no text of its own")
        return "".join(pieces)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Indices of the segments before which a cached prefix is worth keeping: every `<｜Assistant｜>`.

        What follows it is rewritten when a turn becomes history (its reasoning may be dropped); what is before stays.
        """
        return tuple(index for index, segment in enumerate(self.segments) if segment == Special(ASSISTANT))


_SPELLINGS = re.compile("(" + "|".join(re.escape(token) for token in SPECIAL_TOKENS) + ")")


class SegmentWriter:
    """Collects segments and joins neighbouring texts."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._text: list[str] = []

    def special(self, token: str) -> None:
        self._flush()
        self._segments.append(Special(token))

    def text(self, text: str) -> None:
        """Append text from anywhere, clients included."""
        if text:
            self._text.append(text)

    def markup(self, text: str) -> None:
        """Append a text of our own or the vendor's, in which spelled special tokens are meant as such."""
        for index, piece in enumerate(_SPELLINGS.split(text)):
            if index % 2:
                self.special(piece)
            else:
                self.text(piece)

    def tokens(self, ids: tuple[int, ...]) -> None:
        self._flush()
        if ids:
            self._segments.append(Tokens(ids))

    def mark(self) -> int:
        """Index the next segment will have; texts before and after it are not joined."""
        self._flush()
        return len(self._segments)

    def finish(self) -> tuple[Segment, ...]:
        self._flush()
        return tuple(self._segments)

    def _flush(self) -> None:
        if self._text:
            self._segments.append(Text("".join(self._text)))
            self._text.clear()
