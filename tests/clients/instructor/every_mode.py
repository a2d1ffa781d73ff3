"""Asks the server at DEEPSERVE_URL for typed answers in every mode that leaves the form to the server.

Run by test_instructor.py with an interpreter that has instructor; writes one line of JSON for each answer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import instructor
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel, Field

SERVER = os.environ["DEEPSERVE_URL"]
MODEL = "deepseek-v4-flash"
QUESTION = [{"role": "user", "content": "Tell me about the city of Paris."}]
MAX_TOKENS = 400

Client = Any
"""instructor's clients have no common type."""


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=30)
    size: Literal["small", "large"]
    population: int = Field(ge=0, le=100_000_000)


def openai(path: str) -> OpenAI:
    return OpenAI(base_url=SERVER + path, api_key="sk-local", max_retries=0)


def anthropic() -> Anthropic:
    return Anthropic(base_url=f"{SERVER}/anthropic", api_key="sk-local", max_retries=0)


def chat(mode: instructor.Mode, path: str = "", model: str = MODEL, **fields: Any) -> object:
    client: Client = instructor.from_openai(openai(path), mode=mode)
    city, completion = client.chat.completions.create_with_completion(
        model=model, messages=QUESTION, response_model=City, max_retries=0, max_tokens=MAX_TOKENS, **fields
    )
    message = completion.choices[0].message
    return city, getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)


def responses(mode: instructor.Mode) -> object:
    client: Client = instructor.from_openai(openai("/v1"), mode=mode)
    city, completion = client.responses.create_with_completion(
        model=MODEL, input="Tell me about the city of Paris.", response_model=City, max_retries=0
    )
    return city, next(item.content[0].text for item in completion.output if item.type == "reasoning")


def messages(mode: instructor.Mode, **fields: Any) -> object:
    client: Client = instructor.from_anthropic(anthropic(), mode=mode)
    city, message = client.messages.create_with_completion(
        model=MODEL, messages=QUESTION, response_model=City, max_retries=0, max_tokens=2048, **fields
    )
    return city, next(block.thinking for block in message.content if block.type == "thinking")


def partial() -> object:
    """Streamed: the object as it grows."""
    client: Client = instructor.from_openai(openai(""), mode=instructor.Mode.TOOLS)
    grown = list(
        client.chat.completions.create_partial(
            model=MODEL, messages=QUESTION, response_model=City, max_retries=0, max_tokens=MAX_TOKENS
        )
    )
    return City.model_validate(grown[-1].model_dump()), "streamed"


def parallel() -> object:
    """Several calls in one answer; at least one."""
    client: Client = instructor.from_openai(openai(""), mode=instructor.Mode.PARALLEL_TOOLS)
    cities = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, response_model=Iterable[City], max_retries=0, max_tokens=MAX_TOKENS
        )
    )
    return cities[0] if cities else None, "several"


MODES: Mapping[str, Callable[[], object]] = {
    "tools": lambda: chat(instructor.Mode.TOOLS),
    "strict tools": lambda: chat(instructor.Mode.TOOLS_STRICT),
    "json schema": lambda: chat(instructor.Mode.JSON_SCHEMA),
    "json schema at openrouter's address": lambda: chat(
        instructor.Mode.JSON_SCHEMA, path="/api/v1", model=f"deepseek/{MODEL}"
    ),
    "responses": lambda: responses(instructor.Mode.RESPONSES_TOOLS),
    "anthropic tools": lambda: messages(instructor.Mode.ANTHROPIC_TOOLS),
    "anthropic tools, thinking stated": lambda: messages(
        instructor.Mode.ANTHROPIC_REASONING_TOOLS, thinking={"type": "enabled", "budget_tokens": 1024}
    ),
    "a partial stream": partial,
    "several calls": parallel,
}

for name, ask in MODES.items():
    try:
        found: Any = ask()
        city, trace = found
        told = {"mode": name, "city": city.model_dump(), "trace": trace}
    except Exception as error:  # noqa: BLE001 - whatever the library raises is the finding
        told = {"mode": name, "error": f"{type(error).__name__}: {error}"[:2000]}
    sys.stdout.write(json.dumps(told) + "\n")
