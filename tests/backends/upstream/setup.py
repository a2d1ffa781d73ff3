"""A back end in front of an upstream that says exactly what a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.member import Member
from deepserve.backends.upstream.backend import UpstreamBackend
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.catalog.providers import load_providers
from deepserve.config import UpstreamSettings
from deepserve.core.events import Event
from deepserve.core.messages import Message, Text
from deepserve.core.request import Request, RequestId
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.origin_client import OriginClient
from tests.outgoing.receiver import Receiver, Respond

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
