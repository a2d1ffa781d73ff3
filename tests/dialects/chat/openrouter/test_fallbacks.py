"""Several models and several providers: whoever answers is named."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from deepserve.backends.backend import Backend
from deepserve.catalog.listings import load_listings
from deepserve.catalog.models import load_models
from deepserve.catalog.price_table import load_prices
from deepserve.config import Limits
from deepserve.core.answer import collect
from deepserve.core.errors import BackendFailure, UnknownModel, UnsupportedFeature
from deepserve.core.provider import Endpoint
from deepserve.core.request import RequestId
from deepserve.dialects.chat.openrouter.exchange import openrouter_decoder
from deepserve.dialects.completions.openrouter import openrouter_completions_decoder
from deepserve.dialects.exchange import Arrival, Exchange
from deepserve.dialects.openrouter.routing import Directory
from deepserve.dialects.openrouter.slugs import Slugs
from deepserve.gateway import Gateway
from tests.backends.fleet.setup import FLASH, PRO, Fake, fleet, member, says
from tests.dialects.chat.openrouter.setup import AT, HEAD

DATED_FLASH = "deepseek/deepseek-v4-flash-20260423"
BOTH = {"model": "deepseek/deepseek-v4-pro", "models": ["openai/gpt-9", "deepseek/deepseek-v4-flash"]}


def _end(name: str) -> Endpoint:
    return Endpoint(
        provider=name,
        kind=name,
        names=(name,),
        is_own=False,
        region=None,
        collects_data=True,
        context_tokens=1000,
        max_output_tokens=1000,
    )


ENDS = {PRO: (_end("one"),), FLASH: (_end("one"), _end("other"))}


def _decode(ends: dict[str, tuple[Endpoint, ...]] = ENDS, *, is_chat: bool = True, **fields: Any) -> Exchange:
    directory = Directory(
        slugs=Slugs(load_listings().openrouter, load_models()),
        default_model=lambda: PRO,
        prices=load_prices(),
        keeps_prompts=False,
        endpoints=ends.get,
    )
    make = openrouter_decoder if is_chat else openrouter_completions_decoder
    decode = make(directory=directory, limits=Limits())
    asked = {"messages": [{"role": "user", "content": "hi"}]} if is_chat else {"prompt": "hi"}
    return decode(json.dumps({**asked, **BOTH, **fields}).encode(), Arrival(id=RequestId("0" * 32), at=AT))


def _whole(exchange: Exchange, backend: Backend) -> Any:  # Any: JSON
    found = asyncio.run(collect(Gateway(backend).answer(exchange.request)))
    return json.loads(exchange.encode_answer(found, HEAD))


def _streamed(exchange: Exchange, backend: Backend) -> list[Any]:  # Any: JSON
    async def run() -> bytes:
        writer = exchange.open_stream(HEAD)
        frames = [writer.encode(event) async for event in Gateway(backend).answer(exchange.request)]
        return b"".join(frames) + writer.finish()

    frames = asyncio.run(run()).decode().split("\n\n")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames if frame.startswith("data: {")]


def _half_dead() -> Backend:
    """Pro is down."""
    return fleet(member("one", Fake([BackendFailure("down")], says("hello"))))


def test_models_that_are_known_are_asked_in_their_order() -> None:
    exchange = _decode()
    assert exchange.request.model == PRO
    assert exchange.request.fallback_models == (FLASH,)
    assert exchange.ignored == ("models[]",)
    same = _decode(models=["deepseek-v4-pro", "deepseek/deepseek-v4-pro-0813"])
    assert same.request.fallback_models == ()


def test_a_model_that_this_server_does_not_have_is_passed_over() -> None:
    exchange = _decode({FLASH: ENDS[FLASH]})
    assert (exchange.request.model, exchange.request.fallback_models) == (FLASH, ())
    assert exchange.ignored == ("models[]",)
    # Where it has none of them, the gateway says what it has.
    assert _decode({}).request.model == PRO
    with pytest.raises(UnknownModel):
        _decode(model="openai/gpt-9", models=[])


@pytest.mark.parametrize("is_chat", [True, False])
def test_the_model_that_answers_is_named(is_chat: bool) -> None:
    whole = _whole(_decode(is_chat=is_chat), _half_dead())
    assert whole["model"] == DATED_FLASH
    frames = _streamed(_decode(is_chat=is_chat, stream=True), _half_dead())
    assert {frame["model"] for frame in frames} == {DATED_FLASH}


def test_wishes_about_providers_are_for_those_there_are() -> None:
    assert _decode(provider={"only": ["Other"]}).request.provider.only == ("other",)
    assert _decode(provider={"only": ["deepserve"]}).request.provider.only == ("deepserve",)
    exchange = _decode(provider={"order": ["one", "nobody"], "data_collection": "deny", "zdr": True})
    assert exchange.request.provider.order == ("one", "nobody")
    assert exchange.request.provider.data_collection == "deny"
    assert "provider.order[]" in exchange.ignored
    with pytest.raises(UnsupportedFeature, match="`deepserve`, `one`, `other`") as caught:
        _decode(provider={"only": ["nobody"]})
    assert caught.value.field == "provider.only"


def test_a_price_is_compared_by_whoever_chooses_among_several() -> None:
    assert _decode(provider={"max_price": {"prompt": "0.0001"}}).request.provider.max_price == {"prompt": "0.0001"}
