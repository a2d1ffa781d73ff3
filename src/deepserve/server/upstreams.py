"""How those who answer behind this server do, for its operator: `GET /v1/upstreams`, and the same as metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from typing_extensions import override

from deepserve.backends.fleet.lane import LaneState
from deepserve.backends.fleet.member import UpstreamStatus
from deepserve.core.errors import PermissionDenied, RouteNotFound
from deepserve.gateway import Gateway
from deepserve.server.site import Site
from deepserve.server.visit import visit_of

_LABELS = ("upstream", "model")


class _UpstreamList(msgspec.Struct, frozen=True, kw_only=True):
    """In the order in which they are asked where nothing else is said. Empty: one back end answers, and no other."""

    object: Literal["list"] = "list"
    data: tuple[UpstreamStatus, ...]


def routes(site: Site) -> list[BaseRoute]:
    upstreams = _Upstreams(site)
    return [
        Route("/v1/upstreams", upstreams.list),
        Route("/v1/upstreams/{id}/drain", upstreams.drain, methods=["POST"]),
        Route("/v1/upstreams/{id}/resume", upstreams.resume, methods=["POST"]),
    ]


class _Upstreams:
    """Whose names, states and faults they are is the operator's business alone."""

    def __init__(self, site: Site) -> None:
        self._gateway = site.gateway

    async def list(self, request: Request) -> Response:
        _admit(request)
        return self._listed()

    async def drain(self, request: Request) -> Response:
        """No new requests go there until it is resumed, or the server starts again."""
        return self._turn(request, is_drained=True)

    async def resume(self, request: Request) -> Response:
        return self._turn(request, is_drained=False)

    def _turn(self, request: Request, *, is_drained: bool) -> Response:
        _admit(request)
        id_ = request.path_params["id"]
        fleet = self._gateway.fleet
        if fleet is None or not fleet.drain(id_, is_drained):
            raise RouteNotFound(f"This server has no upstream {id_[:100]!r}.", field="id")
        return self._listed()

    def _listed(self) -> Response:
        return Response(
            msgspec.json.encode(_UpstreamList(data=_statuses(self._gateway))), media_type="application/json"
        )


def _admit(request: Request) -> None:
    grant = visit_of(request.scope).tenant.grant
    if grant is not None and not grant.is_admin:
        raise PermissionDenied("This key may not see the server's upstreams: that takes one made with --admin.")


def _statuses(gateway: Gateway) -> tuple[UpstreamStatus, ...]:
    return () if gateway.fleet is None else gateway.fleet.upstreams()


class UpstreamMetrics(Collector):
    """Labels: the operator's names of upstreams, and models that they serve."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @override
    def collect(self) -> Iterable[Metric]:
        statuses = _statuses(self._gateway)
        if not statuses:
            return
        in_rotation = GaugeMetricFamily(
            "deepserve_upstream_in_rotation",
            "1 where it is asked as usual, 0 where it is drained, failing, degraded or was told to wait.",
            labels=_LABELS,
        )
        running = GaugeMetricFamily("deepserve_upstream_running", "Answers under way there.", labels=_LABELS)
        for one in statuses:
            labels = (one.id, one.model)
            in_rotation.add_metric(labels, float(one.state in ("ready", "full")))
            running.add_metric(labels, float(one.running))
        yield in_rotation
        yield running
        states = GaugeMetricFamily(
            "deepserve_upstream_state",
            "1 for the state it is in, 0 for the others: failing and degraded are what its breakers say.",
            labels=(*_LABELS, "state"),
        )
        for one in statuses:
            for state in get_args(LaneState):
                states.add_metric((one.id, one.model, state), float(one.state == state))
        yield states
        attempts = CounterMetricFamily(
            "deepserve_upstream_attempts",
            "Times it was asked: all; failed; bad: the answer was empty, endless or unfit; rejected: with 429.",
            labels=(*_LABELS, "kind"),
        )
        for one in statuses:
            counts = {
                "all": one.attempts,
                "failed": one.failures,
                "bad": one.bad_answers,
                "rejected": one.rejected,
            }
            for kind, count in counts.items():
                attempts.add_metric((one.id, one.model, kind), count)
        yield attempts
