"""Puts together what carries out tasks for one server, and shows its work to monitoring."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from functools import partial

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from deepserve import __version__
from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.outgoing.addresses import AddressPolicy, parse_allowances
from deepserve.outgoing.client import OutgoingClient
from deepserve.server.live_settings import LiveSettings
from deepserve.store.database import Database, open_memory_database
from deepserve.store.secret import derive_key
from deepserve.tasks.runner import TaskRunner


def make_task_runner(
    settings: Settings,
    database: Database | None = None,
    *,
    listening: Sequence[socket.socket] = (),
    live: LiveSettings | None = None,
    shared_secret: bytes | None = None,
) -> TaskRunner:
    """A runner that is to be started.

    database   of the settings' state directory; None: tasks end with the process
    listening  the server's own sockets, which no webhook may reach
    live       these settings, where they may change
    shared_secret  of several servers, which webhooks are signed by; None: the state directory has a key for that

    Raises ConfigurationError for allowances that cannot be read and a state directory that cannot be used.
    """
    own_addresses = addresses_of(listening)
    client = OutgoingClient(_policy(settings, own_addresses), user_agent=f"deepserve/{__version__}")
    state_dir = None if database is None else settings.state_dir
    try:
        runner = TaskRunner(
            open_memory_database() if database is None else database,
            client,
            state_dir=state_dir,
            webhook_key=None if shared_secret is None else derive_key(shared_secret, "webhooks"),
            limits=settings.tasks,
        )
    except OSError as error:
        raise ConfigurationError(
            f"The state directory {state_dir} cannot be used: {error.strerror}. Choose another with --state-dir."
        ) from error
    if live is not None:
        live.consult(lambda after: partial(_change, client, runner, after, _policy(after, own_addresses)))
    return runner


def _policy(settings: Settings, own_addresses: frozenset[tuple[str, int]]) -> AddressPolicy:
    hosts, networks = parse_allowances(settings.outgoing_allowed)
    return AddressPolicy(
        allowed_hosts=hosts,
        allowed_networks=networks,
        allows_http=settings.outgoing_http,
        own_addresses=own_addresses,
    )


def _change(client: OutgoingClient, runner: TaskRunner, settings: Settings, policy: AddressPolicy) -> None:
    client.policy = policy
    runner.take(settings.tasks)


def addresses_of(sockets: Iterable[socket.socket]) -> frozenset[tuple[str, int]]:
    """Where these listen, as the address policy knows places."""
    names = [listening.getsockname()[:2] for listening in sockets]
    return frozenset((str(ipaddress.ip_address(host.partition("%")[0])), port) for host, port in names)


class TaskMetrics(Collector):
    """The runner's numbers, as they are when somebody asks. Labels: kinds of tasks, and closed sets of outcomes."""

    def __init__(self, runner: TaskRunner) -> None:
        self._runner = runner

    @override
    def collect(self) -> Iterable[Metric]:
        for name, value in self._runner.gauges().items():
            yield GaugeMetricFamily(f"deepserve_{name}", f"{name.replace('_', ': ')} now.", value=value)
        counts = self._runner.counts()
        ended = CounterMetricFamily("deepserve_tasks_ended", "Tasks by how they ended.", labels=("kind", "status"))
        for labels, count in counts["tasks_ended"].items():
            ended.add_metric(labels, count)
        yield ended
        attempts = CounterMetricFamily(
            "deepserve_webhook_attempts",
            "Webhook calls by what followed: delivered, pending (to be tried again), failed (given up).",
            labels=("outcome",),
        )
        for labels, count in counts["webhook_attempts"].items():
            attempts.add_metric(labels, count)
        yield attempts
