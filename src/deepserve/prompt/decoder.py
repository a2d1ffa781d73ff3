"""From what the model writes to events: one incremental decoder for streamed and for whole answers.

Two stages. The lexer turns pieces into text and marks (`<think>`, `</think>`, `｜DSML｜`); the decoder turns those into
blocks. Engines that give token ids know for certain which pieces are special: then only special pieces are marks, and
an answer may spell `</think>` without ending its thinking. Streams of hosted engines have text alone: there a mark is
recognised by its spelling.

The outcome depends on the pieces' concatenation, never on where it was cut. Nothing the model writes raises an error;
what cannot be read as the format demands is named in `damage`.

Source: the output format of the DeepSeek-V4 releases, as implemented by deepseek-recipe 0.2.0. The differences are
listed in docs/prompt-format.md.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec

from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    ReasoningBlock,
    TextBlock,
    TokenLogprob,
    ToolCallBlock,
)
from deepserve.prompt.segments import Start
from deepserve.prompt.special_tokens import DSML, END_THINK, THINK

BlockEvent = BlockOpened | BlockDelta | BlockClosed


class Piece(msgspec.Struct, frozen=True):
    """Some of an answer: one token's text, or any stretch of a text stream.

    is_special  text is the spelling of one special token
    num_tokens  how many tokens it stands for; 0 when somebody else counts
    """

    text: str
    is_special: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()
    num_tokens: int = 0


Marks = Literal["special", "spelled"]
"""What counts as a mark: only special pieces, or any text that spells one."""


def mint_call_id(index: int) -> str:
    """An id for the index-th call of an answer, as the vendor spells them; 24 random letters and digits."""
    alphabet = string.ascii_letters + string.digits
    return f"call_{index:02d}_{''.join(secrets.choice(alphabet) for _ in range(24))}"


class Decoder:
    """Reads one answer.

    start    as returned by the encoder for the prompt that is being answered: the two must not decide apart
    marks    "special" for pieces made of token ids, "spelled" for plain text
    call_id  names the calls; gets the number of the call within the answer
    """

    def __init__(
        self, start: Start, *, marks: Marks, call_id: Callable[[int], str] = mint_call_id, result: int = 0
    ) -> None:
        self._lexer = _Lexer(marks)
        self._spelled = marks == "spelled"
        self._offers_tools = start.offers_tools
        self._call_id = call_id
        self._result = result

        self._state: _State = "text"
        self._skips_newlines = start.stage in ("reasoning", "text")
        self._may_open_thinking = start.stage in ("reasoning", "text")
        self._held = ""
        self._held_logprobs: list[TokenLogprob] = []
        self._tag = ""
        self._closing = ""
        self._resume: _State = "text"
        self._num_blocks = 0
        self._is_open = False
        self._arguments: _Arguments | None = None
        self._events: list[BlockEvent] = []

        self.num_calls = 0
        """Tool calls opened so far; with any, the answer's finish reason is `tool_calls`."""
        self.num_reasoning_tokens = 0
        """Tokens of the thinking trace, by the count the pieces carry."""
        self.damage: str | None = None
        """What in the tool markup could not be read; None for well-formed answers and for plain text."""

        match start.stage:
            case "reasoning" | "reasoning_continued":
                self._state = "reasoning"
            case "text" | "text_continued":
                self._state = "text"
            case "tool_calls":
                self._state = "block"

    @property
    def is_reasoning(self) -> bool:
        """The model is still thinking."""
        return self._state == "reasoning"

    def feed(self, piece: Piece) -> list[BlockEvent]:
        """Read on; returns what has become certain."""
        if self.is_reasoning and not (piece.is_special and piece.text == END_THINK):
            self.num_reasoning_tokens += piece.num_tokens
        for lexeme in self._lexer.feed(piece):
            self._read(lexeme)
        return self._take_events()

    def finish(self) -> list[BlockEvent]:
        """The answer has ended: release what was held back, close what is open."""
        for lexeme in self._lexer.finish():
            self._read(lexeme)
        if self._state in ("reasoning", "text"):
            self._release(self._held)
        elif self._arguments is not None:
            self._note("the answer ends inside a tool call")
            if self._state == "value":
                self._release(self._held)
        elif self._state in ("tag", "block") and not self.num_calls:
            self._note("the tool markup holds no call")
        self._close()
        self._state = "done"
        return self._take_events()

    # One lexeme after another

    def _read(self, lexeme: _Lexeme) -> None:
        match self._state:
            case "reasoning" | "text":
                if lexeme.mark is None:
                    self._read_text(lexeme.text, lexeme.logprobs)
                else:
                    self._read_mark(lexeme)
            case "tag":
                self._read_tag(lexeme)
            case "block":
                self._hold_opening(lexeme)
            case "value":
                self._read_value(lexeme)
            case "done":
                pass

    def _read_text(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Let text through, except an end that may be trimmed or may open a tag."""
        buffer = self._held + text
        if self._skips_newlines:
            buffer = buffer.lstrip("\n")
        length = _opening_length(buffer)
        length = len(buffer) - len(buffer[: len(buffer) - length].rstrip("\n"))
        ready = buffer[: len(buffer) - length]
        self._held = buffer[len(buffer) - length :]
        if ready or buffer:
            self._skips_newlines = False
        if ready:
            self._may_open_thinking = False
            before, self._held_logprobs = self._held_logprobs, []
            if length < len(text):
                self._emit(ready, (*before, *logprobs))
            else:
                self._held_logprobs = list(logprobs)
                self._emit(ready, tuple(before))
        else:
            self._held_logprobs += logprobs

    def _read_mark(self, lexeme: _Lexeme) -> None:
        match lexeme.mark:
            case "end_think":
                # After the thinking a stray mark means nothing, but the vendor's package swallows it too.
                if self._state == "reasoning":
                    self._end_thinking()
            case "think":
                if self._may_open_thinking and not self._held.strip("\n"):
                    self._drop_held()
                    self._state = "reasoning"
                    self._skips_newlines = True
                    self._may_open_thinking = False
                elif self._spelled:
                    self._read_text(lexeme.text, lexeme.logprobs)
            case "dsml":
                opening = self._held[len(self._held) - _opening_length(self._held) :]
                if not self._offers_tools or not opening:
                    self._read_text(lexeme.text, lexeme.logprobs)
                elif "/" in opening:
                    self._note("a closing tag without a tool block")
                    self._release(self._held.removesuffix(opening))
                    self._resume, self._tag, self._state = self._state, "/", "tag"
                else:
                    self._drop_held()
                    self._close()
                    self._resume, self._tag, self._state = "block", "", "tag"
            case None:
                raise AssertionError("text is no mark")

    def _end_thinking(self) -> None:
        if self._held.strip("\n"):
            self._release(self._held.rstrip("\n"))
        elif self._is_open and self._held_logprobs:
            self._emit("", tuple(self._held_logprobs))
        self._drop_held()
        self._close()
        self._state = "text"
        self._skips_newlines = True
        self._may_open_thinking = False

    # Tool markup

    def _hold_opening(self, lexeme: _Lexeme) -> None:
        """Between tags: text means nothing, except the characters that open the next tag."""
        buffer = self._held if lexeme.mark == "dsml" else self._held + lexeme.text
        opening = buffer[len(buffer) - _opening_length(buffer) :]
        self._held = opening
        if lexeme.mark == "dsml" and opening:
            self._held = ""
            self._resume, self._tag, self._state = "block", "/" if "/" in opening else "", "tag"

    def _read_tag(self, lexeme: _Lexeme) -> None:
        """Collect a tag up to its `>`; another tag that begins inside shows that this was none."""
        is_closing = self._tag.startswith("/")
        for index, character in enumerate(lexeme.text):
            if lexeme.mark == "dsml" or (is_closing and character == "<"):
                length = _opening_length(self._tag)
                opening, self._tag = self._tag[len(self._tag) - length :], self._tag[: len(self._tag) - length]
                self._end_tag()
                if opening:
                    self._read(_Lexeme(opening))
                self._read(_Lexeme(lexeme.text[index:], lexeme.mark, lexeme.logprobs))
                return
            self._tag += character
            is_complete = character == ">" and _ends_tag(self._tag)
            if is_complete or len(self._tag) >= (MAX_CLOSING_CHARACTERS if is_closing else MAX_TAG_CHARACTERS):
                rest = lexeme.text[index + 1 :]
                self._end_tag()
                if rest:
                    self._read(_Lexeme(rest, None, lexeme.logprobs))
                return

    def _end_tag(self) -> None:
        tag = _TAG.fullmatch(self._tag)
        resume, self._state = self._resume, self._resume
        if tag is None:
            if resume == "value":
                self._resume_literal()
            else:
                self._note(f"not a tag: {self._tag[:80]}")
            return
        name, attributes, is_closing = tag["name"], tag["attributes"] or "", bool(tag["slash"])
        if resume == "value":
            self._end_value(name, is_closing)
        elif resume != "block":
            pass
        elif name == "invoke" and not is_closing:
            self._open_call(attributes)
        elif name == "parameter" and not is_closing:
            self._open_parameter(attributes)
        elif name == "invoke":
            self._close_call()
        elif name in _BLOCK_NAMES and is_closing:
            self._close_call()
            if not self.num_calls:
                self._note("the tool markup holds no call")
            self._state = "done"
        elif name not in _BLOCK_NAMES and name != "parameter":
            self._note(f"unknown tag: {name[:80]}")

    def _open_call(self, attributes: str) -> None:
        if self._arguments is not None:
            self._note("a tool call that is not closed")
            self._close_call()
        name = _NAME.search(attributes)
        if name is None:
            self._note("a tool call without a name")
            return
        self._open(ToolCallBlock(id=self._call_id(self.num_calls), name=name["name"]))
        self.num_calls += 1
        self._arguments = _Arguments()

    def _open_parameter(self, attributes: str) -> None:
        name = _NAME.search(attributes)
        if self._arguments is None or name is None:
            self._note("a parameter without a name" if name is None else "a parameter outside a call")
            return
        kind = _STRING.search(attributes)
        if kind is None:
            self._note("a parameter that does not say whether it is a string")
        self._emit_arguments(self._arguments.open(name["name"], is_string=kind is None or kind["value"] == "true"))
        self._state = "value"

    def _read_value(self, lexeme: _Lexeme) -> None:
        """Let a parameter's value through, except an end that may open its closing tag."""
        if lexeme.mark == "dsml":
            opening = self._held[len(self._held) - _opening_length(self._held) :]
            if "/" in opening:
                self._closing = opening + lexeme.text
                self._release(self._held.removesuffix(opening))
                self._resume, self._tag, self._state = "value", "/", "tag"
                return
        buffer = self._held + lexeme.text
        length = _opening_length(buffer) if lexeme.mark is None else 0
        self._release(buffer[: len(buffer) - length])
        self._held = buffer[len(buffer) - length :]

    def _end_value(self, name: str, is_closing: bool) -> None:
        if not is_closing or name not in ("parameter", "invoke", *_BLOCK_NAMES):
            self._resume_literal()
            return
        assert self._arguments is not None
        self._emit_arguments(self._arguments.close())
        self._state = "block"
        if name != "parameter":
            self._note("a parameter that is not closed")
            self._close_call()
            if name in _BLOCK_NAMES:
                self._state = "done"

    def _resume_literal(self) -> None:
        """What looked like a closing tag is part of the value."""
        self._read_value(_Lexeme(self._closing + self._tag.removeprefix("/")))

    def _close_call(self) -> None:
        if self._arguments is not None:
            self._emit_arguments(self._arguments.finish())
            self._arguments = None
            self._close()

    # Events

    def _release(self, text: str) -> None:
        """Emit text that was held back, in the place it belongs to."""
        self._held = ""
        if self._state == "value":
            assert self._arguments is not None
            self._emit_arguments(self._arguments.write(text))
            return
        logprobs, self._held_logprobs = tuple(self._held_logprobs), []
        if text:
            self._emit(text, logprobs)

    def _drop_held(self) -> None:
        self._held = ""
        self._held_logprobs = []

    def _emit(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        if not self._is_open:
            self._open(ReasoningBlock() if self._state == "reasoning" else TextBlock())
        self._events.append(BlockDelta(index=self._num_blocks - 1, text=text, logprobs=logprobs, result=self._result))

    def _emit_arguments(self, text: str) -> None:
        if text:
            self._events.append(BlockDelta(index=self._num_blocks - 1, text=text, result=self._result))

    def _open(self, block: Block) -> None:
        self._close()
        self._events.append(BlockOpened(index=self._num_blocks, block=block, result=self._result))
        self._num_blocks += 1
        self._is_open = True

    def _close(self) -> None:
        if self._is_open:
            self._events.append(BlockClosed(index=self._num_blocks - 1, result=self._result))
            self._is_open = False

    def _note(self, damage: str) -> None:
        if self.damage is None:
            self.damage = damage

    def _take_events(self) -> list[BlockEvent]:
        events, self._events = self._events, []
        return events


_State = Literal["reasoning", "text", "tag", "block", "value", "done"]

MAX_TAG_CHARACTERS: Final = 4096
MAX_CLOSING_CHARACTERS: Final = 64
"""A tag that has not ended by then is none."""

_BLOCK_NAMES: Final = ("tool_calls", "toolcalls", "tool_call", "calls")
"""How the block of calls is spelled, by the format and by models that miss it."""

_OPENING: Final = re.compile(r"</?[｜|]?\Z")
_TAG: Final = re.compile(r"(?P<slash>/?)[｜| ]*(?P<name>[a-z_]+)(?P<attributes>\s.*)?>", re.DOTALL)
_NAME: Final = re.compile(r'\bname="(?P<name>.*?)"(?=\s+\w+=|\s*\Z)', re.DOTALL)
_STRING: Final = re.compile(r'\bstring="(?P<value>true|false)"')


def _opening_length(text: str) -> int:
    """How many characters at the end of a text can open a tag before `｜DSML｜`; models double the bars at times."""
    found = _OPENING.search(text, max(0, len(text) - 3))
    return len(text) - found.start() if found is not None else 0


def _ends_tag(tag: str) -> bool:
    """Whether a tag's last `>` ends it, and is not part of a quoted value."""
    return tag.count('"') % 2 == 0 or tag[:-1].rstrip().endswith('"')


class _Arguments:
    """A call's arguments as JSON text, as they form."""

    def __init__(self) -> None:
        self._num_values = 0
        self._is_string: bool | None = None

    def open(self, name: str, *, is_string: bool) -> str:
        before = ", " if self._num_values else "{"
        self._num_values += 1
        self._is_string = is_string
        quote = '"' if is_string else ""
        return f"{before}{json.dumps(name, ensure_ascii=False)}: {quote}"

    def write(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=False)[1:-1] if self._is_string else text

    def close(self) -> str:
        was_string, self._is_string = self._is_string, None
        return '"' if was_string else ""

    def finish(self) -> str:
        return "}" if self._num_values else "{}"


class _Lexeme(msgspec.Struct, frozen=True):
    """A stretch of text, or a mark with its spelling."""

    text: str
    mark: Literal["think", "end_think", "dsml"] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


_SPELLED_MARKS: Final = re.compile(r"(<think>|</think>|｜DSML｜|\|DSML\|)")
_MARK_PREFIXES: Final = tuple(
    sorted(
        {mark[:length] for mark in (THINK, END_THINK, DSML, "|DSML|") for length in range(1, len(mark))},
        key=len,
        reverse=True,
    )
)


class _Lexer:
    """Pieces to lexemes; holds back an end of text that may be the beginning of a spelled mark."""

    def __init__(self, marks: Marks) -> None:
        self._spelled = marks == "spelled"
        self._held = ""
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def feed(self, piece: Piece) -> Iterator[_Lexeme]:
        if not self._spelled:
            yield from _special_lexeme(piece) if piece.is_special else (_Lexeme(piece.text, None, piece.logprobs),)
            return
        parts = _SPELLED_MARKS.split(self._held + piece.text)
        length = next((len(prefix) for prefix in _MARK_PREFIXES if parts[-1].endswith(prefix)), 0)
        parts[-1], self._held = parts[-1][: len(parts[-1]) - length], parts[-1][len(parts[-1]) - length :]
        # A text stream does not say which characters a log-probability belongs to: the last text of a piece gets all.
        texts = [index for index, part in enumerate(parts) if part and index % 2 == 0]
        logprobs, self._logprobs = (*self._logprobs, *piece.logprobs), ()
        if not texts and self._held:
            self._logprobs = logprobs
        for index, part in enumerate(parts):
            if part:
                yield _Lexeme(part, _mark(part), logprobs if texts and index == texts[-1] else ())

    def finish(self) -> Iterator[_Lexeme]:
        if self._held:
            yield _Lexeme(self._held, None, self._logprobs)
            self._held = ""


def _special_lexeme(piece: Piece) -> Iterator[_Lexeme]:
    """A mark; special tokens that mean nothing in an answer are dropped."""
    mark = _mark(piece.text)
    if mark is not None:
        yield _Lexeme(piece.text, mark, piece.logprobs)


def _mark(text: str) -> Literal["think", "end_think", "dsml"] | None:
    match text:
        case "<think>":
            return "think"
        case "</think>":
            return "end_think"
        case "｜DSML｜" | "|DSML|":
            return "dsml"
        case _:
            return None
