"""Turns with tools outlive a gateway in front of a cluster, and a cluster that comes or goes with a reload."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from deepserve.backends.cluster.backend import ClusterBackend
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.opening import open_fleet, refit_fleet
from deepserve.backends.tokens.model import shipped_folder
from deepserve.config import Settings, UpstreamSettings
from deepserve.core.messages import Message, ToolCall
from deepserve.core.request import Request
from deepserve.store.database import open_database
from deepserve.store.turns import TurnLimits, TurnStore
from tests.backends.cluster.conftest import Pair
from tests.backends.cluster.fake_cluster import FakeServer, Habits, cluster
from tests.backends.cluster.setup import answer, backend_at
from tests.backends.cluster.test_same_answers import REQUESTS
from tests.backends.embedded_setup import tool_result

ASKED = REQUESTS["tools, thinking"]


def store_in(folder: Path) -> TurnStore:
    limits = TurnLimits(size_bytes=1 << 20, age_s=3600)
    return TurnStore(open_database(folder), limits=limits, now=lambda: datetime.now(UTC))


def next_turn(calls: tuple[ToolCall, ...]) -> Request:
    """From a client that forgets the trace."""
    results = tuple(tool_result(call.id, "Sunny") for call in calls)
    return msgspec.structs.replace(ASKED, messages=(*ASKED.messages, Message(role="assistant", parts=calls), *results))


def test_a_gateway_that_was_restarted_asks_with_the_tokens_that_were_drawn(shipped: Pair, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(shipped.source, Habits()) as (server,):
            turns = store_in(tmp_path)
            async with backend_at("vllm", [server.host], shipped.model, turns=turns) as backend:
                calls = (await answer(backend, ASKED)).results[0].parts
                first = next_turn(tuple(part for part in calls if isinstance(part, ToolCall)))
                await answer(backend, first)
            turns.close()
            again = store_in(tmp_path)
            async with backend_at("vllm", [server.host], shipped.model, turns=again) as backend:
                await answer(backend, first)
            again.close()
            # Each answer's last question continues with its own words; its first is the prompt.
            prompts = [body["prompt"] for body in server.asked if first_of(server, body)]
            assert prompts[1] == prompts[2]
            drawn = [token for body in server.asked[:1] for token in body["prompt"]]
            assert prompts[2][: len(drawn)] == drawn

    def first_of(server: FakeServer, body: dict[str, object]) -> bool:
        """Whether it begins an answer: the whole output limit is left."""
        return body["max_tokens"] == ASKED.max_output_tokens

    asyncio.run(main())


def test_a_cluster_that_a_reload_removes_leaves_the_store_to_the_others(shipped: Pair, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(shipped.source, Habits(), Habits()) as servers:
            turns = store_in(tmp_path)
            one, other = (
                Settings(
                    backend="upstream",
                    upstreams=(
                        UpstreamSettings(
                            id=f"rack-{number}",
                            kind="vllm",
                            address=f"http://{server.host}",
                            tokenizer=shipped_folder(),
                        ),
                    ),
                )
                for number, server in enumerate(servers)
            )
            fleet = open_fleet(one, guard=lambda backend: backend, engine=no_engine, environment={}, turns=turns)
            await fleet.start()
            found = await answer(fleet, ASKED)
            await refit_fleet(fleet, one, other, guard=lambda backend: backend, environment={})
            calls = tuple(part for part in found.results[0].parts if isinstance(part, ToolCall))
            again = await answer(fleet, next_turn(calls))
            assert again.results
            assert [len(server.asked) > 0 for server in servers] == [True, True]
            # The new one knows the turn that the old one drew, trace included.
            assert recalled(fleet) >= 1
            await fleet.close()
            turns.close()

    def recalled(fleet: FleetBackend) -> float:
        return fleet.gauges()["turns_recalled"]

    def no_engine() -> ClusterBackend:
        raise AssertionError("nobody asked for it")

    asyncio.run(main())
