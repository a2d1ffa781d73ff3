"""A `ClusterBackend` in front of fake servers, and the embedded back end that says what its answers should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from deepserve.backends.backend import Backend
from deepserve.backends.cluster.backend import ClusterBackend
from deepserve.backends.cluster.replica import Replica
from deepserve.backends.cluster.replicas import Replicas
from deepserve.backends.cluster.wires import WIRES
from deepserve.backends.tokens.model import TokenModel
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.catalog.providers import load_providers
from deepserve.core.answer import Answer, collect
from deepserve.core.events import Event
from deepserve.core.request import Request
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.origin_client import OriginClient
from deepserve.store.turns import TurnStore
from tests.backends.cluster.fake_cluster import FakeServer, Habits, TokenSource, cluster

SEED = 7
KINDS = tuple(WIRES)
LIMITS = UpstreamLimits(connect_s=2.0, first_event_s=10.0, idle_s=10.0, linger_s=2.0, error_s=1.0, learn_s=2.0)

_Value = TypeVar("_Value")


@asynccontextmanager
async def backend_at(
    kind: str,
    hosts: list[str],
    model: TokenModel,
    *,
    limits: UpstreamLimits = LIMITS,
    key: str | None = None,
    turns: TurnStore | None = None,
) -> AsyncIterator[ClusterBackend]:
    wire = WIRES[kind]()
    replicas = [
        Replica(
            f"http://{host}",
            wire=wire,
            client=OriginClient(
                f"http://{host}",
                policy=AddressPolicy(allowed_hosts=frozenset((host,))),
                user_agent="test",
                connect_s=limits.connect_s,
                max_bytes=limits.answer_bytes,
            ),
            key=key,
            limits=limits,
        )
        for host in hosts
    ]
    backend = ClusterBackend(
        load_providers()["vllm"],
        model,
        wire=wire,
        replicas=Replicas(replicas, health_s=3600.0),
        draw_seed=lambda: SEED,
        turns=turns,
        salt="salt",
    )
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()


def with_cluster(
    source: TokenSource,
    model: TokenModel,
    work: Callable[[ClusterBackend, list[FakeServer]], Awaitable[_Value]],
    *habits: Habits,
    kind: str = "vllm",
    **options: Any,  # of backend_at
) -> _Value:
    """Run something against a started back end in front of a server for each of the habits."""

    async def main() -> _Value:
        async with (
            asyncio.timeout(60),
            cluster(source, *(habits or (Habits(),))) as servers,
            backend_at(kind, [server.host for server in servers], model, **options) as backend,
        ):
            return await work(backend, servers)

    return asyncio.run(main())


async def answer(backend: Backend, request: Request) -> Answer:
    async with aclosing(backend.answer(request)) as stream:
        return await collect(stream)


async def events(backend: Backend, request: Request) -> list[Event]:
    async with aclosing(backend.answer(request)) as stream:
        return [event async for event in stream]
