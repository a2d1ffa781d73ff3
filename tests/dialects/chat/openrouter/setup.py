"""Decodes and plays requests of OpenRouter's flavour without a server."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

from deepserve.backends.script import Reply, Rule, Script
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.listings import load_listings
from deepserve.catalog.models import load_models
from deepserve.catalog.price_table import load_prices
from deepserve.config import Limits
from deepserve.core.answer import collect
from deepserve.core.errors import DeepserveError
from deepserve.core.request import RequestId
from deepserve.dialects.chat.openrouter.exchange import OpenRouterExchange, openrouter_decoder
from deepserve.dialects.exchange import AnswerHead, Arrival
from deepserve.dialects.openrouter.routing import Directory
from deepserve.dialects.openrouter.slugs import Slugs
from deepserve.gateway import Gateway
from deepserve.metering.meter import Meter

AT = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
"""Pro then cost 0.435 and 0.87 dollars for a million tokens."""

HEAD = AnswerHead(id="01234567-89ab-4cde-8f01-23456789abcd", created_at=AT, model="deepseek-v4-pro")

Json = Any


def decode(*, is_strict: bool = False, keeps_prompts: bool = False, **fields: Json) -> OpenRouterExchange:
    body = {"model": "deepseek/deepseek-v4-pro", "messages": [{"role": "user", "content": "hi"}], **fields}
    directory = Directory(
        slugs=Slugs(load_listings().openrouter, load_models()),
        default_model=lambda: "deepseek-v4-flash",
        prices=load_prices(),
        keeps_prompts=keeps_prompts,
    )
    decoder = openrouter_decoder(directory=directory, limits=Limits())
    exchange = decoder(json.dumps(body).encode(), Arrival(id=RequestId("0" * 32), at=AT, is_strict=is_strict))
    assert isinstance(exchange, OpenRouterExchange)
    return exchange


def refusal(**fields: Json) -> DeepserveError:
    try:
        decode(**fields)
    except DeepserveError as error:
        return error
    raise AssertionError("the body was accepted")


def _gateway(reply: dict[str, Json]) -> Gateway:
    script = Script(rules=(Rule(reply=Reply(**reply)),)) if reply else Script()
    return Gateway(ScriptedBackend(script), meter=Meter(load_prices()))


def answer(exchange: OpenRouterExchange, **reply: Json) -> Json:
    found = asyncio.run(collect(_gateway(reply).answer(exchange.request)))
    return json.loads(exchange.encode_answer(found, HEAD))


def stream(exchange: OpenRouterExchange, **reply: Json) -> list[Json]:
    """The frames; the terminator is checked and left out."""

    async def run() -> bytes:
        writer = exchange.open_stream(HEAD)
        frames = [writer.encode(event) async for event in _gateway(reply).answer(exchange.request)]
        return b"".join(frames) + writer.finish()

    *frames, end, rest = asyncio.run(run()).decode().split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]
