from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from deepserve.core.errors import EngineFailure, Overloaded
from deepserve.core.tenant import TenantId
from deepserve.engine import step_loop
from deepserve.engine.generation import Admitted, Generation, Progress, ResultEnded, TokenDrawn
from deepserve.engine.step_loop import StepLoop
from tests.engine.fake_engine import FakeEngine
from tests.engine.test_scheduler import generation_of, prompt_of, scheduler_of


class Gate:
    """Holds the engine's steps until opened, so that tests decide what happens during one."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_reached = threading.Event()

    def __call__(self, number: int, histories: list[list[int]]) -> None:
        self.is_reached.set()
        assert self.is_open.wait(10)


class Served:
    def __init__(self, engine: FakeEngine, *, max_queue_tokens: int = 10_000, max_sequences: int = 8) -> None:
        self.engine = engine
        self.scheduler = scheduler_of(engine, max_sequences=max_sequences)
        self.loop = StepLoop(self.scheduler, max_queue_tokens=max_queue_tokens)
        self.loop.start()

    def stop(self) -> None:
        self.loop.stop()
        assert not self.engine.sequences
        assert not self.engine.snapshots
        assert self.loop.waiting_tokens == 0


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served(FakeEngine())
    yield served
    served.stop()


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, timeout=20)

    asyncio.run(bounded())


async def read(loop: StepLoop, generation: Generation) -> list[Progress]:
    found: list[Progress] = []
    async with aclosing(loop.submit(generation)) as stream:
        async for batch in stream:
            found += batch
    return found


def drawn(progress: Sequence[Progress]) -> list[int]:
    return [item.drawn.token for item in progress if isinstance(item, TokenDrawn)]


def test_many_readers_get_their_own_tokens(served: Served) -> None:
    generations = [generation_of(prompt_of(10 + first, first=first), max_tokens=20) for first in range(12)]

    async def main() -> None:
        together = await asyncio.gather(*(read(served.loop, generation) for generation in generations))
        for generation, progress in zip(generations, together, strict=True):
            assert isinstance(progress[0], Admitted)
            assert progress[-1] == ResultEnded(result=0, reason="length")
            assert drawn(progress) == drawn(await read(served.loop, generation))

    run(main())


def test_a_step_reaches_an_event_loop_in_one_call(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waking the event loop costs more than a token of a small model; eight readers must not cost eight times that."""
    calls = 0

    async def main() -> None:
        nonlocal calls
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe

        def counting(*args: Any, **options: Any) -> asyncio.Handle:  # Any: whatever asyncio itself passes
            nonlocal calls
            calls += threading.current_thread().name == "deepserve-steps"
            return original(*args, **options)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
        await asyncio.gather(*(read(served.loop, generation_of([n], max_tokens=50)) for n in range(8)))

    run(main())
    assert calls <= len(served.engine.steps)


def test_leaving_frees_the_sequence_within_one_step() -> None:
    gate = Gate()
    served = Served(FakeEngine(fail_step=gate))

    async def main() -> None:
        stream = served.loop.submit(generation_of([1], max_tokens=1000))
        await asyncio.to_thread(gate.is_reached.wait)
        await stream.aclose()  # during the first step
        gate.is_open.set()
        progress = await read(served.loop, generation_of([2], max_tokens=3))
        assert len(drawn(progress)) == 3

    run(main())
    # The first step computed the one that left; none after it did.
    assert [len(rows) for rows in served.engine.steps] == [1] * 4
    served.stop()


def test_a_stream_that_is_closed_unread_is_cancelled(served: Served) -> None:
    async def main() -> None:
        stream = served.loop.submit(generation_of([1], max_tokens=1_000_000))
        await stream.aclose()
        assert await anext(stream, None) is None
        await read(served.loop, generation_of([2]))

    run(main())
    assert served.loop.stats().running == 0


def test_one_result_can_be_left_while_the_others_go_on(served: Served) -> None:
    async def main() -> None:
        endless = generation_of(prompt_of(200), seeds=range(3), max_tokens=300)
        found: list[Progress] = []
        async with aclosing(served.loop.submit(endless)) as stream:
            async for batch in stream:
                found += batch
                if any(isinstance(item, TokenDrawn) and item.result == 1 for item in batch):
                    stream.cancel_result(1)
        ended = {item.result for item in found if isinstance(item, ResultEnded)}
        assert {0, 2} <= ended
        tokens = [item.result for item in found if isinstance(item, TokenDrawn)]
        assert tokens.count(0) == tokens.count(2) == 300
        await read(served.loop, generation_of([1]))

    run(main())
    assert served.loop.stats().running == 0


def test_too_many_waiting_tokens_are_refused_with_a_time_to_retry() -> None:
    gate = Gate()
    served = Served(FakeEngine(fail_step=gate), max_queue_tokens=1000, max_sequences=1)

    async def main() -> None:
        first = served.loop.submit(generation_of(prompt_of(10), max_tokens=2))
        await asyncio.to_thread(gate.is_reached.wait)
        waiting = [served.loop.submit(generation_of(prompt_of(450, first=n), max_tokens=1)) for n in range(2)]
        with pytest.raises(Overloaded) as refused:
            served.loop.submit(generation_of(prompt_of(450)))
        assert refused.value.retry_after_s >= 1
        await waiting.pop().aclose()
        gate.is_open.set()
        for stream in (first, *waiting):
            assert [batch async for batch in stream][-1][-1] == ResultEnded(result=0, reason="length")
        await read(served.loop, generation_of(prompt_of(450), max_tokens=1))

    run(main())
    served.stop()


