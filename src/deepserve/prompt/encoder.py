"""From a request to what the model reads: the V4 prompt format.

    prompt := BOS [effort prefix] system text, tools section, response format, then turn after turn
    turn   := <｜User｜> texts and tool results | <｜latest_reminder｜> text
            | <｜Assistant｜> (<think> reasoning </think> | </think>) text [calls] EOS

and after the last turn `<｜Assistant｜>` with `<think>` or `</think>`, where the answer begins.

History is rewritten on the way, as the model was trained: without tools the reasoning of past turns is left out;
with tools all of it stays; when the model is not to think there is none. Tool results stand in the order of the calls.
Every difference to the vendor's package is listed in docs/prompt-format.md.

Source: the encoding files of the DeepSeek-V4 releases, as implemented by deepseek-recipe 0.2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import assert_never

import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import (
    File,
    Image,
    Message,
    OtherPart,
    Part,
    Reasoning,
    Refusal,
    ServerToolCall,
    ServerToolResult,
    Task,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.core.request import Infill, Request, Tool
from deepserve.prompt.json_text import read_json, write_json
from deepserve.prompt.profile import Profile
from deepserve.prompt.segments import Constraint, Prompt, SegmentWriter, Stage, Start
from deepserve.prompt.server_turns import ordinary_turns
from deepserve.prompt.special_tokens import (
    ASSISTANT,
    BOS,
    END_THINK,
    EOS,
    FIM_BEGIN,
    FIM_END,
    FIM_HOLE,
    LATEST_REMINDER,
    TASK_TOKENS,
    THINK,
    USER,
)
from deepserve.prompt.tool_markup import FORCED_CALL, write_calls, write_tools_section

PARAGRAPH = "\n\n"
"""Between the parts of a message, and between the messages of a turn."""


class SampledTurn(msgspec.Struct, frozen=True, kw_only=True):
    """An assistant turn as the model drew it.

    is_thinking  the prompt ended with `<think>`
    ids          everything after that opener (prefilled tokens included), without the end token
    calls        the calls as the client was told of them
    text         the text as the client was told of it
    """

    is_thinking: bool
    ids: tuple[int, ...]
    calls: tuple[ToolCall, ...]
    text: str = ""


Replay = Callable[[str], SampledTurn | None]
"""Finds the turn in which a tool call, by its id, was made; None when it is not remembered."""


def encode(request: Request, profile: Profile, *, replay: Replay | None = None) -> Prompt:
    """Render a request up to the place where the answer begins.

    A past turn with tool calls that `replay` remembers, and that the client sent back unaltered, is replayed token by
    token: rendered anew it may differ in order and spacing from what was drawn, and then no cached prefix fits.

    Raises InvalidField for a tool choice or continuation that makes no sense, UnsupportedFeature for tasks
    that the model was not trained on.
    """
    if request.infill is not None:
        return _encode_infill(request.infill)
    return _Encoder(request, profile, replay).prompt()


def encode_transcript(request: Request, profile: Profile) -> Prompt:
    """Render a finished conversation, its last message being the assistant's; for training and evaluation.

    `outputs` holds for each assistant turn the segments that the model is to write, its end token included.
    """
    if not request.messages or request.messages[-1].role != "assistant":
        raise ValueError("a transcript ends with a message of the assistant")
    return _Encoder(request, profile, None).transcript()


class _UserTurn(msgspec.Struct):
    """Tool results first, in the order of the calls; then texts; then tools offered here."""

    results: list[ToolResult]
    texts: list[str]
    task: Task | None = None
    tools: tuple[Tool, ...] = ()


class _Reminder(msgspec.Struct):
    text: str


class _AssistantTurn(msgspec.Struct):
    text: str
    reasoning: str | None
    calls: tuple[ToolCall, ...]
    task: Task | None = None


_Turn = _UserTurn | _Reminder | _AssistantTurn


class _Encoder:
    def __init__(self, request: Request, profile: Profile, replay: Replay | None) -> None:
        self.request = request
        self.profile = profile
        self.replay = replay
        self.thinks = request.thinking.enabled
        self.tools = _offered_tools(request)
        self.turn_tools = tuple(tool for message in request.messages for tool in message.tools)
        self.writer = SegmentWriter()
        self.outputs: list[tuple[int, int]] = []
        self.turns = list(self._read_turns())

    def prompt(self) -> Prompt:
        continued = self._continued_turn()
        history = self.turns[:-1] if continued is not None else self.turns
        self._write_system()
        for index, turn in enumerate(history):
            self._write_turn(turn, history[index - 1] if index else None)
        stage = self._write_opening(continued, history[-1] if history else None)
        if self._forces_call and not self.thinks:
            self.writer.markup(FORCED_CALL)
            stage = "tool_calls"
        return self._finish(stage)

    def transcript(self) -> Prompt:
        self._write_system()
        for index, turn in enumerate(self.turns):
            is_last = index == len(self.turns) - 1
            self._write_turn(turn, self.turns[index - 1] if index else None, keeps_reasoning=is_last)
        return self._finish("reasoning" if self.thinks else "text")

    def _finish(self, stage: Stage) -> Prompt:
        return Prompt(
            segments=self.writer.finish(),
            start=Start(stage=stage, offers_tools=bool(self.tools or self.turn_tools)),
            constraint=self._constraint(),
            outputs=tuple(self.outputs),
        )

    # System text

    def _write_system(self) -> None:
        request, writer = self.request, self.writer
        writer.special(BOS)
        if self.thinks:
            writer.text(self.profile.effort_prefixes[request.thinking.effort])
        texts = [_join_parts(message.parts) for message in request.messages if message.role == "system"]
        writer.text(PARAGRAPH.join(text for text in texts if text))
        if self.tools:
            writer.text(PARAGRAPH)
            write_tools_section(writer, self.tools, self.profile)
        match request.response_format.kind:
            case "json_object":
                writer.text(self.profile.json_object)
            case "json_schema":
                writer.text(self.profile.json_schema + write_json(dict(request.response_format.schema or {})))
            case "text" | "regex" | "choice":
                pass
            case kind:
                assert_never(kind)

    # Messages to turns

    def _read_turns(self) -> Iterator[_Turn]:
        """Join the messages between two assistant turns; system messages are elsewhere already."""
        open_turn: _UserTurn | None = None
        call_order: dict[str, int] = {}
        for index, message in enumerate(ordinary_turns(self.request.messages)):
            if message.role == "system":
                continue
            if message.task is not None and not self.profile.has_tasks:
                raise UnsupportedFeature("this model was not trained on quick tasks", field=f"messages[{index}].task")
            if message.role in ("user", "tool"):
                for addition in _split_user(message):
                    if open_turn is not None and addition.results and open_turn.texts:
                        yield _ordered(open_turn, call_order)
                        open_turn = None
                    if open_turn is None:
                        open_turn = addition
                    else:
                        open_turn.results += addition.results
                        open_turn.texts += addition.texts
                        open_turn.task = addition.task or open_turn.task
                        open_turn.tools += addition.tools
                continue
            if open_turn is not None:
                yield _ordered(open_turn, call_order)
                open_turn = None
            if message.role == "latest_reminder":
                yield _Reminder(_join_parts(message.parts))
                continue
            turn = _assistant_turn(message.parts, message.task)
            call_order = {call.id: position for position, call in enumerate(turn.calls)}
            yield turn
        if open_turn is not None:
            yield _ordered(open_turn, call_order)

    def _continued_turn(self) -> _AssistantTurn | None:
        messages = [(index, message) for index, message in enumerate(self.request.messages) if message.role != "system"]
        if not messages or not messages[-1][1].prefix:
            return None
        field = f"messages[{messages[-1][0]}].prefix"
        turn = self.turns[-1]
        if not isinstance(turn, _AssistantTurn):
            raise InvalidField("only a message of the assistant can be continued", field=field)
        if turn.calls:
            raise InvalidField("a message with tool calls cannot be continued", field=field)
        return turn

    # Turns to segments

    def _write_turn(self, turn: _Turn, previous: _Turn | None, *, keeps_reasoning: bool = False) -> None:
        writer = self.writer
        match turn:
            case _Reminder():
                writer.special(LATEST_REMINDER)
                writer.text(turn.text)
            case _UserTurn():
                writer.special(USER)
                blocks = [f"<tool_result>{_join_parts(result.content)}</tool_result>" for result in turn.results]
                if turn.texts:
                    blocks.append(PARAGRAPH.join(text for text in turn.texts if text))
                writer.text(PARAGRAPH.join(blocks))
                if turn.tools:
                    writer.text(PARAGRAPH)
                    write_tools_section(writer, turn.tools, self.profile)
                if turn.task is not None and turn.task != "action":
                    writer.special(TASK_TOKENS[turn.task])
            case _AssistantTurn():
                self._write_assistant(turn, previous, keeps_reasoning)
            case _:
                assert_never(turn)

    def _write_assistant(self, turn: _AssistantTurn, previous: _Turn | None, keeps_reasoning: bool) -> None:
        """Append a complete turn of the assistant."""
        writer = self.writer
        keeps = self.thinks and (keeps_reasoning or bool(self.tools or self.turn_tools))
        task = _task_of(previous)
        if task is not None:
            self._open_task(task, thinks=keeps)
            begin = writer.mark()
            writer.text(turn.text)
        else:
            writer.special(ASSISTANT)
            writer.special(THINK if keeps else END_THINK)
            begin = writer.mark()
            sampled = self._sampled(turn, keeps)
            if sampled is not None:
                writer.tokens(sampled.ids)
            else:
                if keeps:
                    writer.text(turn.reasoning or "")
                    writer.special(END_THINK)
                writer.text(turn.text)
                if turn.calls:
                    write_calls(writer, turn.calls)
        writer.special(EOS)
        self.outputs.append((begin, writer.mark()))
        if turn.task == "title":
            writer.special(TASK_TOKENS["title"])

    def _sampled(self, turn: _AssistantTurn, thinks: bool) -> SampledTurn | None:
        """What the model drew, if it is known and still says what the client sent."""
        if self.replay is None or not turn.calls:
            return None
        sampled = self.replay(turn.calls[0].id)
        if sampled is None or sampled.is_thinking != thinks or len(sampled.calls) != len(turn.calls):
            return None
        is_unaltered = sampled.text.strip() == turn.text.strip() and all(
            (one.id, one.name, one.namespace) == (other.id, other.name, other.namespace)
            and _same_arguments(one.arguments, other.arguments)
            for one, other in zip(sampled.calls, turn.calls, strict=True)
        )
        return sampled if is_unaltered else None

    def _write_opening(self, continued: _AssistantTurn | None, previous: _Turn | None) -> Stage:
        """Append what stands before the answer."""
        writer = self.writer
        task = _task_of(previous)
        if task is not None and continued is None:
            self._open_task(task, thinks=self.thinks)
            return "text_continued"
        writer.special(ASSISTANT)
        text = continued.text if continued is not None else ""
        if not self.thinks:
            writer.special(END_THINK)
            writer.text(text)
            return "text_continued" if text else "text"
        writer.special(THINK)
        reasoning = (continued.reasoning or "") if continued is not None else ""
        writer.text(reasoning)
        if text:
            writer.special(END_THINK)
            writer.text(text)
            return "text_continued"
        return "reasoning_continued" if reasoning else "reasoning"

    def _open_task(self, task: Task, *, thinks: bool) -> None:
        """Append the opening of an answer to a quick task; the token of all but `action` stands with the question."""
        if task == "action":
            self.writer.special(ASSISTANT)
            self.writer.special(THINK if thinks else END_THINK)
            self.writer.special(TASK_TOKENS["action"])

    # Constraint

    @property
    def _forces_call(self) -> bool:
        return bool(self.tools) and self.request.tool_choice.mode in ("required", "named")

    def _constraint(self) -> Constraint | None:
        """Tools win over a response format, as in the vendor's package: a call is not JSON."""
        tools = self.tools + self.turn_tools
        if tools:
            return Constraint(kind="required_tool_call" if self._forces_call else "tool_call", tools=tools)
        form = self.request.response_format
        match form.kind:
            case "text":
                return None
            case "json_object":
                return Constraint(kind="json")
            case "json_schema":
                return Constraint(kind="json", schema=form.schema or {})
            case "regex":
                return Constraint(kind="regex", pattern=form.pattern)
            case "choice":
                return Constraint(kind="choice", choices=form.choices)
            case kind:
                assert_never(kind)


