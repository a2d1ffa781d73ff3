"""A back end without a model: it replays what a script says, the same way every time.

For authors of clients, who want every kind of answer on demand, and for our own tests. A script is an ordered list of
rules; the first whose `when` matches the request gives the `reply`. Without a matching rule, a built-in reply answers
anything: it echoes the last user message, calls the first tool that may be called when a call is demanded or no result
is pending, and gives JSON by the schema where a form is asked for.

Honoured: thinking on and off (a scripted trace is only sent while thinking), `budget_tokens`, stop strings, output
limits, the number of results, log-probabilities (invented, but stable), `tool_choice` and the form of the answer (by
the built-in reply; of a script's replies only calls are left out, where none or one is allowed), the context limit.
One piece of text counts as one token: a word with the blanks before it.

Ignored: every sampling knob, logit_bias and seed (nothing is drawn), the effort, `strict` of tools (arguments come
from the script, or are an example by their schema), the parts that are not text, `user_id` and the tenant (there is no
cache: `hit_tokens` is what the script says), provider preferences and fallback models, plain completions (refused).
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import assert_never

from deepserve.backends.example_value import example_value
from deepserve.backends.script import Failure, Reply, Script, ScriptedCall, When, load_script
from deepserve.config import Settings
from deepserve.core.errors import (
    BackendFailure,
    ContextOverflow,
    DeepserveError,
    EngineFailure,
    InvalidField,
    Overloaded,
    TooManyRequests,
    UnsupportedFeature,
)
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningBlock,
    Started,
    TextBlock,
    TokenLogprob,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.messages import Json, Text
from deepserve.core.provider import ServedBy, ServedModel
from deepserve.core.request import Request, Tool
from deepserve.core.usage import Usage

_FAILURES: Mapping[Failure, Callable[[], DeepserveError]] = {
    "overloaded": lambda: Overloaded("Scripted: the server is overloaded.", retry_after_s=2.0),
    "too_many_requests": lambda: TooManyRequests("Scripted: too many requests.", retry_after_s=2.0),
    "engine_failure": lambda: EngineFailure("Scripted: the engine failed."),
    "backend_failure": lambda: BackendFailure("Scripted: the upstream failed."),
    "invalid_field": lambda: InvalidField("Scripted: the request is refused.", field="messages"),
}

_PIECE = re.compile(r"\s*\S+|\s+")


def split_pieces(text: str, *, characters: int | None = None) -> list[str]:
    """The tokens of this back end; joined they are the text."""
    if characters is None:
        return _PIECE.findall(text)
    return [text[at : at + characters] for at in range(0, len(text), characters)]


def count_pieces(text: str) -> int:
    """How many tokens of this back end a text is."""
    return len(text.split()) + text[-1:].isspace()


class ScriptedBackend:
    """Answers from a script. `sleep` is where delays wait, so that tests can hold time in their hands.

    model_ids       what it claims to serve
    num_cancelled   answers whose reader left before the end
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        model_ids: Sequence[str] = ("deepseek-v4-pro", "deepseek-v4-flash"),
        context_tokens: int = 131_072,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._script = script or Script()
        self._sleep = sleep
        self._context_tokens = context_tokens
        self._served_by = ServedBy(provider="deepserve", model="scripted", fingerprint="fp_deepserve_scripted_1")
        self._models = tuple(
            ServedModel(
                id=model_id,
                display_name=f"{model_id} (scripted answers, no model)",
                served_by=self._served_by,
                context_tokens=context_tokens,
                max_output_tokens=context_tokens,
                note="Answers are scripted. No model runs.",
            )
            for model_id in model_ids
        )
        self._is_ready = False
        self.num_running = 0
        self.num_cancelled = 0

    @classmethod
    def load(cls, settings: Settings) -> ScriptedBackend:
        """The back end that the settings ask for. Raises ConfigurationError for a script that is not valid."""
        return cls(None if settings.script_path is None else load_script(settings.script_path))

    def models(self) -> tuple[ServedModel, ...]:
        return self._models

    async def start(self) -> None:
        self._is_ready = True

    async def close(self) -> None:
        self._is_ready = False

    def gauges(self) -> Mapping[str, float]:
        return {}

    def is_ready(self) -> bool:
        return self._is_ready

    def enforces(self) -> bool:
        """A script may say anything."""
        return False

    async def count(self, request: Request) -> int:
        return _count_prompt(request)

    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        reply = self._reply_to(request)
        self.num_running += 1
        has_ended = False
        try:
            if reply.first_delay_s > 0:
                await self._sleep(reply.first_delay_s)
            if reply.failure is not None and reply.fail_after_pieces is None:
                raise _FAILURES[reply.failure]()
            num_prompt = _count_prompt(request)
            if num_prompt + (request.max_output_tokens or 0) > self._context_tokens:
                raise ContextOverflow(
                    limit_tokens=self._context_tokens,
                    prompt_tokens=num_prompt,
                    requested_tokens=request.max_output_tokens or 0,
                )
            hit = min(reply.hit_tokens, num_prompt)
            usage = Usage(hit_tokens=hit, miss_tokens=num_prompt - hit)
            yield Started(served_by=self._served_by, prompt_usage=usage)
            for result in range(request.num_results):
                telling = _Telling(request, reply, result, room=self._context_tokens - num_prompt)
                for event in telling.events():
                    if isinstance(event, BlockDelta) and reply.delay_s > 0:
                        await self._sleep(reply.delay_s)
                    if isinstance(event, Finished | Failed):
                        usage = usage.plus(telling.usage)
                        yield UsageReported(usage=usage)
                    yield event
            has_ended = True
        except DeepserveError:
            has_ended = True
            raise
        finally:
            self.num_running -= 1
            if not has_ended:
                self.num_cancelled += 1

    def _reply_to(self, request: Request) -> Reply:
        for rule in self._script.rules:
            if _matches(rule.when, request):
                return rule.reply
        return _built_in_reply(request)