def test_another_tenant_gets_in_though_one_has_filled_the_queue() -> None:
    gate = Gate()
    served = Served(FakeEngine(fail_step=gate), max_queue_tokens=1000, max_sequences=1)

    async def main() -> None:
        running = served.loop.submit(generation_of([1], max_tokens=1))
        await asyncio.to_thread(gate.is_reached.wait)
        greedy = served.loop.submit(generation_of(prompt_of(990), tenant="greedy", max_tokens=1))
        with pytest.raises(Overloaded):
            served.loop.submit(generation_of(prompt_of(100), tenant="greedy"))
        calm = served.loop.submit(generation_of(prompt_of(100), tenant="calm", max_tokens=1))
        with pytest.raises(Overloaded):
            served.loop.submit(generation_of(prompt_of(600), tenant="calm"))
        gate.is_open.set()
        for stream in (running, greedy, calm):
            assert [batch async for batch in stream]

    run(main())
    served.stop()


def test_a_prompt_longer_than_the_queue_is_let_into_an_empty_one() -> None:
    served = Served(FakeEngine(), max_queue_tokens=100)

    async def main() -> None:
        assert drawn(await read(served.loop, generation_of(prompt_of(1000), max_tokens=1)))

    run(main())
    served.stop()


def test_stopping_ends_what_is_running_with_an_error() -> None:
    served = Served(FakeEngine())

    async def main() -> None:
        stream = served.loop.submit(generation_of([1], max_tokens=10_000_000))
        await anext(stream)
        await asyncio.to_thread(served.stop)
        last = [progress async for batch in stream for progress in batch][-1]
        assert isinstance(last, ResultEnded)
        assert isinstance(last.error, EngineFailure)
        with pytest.raises(EngineFailure):
            served.loop.submit(generation_of([1]))

    run(main())


def test_what_is_submitted_while_the_loop_stops_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that came between the last look at the commands and the end of the thread was never answered."""
    served = Served(FakeEngine())
    reserve = served.loop._limit.reserve
    stopping = threading.Thread(target=served.loop.stop)

    def stop_meanwhile(tenant: TenantId, tokens: int) -> None:
        reserve(tenant, tokens)
        stopping.start()
        stopping.join(timeout=0.2)  # without protection the loop has stopped by then

    monkeypatch.setattr(served.loop._limit, "reserve", stop_meanwhile)

    async def main() -> None:
        stream = served.loop.submit(generation_of([1], max_tokens=10_000_000))
        last = [progress async for batch in stream for progress in batch][-1]
        assert isinstance(last, ResultEnded)
        assert isinstance(last.error, EngineFailure)

    run(main())
    stopping.join()
    assert served.loop.waiting_tokens == 0


def test_a_reader_that_does_not_read_is_paused_and_misses_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_loop, "_PAUSE_AT", 64)

    async def main() -> None:
        slow = served.loop.submit(generation_of([1], max_tokens=2000))
        found = await anext(slow)
        # While another one is read from beginning to end, the reports of the first pile up.
        assert len(drawn(await read(served.loop, generation_of([2], max_tokens=1000)))) == 1000
        assert served.engine.num_computed < 1000 + 2000
        found += [progress async for batch in slow for progress in batch]
        assert found[-1] == ResultEnded(result=0, reason="length")
        assert len(drawn(found)) == 2000

    run(main())


def test_a_generation_that_cannot_even_be_queued_fails_alone(served: Served) -> None:
    async def main() -> None:
        bad, fine = await asyncio.gather(
            read(served.loop, generation_of([], seeds=range(2))), read(served.loop, generation_of([1]))
        )
        assert [item.reason for item in bad if isinstance(item, ResultEnded)] == ["failed", "failed"]
        assert len(drawn(fine)) == 8

    run(main())


def test_a_fault_of_the_scheduler_itself_ends_its_work_and_the_loop_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = served.scheduler.step
    has_failed = False

    def step() -> Any:  # Any: as the original's
        nonlocal has_failed
        if served.engine.sequences and not has_failed:
            has_failed = True
            raise AssertionError("a bug")
        return original()

    monkeypatch.setattr(served.scheduler, "step", step)

    async def main() -> None:
        failed = await read(served.loop, generation_of([1], max_tokens=1000))
        last = failed[-1]
        assert isinstance(last, ResultEnded)
        assert isinstance(last.error, EngineFailure)
        assert len(drawn(await read(served.loop, generation_of([2])))) == 8

    run(main())


def test_a_closed_event_loop_cancels_what_it_was_reading(served: Served) -> None:
    async def main() -> None:
        served.loop.submit(generation_of([1], max_tokens=10_000_000))

    asyncio.run(main())

    async def later() -> None:
        await read(served.loop, generation_of([2], max_tokens=3))

    run(later())
    assert served.loop.stats().running == 0