def _encode_infill(infill: Infill) -> Prompt:
    """Render a plain completion; the model then writes what belongs in the hole, or what comes next.

    The order is that of the vendor's models since DeepSeek-Coder: prefix, hole, suffix, then the middle
    (https://github.com/deepseek-ai/DeepSeek-Coder, "Code Insertion"; https://arxiv.org/abs/2412.19437, section 4.1).
    """
    writer = SegmentWriter()
    writer.special(BOS)
    if infill.suffix is None:
        writer.text(infill.prompt)
    else:
        writer.special(FIM_BEGIN)
        writer.text(infill.prompt)
        writer.special(FIM_HOLE)
        writer.text(infill.suffix)
        writer.special(FIM_END)
    return Prompt(segments=writer.finish(), start=Start(stage="text_continued"))


def _offered_tools(request: Request) -> tuple[Tool, ...]:
    """The tools the model is shown: all, none, or only those that are demanded by name."""
    choice = request.tool_choice
    match choice.mode:
        case "none":
            return ()
        case "auto":
            return request.tools
        case "required":
            if not request.tools:
                raise InvalidField("a tool call is required, but no tools are given", field="tool_choice")
            return request.tools
        case "named":
            missing = set(choice.names) - {tool.name for tool in request.tools}
            if missing or not choice.names:
                raise InvalidField(
                    f"tool_choice names unknown tools: {', '.join(sorted(missing)) or '(none)'}", field="tool_choice"
                )
            return tuple(tool for tool in request.tools if tool.name in choice.names)
        case mode:
            assert_never(mode)