class _Telling:
    """One result being told: pieces in, events out, within stop strings and limits."""

    def __init__(self, request: Request, reply: Reply, result: int, *, room: int) -> None:
        self._request = request
        self._reply = reply
        self._result = result
        limit = request.max_output_tokens or request.default_output_tokens or room
        self._num_left = min(limit, room)
        self._num_pieces = 0
        self._num_blocks = 0
        self.usage = Usage()

    def events(self) -> list[Event]:
        """All events of the result; the last is Finished or Failed."""
        events: list[Event] = []
        reason: FinishReason | None = None
        stop_string: str | None = None
        try:
            for block, text in self._blocks():
                if self._num_left <= 0:
                    reason = "length"
                    break
                told, stop_string = self._cut(text) if isinstance(block, TextBlock) else (text, None)
                reason = self._tell(events, block, told)
                if reason is None and stop_string is not None:
                    reason = "stop_string"
                if reason is not None:
                    break
        except DeepserveError as error:
            return [*events, Failed(error=error, result=self._result)]
        if reason is None:
            has_called = any(isinstance(e, BlockOpened) and isinstance(e.block, ToolCallBlock) for e in events)
            reason = self._reply.finish or ("tool_calls" if has_called else "stop")
        stopped_by = stop_string if reason == "stop_string" else None
        events.append(Finished(reason=reason, stop_string=stopped_by, output=self.usage, result=self._result))
        return events

    def _blocks(self) -> list[tuple[Block, str]]:
        request, reply = self._request, self._reply
        blocks: list[tuple[Block, str]] = []
        # An answer that the client has begun is past its thinking.
        has_begun = bool(request.messages and request.messages[-1].prefix and request.messages[-1].text)
        if reply.reasoning is not None and request.thinking.enabled and not has_begun:
            trace = split_pieces(reply.reasoning, characters=reply.piece_characters)
            blocks.append((ReasoningBlock(), "".join(trace[: request.thinking.budget_tokens])))
        if reply.text:
            blocks.append((TextBlock(), reply.text))
        if request.tool_choice.mode != "none":
            calls = reply.tool_calls if request.tool_choice.is_parallel else reply.tool_calls[:1]
            # An id of the vendor's form, repeatable: the request's own hex digits make it unique.
            unique = str(request.id).replace("-", "")[:22]
            blocks += [
                (
                    ToolCallBlock(id=f"call_{number:02d}_{unique}{self._result:02d}", name=call.name),
                    call.arguments,
                )
                for number, call in enumerate(calls)
            ]
        return blocks

    def _cut(self, text: str) -> tuple[str, str | None]:
        """The text up to the first stop string, and which that was."""
        found = [(text.index(stop), stop) for stop in self._request.stop if stop in text]
        if not found:
            return text, None
        at, stop = min(found)
        return text[:at], stop

    def _tell(self, events: list[Event], block: Block, text: str) -> FinishReason | None:
        """Append one block; return why the answer ends inside it, None when it does not."""
        index, self._num_blocks = self._num_blocks, self._num_blocks + 1
        events.append(BlockOpened(index=index, block=block, result=self._result))
        reason: FinishReason | None = None
        for piece in split_pieces(text, characters=self._reply.piece_characters):
            if self._num_left <= 0:
                reason = "length"
                break
            if self._reply.failure is not None and self._num_pieces == self._reply.fail_after_pieces:
                raise _FAILURES[self._reply.failure]()
            self._num_left -= 1
            self._num_pieces += 1
            is_trace = isinstance(block, ReasoningBlock)
            self.usage = self.usage.plus(Usage(reasoning_tokens=int(is_trace), answer_tokens=int(not is_trace)))
            logprobs = () if isinstance(block, ToolCallBlock) else self._logprobs(piece)
            events.append(BlockDelta(index=index, text=piece, logprobs=logprobs, result=self._result))
        events.append(BlockClosed(index=index, result=self._result))
        return reason

    def _logprobs(self, piece: str) -> tuple[TokenLogprob, ...]:
        """One token: the piece with probability one half, and as many others as were asked for, each half as likely."""
        num_top = self._request.sampling.num_top_logprobs
        if num_top is None:
            return ()
        tokens = [piece, *(f"{piece}_{other}" for other in range(1, num_top))]
        rows = [
            TokenLogprob(token=token, logprob=-(rank + 1) * math.log(2), bytes=token.encode())
            for rank, token in enumerate(tokens)
        ]
        top = tuple(rows[:num_top])
        return (TokenLogprob(token=piece, logprob=rows[0].logprob, bytes=rows[0].bytes, top=top),)


