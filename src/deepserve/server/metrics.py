"""What Prometheus reads. Labels come from closed sets: served models, outcomes of the core, HTTP statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from deepserve.core.errors import DeepserveError
from deepserve.core.events import (
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    ServerToolResultBlock,
    Started,
    UsageReported,
)
from deepserve.core.request import Request, RequestId
from deepserve.core.server_tool import ToolFault
from deepserve.core.usage import Usage
from deepserve.server.tallies import DurationTally, Tally

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 600)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class _Running(msgspec.Struct):
    """One request the gateway has accepted. Times are of the monotonic clock, seconds."""

    accepted_at: float
    first_token_at: float | None = None
    has_started: bool = False
    outcome: str = "client_left"
    usage: Usage = Usage()


class _EngineGauges(Collector):
    """The back end's own numbers, as they are when somebody asks."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read

    @override
    def collect(self) -> Iterable[Metric]:
        for name, value in self._read().items():
            text = f"The back end's {name.replace('_', ' ')}."
            yield GaugeMetricFamily(f"deepserve_engine_{name}", text, value=value)


class _RunningGauges(Collector):
    """What is under way when somebody asks."""

    def __init__(self, running: Mapping[RequestId, _Running]) -> None:
        self._running = running

    @override
    def collect(self) -> Iterable[Metric]:
        num_active = sum(running.has_started for running in self._running.values())
        yield GaugeMetricFamily("deepserve_active_requests", "Requests being answered now.", value=num_active)
        num_queued = len(self._running) - num_active
        yield GaugeMetricFamily("deepserve_queue_depth", "Requests waiting to begin.", value=num_queued)


class Metrics:
    """Hears the gateway and the door. Holds its own registry: two servers in one process do not mix."""

    def __init__(
        self,
        models: Sequence[str],
        *,
        clock: Callable[[], float],
        gauges: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """gauges: read at every scrape; each becomes `deepserve_engine_<name>`."""
        self._models = frozenset(models)
        self._clock = clock
        self._running: dict[RequestId, _Running] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_EngineGauges(gauges))
        self._requests = Tally(
            "deepserve_requests",
            "Requests a back end was asked to answer, by how they ended.",
            ("model", "outcome"),
        )
        self._tokens = Tally(
            "deepserve_tokens",
            "Tokens: hit and miss of prompts, reasoning and answer of outputs.",
            ("model", "kind"),
        )
        self._first_token = DurationTally(
            "deepserve_time_to_first_token_seconds",
            "From acceptance to the first piece of an answer.",
            ("model",),
            bounds=_SECONDS,
        )
        self._per_token = DurationTally(
            "deepserve_time_per_output_token_seconds",
            "Mean time between the tokens of one answer, after the first.",
            ("model",),
            bounds=_TOKEN_SECONDS,
        )
        self._tool_calls = Tally(
            "deepserve_server_tool_calls",
            "Calls of tools that the server runs, by how they ended.",
            ("tool", "outcome"),
        )
        self._responses = Tally("deepserve_http_responses", "HTTP responses by status.", ("status",))
        for collector in (
            *(self._requests, self._tokens, _RunningGauges(self._running), self._first_token, self._per_token),
            *(self._tool_calls, self._responses),
        ):
            self._registry.register(collector)

    def know(self, models: Iterable[str]) -> None:
        """Models that are served now; what is asked of others is counted together."""
        self._models |= frozenset(models)

    def watch(self, collector: Collector) -> None:
        """Show what another part counts itself."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """The exposition text, version 0.0.4."""
        return generate_latest(self._registry)

    def on_status(self, status: int) -> None:
        self._responses.add(str(status))

    def on_accepted(self, request: Request) -> None:
        self._running[request.id] = _Running(accepted_at=self._clock())

    def on_event(self, request: Request, event: Event) -> None:
        running = self._running.get(request.id)
        if running is None:
            return
        if isinstance(event, BlockDelta):
            if running.first_token_at is None:
                running.first_token_at = self._clock()
                self._first_token.add(self._label(request), seconds=running.first_token_at - running.accepted_at)
        elif isinstance(event, Started):
            running.has_started = True
            running.usage = event.prompt_usage or running.usage
        elif isinstance(event, UsageReported):
            running.usage = event.usage
        elif isinstance(event, BlockOpened) and isinstance(event.block, ServerToolResultBlock):
            output = event.block.output
            outcome = output.code if isinstance(output, ToolFault) else "result"
            self._tool_calls.add(event.block.tool, outcome)
        elif isinstance(event, Finished):
            running.outcome = event.reason
        elif isinstance(event, Failed):
            running.outcome = event.error.code

    def on_ended(self, request: Request, error: DeepserveError | None) -> None:
        running = self._running.pop(request.id, None)
        if running is None:
            return
        model, usage = self._label(request), running.usage
        self._requests.add(model, running.outcome if error is None else error.code)
        self._tokens.add(model, "hit", count=usage.hit_tokens)
        self._tokens.add(model, "miss", count=usage.miss_tokens)
        self._tokens.add(model, "reasoning", count=usage.reasoning_tokens)
        self._tokens.add(model, "answer", count=usage.answer_tokens)
        if running.first_token_at is not None and usage.output_tokens > 1:
            elapsed = self._clock() - running.first_token_at
            self._per_token.add(model, seconds=elapsed / (usage.output_tokens - 1))

    def _label(self, request: Request) -> str:
        return request.model if request.model in self._models else "other"
