"""One result of an answer: drawn tokens in, events out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningBlock,
    TextBlock,
    TokenLogprob,
    ToolCallBlock,
)
from deepserve.core.messages import ToolCall
from deepserve.core.usage import Usage
from deepserve.engine.interface import Drawn
from deepserve.engine.stopping import StopStrings
from deepserve.prompt.decoder import BlockEvent, Decoder
from deepserve.prompt.segments import Start
from deepserve.prompt.special_tokens import END_THINK
from deepserve.prompt.tokenizer import Detokenizer, Tokenizer


class AnswerRules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every result of a request.

    is_parallel  several tool calls may be made; otherwise the answer ends after the first
    """

    start: Start
    stop: tuple[str, ...]
    stop_tokens: frozenset[int]
    is_parallel: bool = True


class AnswerWriter:
    """Reads tokens as they are drawn and tells what they mean, once: `push`, ..., then `finish`.

    A `push` whose events end with Finished has ended the answer early, by a stop string or by a second call where one
    was allowed: then no more tokens may come, and `finish` is not called.
    """

    def __init__(
        self, rules: AnswerRules, tokenizer: Tokenizer, *, result: int, seed: int, call_id: Callable[[int], str]
    ) -> None:
        self._rules = rules
        self._tokenizer = tokenizer
        self._result = result
        self._seed = seed
        self._end_think = tokenizer.special_id(END_THINK)
        self._detokenizer = Detokenizer(tokenizer)
        self._decoder = Decoder(rules.start, marks="special", call_id=call_id, result=result)
        self._stops = StopStrings(rules.stop)
        self._open: BlockOpened | None = None
        self._text_length = 0  # characters of the open text block that have arrived
        self._released_length = 0  # and that have left
        self._held_logprobs: list[tuple[int, TokenLogprob]] = []  # with the place where the token's text begins
        self._arguments: list[str] = []
        self.has_ended_early = False
        self.token_ids: list[int] = []
        self.num_reasoning_tokens = 0
        self.reasoning = ""
        self.text = ""
        self.calls: list[ToolCall] = []

    @property
    def num_answer_tokens(self) -> int:
        return len(self.token_ids) - self.num_reasoning_tokens

    @property
    def _output(self) -> Usage:
        return Usage(reasoning_tokens=self.num_reasoning_tokens, answer_tokens=self.num_answer_tokens)

    @property
    def is_well_formed(self) -> bool:
        """Nothing in the tool markup was damaged."""
        return self._decoder.damage is None

    def push(self, drawn: Drawn) -> list[Event]:
        """What one more token makes certain."""
        self.token_ids.append(drawn.token)
        if drawn.token in self._rules.stop_tokens:
            return []
        self.num_reasoning_tokens += self._decoder.is_reasoning and drawn.token != self._end_think
        logprob = None
        if drawn.logprob is not None:
            logprob = self._tokenizer.logprob(drawn.token, drawn.logprob, drawn.top)
        events: list[Event] = []
        for piece in self._detokenizer.push(drawn.token, logprob):
            events += self._filter(self._decoder.feed(piece))
        return events

    def finish(self, reason: FinishReason) -> list[Event]:
        """Everything that was held back, and the end. `reason`: why the engine stopped."""
        events: list[Event] = []
        for piece in self._detokenizer.finish():
            events += self._filter(self._decoder.feed(piece))
        events += self._filter(self._decoder.finish(is_cut=reason != "stop"))
        if self.has_ended_early:
            return events
        if self._decoder.failure is not None and reason == "stop":
            return [*events, Failed(error=self._decoder.failure, result=self._result)]
        if reason == "stop" and self._decoder.num_calls:
            reason = "tool_calls"
        return [*events, Finished(reason=reason, seed=self._seed, output=self._output, result=self._result)]

    def _filter(self, decoded: Sequence[BlockEvent]) -> list[Event]:
        """Look for stop strings and take notes."""
        events: list[Event] = []
        for event in decoded:
            if self.has_ended_early:
                break
            match event:
                case BlockOpened():
                    if isinstance(event.block, ToolCallBlock) and self.calls and not self._rules.is_parallel:
                        self._end_early(events, reason="tool_calls")
                        break
                    self._open = event
                    self._text_length = self._released_length = 0
                    self._arguments = []
                    events.append(event)
                case BlockDelta():
                    self._read_delta(event, events)
                case BlockClosed():
                    self._close(event, events)
        return events

    def _read_delta(self, event: BlockDelta, events: list[Event]) -> None:
        assert self._open is not None
        match self._open.block:
            case TextBlock():
                if self._rules.stop:
                    self._read_text(event, events)
                    return
                self.text += event.text
            case ReasoningBlock():
                self.reasoning += event.text
            case _:
                self._arguments.append(event.text)
        events.append(event)

    def _read_text(self, event: BlockDelta, events: list[Event]) -> None:
        self._held_logprobs += [(self._text_length, logprob) for logprob in event.logprobs]
        self._text_length += len(event.text)
        release = self._stops.feed(event.text)
        self._release(release.text, event.index, events)
        if release.stop_string is not None:
            self._held_logprobs.clear()
            events.append(BlockClosed(index=event.index, result=self._result))
            self._end_early(events, reason="stop_string", stop_string=release.stop_string)

    def _close(self, event: BlockClosed, events: list[Event]) -> None:
        assert self._open is not None
        block = self._open.block
        if isinstance(block, TextBlock) and self._rules.stop:
            self._release(self._stops.flush(), event.index, events, is_last=True)
        elif isinstance(block, ToolCallBlock):
            self.calls.append(ToolCall(id=block.id, name=block.name, arguments="".join(self._arguments)))
        self._open = None
        events.append(event)

    def _release(self, text: str, index: int, events: list[Event], *, is_last: bool = False) -> None:
        """Emit text that no stop string can claim any more, with the tokens that begin in it."""
        self.text += text
        self._released_length += len(text)
        ready = [item for item in self._held_logprobs if is_last or item[0] < self._released_length]
        self._held_logprobs = self._held_logprobs[len(ready) :]
        if text or ready:
            logprobs = tuple(logprob for _, logprob in ready)
            events.append(BlockDelta(index=index, text=text, logprobs=logprobs, result=self._result))

    def _end_early(self, events: list[Event], *, reason: FinishReason, stop_string: str | None = None) -> None:
        self.has_ended_early = True
        events.append(
            Finished(reason=reason, stop_string=stop_string, seed=self._seed, output=self._output, result=self._result)
        )
