"""Which server of a cluster is asked: the same for a conversation, another where that one is down, draining or full."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.backends.cluster.asking import Ask, Part
from deepserve.backends.cluster.course import Lost
from deepserve.backends.cluster.replica import Replica
from deepserve.backends.cluster.replicas import LOAD_FACTOR, SPARE, Replicas
from deepserve.backends.cluster.wires import WIRES
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.core.errors import BackendFailure
from deepserve.engine.interface import Draw, Drawn
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.origin_client import OriginClient
from tests.backends.cluster.conftest import Pair
from tests.backends.cluster.fake_cluster import FakeServer, Habits, until
from tests.backends.cluster.setup import answer, with_cluster
from tests.backends.cluster.test_same_answers import REQUESTS, told

ASK = Ask(model="m", prompt=[1], max_tokens=1, stop_tokens=frozenset(), draw=Draw(), salt="s")


def replicas(num_replicas: int) -> tuple[Replicas, list[Replica]]:
    """Servers that nobody is going to call."""
    made = []
    for number in range(num_replicas):
        host = f"10.0.0.{number + 1}:8000"
        client = OriginClient(
            f"http://{host}",
            policy=AddressPolicy(allowed_hosts=frozenset((host,))),
            user_agent="test",
            max_bytes=1000,
        )
        replica = Replica(f"http://{host}", wire=WIRES["vllm"](), client=client, key=None, limits=UpstreamLimits())
        made.append(replica)
    return Replicas(made), made


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


@given(keys=st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=30, unique=True))
def test_a_server_that_comes_moves_conversations_to_itself_alone(keys: list[bytes]) -> None:
    few, _ = replicas(3)
    more, made = replicas(4)
    for key in keys:
        before, after = few.order(key)[0].address, more.order(key)[0].address
        assert after in (before, made[3].address)


def test_conversations_spread_over_all_servers() -> None:
    several, made = replicas(4)
    firsts = [several.order(number.to_bytes(2))[0].address for number in range(400)]
    assert {replica.address for replica in made} == set(firsts)
    assert max(firsts.count(replica.address) for replica in made) < 2 * 400 / 4


def test_the_order_depends_on_nothing_but_the_key_and_who_is_there() -> None:
    one, _ = replicas(5)
    other, _ = replicas(5)
    assert [replica.address for replica in one.order(b"k")] == [replica.address for replica in other.order(b"k")]


def test_a_server_with_far_more_to_do_than_the_others_is_passed_over() -> None:
    several, made = replicas(4)
    favourite = several.order(b"everybody")[0]
    for _ in range(100):
        several.order(b"everybody")[0].num_running += 1
    busiest = max(replica.num_running for replica in made)
    assert favourite.num_running == busiest
    assert SPARE <= busiest <= max(SPARE, LOAD_FACTOR * 101 / 4 + 1)
    assert min(replica.num_running for replica in made) > 0


def test_a_server_with_little_to_do_is_never_passed_over() -> None:
    several, _ = replicas(4)
    favourite = several.order(b"k")[0]
    favourite.num_running = SPARE - 1
    assert several.order(b"k")[0] is favourite


def test_servers_that_are_down_come_late_and_draining_ones_last() -> None:
    several, _ = replicas(3)
    first, second, third = several.order(b"k")
    first.is_healthy = False
    assert several.order(b"k") == [second, third, first]
    second.is_draining = True
    assert several.order(b"k") == [third, first, second]
    second.is_draining = False
    assert several.order(b"k") == [second, third, first]


class Failing:
    """Stands in for a server's `ask`: tells so many tokens, then fails."""

    def __init__(self, num_tokens: int, *, fails: bool) -> None:
        self.num_tokens = num_tokens
        self.fails = fails
        self.num_asked = 0

    async def __call__(self, ask: Ask) -> AsyncGenerator[Part]:
        self.num_asked += 1
        for token in range(self.num_tokens):
            yield Part(drawn=(Drawn(token),))
        if self.fails:
            raise Lost(BackendFailure("gone"))


def test_before_the_first_token_the_next_server_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    several, _ = replicas(3)
    order = several.order(b"k")
    stand_ins = [Failing(0, fails=True), Failing(2, fails=False), Failing(0, fails=False)]
    for replica, stand_in in zip(order, stand_ins, strict=True):
        monkeypatch.setattr(replica, "ask", stand_in)

    async def main() -> None:
        parts = [part async for part in several.ask(ASK, b"k")]
        assert [part.drawn[0].token for part in parts] == [0, 1]

    run(main)
    assert [stand_in.num_asked for stand_in in stand_ins] == [1, 1, 0]
    assert several.gauges()["failovers"] == 1


def test_after_the_first_token_nobody_else_is_asked_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    several, _ = replicas(2)
    stand_ins = [Failing(1, fails=True), Failing(1, fails=False)]
    for replica, stand_in in zip(several.order(b"k"), stand_ins, strict=True):
        monkeypatch.setattr(replica, "ask", stand_in)

    async def main() -> None:
        with pytest.raises(Lost, match="gone"):
            _ = [part async for part in several.ask(ASK, b"k")]

    run(main)
    assert [stand_in.num_asked for stand_in in stand_ins] == [1, 0]


