"""`deepserve chat`: a conversation in the terminal, answered in this process."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, assert_never

import click

from deepserve.backends.selection import select_backend
from deepserve.cli.progress import LoadingProgress
from deepserve.cli.settings import model_options, passing_settings_from
from deepserve.core.errors import DeepserveError
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    ReasoningBlock,
    ServerToolCallBlock,
    ServerToolResultBlock,
    Started,
    TextBlock,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.messages import Message, Text
from deepserve.core.request import Effort, Request, RequestId, Thinking
from deepserve.core.sampling import Sampling
from deepserve.core.usage import Usage
from deepserve.gateway import Gateway


@click.command()
@click.argument("question", required=False)
@click.option("--id", "model_id", default="deepseek-v4-flash", show_default=True, help="The model id to ask.")
@click.option("--think/--no-think", default=True, show_default=True, help="Think before answering.")
@click.option("--effort", type=click.Choice(["low", "high", "max"]), default="high", show_default=True)
@click.option("--system", help="A system prompt.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, thinking included.")
@model_options
def chat(
    question: str | None,
    model_id: str,
    think: bool,
    effort: Effort,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    **options: Any,  # Any: the shared options, as click hands them over
) -> None:
    """Talk to the model right here; no server is needed.

    With QUESTION, print one answer and stop. Otherwise converse: Ctrl-C stops an answer, Ctrl-D leaves.
    """
    settings = passing_settings_from(**options)
    ask = _Ask(
        model=model_id,
        thinking=Thinking(enabled=think, effort=effort),
        sampling=Sampling(temperature=temperature),
        max_output_tokens=max_tokens,
    )
    history = [] if system is None else [Message(role="system", parts=(Text(system),))]
    backend = select_backend(settings, LoadingProgress())
    gateway = Gateway(backend)

    with asyncio.Runner() as runner:
        runner.run(backend.start())
        try:
            if question is not None:
                failed = runner.run(_answer(gateway, ask, [*history, _user(question)], time.perf_counter)) is None
                raise SystemExit(int(failed))
            _greet(gateway, model_id)
            _converse(runner, gateway, ask, history)
        finally:
            runner.run(backend.close())


class _Ask:
    """What stays the same from turn to turn."""

    def __init__(self, *, model: str, thinking: Thinking, sampling: Sampling, max_output_tokens: int | None) -> None:
        self.model = model
        self.thinking = thinking
        self.sampling = sampling
        self.max_output_tokens = max_output_tokens

    def request(self, messages: list[Message]) -> Request:
        return Request(
            id=RequestId(uuid.uuid4().hex),
            model=self.model,
            requested_model=self.model,
            arrived_at=datetime.now(UTC),
            messages=tuple(messages),
            thinking=self.thinking,
            sampling=self.sampling,
            max_output_tokens=self.max_output_tokens,
        )


def _user(text: str) -> Message:
    return Message(role="user", parts=(Text(text),))


def _greet(gateway: Gateway, model_id: str) -> None:
    for model in gateway.models():
        if model.id == model_id:
            click.echo(f"{model.id}, answered by {model.served_by.label}. Ctrl-D leaves.")
            if model.note:
                click.echo(model.note)


def _converse(runner: asyncio.Runner, gateway: Gateway, ask: _Ask, history: list[Message]) -> None:
    # readline gives input() line editing and history where the platform has it.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    while True:
        try:
            text = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if not text:
            continue
        try:
            answer = runner.run(_answer(gateway, ask, [*history, _user(text)], time.perf_counter))
        except KeyboardInterrupt:
            click.echo(click.style("\n(stopped)", dim=True))
            continue
        if answer is not None:
            history += [_user(text), answer]


async def _answer(gateway: Gateway, ask: _Ask, messages: list[Message], clock: Callable[[], float]) -> Message | None:
    """Print one answer as it comes; return it as a message, None when it failed."""
    printer = _Printer(clock)
    try:
        async with aclosing(gateway.answer(ask.request(messages))) as events:
            async for event in events:
                printer.show(event)
    except DeepserveError as error:
        printer.fail(error)
    if printer.has_failed:
        return None
    click.echo(click.style(printer.summary(), dim=True))
    return Message(role="assistant", parts=(Text("".join(printer.text)),))


class _Printer:
    """Writes events to the terminal: thinking dimmed, the answer plain."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s = clock()
        self._first_s: float | None = None
        self._is_dim = False
        self._usage = Usage()
        self._reason = ""
        self.text: list[str] = []
        self.has_failed = False

    def show(self, event: Event) -> None:
        match event:
            case Started():
                pass
            case BlockOpened(block=block):
                self._open(block)
            case BlockDelta(text=text):
                if self._first_s is None:
                    self._first_s = self._clock()
                if not self._is_dim:
                    self.text.append(text)
                click.echo(click.style(text, dim=True) if self._is_dim else text, nl=False)
            case BlockClosed():
                click.echo()
            case UsageReported(usage=usage):
                self._usage = usage
            case Finished(reason=reason):
                self._reason = reason
            case Failed(error=error):
                self.fail(error)
            case _:
                assert_never(event)

    def _open(self, block: object) -> None:
        self._is_dim = not isinstance(block, TextBlock)
        match block:
            case ToolCallBlock(name=name):
                click.echo(click.style(f"calls {name} ", dim=True), nl=False)
            case ServerToolCallBlock(tool=tool) | ServerToolResultBlock(tool=tool):
                click.echo(click.style(f"{tool} ", dim=True), nl=False)
            case ReasoningBlock() | TextBlock() | _:
                pass

    def fail(self, error: DeepserveError) -> None:
        self.has_failed = True
        click.echo(click.style(f"\n{error.message}", fg="red"), err=True)

    def summary(self) -> str:
        """One line: tokens, cache hits, time to the first token, speed."""
        usage, now_s = self._usage, self._clock()
        first_s = self._first_s if self._first_s is not None else now_s
        # The first token's time belongs to the prompt, so speed counts the tokens after it.
        speed = (usage.output_tokens - 1) / (now_s - first_s) if now_s > first_s and usage.output_tokens > 1 else 0.0
        parts = [
            f"{usage.prompt_tokens} prompt ({usage.hit_tokens} cached)",
            f"{usage.reasoning_tokens} thinking",
            f"{usage.answer_tokens} answer tokens",
            f"first after {first_s - self._began_s:.2f} s",
            f"{speed:.0f} tokens/s",
        ]
        if self._reason == "length":
            parts.append("cut at the token limit")
        return "[" + ", ".join(parts) + "]"