def _split_user(message: Message) -> Iterator[_UserTurn]:
    """Results and texts of a user or tool message, in their order; neighbouring text parts are one text."""
    texts: list[Part] = []
    for part in message.parts:
        if isinstance(part, ToolResult):
            if texts:
                yield _UserTurn([], [_join_parts(texts)])
                texts = []
            yield _UserTurn([part], [])
        else:
            texts.append(part)
    if texts or not message.parts or message.task is not None or message.tools:
        yield _UserTurn([], [_join_parts(texts)], message.task, message.tools)


def _assistant_turn(parts: Sequence[Part], task: Task | None) -> _AssistantTurn:
    texts: list[Part] = []
    traces: list[str] = []
    calls: list[ToolCall] = []
    for part in parts:
        match part:
            case Reasoning():
                traces.append(part.text)
            case ToolCall():
                calls.append(part)
            case _:
                texts.append(part)
    return _AssistantTurn(_join_parts(texts), "".join(traces) if traces else None, tuple(calls), task)


def _ordered(turn: _UserTurn, call_order: dict[str, int]) -> _UserTurn:
    """Sort results like the calls they answer; results of unknown calls follow as they came."""
    turn.results.sort(key=lambda result: call_order.get(result.call_id, len(call_order)))
    return turn


def _join_parts(parts: Sequence[Part]) -> str:
    return PARAGRAPH.join(_part_text(part) for part in parts)


def _part_text(part: Part) -> str:
    """A part as words; what the model cannot see is named."""
    match part:
        case Text(text=text) | Refusal(text=text) | Reasoning(text=text):
            return text
        case Image():
            return "[Unsupported Image]"
        case File():
            return "[Unsupported File]"
        case OtherPart():
            return f"[Unsupported {part.kind}]"
        case ToolCall() | ToolResult() | ServerToolCall() | ServerToolResult():
            return f"[Unsupported {part.__struct_config__.tag}]"
        case _:
            assert_never(part)


def _task_of(turn: _Turn | None) -> Task | None:
    return turn.task if isinstance(turn, _UserTurn) else None


def _same_arguments(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return bool(read_json(one) == read_json(other))
    except ValueError:
        return False
