"""A back end in front of an upstream that says exactly what a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.member import Member
from deepserve.backends.upstream.backend import UpstreamBackend
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.catalog.providers import load_providers
from deepserve.config import UpstreamSettings
from deepserve.core.errors import DeepserveError
from deepserve.core.events import BlockDelta, Event, Failed, Finished, Started, UsageReported
from deepserve.core.messages import Message, Text
from deepserve.core.request import Request, RequestId
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.origin_client import OriginClient
from tests.outgoing.receiver import Received, Receiver, Respond

ARRIVED_AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = "sk-0123456789abcdef"
QUICK = UpstreamLimits(
    connect_s=2.0,
    first_event_s=2.0,
    idle_s=2.0,
    total_s=4.0,
    linger_s=0.05,
    error_s=0.2,
    learn_s=0.2,
    event_bytes=1000,
)
HASTY = msgspec.structs.replace(QUICK, first_event_s=0.1, idle_s=0.1)


def request(**fields: Any) -> Request:  # Any: fields of Request
    asked = Request(
        id=RequestId("0" * 32),
        model="deepseek-v4-flash",
        arrived_at=ARRIVED_AT,
        messages=(Message(role="user", parts=(Text("Hello"),)),),
    )
    return msgspec.structs.replace(asked, **fields)


class Pauses:
    """Takes the place of sleeping, and of the clock."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.clock = 1000.0

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.clock += seconds


@asynccontextmanager
async def upstream(
    address: str,
    *,
    limits: UpstreamLimits = QUICK,
    provider: str = "openai",
    key: str | None = KEY,
    sleep: Pauses | None = None,
    learns_models: bool = False,
    relearns: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[FleetBackend]:
    """A fleet of one. address: `host:port`."""
    row = msgspec.structs.replace(load_providers()[provider], base_url=f"http://{address}/v1", title="Upstream")
    client = OriginClient(
        f"http://{address}/v1",
        policy=AddressPolicy(allowed_hosts=frozenset((address,))),
        user_agent="test",
        connect_s=limits.connect_s,
        max_bytes=limits.answer_bytes,
    )
    pauses = sleep or Pauses()
    backend = UpstreamBackend(
        row,
        client=client,
        key=key,
        limits=limits,
        learns_models=learns_models,
        sleep=relearns,
        now=lambda: ARRIVED_AT,
        call_id=lambda number: f"minted_{number}",
    )
    member = Member(
        provider, backend, kind=provider, upstream=UpstreamSettings(id=provider, kind=provider), limits=limits
    )
    fleet = FleetBackend([member], sleep=pauses, jitter=lambda: 0.5, clock=lambda: pauses.clock, now=lambda: ARRIVED_AT)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


async def events_from(*answers: bytes | Respond, asked: Request | None = None, **options: Any) -> list[Event]:
    """What the back end tells of an upstream that gives these answers. Any: options of `upstream`."""
    async with Receiver(*answers) as receiver, upstream(receiver.host, **options) as backend, asyncio.timeout(8):
        return [event async for event in backend.answer(asked or request())]


def told(*answers: bytes | Respond, asked: Request | None = None, **options: Any) -> list[Event]:
    return asyncio.run(events_from(*answers, asked=asked, **options))


def error_of(*answers: bytes | Respond, **options: Any) -> DeepserveError:  # Any: options of `upstream`
    """Raised before anything was told."""
    with pytest.raises(DeepserveError) as caught:
        told(*answers, **options)
    return caught.value


def failure_of(*answers: bytes | Respond, **options: Any) -> DeepserveError:  # Any: options of `upstream`
    """Told after the beginning, as the one end, and with an estimate of what was told until then."""
    events = told(*answers, **options)
    assert isinstance(events[0], Started)
    assert sum(isinstance(event, Failed | Finished) for event in events) == 1
    usage, failed = events[-2:]
    assert isinstance(usage, UsageReported)
    assert usage.usage.is_estimated
    assert usage.usage.answer_tokens > 1
    assert isinstance(failed, Failed)
    return failed.error


def question_to(provider: str, good: bytes) -> Received:
    """What a service gets that gives this answer."""

    async def ask() -> Received:
        async with Receiver(good) as receiver, upstream(receiver.host, provider=provider) as backend:
            [event async for event in backend.answer(request())]
            return receiver.received[0]

    return asyncio.run(ask())


def counted(*answers: bytes, provider: str, times: int = 1, is_count: bool = True) -> tuple[list[int], int, bool]:
    """What was counted, how many calls that took, and whether it is called an estimate then."""

    async def ask() -> tuple[list[int], int, bool]:
        asked = request(is_count=is_count)
        async with Receiver(*answers) as receiver, upstream(receiver.host, provider=provider) as backend:
            counts = [await backend.count(asked) for _ in range(times)]
            return counts, len(receiver.received), backend.models()[0].counts_by_estimate

    return asyncio.run(ask())


def gauges_after_leaving(begun: bytes, alive: bytes, **options: Any) -> Mapping[str, float]:  # Any: of `upstream`
    """Once the upstream has noticed that the client left, who had heard the first piece. alive: written for ever."""

    async def leave() -> Mapping[str, float]:
        gone = asyncio.Event()

        async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(begun)
                while True:
                    await writer.drain()
                    writer.write(alive)
                    await asyncio.sleep(0.005)
            except ConnectionError:
                gone.set()

        async with Receiver(respond) as receiver, upstream(receiver.host, **options) as backend:
            async with aclosing(backend.answer(request())) as events:
                async for event in events:
                    if isinstance(event, BlockDelta):
                        break
            async with asyncio.timeout(5):
                await gone.wait()
            return backend.gauges()

    return asyncio.run(leave())


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, BlockDelta))


def in_pieces(*pieces: bytes, stays: bool = False, repeats: bytes | None = None) -> Respond:
    """Writes the pieces one by one, then closes, stays silent, or repeats one for ever."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        while repeats is not None:
            writer.write(repeats)
            await writer.drain()
            await asyncio.sleep(0.005)
        if stays:
            await asyncio.Event().wait()

    return respond


def head(content_type: str = "text/event-stream", *, status: int = 200, extra: Sequence[str] = ()) -> bytes:
    lines = (f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", "Connection: close", *extra)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def frame(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(*, finish: str | None = None, **fields: Any) -> dict[str, Any]:  # Any: JSON
    return {"model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 5, "completion_tokens": 2}
HELLO = frame(delta(content="Hello")) + frame(delta(content=" there"))
END = frame({**delta(finish="stop"), "usage": USAGE})
DONE = b"data: [DONE]\n\n"
GOOD = head() + HELLO + END + DONE