def test_a_conversation_stays_with_its_server_and_finds_its_prefix_there(shipped: Pair) -> None:
    request = REQUESTS["a question"]

    async def twice(backend: Any, servers: list[FakeServer]) -> tuple[list[int], int]:
        await answer(backend, request)
        again = await answer(backend, request)
        return [len(server.asked) for server in servers], again.usage.hit_tokens

    asked, hit_tokens = with_cluster(shipped.source, shipped.model, twice, Habits(), Habits(), Habits())
    assert sorted(asked) == [0, 0, 2]
    assert hit_tokens > 0


def test_an_answer_goes_on_elsewhere_when_its_server_goes_away(shipped: Pair) -> None:
    request = REQUESTS["thinking, high"]
    here = asyncio.run(answer(shipped.embedded, request))

    async def main(backend: Any, servers: list[FakeServer]) -> Any:
        return await answer(backend, request), backend.gauges()

    # Whichever is asked first breaks off; the other one, too, but what each has said is kept.
    habits = Habits(breaks_after=5)
    there, gauges = with_cluster(shipped.source, shipped.model, main, habits, habits)
    assert told(there) == told(here)
    assert gauges["cluster_losses"] >= 1


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
def test_a_server_that_refuses_everybody_is_replaced_by_the_next(shipped: Pair, kind: str) -> None:
    request = REQUESTS["a question"]

    async def main(backend: Any, servers: list[FakeServer]) -> Any:
        answered = await answer(backend, request)
        return told(answered), backend.gauges(), [len(server.asked) for server in servers]

    here = told(asyncio.run(answer(shipped.embedded, request)))
    for order in ((Habits(status=503), Habits()), (Habits(), Habits(status=503))):
        there, gauges, asked = with_cluster(shipped.source, shipped.model, main, *order, kind=kind)
        assert there == here
        assert sum(asked) == 1 + gauges["cluster_failovers"]


def test_who_is_down_is_noticed_and_taken_back_when_it_is_up(shipped: Pair) -> None:
    async def main(backend: Any, servers: list[FakeServer]) -> None:
        cluster = backend._replicas
        assert (backend.is_ready(), backend.gauges()["cluster_replicas_up"]) == (True, 2)
        servers[0].is_healthy = False
        await cluster.look()
        assert (backend.is_ready(), backend.gauges()["cluster_replicas_up"]) == (True, 1)
        assert backend.gauges()["cluster_replicas_draining"] == 1
        await servers[1].stop()
        await cluster.look()
        assert (backend.is_ready(), backend.gauges()["cluster_replicas_up"]) == (False, 0)
        servers[0].is_healthy = True
        await cluster.look()
        assert (backend.is_ready(), backend.gauges()["cluster_replicas_up"]) == (True, 1)
        answered = await answer(backend, REQUESTS["a question"])
        assert answered.results

    with_cluster(shipped.source, shipped.model, main, Habits(), Habits())


def test_a_server_that_is_not_well_finishes_what_it_has_and_is_given_nothing_new(shipped: Pair) -> None:
    request = REQUESTS["thinking, high"]

    async def main(backend: Any, servers: list[FakeServer]) -> None:
        stream = backend.answer(request)
        first = await anext(stream)
        (busy,) = [server for server in servers if server.asked]
        busy.is_healthy = False
        await backend._replicas.look()
        rest = [event async for event in stream]
        assert first is not None
        assert rest
        assert (busy.num_aborted, len(busy.asked)) == (0, 1)
        await answer(backend, request)
        assert len(busy.asked) == 1

    with_cluster(shipped.source, shipped.model, main, Habits(), Habits())


def test_the_smallest_context_counts(shipped: Pair) -> None:
    async def main(backend: Any, servers: list[FakeServer]) -> None:
        assert {model.context_tokens for model in backend.models()} == {2_000}

    with_cluster(shipped.source, shipped.model, main, Habits(context_tokens=9_000), Habits(context_tokens=2_000))


def test_a_client_that_leaves_frees_the_server(shipped: Pair) -> None:
    async def main(backend: Any, servers: list[FakeServer]) -> None:
        stream = backend.answer(REQUESTS["thinking, high"])
        await anext(stream)
        await stream.aclose()
        await until(lambda: backend.gauges()["cluster_running"] == 0)

    with_cluster(shipped.source, shipped.model, main)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
def test_connections_are_used_again(shipped: Pair, kind: str) -> None:
    async def main(backend: Any, servers: list[FakeServer]) -> int:
        for _ in range(4):
            await answer(backend, REQUESTS["cut off"])
        return len(servers[0].peers)

    assert with_cluster(shipped.source, shipped.model, main, kind=kind) == 1
