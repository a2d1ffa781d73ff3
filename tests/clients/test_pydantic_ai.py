"""pydantic-ai, unmodified, while the model thinks: typed outputs in every way it has of asking for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.messages import ModelResponse, ThinkingPart
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.output import OutputSpec
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.deepseek import DeepSeekProvider
from pydantic_ai.providers.openai import OpenAIProvider

MODEL = "deepseek-v4-flash"
QUESTION = "Tell me about the city of Paris, as json."
MAX_TOKENS = 400


class City(BaseModel):
    """A city. No numbers: on the way to Anthropic's dialect the library leaves out bounds, and the model needs them."""

    name: str
    size: Literal["small", "large"]
    rivers: list[str]
    is_capital: bool


ENFORCES = ModelProfile(supports_json_schema_output=True, supports_forced_tool_choice_with_thinking=True)
"""What the library must be told of this server: it knows what the vendors' own refuse."""

Ask = Callable[[type[City]], OutputSpec[City]]
WAYS: Mapping[str, Ask] = {"a tool": ToolOutput, "a schema": NativeOutput}


@asynccontextmanager
async def chat(server: str) -> AsyncIterator[Model]:
    async with AsyncOpenAI(base_url=server, api_key="sk-local", max_retries=0) as client:
        yield OpenAIChatModel(MODEL, provider=DeepSeekProvider(openai_client=client), profile=ENFORCES)


@asynccontextmanager
async def responses(server: str) -> AsyncIterator[Model]:
    async with AsyncOpenAI(base_url=f"{server}/v1", api_key="sk-local", max_retries=0) as client:
        yield OpenAIResponsesModel(MODEL, provider=OpenAIProvider(openai_client=client), profile=ENFORCES)


@asynccontextmanager
async def messages(server: str) -> AsyncIterator[Model]:
    """Thinking is not stated, for then the library would not force a call; the server thinks all the same."""
    async with AsyncAnthropic(base_url=f"{server}/anthropic", api_key="sk-local", max_retries=0) as client:
        yield AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=client), profile=ENFORCES)


async def ask(model: Model, output: OutputSpec[City]) -> tuple[City, list[Any]]:
    agent = Agent(model, output_type=output, retries=0)
    run = await agent.run(QUESTION, model_settings={"max_tokens": MAX_TOKENS})
    return run.output, [
        part for message in run.all_messages() if isinstance(message, ModelResponse) for part in message.parts
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dialect", [chat, responses, messages], ids=lambda dialect: dialect.__name__)
def test_a_typed_output_comes_at_the_first_attempt(mini_server: str, dialect: Any, way: str) -> None:  # Any: of three
    async def main() -> None:
        async with dialect(mini_server) as model:
            city, parts = await ask(model, WAYS[way](City))
            assert isinstance(city, City)
            assert any(isinstance(part, ThinkingPart) for part in parts)

    asyncio.run(main())