def _matches(when: When, request: Request) -> bool:
    """What a rule does not ask for costs nothing."""
    last_role = request.messages[-1].role if request.messages else None
    return (
        (when.model is None or when.model == request.model)
        and (when.last_role is None or when.last_role == last_role)
        and (when.has_tools is None or when.has_tools == bool(request.tools))
        and (when.is_thinking is None or when.is_thinking == request.thinking.enabled)
        and (when.is_json is None or when.is_json == (request.response_format.kind in ("json_object", "json_schema")))
        and (when.contains is None or when.contains in _last_user_text(request))
    )


def _last_user_text(request: Request) -> str:
    if request.infill is not None:
        return request.infill.prompt
    return next((message.text for message in reversed(request.messages) if message.role == "user"), "")


def _built_in_reply(request: Request) -> Reply:
    """Something sensible for any request, without a script."""
    asked = _last_user_text(request)
    if request.infill is not None:
        return Reply(text=f" and so on after: {asked}" if request.infill.suffix is None else "something in between")
    last = request.messages[-1]
    reasoning = f"The user said: {asked} I will answer that."
    tools = _callable_tools(request)
    if tools and (request.tool_choice.mode in ("required", "named") or (last.role != "tool" and not last.prefix)):
        tool = tools[0]
        call = ScriptedCall(name=tool.name, arguments=_written(_arguments(tool)))
        return Reply(reasoning=reasoning, tool_calls=(call,))
    if last.prefix:
        return Reply(reasoning=reasoning, text=" and so on.")
    form = request.response_format
    match form.kind:
        case "json_object":
            return Reply(reasoning=reasoning, text=_written({"echo": asked}))
        case "json_schema":
            return Reply(reasoning=reasoning, text=_written(example_value(form.schema)))
        case "choice":
            return Reply(reasoning=reasoning, text=form.choices[0])
        case "regex":
            raise UnsupportedFeature(
                "The scripted back end cannot answer by a regular expression: give it a rule for this request.",
                field="response_format",
            )
        case "text":
            pass
        case _:
            assert_never(form.kind)
    if last.role == "tool":
        results = [part.text for part in last.tool_results[0].content if isinstance(part, Text)]
        return Reply(reasoning=reasoning, text="The tool answered: " + "".join(results))
    return Reply(reasoning=reasoning, text=f"You said: {asked}")


def _callable_tools(request: Request) -> Sequence[Tool]:
    """The tools that may be called, as the choice among them says."""
    choice = request.tool_choice
    if choice.mode == "none":
        return ()
    return [tool for tool in request.tools if not choice.names or tool.name in choice.names]


def _arguments(tool: Tool) -> Json:
    arguments = example_value({"type": "object", **(tool.parameters or {})})
    return arguments if isinstance(arguments, dict) else {}


def _written(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


def _count_prompt(request: Request) -> int:
    """Pieces of all texts, calls and tools, and one for each turn."""
    num = len(request.messages)
    if request.infill is not None:
        num += count_pieces(request.infill.prompt) + count_pieces(request.infill.suffix or "")
    for message in request.messages:
        num += count_pieces(message.text) + count_pieces(message.reasoning or "")
        num += sum(count_pieces(call.arguments) + 1 for call in message.tool_calls)
        for result in message.tool_results:
            num += sum(count_pieces(part.text) for part in result.content if isinstance(part, Text))
    return num + sum(count_pieces(str(tool.parameters)) + count_pieces(tool.description) for tool in request.tools)
