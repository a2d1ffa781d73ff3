"""What a cluster is asked can be looked at: the same tokens as our own engine reads, also through the gateway."""

from __future__ import annotations

import asyncio

from deepserve.backends.cluster.backend import ClusterBackend
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.member import Member
from deepserve.core.request import Request
from deepserve.gateway import Gateway
from tests.backends.cluster.conftest import Pair
from tests.backends.cluster.fake_cluster import FakeServer
from tests.backends.cluster.setup import answer, with_cluster
from tests.backends.cluster.test_same_answers import REQUESTS


def test_a_prompt_is_told_in_the_tokens_that_are_asked(shipped: Pair) -> None:
    request = REQUESTS["a tool's result"]

    async def render(backend: ClusterBackend, servers: list[FakeServer]) -> tuple[object, object]:
        fleet = FleetBackend([Member("one", backend, kind="vllm")])
        found = await Gateway(fleet).rendered(request)
        await answer(backend, request)
        return found, servers[0].asked[0]["prompt"]

    async def own() -> tuple[Request, list[int]]:
        return await shipped.embedded.rendered(request)

    found, sent = with_cluster(shipped.source, shipped.model, render)
    assert found == asyncio.run(own())
    assert isinstance(found, tuple)
    assert found[1] == sent
