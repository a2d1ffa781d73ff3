"""An embedded back end over the fake engine, told what to write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.tokens.model import TokenModel, load_model
from deepserve.config import Settings
from deepserve.core.answer import Answer, collect
from deepserve.core.events import Event
from deepserve.core.messages import Message, Text, ToolResult
from deepserve.core.request import Request, RequestId, Thinking, Tool
from deepserve.engine.generation import Generation
from deepserve.engine.interface import Draw
from deepserve.engine.step_loop import GenerationStream, StepLoop
from deepserve.prompt.segments import SegmentWriter
from deepserve.prompt.tokenizer import Tokenizer
from deepserve.store.turns import TurnStore
from tests.engine.fake_engine import FakeEngine, Script
from tests.prompt.conftest import train_tokenizer

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
CONTEXT_TOKENS = 131_072
WEATHER = Tool(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})

_Value = TypeVar("_Value")


@cache
def tokenizer_json() -> str:
    return train_tokenizer().to_str()


def write_model(folder: Path, **changes: object) -> Path:
    """A model folder without weights; a change to None leaves the file out, a string is written as it is."""
    files: dict[str, object] = {
        "generation_config.json": {"do_sample": False},
        "tokenizer.json": tokenizer_json(),
    }
    files |= changes
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@cache
def model_at(folder: Path) -> TokenModel:
    return load_model(folder)


def tokens_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which spelled special tokens are special tokens."""
    writer = SegmentWriter()
    writer.markup(text)
    return tokenizer.encode(writer.finish()).ids


def writes(tokenizer: Tokenizer, *texts: str) -> Script:
    """The n-th result writes the n-th text; what comes after it is the end token."""
    answers = [tokens_of(tokenizer, text) for text in texts]

    def script(history: Sequence[int], draw: Draw) -> int:
        ids = answers[draw.seed % len(answers)]
        return ids[draw.position] if draw.position < len(ids) else tokenizer.eos_id

    return script


class Bench:
    """A back end, its engine, and what it needs to be asked."""

    def __init__(
        self,
        folder: Path,
        *texts: str,
        settings: Settings | None = None,
        turns: TurnStore | None = None,
        **engine: Any,  # the fake engine's own options
    ) -> None:
        self.model = model_at(folder)
        self.tokenizer = self.model.tokenizer
        self.engine = FakeEngine(
            script=writes(self.tokenizer, *texts or ("",)), vocab_size=1000, max_context=CONTEXT_TOKENS, **engine
        )
        self.num_seeds = 0
        self.backend = EmbeddedBackend(
            self.model,
            self.engine,
            settings or Settings(),
            clock=lambda: 0.0,
            draw_seed=self._draw_seed,
            turns=turns,
        )

    def write(self, *texts: str) -> None:
        """From now on, answer so."""
        self.engine.script = writes(self.tokenizer, *texts)

    def run(self, work: Callable[[], Coroutine[Any, Any, _Value]]) -> _Value:
        """Run a coroutine against the started back end."""

        async def main() -> _Value:
            await self.backend.start()
            try:
                return await asyncio.wait_for(work(), timeout=30)
            finally:
                await self.backend.close()

        return asyncio.run(main())

    async def events(self, request: Request) -> list[Event]:
        async with aclosing(self.backend.answer(request)) as stream:
            return [event async for event in stream]

    async def answer(self, request: Request) -> Answer:
        async with aclosing(self.backend.answer(request)) as stream:
            return await collect(stream)

    def _draw_seed(self) -> int:
        self.num_seeds += 1
        return 0


def request_of(*messages: Message | str, thinking: bool = False, **changes: Any) -> Request:  # Any: fields of Request
    turns = [message if isinstance(message, Message) else user(message) for message in messages]
    request = Request(
        id=RequestId("r"),
        model="deepseek-v4-flash",
        arrived_at=NOON,
        messages=tuple(turns),
        thinking=Thinking(enabled=thinking),
    )
    return msgspec.structs.replace(request, **changes)


def user(text: str) -> Message:
    return Message(role="user", parts=(Text(text),))


def tool_result(call_id: str, text: str) -> Message:
    return Message(role="tool", parts=(ToolResult(call_id=call_id, content=(Text(text),)),))


def call_markup(**parameters: str) -> str:
    """One call of get_weather, as the model writes it."""
    lines = "\n".join(
        f'<｜DSML｜parameter name="{name}" string="true">{value}</｜DSML｜parameter>'
        for name, value in parameters.items()
    )
    return f'<｜DSML｜invoke name="get_weather">\n{lines}\n</｜DSML｜invoke>'


def calls_markup(*calls: Mapping[str, str]) -> str:
    inner = "\n".join(call_markup(**call) for call in calls)
    return f"\n\n<｜DSML｜tool_calls>\n{inner}\n</｜DSML｜tool_calls>"


@contextmanager
def recorded_prompts() -> Iterator[list[tuple[int, ...]]]:
    """Every prompt that any engine is given meanwhile, as token ids."""
    given: list[tuple[int, ...]] = []
    submit = StepLoop.submit

    def record(loop: StepLoop, generation: Generation) -> GenerationStream:
        given.append(tuple(generation.prompt))
        return submit(loop, generation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepLoop, "submit", record)
        yield given
