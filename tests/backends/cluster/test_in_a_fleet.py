"""A cluster as one of several who answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from deepserve.backends.backend import Backend
from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.opening import open_fleet
from deepserve.backends.tokens.model import shipped_folder
from deepserve.config import EMBEDDED, Settings, UpstreamSettings
from deepserve.core.answer import Answer
from deepserve.core.errors import ConfigurationError
from tests.backends.cluster.conftest import Pair
from tests.backends.cluster.fake_cluster import Habits, cluster
from tests.backends.cluster.setup import answer
from tests.backends.cluster.test_same_answers import REQUESTS

FLASH, PRO = "deepseek-v4-flash", "deepseek-v4-pro"
QUESTION = REQUESTS["a question"]


def rack(host: str) -> UpstreamSettings:
    return UpstreamSettings(id="rack", kind="vllm", address=f"http://{host}", tokenizer=shipped_folder())


def fleet(*upstreams: UpstreamSettings, engine: Callable[[], Backend], **chains: tuple[str, ...]) -> FleetBackend:
    settings = Settings(
        backend="upstream",
        upstreams=upstreams,
        chains={name.replace("_", "-"): chain for name, chain in chains.items()},
    )
    return open_fleet(settings, guard=lambda backend: backend, engine=engine, environment={})


def no_engine() -> Backend:
    raise AssertionError("nobody asked for it")


def test_the_models_are_those_that_the_cluster_says_it_has(shipped: Pair) -> None:
    async def main() -> set[str]:
        async with cluster(shipped.source, Habits()) as (server,):
            backend = fleet(rack(server.host), engine=no_engine)
            assert {model.id for model in backend.models()} == {FLASH, PRO}  # nobody was asked yet
            await backend.start()
            served = {model.id for model in backend.models()}
            await backend.close()
            return served

    assert asyncio.run(main()) == {FLASH}


def test_a_chain_to_a_model_that_the_cluster_does_not_have_is_refused_at_the_start(shipped: Pair) -> None:
    async def main() -> None:
        async with cluster(shipped.source, Habits()) as (server,):
            backend = fleet(rack(server.host), engine=no_engine, deepseek_v4_pro=("rack",))
            with pytest.raises(ConfigurationError, match="does not have that model"):
                await backend.start()

    asyncio.run(main())


def test_a_cluster_that_is_down_is_followed_by_the_next_in_the_chain(shipped: Pair) -> None:
    async def main() -> Answer:
        async with cluster(shipped.source, Habits()) as (gone,):
            host = gone.host
        backend = fleet(
            rack(host),
            engine=lambda: EmbeddedBackend.load(Settings(cache_bytes=64 << 20)),
            deepseek_v4_flash=("rack", EMBEDDED),
        )
        await backend.start()
        try:
            return await answer(backend, QUESTION)
        finally:
            await backend.close()

    answered = asyncio.run(main())
    assert answered.served_by.provider == "deepserve"
    assert answered.results[0].parts == asyncio.run(answer(shipped.embedded, QUESTION)).results[0].parts


def test_what_needs_no_server_does_not_begin_an_answer_that_no_server_gives(shipped: Pair) -> None:
    """The opening of a demanded call is certain before anybody is asked; told too early, nobody else could answer."""
    demanded = REQUESTS["a call demanded"]

    async def main() -> Answer:
        async with cluster(shipped.source, Habits(forms="refuse")) as (server,):
            backend = fleet(
                rack(server.host),
                engine=lambda: EmbeddedBackend.load(Settings(cache_bytes=64 << 20)),
                deepseek_v4_flash=("rack", EMBEDDED),
            )
            await backend.start()
            # From now on it is known that no forms are taken, and what must follow is written here.
            assert (await answer(backend, demanded)).served_by.provider == "rack"
            await server.stop()
            try:
                return await answer(backend, demanded)
            finally:
                await backend.close()

    assert asyncio.run(main()).served_by.provider == "deepserve"
