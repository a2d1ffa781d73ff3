"""From what the model writes to events: one incremental decoder for streamed and for whole answers.

Engines that give token ids know for certain which pieces are special: then only special pieces are marks, and an
answer may spell `</think>` without ending its thinking. Streams of hosted engines have text alone: there a mark is
recognised by its spelling.

The outcome depends on the pieces' concatenation, never on where it was cut. Nothing the model writes raises an error.
Tool markup that is damaged is read where only one call can have been meant (`damage` says what was wrong); where it
cannot be read, `failure` is the error that the answer must end with. Markup never becomes text.

Source: the output format of the DeepSeek-V4 releases, as implemented by deepseek-recipe 0.2.0. The differences, and
the damage that is put right, are listed in docs/prompt-format.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Literal

from deepserve.core.errors import DamagedToolCall
from deepserve.core.events import ReasoningBlock, TextBlock
from deepserve.core.tool import Tool
from deepserve.prompt.block_writer import BlockEvent as BlockEvent
from deepserve.prompt.block_writer import BlockWriter
from deepserve.prompt.call_writer import CallWriter
from deepserve.prompt.call_writer import mint_call_id as mint_call_id
from deepserve.prompt.json_calls import JsonEnd
from deepserve.prompt.open_value import AnswerEnd, OpenValue
from deepserve.prompt.pieces import DSML_SYMBOL, END_THINK_SYMBOL, THINK_SYMBOL, spelled_text, symbol_text
from deepserve.prompt.pieces import Marks as Marks
from deepserve.prompt.pieces import Piece as Piece
from deepserve.prompt.segments import Start
from deepserve.prompt.special_tokens import END_THINK, THINK
from deepserve.prompt.tags import MAX_TAG_CHARACTERS, TAG_START, Tag, Unread, has_mark, scan_tag, skip_blanks
from deepserve.prompt.tool_markup import tool_name


class Decoder:
    """Reads one answer.

    start    as returned by the encoder for the prompt that is being answered: the two must not decide apart
    marks    "special" for pieces made of token ids, "spelled" for plain text
    call_id  names the calls; gets the number of the call within the answer
    tools    those that were offered: with their schemas more damage can be put right
    """

    def __init__(
        self,
        start: Start,
        *,
        marks: Marks,
        call_id: Callable[[int], str] = mint_call_id,
        result: int = 0,
        tools: Sequence[Tool] = (),
    ) -> None:
        self._marks: Marks = marks
        self._offers_tools = start.offers_tools
        self._tools = {tool_name(tool.name, tool.namespace): tool for tool in tools}

        self._state: _State = "text"
        self._buffer = ""
        self._at = 0  # what stands before it in the buffer has been read
        self._base = 0  # characters that came before the buffer
        self._is_ended = False
        self._is_cut = False
        self._skips_newlines = start.stage in ("reasoning", "text")
        self._may_open_thinking = start.stage in ("reasoning", "text")
        self._num_newlines = 0  # read, and dropped if a tag follows
        self._blocks = BlockWriter(result)
        self._calls = CallWriter(self._blocks, self._tools, call_id)

        self._is_in_thinking = False  # the tool block began before the thinking was over
        self._value: OpenValue | None = None
        self._json = JsonEnd()
        self._body: list[str] = []

        self.num_reasoning_tokens = 0
        """Tokens of the thinking trace, by the count the pieces carry."""
        self.failure: DamagedToolCall | None = None
        """What the answer must end with, because its markup cannot be read."""

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

    @property
    def num_calls(self) -> int:
        """Tool calls opened so far; with any, the answer's finish reason is `tool_calls`."""
        return self._calls.num_calls

    @property
    def damage(self) -> str | None:
        """What in the tool markup was not as it should be; None for well-formed answers and for plain text."""
        return self._calls.damage

    def feed(self, piece: Piece) -> list[BlockEvent]:
        """Read on; returns what has become certain."""
        if self.is_reasoning and not (piece.is_special and piece.text == END_THINK):
            self.num_reasoning_tokens += piece.num_tokens
        text = symbol_text(piece, self._marks)
        self._blocks.note_logprobs(piece, text, self._end)
        self._base += self._at
        self._buffer = self._buffer[self._at :] + text
        self._at = 0
        self._run()
        return self._blocks.take()

    def finish(self, *, is_cut: bool = False) -> list[BlockEvent]:
        """The answer has ended: release what was held back, close what is open.

        is_cut  somebody else ended it, a limit or a stop string: then an unfinished call is no fault of the model,
                and stays as it was streamed
        """
        self._is_ended, self._is_cut = True, is_cut
        self._run()
        match self._state:
            case "reasoning" | "text":
                if self._num_newlines:
                    self._emit("\n" * self._num_newlines, self._end)
                self._blocks.flush_logprobs(self._end)
            case "value":
                self._end_in_value()
            case "json":
                self._end_in_json()
            case "block":
                self._end_in_block()
            case "done":
                pass
        self._blocks.close()
        self._state = "done"
        return self._blocks.take()

    # Reading

    @property
    def _end(self) -> int:
        return self._base + len(self._buffer)

    def _run(self) -> None:
        while self._state != "done" and self._step():
            pass
        if self._state == "done":
            self._at = len(self._buffer)
        if self._state not in ("reasoning", "text"):
            self._blocks.drop_logprobs()

    def _step(self) -> bool:
        """Read one thing; False when more text is needed."""
        match self._state:
            case "reasoning" | "text":
                return self._step_text()
            case "block":
                return self._step_block()
            case "value":
                return self._step_value()
            case "json":
                return self._step_json()
            case "done":
                return False

    def _scan(self, at: int) -> Tag | Unread | None:
        tag = scan_tag(self._buffer, at, marks=self._marks, names=self._tools.keys())
        return None if tag is Unread.PENDING and self._is_ended else tag

    def _is_unfinished(self) -> bool:
        """The answer ends in what could have become a tag."""
        scanned = scan_tag(self._buffer, self._at, marks=self._marks, names=self._tools.keys())
        return self._is_ended and scanned is Unread.PENDING

    def _ends_in_markup(self) -> bool:
        """The answer ends in a tag that shows its mark."""
        return self._is_unfinished() and has_mark(self._buffer[self._at :], self._marks)

    def _scan_think(self) -> tuple[Literal["think", "end_think"], int] | Unread | None:
        """A mark of thinking where we are, and its length."""
        if self._marks == "special":
            match self._buffer[self._at]:
                case "\udc01":
                    return "think", 1
                case "\udc02":
                    return "end_think", 1
                case _:
                    return None
        if self._buffer.startswith(THINK, self._at):
            return "think", len(THINK)
        if self._buffer.startswith(END_THINK, self._at):
            return "end_think", len(END_THINK)
        num_left = len(self._buffer) - self._at
        if not self._is_ended and num_left < len(END_THINK):
            rest = self._buffer[self._at :]
            if THINK.startswith(rest) or END_THINK.startswith(rest):
                return Unread.PENDING
        return None

    # Text and thinking

    def _step_text(self) -> bool:
        candidates = _TAGS_OR_THINKING if self._offers_tools else _THINKING
        found = candidates.search(self._buffer, self._at)
        self._pass(len(self._buffer) if found is None else found.start())
        if found is None:
            return False
        mark = self._scan_think()
        if isinstance(mark, Unread):
            return False
        if mark is not None:
            kind, length = mark
            self._read_think(kind, self._at + length)
            return True
        if not self._offers_tools:
            self._pass(self._at + 1)
            return True
        tag = self._scan(self._at)
        if isinstance(tag, Unread):
            return False
        if tag is None:
            return self._pass_no_tag()
        is_markup = tag.is_certain and (tag.has_angle or tag.kind != "other")
        if not is_markup and self._marks == "spelled" and self._state == "text":
            found_call = self._begins_unmarked_call(tag)
            if isinstance(found_call, Unread):
                return False
            is_markup = found_call
        if not is_markup:
            return self._pass_no_tag()
        if tag.is_closing:
            self._read_stray_closing(tag)
        else:
            self._enter_block(tag)
        return True

    def _pass(self, end: int) -> None:
        """Let text through up to `end`, except newlines, which a tag may trim."""
        text = self._buffer[self._at : end]
        self._at = end
        if self._skips_newlines:
            text = text.lstrip("\n")
            if not text:
                return
            self._skips_newlines = False
        body = text.rstrip("\n")
        if body:
            self._may_open_thinking = False
            num_newlines = len(text) - len(body)
            self._emit("\n" * self._num_newlines + body, self._base + end - num_newlines)
            self._num_newlines = num_newlines
        else:
            self._num_newlines += len(text)

    def _pass_no_tag(self) -> bool:
        """What looked like a tag is text, unless it shows the mark, which no client may see."""
        rest = self._buffer[self._at :]
        if self._ends_in_markup():
            self._at = len(self._buffer)
            self._num_newlines = 0
            self._note("the answer ends inside a tag")
            if not self._is_cut:
                self._fail("the answer ends inside a tag")
        elif rest.startswith(DSML_SYMBOL):
            self._note("a mark that belongs to no tag")
            self._at += 1
        else:
            self._pass(self._at + 1)
        return True

    def _read_think(self, kind: Literal["think", "end_think"], end: int) -> None:
        if kind == "end_think":
            # After the thinking a stray mark means nothing, but the vendor's package swallows it too.
            if self._state == "reasoning":
                self._end_thinking(end)
            else:
                self._at = end
        elif self._may_open_thinking and not self._num_newlines:
            self._at = end
            self._blocks.drop_logprobs(self._base + self._at)
            self._state = "reasoning"
            self._skips_newlines = True
            self._may_open_thinking = False
        elif self._marks == "spelled":
            self._pass(end)
        else:
            self._at = end

    def _end_thinking(self, end: int) -> None:
        self._blocks.flush_logprobs(self._base + self._at)
        self._at = end
        self._blocks.drop_logprobs(self._base + self._at)
        self._blocks.close()
        self._state = "text"
        self._num_newlines = 0
        self._skips_newlines = True
        self._may_open_thinking = False

    def _begins_unmarked_call(self, tag: Tag) -> bool | Unread:
        """Whether a tag without the mark begins a call of a tool that was offered, and is not about markup."""
        if tag.is_closing or not tag.has_angle:
            return False
        if tag.kind == "invoke":
            return tag.argument_name in self._tools
        if tag.kind != "block":
            return False
        at = skip_blanks(self._buffer, tag.end)
        if at == len(self._buffer):
            return False if self._is_ended else Unread.PENDING
        if self._buffer[at] in "{[":
            named = _NAMED_OBJECT.match(self._buffer, at)
            if named is not None:
                return named["name"] in self._tools
            is_short = len(self._buffer) - at < MAX_TAG_CHARACTERS and self._buffer.count('"', at) < _NUM_NAME_QUOTES
            return Unread.PENDING if is_short and not self._is_ended else False
        inner = self._scan(at)
        if inner is None or isinstance(inner, Unread):
            return inner or False
        return not inner.is_closing and inner.kind == "invoke" and inner.argument_name in self._tools

    def _read_stray_closing(self, tag: Tag) -> None:
        """A tag that closes nothing: what it belonged to is lost, unless it only closes the block."""
        self._note("a closing tag without a tool block")
        self._at = tag.end
        if tag.kind in ("invoke", "parameter") and self._state == "text":
            self._fail("a closing tag without a tool block")

    # Between tags

    def _enter_block(self, tag: Tag) -> None:
        self._is_in_thinking = self._state == "reasoning"
        self._num_newlines = 0
        self._blocks.close()
        self._state = "block"
        self._read_tag(tag)

    def _step_block(self) -> bool:
        """Between tags text means nothing, but a JSON object may stand for a call or for its parameters."""
        found = _IN_BLOCK.search(self._buffer, self._at)
        self._at = len(self._buffer) if found is None else found.start()
        if found is None:
            return False
        if self._buffer[self._at] in "{[":
            return self._begin_json()
        mark = self._scan_think()
        if isinstance(mark, Unread):
            return False
        if mark is not None:
            self._at += mark[1]
            if mark[0] == "end_think" and self._is_in_thinking and not self.num_calls:
                self._note("tool markup without a call in the thinking")
                self._state, self._skips_newlines = "text", True
            return True
        tag = self._scan(self._at)
        if isinstance(tag, Unread):
            return False
        if tag is None:
            if self._is_unfinished():
                return self._end_in_tag()
            self._at += 1
        else:
            self._read_tag(tag)
        return True

    def _read_tag(self, tag: Tag) -> None:
        self._at = tag.end
        kind = tag.kind
        if kind == "other" and tag.name in self._tools:
            kind = "invoke"
        if kind == "other" and self._calls.is_open and self._calls.arguments.has(tag.name):
            kind = "parameter"
        match kind, tag.is_closing:
            case "block", True:
                self._calls.close()
                if not self.num_calls:
                    self._fail("the tool markup holds no call")
                self._state = "done"
            case "invoke", False:
                self._open_call(tag)
            case "invoke", True:
                self._calls.close()
            case "parameter", False:
                self._open_parameter(tag)
            case "other", _:
                self._note(f"unknown tag: {tag.name[:80]}")
            case _:
                pass

    def _open_call(self, tag: Tag) -> None:
        if self._calls.is_open:
            self._note("a tool call that is not closed")
            self._calls.close()
        name = tag.name if tag.kind == "other" else tag.argument_name
        if name is None or len(name) > MAX_NAME_CHARACTERS:
            self._fail("a tool call without a name")
            return
        if tag.kind == "other" or tag.is_broken:
            self._note("a tag of a tool call that is not of the format")
        self._calls.open(name)
        if tag.is_empty:
            self._calls.close()

    def _open_parameter(self, tag: Tag) -> None:
        if not self._calls.is_open:
            self._fail("a parameter outside a call")
            return
        arguments = self._calls.arguments
        name = (tag.name if tag.kind == "other" else tag.argument_name) or arguments.only_name
        if name is None or arguments.has_body:
            self._fail("a parameter without a name" if name is None else "parameters beside a JSON object")
            return
        if tag.is_broken or tag.kind == "other" or tag.argument_name is None:
            self._note("a tag of a parameter that is not of the format")
        self._calls.open_parameter(name, is_string=tag.is_string)
        self._value = OpenValue(tag, arguments, marks=self._marks, tools=self._tools.keys())
        self._state = "value"
        if tag.is_empty:
            self._end_value()

    # Inside a value

    def _step_value(self) -> bool:
        """Let a parameter's value through, up to what closes it."""
        found = TAG_START.search(self._buffer, self._at)
        self._write(len(self._buffer) if found is None else found.start())
        if found is None:
            return False
        tag = self._scan(self._at)
        if isinstance(tag, Unread):
            return False
        if tag is None:
            if not self._ends_in_markup():
                self._write(self._at + 1)
                return True
            is_closing = "/" in self._buffer[self._at :]
            self._note("the answer ends inside a tag")
            self._at = len(self._buffer)
            if is_closing and not self._is_cut:
                self._calls.write_newline()
                self._end_value()
            return True
        assert self._value is not None
        end: AnswerEnd = "open" if not self._is_ended else "cut" if self._is_cut else "model"
        match self._value.judge(tag, self._buffer, self._scan, end=end):
            case Unread.PENDING:
                return False
            case "not":
                self._write(self._at + 1)
            case "closes":
                self._calls.write_newline()
                self._at = tag.end
                self._end_value()
            case "lost":
                self._note("a parameter that is not closed")
                self._end_value()
        return True

    def _write(self, end: int) -> None:
        """Give the value its text up to `end`."""
        text = self._buffer[self._at : end]
        self._at = end
        if text:
            self._calls.write(spelled_text(text))

    def _end_value(self) -> None:
        self._state = "block"
        problem = self._calls.close_parameter()
        if problem is not None:
            self._fail(problem)

    # JSON in place of markup

    def _step_json(self) -> bool:
        start, self._at = self._at, len(self._buffer)
        end = self._json.find(self._buffer, start)
        if end is not None:
            self._at = end
        self._body.append(spelled_text(self._buffer[start : self._at]))
        if end is None:
            return False
        self._read_json("".join(self._body))
        return True

    def _begin_json(self) -> bool:
        """An object where parameters are expected holds them all; where a call is expected it is one, or a list is."""
        inside = skip_blanks(self._buffer, self._at + 1)
        if self._buffer[self._at] == "[" and inside == len(self._buffer) and not self._is_ended:
            return False
        is_object = self._buffer[self._at] == "{"
        is_list = not is_object and self._buffer.startswith("{", inside)
        is_inside = self._calls.is_open
        has_room = not is_inside or not self._calls.arguments.is_begun
        if has_room and (is_object or (is_list and not is_inside)):
            self._state, self._json, self._body = "json", JsonEnd(), []
        else:
            self._at += 1
        return True

    def _read_json(self, text: str) -> None:
        self._state = "block"
        if self._calls.is_open:
            problem = self._calls.write_body(text)
            if problem is not None:
                self._fail(problem)
        else:
            self._note("JSON between the tags")
            self._calls.write_calls(text)

    # The end

    def _end_in_tag(self) -> bool:
        """The answer ends inside a tag of the block: a call or a parameter that was begun is lost."""
        is_closing = "/" in self._buffer[self._at :]
        self._at = len(self._buffer)
        self._note("the answer ends inside a tag")
        if not is_closing and not self._is_cut:
            self._fail("the answer ends inside a tag")
        return True

    def _end_in_value(self) -> None:
        self._calls.cut_parameter()
        self._end_inside_call()

    def _end_in_json(self) -> None:
        self._calls.cut_body("".join(self._body))
        self._end_inside_call()

    def _end_inside_call(self) -> None:
        self._note("the answer ends inside a tool call")
        if not self._is_cut:
            self._fail("the answer ends inside a tool call")

    def _end_in_block(self) -> None:
        if self._calls.is_open:
            self._note("the answer ends inside a tool call")
            if not self._is_cut:
                self._calls.close()
        elif not self.num_calls:
            self._note("the tool markup holds no call")
            if not self._is_cut:
                self._fail("the tool markup holds no call")

    # What is found

    def _emit(self, text: str, end: int) -> None:
        """Write text or thinking that is over at `end`, an offset into the whole answer."""
        if not self._blocks.is_open:
            self._blocks.open(ReasoningBlock() if self._state == "reasoning" else TextBlock())
        self._blocks.write(text, end)

    def _note(self, damage: str) -> None:
        self._calls.note(damage)

    def _fail(self, damage: str) -> None:
        """What the markup means is lost: nothing more is read."""
        self._note(damage)
        self.failure = DamagedToolCall(f"The model wrote a tool call that cannot be read: {damage}. Please retry.")
        self._calls.give_up()
        self._state = "done"


_State = Literal["reasoning", "text", "block", "value", "json", "done"]

MAX_NAME_CHARACTERS: Final = 1024
_NUM_NAME_QUOTES: Final = 4
"""A member and its string value have so many."""

_THINKING: Final = re.compile(rf"<(?=/?(?:t|\Z))|[{THINK_SYMBOL}{END_THINK_SYMBOL}]")
_TAGS_OR_THINKING: Final = re.compile(rf"{TAG_START.pattern}|[{THINK_SYMBOL}{END_THINK_SYMBOL}]")
_IN_BLOCK: Final = re.compile(rf"{TAG_START.pattern}|[{THINK_SYMBOL}{END_THINK_SYMBOL}{{\[]")

_NAMED_OBJECT: Final = re.compile(r'[\[\s]*\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"')
