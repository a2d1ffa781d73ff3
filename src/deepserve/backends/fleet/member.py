"""One back end of a fleet, with what is known of who stands behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from deepserve.backends.backend import Backend
from deepserve.backends.fleet.lane import Lane
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.config import EMBEDDED, UpstreamSettings
from deepserve.core.provider import Endpoint

_OWN_PROVIDER = "deepserve"


class Member:
    """backend: not yet started. upstream: what the operator says of it; None for our own engine.

    names   under which clients may ask for it, in lower case
    kind    under which price tables know it
    """

    def __init__(
        self,
        id_: str,
        backend: Backend,
        *,
        kind: str,
        names: tuple[str, ...] = (),
        upstream: UpstreamSettings | None = None,
        is_own: bool = False,
        region: str | None = None,
        collects_data: bool = True,
        max_concurrent: int | None = None,
        limits: UpstreamLimits | None = None,
    ) -> None:
        self.id = id_
        self.backend = backend
        self.kind = kind
        self.names = frozenset(name.lower() for name in (id_, kind, *names))
        self.upstream = upstream
        self.is_own = is_own
        self.region = region
        self.collects_data = collects_data
        self.max_concurrent = max_concurrent
        self.limits = limits or UpstreamLimits()
        self.lanes: dict[str, Lane] = {}
        self._idle: asyncio.Event | None = None

    @classmethod
    def embedded(cls, backend: Backend) -> Member:
        """Our own engine, which has a queue of its own and keeps nobody's data but the operator's."""
        return cls(
            EMBEDDED,
            backend,
            kind=EMBEDDED,
            names=(_OWN_PROVIDER,),
            is_own=True,
            collects_data=False,
            limits=UpstreamLimits(num_retries=0),
        )

    @property
    def num_running(self) -> int:
        return sum(lane.num_running for lane in self.lanes.values())

    @property
    def provider(self) -> str:
        """As in `ServedBy`."""
        return _OWN_PROVIDER if self.upstream is None else self.id

    def endpoint(self, lane: Lane) -> Endpoint:
        return Endpoint(
            provider=self.provider,
            kind=self.kind,
            names=tuple(sorted(self.names)),
            is_own=self.is_own,
            region=self.region,
            collects_data=self.collects_data,
            context_tokens=lane.served.context_tokens,
            max_output_tokens=lane.served.max_output_tokens,
        )

    def learn_models(self, clock: Callable[[], float]) -> None:
        """Make lanes for what the back end serves; those that exist keep their history."""
        unbounded = self.upstream is None
        models = self.backend.models()
        for gone in self.lanes.keys() - {served.id for served in models}:
            del self.lanes[gone]  # it said when it was started that it does not have it
        for served in models:
            lane = self.lanes.get(served.id)
            if lane is None:
                lane = Lane(served, member_id=self.id, max_concurrent=self.max_concurrent, clock=clock)
                self.lanes[served.id] = lane
            if unbounded:
                lane.max_concurrent = None
            lane.served = served

    def has_news(self) -> bool:
        """Whether its models are not as they were when they were learned."""
        return {served.id: served for served in self.backend.models()} != {
            model: lane.served for model, lane in self.lanes.items()
        }

    async def until_idle(self) -> None:
        """Until nothing runs there any more."""
        self._idle = self._idle or asyncio.Event()
        self.note_leaving()
        await self._idle.wait()

    def note_leaving(self) -> None:
        """A request has ended there."""
        if self._idle is not None and not self.num_running:
            self._idle.set()

    def drain(self, is_drained: bool = True) -> None:
        """No new requests go there; those that run do so to their end."""
        for lane in self.lanes.values():
            lane.is_drained = is_drained


class UpstreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one member does at one model. retry_s: until it is asked again, where it is out of rotation."""

    id: str
    kind: str
    model: str
    served_by: str
    state: str
    problem: str | None
    retry_s: float
    running: int
    max_concurrent: int | None
    attempts: int
    failures: int
    bad_answers: int
    rejected: int
    first_content_ms: float | None
    tokens_per_s: float | None
    is_own: bool
    region: str | None


def status_of(member: Member) -> list[UpstreamStatus]:
    return [_status(member, lane) for lane in member.lanes.values()]


def _status(member: Member, lane: Lane) -> UpstreamStatus:
    counts: Mapping[str, int] = msgspec.structs.asdict(lane.counts)
    return UpstreamStatus(
        id=member.id,
        kind=member.kind,
        model=lane.model,
        served_by=lane.served.served_by.label,
        state=lane.state,
        problem=lane.last_problem if lane.state in ("failing", "degraded", "waiting") else None,
        retry_s=round(lane.retry_s, 3),
        running=lane.num_running,
        max_concurrent=lane.max_concurrent,
        attempts=counts["attempts"],
        failures=counts["failures"],
        bad_answers=counts["bad_answers"],
        rejected=counts["rejected"],
        first_content_ms=None if lane.first_content_s is None else round(lane.first_content_s * 1000, 1),
        tokens_per_s=None if lane.tokens_per_s is None else round(lane.tokens_per_s, 1),
        is_own=member.is_own,
        region=member.region,
    )
