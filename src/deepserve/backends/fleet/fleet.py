"""Several back ends that answer as one. Read this first; who is asked next is `search`'s.

For each request the members of the model's chain are asked in order, until one begins to answer. From its first content
on the answer is that member's, to its end: a fault is then told, never hidden by a second beginning.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from deepserve.backends.fleet.attempt import Attempt, AttemptObserver
from deepserve.backends.fleet.line import WaitingLine
from deepserve.backends.fleet.member import Member, UpstreamStatus, status_of
from deepserve.backends.fleet.roster import Offer, Roster
from deepserve.backends.fleet.search import Search
from deepserve.backends.fleet.wishes import PriceOf, choose_offers, wishes_nothing
from deepserve.backends.tokens.turn_memory import TurnMemory
from deepserve.config import FleetSettings
from deepserve.core.attempt import FailedAttempt
from deepserve.core.errors import (
    BackendFailure,
    Cancelled,
    ConfigurationError,
    DeepserveError,
    UnknownModel,
    UnsupportedFeature,
)
from deepserve.core.events import Event, Failed, UsageReported
from deepserve.core.provider import ServedModel
from deepserve.core.request import Request, RequestId
from deepserve.store.turns import TurnStore

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 10.0
_MOST_ABANDONED = 1_000


def _no_price(_kind: str, _model: str, _at: datetime) -> None:
    return None


class FleetBackend:
    """Implements `backends.backend.Backend`.

    members   in the operator's order; chains: model -> ids, where the order is another
    price_of  for clients that name the most they pay
    turns     where members whose prompts are written here keep turns with tools; for those that come later, too
    traces    what members thought whose prompts are written elsewhere; likewise
    sleep, jitter, clock, now  where time and chance come from, so that tests can hold them
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        chains: Mapping[str, Sequence[str]] | None = None,
        settings: FleetSettings | None = None,
        price_of: PriceOf = _no_price,
        turns: TurnStore | None = None,
        traces: TurnMemory | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Raises ConfigurationError for chains that name what there is not."""
        self._settings = settings or FleetSettings()
        self._price_of = price_of
        self.turns = turns
        self.traces = traces
        self._sleep = sleep
        self._jitter = jitter
        self._clock = clock
        self._now = now
        self._chains = chains or {}
        self._line = WaitingLine(self._settings.max_waiting)
        self._counts = dict.fromkeys(("requests", "retries", "failures", "hedges"), 0)
        self._abandoned: dict[RequestId, tuple[FailedAttempt, ...]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._observers: tuple[AttemptObserver, ...] = ()
        self._is_started = False
        self.price_providers: dict[str, str] = {}
        """Who answers, as `ServedBy` names it -> under which name price tables know it."""
        self._roster = self._made(members)

    def _made(self, members: Sequence[Member]) -> Roster:
        for member in members:
            member.learn_models(self._clock)
        roster = Roster(members, self._chains)
        self.price_providers.clear()
        self.price_providers.update({member.provider: member.kind for member in members})
        return roster

    # What a back end is

    def models(self) -> tuple[ServedModel, ...]:
        return self._roster.models

    async def start(self) -> None:
        """All of them; one that cannot start keeps the fleet from starting. Raises SetupError."""
        try:
            await _all(member.backend.start() for member in self._roster.members)
            self._roster = self._made(self._roster.members)  # some learn only now what they have
        except BaseException:
            await self.close()
            raise
        self._is_started = True
        self._looking = asyncio.create_task(self._keep_looking())

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.look_again()

    def look_again(self) -> None:
        """Members may learn late what models they have, and how large these are."""
        if any(member.has_news() for member in self._roster.members):
            try:
                self._roster = self._made(self._roster.members)
            except ConfigurationError as error:  # a chain's model is gone: whoever asks for it will be told
                _log.warning("The upstreams are asked as before: %s", error.message)

    async def close(self) -> None:
        self._is_started = False
        tasks = [*self._leaving, *(() if self._looking is None else (self._looking,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _all(member.backend.close() for member in self._roster.members)

    def is_ready(self) -> bool:
        return self._is_started and any(member.backend.is_ready() for member in self._roster.members)

    def enforces(self) -> bool:
        return all(member.backend.enforces() for member in self._roster.members)

    def gauges(self) -> Mapping[str, float]:
        gauges: dict[str, float] = {}
        for member in self._roster.members:
            for name, value in member.backend.gauges().items():
                gauges[name] = gauges.get(name, 0.0) + value
        own = {
            **self._counts,
            "running": sum(member.num_running for member in self._roster.members),
            "waiting": self._line.num_waiting,
        }
        return gauges | {f"upstream_{name}": float(value) for name, value in own.items()}

    async def count(self, request: Request) -> int:
        """By the first who may answer."""
        member, lane = self._offers(request)[0]
        num_tokens = await member.backend.count(_asked_of(request, lane.model))
        if request.is_count:
            self.look_again()  # whether it counts or estimates is known only now
        return num_tokens

    # Around it

    def abandoned(self, request: RequestId) -> tuple[FailedAttempt, ...]:
        """Who was asked for a request whose client left before an answer had begun. Told once."""
        return self._abandoned.pop(request, ())

    def upstreams(self) -> tuple[UpstreamStatus, ...]:
        """How each does, by the operator's order."""
        return tuple(status for member in self._roster.members for status in status_of(member))

    def drain(self, id_: str, is_drained: bool = True) -> bool:
        """Take a member out of rotation by hand, or back in. False where there is none of that id."""
        member = self._roster.find(id_)
        if member is None:
            return False
        member.drain(is_drained)
        _log.warning("%s is %s", id_, "drained" if is_drained else "in rotation again")
        return True

    def tell(self, observer: AttemptObserver) -> None:
        """Of every attempt from now on."""
        self._observers = (*self._observers, observer)

    @property
    def settings(self) -> FleetSettings:
        return self._settings

    @property
    def members(self) -> tuple[Member, ...]:
        return self._roster.members

    async def replace(
        self,
        members: Sequence[Member],
        *,
        chains: Mapping[str, Sequence[str]] | None = None,
        settings: FleetSettings | None = None,
    ) -> None:
        """Others from now on. Members that stay are handed over as they are; requests of those that leave run to
        their end before these are closed. Raises SetupError, and then everything stays as it was.
        """
        before = self._roster
        new = [member for member in members if before.find(member.id) is not member]
        old_chains = self._chains
        try:
            await _all(member.backend.start() for member in new)
            self._chains = old_chains if chains is None else chains
            self._roster = self._made(members)
        except BaseException:
            self._chains = old_chains
            await asyncio.gather(*(member.backend.close() for member in new), return_exceptions=True)
            raise
        self._settings = settings or self._settings
        self._line.max_waiting = self._settings.max_waiting
        for member in before.members:
            if self._roster.find(member.id) is not member:
                member.drain()
                leaving = asyncio.create_task(self._see_off(member))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)

    async def _see_off(self, member: Member) -> None:
        """Close a member once nobody needs it any more, or the server ends."""
        try:
            await member.until_idle()
        finally:
            await member.backend.close()

    # Answers

    def _offers(self, request: Request) -> Sequence[Offer]:
        """Who may answer, in order: for the model asked for, then for those to fall back to."""
        offers = self._roster.offers
        if not request.fallback_models and wishes_nothing(request) and request.model in offers:
            return offers[request.model]
        found: list[Offer] = []
        refusal: UnsupportedFeature | None = None
        for model in dict.fromkeys((request.model, *request.fallback_models)):
            if model not in offers:
                continue
            try:
                found += choose_offers(offers[model], request, self._price_of)
            except UnsupportedFeature as error:
                refusal = refusal or error
        if not found:
            raise refusal or UnknownModel(
                f"This server does not serve the model {request.model} any more. It serves: {', '.join(offers)}.",
                field="model",
            )
        return found

    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        self._counts["requests"] += 1
        if self._settings.hedge_s is not None and request.is_whole:
            # Who is late to begin shows in a stream alone.
            request = msgspec.structs.replace(request, is_whole=False)
        search = Search(
            self._offers(request),
            self._line,
            wait_s=self._settings.wait_s,
            clock=self._clock,
            sleep=self._sleep,
            jitter=self._jitter,
        )
        try:
            attempt = await self._begun(request, search)
        except asyncio.CancelledError:
            if search.earlier:
                self._abandoned[request.id] = search.earlier
            while len(self._abandoned) > _MOST_ABANDONED:  # nobody wants to know
                del self._abandoned[next(iter(self._abandoned))]
            raise
        watch, is_over = attempt.watch, False
        try:
            for event in attempt.opening:
                yield attempt.told(event, asked_model=request.model, earlier=search.earlier)
            try:
                async for event in attempt.events:
                    watch.hear(event)
                    yield event
            except DeepserveError as error:
                watch.error = error
                yield UsageReported(usage=watch.estimated_usage())
                for result in sorted(watch.open_results):
                    yield Failed(error=error, result=result)
            is_over = True
        finally:
            self._settle(attempt, None, is_over=is_over)
            await self._leave(attempt)

    async def _begun(self, request: Request, search: Search) -> Attempt:
        """The attempt that is the answer, begun. Raises DeepserveError when all have failed."""
        try:
            while True:
                attempt = self._attempt(request, await search.next())
                begun = await (
                    self._tried(attempt, search)
                    if self._settings.hedge_s is None
                    else self._raced(attempt, request, search, self._settings.hedge_s)
                )
                if begun is not None:
                    return begun
                self._counts["retries"] += 1
        except DeepserveError:
            self._counts["failures"] += 1
            raise

    def _attempt(self, request: Request, offer: Offer) -> Attempt:
        member, lane = offer
        return Attempt(
            member,
            lane,
            request,
            max_repeated=self._settings.max_repeated_characters,
            clock=self._clock,
            now=self._now,
            observers=self._observers,
        )

    def _settle(self, attempt: Attempt, error: DeepserveError | None, *, is_over: bool = False) -> None:
        word = attempt.settle(error, is_over=is_over)
        if word is not None:
            lane = attempt.lane
            _log.warning("%s is out of rotation for %.0f s (%s): %s", lane.label, lane.retry_s, word, lane.last_problem)

    async def _leave(self, attempt: Attempt) -> None:
        try:
            await attempt.close()
        finally:
            self._line.leave(attempt.lane)
            attempt.member.note_leaving()

    async def _tried(self, attempt: Attempt, search: Search) -> Attempt | None:
        """None: it came to nothing, and another may be asked."""
        try:
            await attempt.begin()
            self._refuse_empty(attempt, search)
        except DeepserveError as error:
            self._settle(attempt, error)
            await self._leave(attempt)
            search.failed(attempt, error)
            return None
        except BaseException:
            search.note_left(attempt)
            await self._leave(attempt)
            raise
        return attempt

    def _refuse_empty(self, attempt: Attempt, search: Search) -> None:
        """An answer that says nothing is one only when nobody else can give a better one."""
        if attempt.watch.is_empty and search.has_others:
            raise BackendFailure(f"{attempt.member.id} gave an empty answer.")

    async def _raced(self, first: Attempt, request: Request, search: Search, hedge_s: float) -> Attempt | None:
        """As `_tried`, with a second attempt beside the first where that takes too long. The first to begin wins."""
        running = {asyncio.create_task(first.begin()): first}
        may_hedge = True
        try:
            while True:
                done, _ = await asyncio.wait(
                    running, timeout=hedge_s if may_hedge else None, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    may_hedge = False
                    offer = search.spare()
                    if offer is not None:
                        self._counts["hedges"] += 1
                        second = self._attempt(request, offer)
                        running[asyncio.create_task(second.begin())] = second
                    continue
                task = done.pop()  # should both have begun at once, the other is called off
                attempt = running.pop(task)
                try:
                    task.result()
                    self._refuse_empty(attempt, search)
                except DeepserveError as error:
                    self._settle(attempt, error)
                    await self._leave(attempt)
                    if running:
                        search.note(attempt, error)
                        may_hedge = False
                        continue
                    search.failed(attempt, error)
                    return None
                except BaseException:
                    await self._leave(attempt)
                    raise
                for lost in await self._called_off(running):
                    search.note(lost, Cancelled(f"{attempt.member.id} was faster."))
                return attempt
        finally:
            for attempt in await self._called_off(running):
                search.note_left(attempt)

    async def _called_off(self, running: dict[asyncio.Task[None], Attempt]) -> list[Attempt]:
        """End what is not needed any more; its members hear of it at once."""
        lost = list(running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        running.clear()
        for attempt in lost:
            await self._leave(attempt)
        return lost


def _asked_of(request: Request, model: str) -> Request:
    return request if request.model == model else msgspec.structs.replace(request, model=model)


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Side by side, all to their end; then the first failure is raised."""
    for found in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(found, BaseException):
            raise found
