"""What Prometheus reads. Labels come from closed sets: served models, dialects, the operator's upstreams, outcomes of
the core, HTTP statuses. Of names that others choose the first few are told, and the rest is `other`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from deepserve.backends.fleet.attempt import Attempt
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
from deepserve.store.ledger_row import LedgerRow

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 600)
_PICO = 10**12
_MOST_PROVIDERS = 64
"""That are told apart: an upstream may say who stands behind it, and say so many names."""

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
        self._durations = DurationTally(
            "deepserve_request_duration_seconds",
            "From acceptance to the end of an answer.",
            ("model",),
            bounds=_SECONDS,
        )
        self._dialects = Tally(
            "deepserve_dialect_requests", "Requests that a back end was asked to answer, by dialect.", ("dialect",)
        )
        self._providers: set[str] = set()
        self._cost = Tally(
            "deepserve_cost_usd",
            "US dollars that attempts at answers cost, by who answered.",
            ("provider", "model"),
            parts=_PICO,
        )
        self._provider_tokens = Tally(
            "deepserve_provider_tokens",
            "Tokens of attempts at answers, by who answered.",
            ("provider", "model", "kind"),
        )
        self._upstream_requests = Tally(
            "deepserve_upstream_requests",
            "Attempts at an upstream that are over, by how they ended.",
            ("upstream", "model", "outcome"),
        )
        self._upstream_first_token = DurationTally(
            "deepserve_upstream_time_to_first_token_seconds",
            "From asking an upstream to the first piece of its answer.",
            ("upstream", "model"),
            bounds=_SECONDS,
        )
        self._upstream_durations = DurationTally(
            "deepserve_upstream_duration_seconds",
            "From asking an upstream to the end of the attempt.",
            ("upstream", "model"),
            bounds=_SECONDS,
        )
        self._tool_calls = Tally(
            "deepserve_server_tool_calls",
            "Calls of tools that the server runs, by how they ended.",
            ("tool", "outcome"),
        )
        self._responses = Tally("deepserve_http_responses", "HTTP responses by status.", ("status",))
        for collector in (
            *(self._requests, self._tokens, _RunningGauges(self._running), self._first_token, self._per_token),
            *(self._tool_calls, self._responses, self._durations, self._dialects, self._cost, self._provider_tokens),
            *(self._upstream_requests, self._upstream_first_token, self._upstream_durations),
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
        self._dialects.add(request.dialect or "none")
        self._durations.add(model, seconds=self._clock() - running.accepted_at)
        self._tokens.add(model, "hit", count=usage.hit_tokens)
        self._tokens.add(model, "miss", count=usage.miss_tokens)
        self._tokens.add(model, "reasoning", count=usage.reasoning_tokens)
        self._tokens.add(model, "answer", count=usage.answer_tokens)
        if running.first_token_at is not None and usage.output_tokens > 1:
            elapsed = self._clock() - running.first_token_at
            self._per_token.add(model, seconds=elapsed / (usage.output_tokens - 1))

    def on_row(self, row: LedgerRow) -> None:
        """An attempt is over, and this is what the ledger has of it."""
        labels = self._provider(row.provider), self._model(row.answered_model)
        self._cost.add(*labels, count=row.total_pico_usd)
        for kind, count in (
            *(("hit", row.hit_tokens), ("miss", row.miss_tokens)),
            *(("reasoning", row.reasoning_tokens), ("answer", row.answer_tokens)),
        ):
            self._provider_tokens.add(*labels, kind, count=count)

    def on_settled(self, attempt: Attempt, error: DeepserveError | None) -> None:
        """As an observer of the fleet."""
        labels = attempt.member.id, attempt.lane.model
        outcome = error.code if error is not None else "answered" if attempt.watch.has_finished else "called_off"
        self._upstream_requests.add(*labels, outcome)
        self._upstream_durations.add(*labels, seconds=attempt.elapsed_s)
        if attempt.first_content_s is not None:
            self._upstream_first_token.add(*labels, seconds=attempt.first_content_s)

    def _label(self, request: Request) -> str:
        return self._model(request.model)

    def _model(self, model: str) -> str:
        return model if model in self._models else "other"

    def _provider(self, name: str) -> str:
        if name not in self._providers:
            if len(self._providers) >= _MOST_PROVIDERS:
                return "other"
            self._providers.add(name)
        return name or "none"
