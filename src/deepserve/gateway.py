"""The life of a request, in order: route, model, sealed traces, tools, back end, meter. Read this first.

    dialect decodes -> Gateway.answer -> tool loop -> back end -> events -> dialect encodes

The two doors are `answer` and `count`; every dialect goes through them, and nothing goes around.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Protocol

import msgspec

from deepserve.backends.backend import Backend, RenderingBackend
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.catalog.prices import PriceCatalog
from deepserve.core.errors import BackendFailure, DeepserveError, EngineFailure, UnknownModel
from deepserve.core.events import BlockDelta, Event, Failed, Finished, Started
from deepserve.core.provider import ServedModel
from deepserve.core.request import Request
from deepserve.core.tenant import Tenant
from deepserve.limits.scopes import choosable, denial, permitted
from deepserve.limits.turnstile import Turnstile
from deepserve.metering.meter import Attempt, Bill, Meter, Permit
from deepserve.metering.rounds import Rounds
from deepserve.routing.fallback import answered_label
from deepserve.routing.router import Router, routed
from deepserve.store.sealed_reasoning import OpenedTraces, TraceSealer, open_traces
from deepserve.store.sealing import Sealer
from deepserve.tools.tool_loop import ToolLoop
from deepserve.tools.toolbox import Toolbox

_log = logging.getLogger(__name__)

_NO_EVENTS: tuple[Event, ...] = ()


class Observer(Protocol):
    """Hears what happens to requests; must not raise and must not wait."""

    def on_accepted(self, request: Request) -> None: ...

    def on_event(self, request: Request, event: Event) -> None: ...

    def on_ended(self, request: Request, error: DeepserveError | None) -> None:
        """error: why it failed; None when it was answered or the client left (no Finished was seen then)."""
        ...


class Gateway:
    """In front of everything that can answer."""

    def __init__(
        self,
        backend: Backend,
        *,
        observers: tuple[Observer, ...] = (),
        sealer: Sealer | None = None,
        tools: ToolLoop | None = None,
        router: Router | None = None,
        meter: Meter | None = None,
        turnstile: Turnstile | None = None,
        enter: Callable[[Request], Request] | None = None,
    ) -> None:
        """sealer: seals the traces that leave and opens those that come back; None: traces are text or nothing.

        tools: asks the back end as often as the tools that the server runs need it; None: it runs none.

        router: chooses the model where a request leaves that open; None: every request must name one.

        meter: prices answers and records them; None: nobody is told what they cost, and nothing is recorded.

        turnstile: lets requests of keys with limits in; None: there are no such keys.

        enter: gives a request its place in a trace; None: nobody here records any.
        """
        self._backend = backend
        self._router = router
        self._tools = tools or ToolLoop()
        self._observers = observers
        self._sealer = sealer
        self._meter = meter or Meter(PriceCatalog(rows=()))
        if self.fleet is not None:
            self._meter.abandoned = self.fleet.abandoned
        self._turnstile = turnstile
        self._enter = enter
        self._num_opened = self._num_refused = 0

    def models(self, tenant: Tenant | None = None) -> Sequence[ServedModel]:
        """Every name that may be asked for, those that leave the choice open last. tenant: by this one."""
        served = self._backend.models()
        every = served if self._router is None else (*served, *self._router.models(served))
        return every if tenant is None else permitted(tenant, every)

    def is_ready(self) -> bool:
        return self._backend.is_ready()

    def gauges(self) -> Mapping[str, float]:
        """What monitoring may show of the inside."""
        own = {"sealed_traces_opened": self._num_opened, "sealed_traces_refused": self._num_refused}
        waiting = {} if self._turnstile is None else self._turnstile.gauges()
        return {**self._backend.gauges(), **self._meter.gauges(), **waiting, **own}

    def answer(self, request: Request) -> AsyncGenerator[Event]:
        """Stream one answer. Raises before the first event; afterwards every fault is a `Failed` event.

        Closing the generator cancels the work. A stream never ends silently: each result gets its terminal event.
        """
        denied = denial(request)
        if denied is not None:
            return _refuse(denied)
        grant = request.tenant.grant
        if self._turnstile is not None and grant is not None and grant.is_metered:
            return self._answer_admitted(request, self._turnstile)
        return self._answer(request)

    def check(self, request: Request) -> None:
        """For requests that are answered later: raises PermissionDenied at once, as `answer` would."""
        denied = denial(request)
        if denied is not None:
            raise denied

    async def _answer_admitted(self, request: Request, turnstile: Turnstile) -> AsyncGenerator[Event]:
        """Within the limits of the key."""
        async with turnstile.admit(request, self._count) as permit, aclosing(self._answer(request, permit)) as events:
            async for event in events:
                yield event

    def _answer(self, request: Request, permit: Permit | None = None) -> AsyncGenerator[Event]:
        if self._router is not None and self._router.handles(request.model):
            return self._answer_routed(request, self._router, permit)
        return self._attempt(request, None, None if permit is None else self._meter.open(request, permit))

    async def _answer_routed(self, request: Request, router: Router, permit: Permit | None) -> AsyncGenerator[Event]:
        """By the model that the rules choose, or two of them in turn: all attempts are on one bill."""
        bill = self._meter.open(request, permit)
        served = choosable(request.tenant.grant, self._backend.models(), request.model)

        def attempt(asked: Request, route: str | None = None) -> AsyncGenerator[Event]:
            return self._attempt(asked, route, bill)

        decision = await router.decide(request, served, ask=attempt, count=self._backend.count)
        escalation = router.escalation(request, decision)
        if escalation is None:
            answer = attempt(routed(request, decision), decision.route.label)
        else:
            answer = escalation.answer(attempt)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    async def _attempt(self, request: Request, route: str | None, bill: Bill | None = None) -> AsyncGenerator[Event]:
        """One answer by the model that the request names.

        route: which rule chose it, where the client did not. bill: of the request that it is for; None: none yet.
        """
        bill = self._meter.open(request) if bill is None else bill
        if self._enter is not None:
            request = self._enter(request)
        self._check_model(request)
        opened = self._open_traces(request)
        request = opened.request
        seals = TraceSealer(self._sealer, opened) if self._sealer is not None else None
        for observer in self._observers:
            observer.on_accepted(request)
        account: Attempt | Rounds = bill.attempt(request, route)
        ask = self._backend.answer
        if bill.permit is not None:
            ask = partial(bill.permit.watch, ask)
        error: DeepserveError | None = None
        open_results = set(range(request.num_results))
        has_begun = False
        try:
            try:
                prepared = self._tools.prepare(request)
                if prepared.is_plain:
                    answer = ask(prepared.request)
                else:
                    account = Rounds(bill, route)
                    answer = self._tools.answer(request, partial(account.ask, ask), prepared=prepared)
                async with aclosing(answer) as events:
                    async for event in events:
                        has_begun = True
                        if isinstance(event, BlockDelta):
                            account.hear_delta(event)
                        else:
                            event = account.hear(event)
                            if isinstance(event, (Finished, Failed)):
                                open_results.discard(event.result)
                                if isinstance(event, Failed):
                                    error = event.error
                                if not open_results:
                                    # Written down before the client can know that it has everything.
                                    corrected = account.end(error)
                                    await bill.settled()
                                    if corrected is not None:
                                        yield corrected
                            elif isinstance(event, Started):
                                told = answered_label(route, request.model, event)
                                if told is not None:
                                    event = msgspec.structs.replace(event, route=told)
                        if seals is not None:
                            event = seals.seal(event)
                        for observer in self._observers:
                            observer.on_event(request, event)
                        yield event
                if open_results:
                    raise BackendFailure(
                        "The answer stopped without an end. This is a fault of the server; please retry."
                    )
            except DeepserveError as raised:
                error = raised
            except Exception as raised:  # noqa: BLE001 - logged; the boundary that keeps a fault of one request from the others
                _log.exception("Request %s met a fault of the server", request.id)
                error = EngineFailure("The server met an internal fault while answering. It has been logged.")
                error.__cause__ = raised
            if open_results:
                assert error is not None
                corrected = account.end(error)
                await bill.settled()
                if not has_begun:
                    raise error
                if corrected is not None:
                    yield corrected
                for result in sorted(open_results):
                    yield Failed(error=error, result=result)
        finally:
            # Without effect where it has ended; else the client has left, and what was produced is billed.
            account.end(error)
            bill.settle()
            for observer in self._observers:
                observer.on_ended(request, error)

    async def count(self, request: Request) -> int:
        """Prompt tokens the request would be billed for; where the choice of the model is open, in its usual lane.

        It takes one of the requests that the key may send in a minute.
        """
        self.check(request)
        if self._turnstile is not None:
            await self._turnstile.admit_count(request)
        return await self._count(msgspec.structs.replace(request, is_count=True))

    async def _count(self, request: Request) -> int:
        if self._router is not None:
            request = self._router.in_usual_lane(request)
        self._check_model(request)
        return await self._backend.count(self._tools.prepare(self._open_traces(request).request).request)

    async def rendered(self, request: Request) -> tuple[Request, list[int]] | None:
        """The request as the model reads it, and the prompt's tokens; None where somebody else writes prompts."""
        if self._router is not None:
            request = self._router.in_usual_lane(request)
        self._check_model(request)
        members = [self._backend] if self.fleet is None else [one.backend for one in self.fleet.members]
        serving = [one for one in members if any(model.id == request.model for model in one.models())]
        # The first is the one that is usually asked; among several, the prefixes of another may be written otherwise.
        if not serving or not isinstance(serving[0], RenderingBackend):
            return None
        return await serving[0].rendered(self._tools.prepare(self._open_traces(request).request).request)

    def offered(self) -> Sequence[ServedModel]:
        """What may answer at this moment, each model as often as there are providers of it."""
        members = () if self.fleet is None else self.fleet.members
        return [model for member in members for model in member.backend.models()] or self._backend.models()

    @property
    def fleet(self) -> FleetBackend | None:
        """Who answers, where it is several, or somebody else."""
        return self._backend if isinstance(self._backend, FleetBackend) else None

    @property
    def toolbox(self) -> Toolbox:
        """The tools that the server runs."""
        return self._tools.toolbox

    def _open_traces(self, request: Request) -> OpenedTraces:
        if self._sealer is None:
            return OpenedTraces(request=request)
        opened = open_traces(self._sealer, request)
        self._num_opened += opened.num_opened
        self._num_refused += opened.num_refused
        return opened

    def _check_model(self, request: Request) -> None:
        served = [model.id for model in self._backend.models()]
        if request.model not in served:
            raise UnknownModel(
                f"This server does not serve the model {request.model}. It serves: {', '.join(served)}.", field="model"
            )


async def _refuse(error: DeepserveError) -> AsyncGenerator[Event]:
    """An answer that does not begin."""
    for event in _NO_EVENTS:
        yield event
    raise error
