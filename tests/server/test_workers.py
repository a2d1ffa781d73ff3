"""Several processes at one address: begun, found again, ended, and counted together."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select

from deepserve.cli import main
from deepserve.config import Settings
from deepserve.server.run import bind, with_own_users
from deepserve.server.worker_metrics import merge
from deepserve.server.workers import Supervisor, Worker, _Child
from deepserve.store.database import open_database
from deepserve.store.tables import ledger
from tests.conftest import running_server
from tests.server.live import HELLO, PATIENCE_S


class Ready(NamedTuple):
    number: int
    process: int
    address: str


class Program:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, "the program has ended"
        return line

    def ready(self) -> Ready:
        word, number, process, address = self.line().split()
        assert word == "ready"
        return Ready(int(number), int(process), address)


@contextlib.contextmanager
def program(place: Path, count: int, *more: str) -> Iterator[Program]:
    command = [sys.executable, "-m", "tests.server.worker_program", str(place), str(count), *more]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)}
    ) as process:
        watchdog = threading.Timer(3 * PATIENCE_S, process.kill)
        watchdog.start()
        try:
            yield Program(process)
        finally:
            watchdog.cancel()
            if process.poll() is None:
                process.terminate()
            process.communicate()


def ask(address: str, headers: Mapping[str, str] | None = None) -> int:
    """With a connection of its own, which any worker may take."""
    return httpx.post(f"{address}/chat/completions", json=HELLO, headers=headers, timeout=PATIENCE_S).status_code


def counts(address: str) -> dict[str, float]:
    """Answered requests by worker."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{address}/metrics", timeout=PATIENCE_S).text):
        for sample in family.samples:
            assert "worker" in sample.labels
            if sample.name == "deepserve_requests_total":
                found[sample.labels["worker"]] = found.get(sample.labels["worker"], 0) + sample.value
    return found


def test_all_workers_answer_at_one_address_and_are_counted_together(tmp_path: Path) -> None:
    with program(tmp_path, 3) as running:
        ready = [running.ready() for _ in range(3)]
        assert sorted(one.number for one in ready) == [0, 1, 2]
        assert len({one.process for one in ready}) == 3
        (address,) = {one.address for one in ready}
        assert [ask(address) for _ in range(30)] == [200] * 30
        assert sum(counts(address).values()) == 30
        assert counts(address) == counts(address), "whoever is asked"
        again = {ask(address, headers={"idempotency-key": "k"}) for _ in range(10)}
        assert again == {200}
        assert sum(counts(address).values()) == 31, "whoever answered first"
    database = open_database(tmp_path)
    with database.connect() as connection:
        assert connection.execute(select(func.count()).select_from(ledger)).scalar() == 31


def test_a_worker_that_dies_is_begun_again_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with program(tmp_path, 2) as running:
        first, second = running.ready(), running.ready()
        os.kill(first.process, signal.SIGKILL)
        assert [ask(first.address) for _ in range(5)] == [200] * 5
        again = running.ready()
        assert (again.number, again.address) == (first.number, first.address)
        assert again.process not in (first.process, second.process)
        assert [ask(first.address) for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_workers_and_the_supervisor_last(number: signal.Signals, tmp_path: Path) -> None:
    with program(tmp_path, 2) as running:
        for _ in range(2):
            running.ready()
        running.process.send_signal(number)
        output, errors = running.process.communicate(timeout=PATIENCE_S)
    assert sorted(output.splitlines()[:2]) == ["ended 0", "ended 1"]
    assert (output.splitlines()[2:], errors, running.process.returncode) == (["returned"], "", 0)


def test_what_asks_for_a_reload_is_passed_on_to_every_worker(tmp_path: Path) -> None:
    with program(tmp_path, 2, "listens") as running:
        for _ in range(2):
            running.ready()
        for _ in range(2):
            running.process.send_signal(signal.SIGHUP)
            assert sorted(running.line() for _ in range(2)) == ["heard 0", "heard 1"]


def test_workers_that_lose_their_supervisor_end(tmp_path: Path) -> None:
    with program(tmp_path, 2) as running:
        address = running.ready().address
        running.ready()
        running.process.kill()
        assert sorted(running.line() for _ in range(2)) == ["ended 0", "ended 1"]
        with pytest.raises(httpx.ConnectError):
            ask(address)
    assert not list(tmp_path.glob("deepserve-workers-*")), "nothing is left behind"


def test_a_fault_that_every_worker_meets_at_its_start_ends_the_server(tmp_path: Path) -> None:
    with program(tmp_path, 2, "refuses") as running:
        output, errors = running.process.communicate(timeout=PATIENCE_S)
    assert "Error: This worker cannot begin." in errors
    assert errors.strip().endswith("No worker could begin; what they said about it stands above.")
    assert (output, running.process.returncode) == ("", 1)


def test_the_command_begins_workers_and_prints_one_banner(tmp_path: Path) -> None:
    with running_server("--backend", "scripted", "--workers", "2", state_dir=tmp_path) as base:
        assert [ask(base) for _ in range(4)] == [200] * 4
        assert sum(counts(base).values()) == 4
    assert (tmp_path / "server.log").read_text().count("answered by") == 1


def test_our_own_engine_is_not_shared_by_workers(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["serve", "--workers", "2", "--state-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "2 workers cannot share our own engine" in result.output


def test_connections_do_not_wait_to_fill_a_packet() -> None:
    """Shared sockets do not always tell what they are, and then nobody sets it on their connections."""
    with bind(Settings(port=0), has_keys=False) as listening:
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        listening.setblocking(True)
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_metrics_of_workers_stand_together_each_with_its_label() -> None:
    one = b'# HELP a_total A.\n# TYPE a_total counter\na_total{model="{"} 1.0\n# HELP b B.\n# TYPE b gauge\nb 2.0\n'
    other = b'# HELP a_total A.\n# TYPE a_total counter\na_total{model="x"} 5.0\n# HELP c C.\n# TYPE c gauge\nc 3.0\n'
    assert merge({0: one, 2: other}).decode().splitlines() == [
        *("# HELP a_total A.", "# TYPE a_total counter"),
        *('a_total{worker="0",model="{"} 1.0', 'a_total{worker="2",model="x"} 5.0'),
        *("# HELP b B.", "# TYPE b gauge", 'b{worker="0"} 2.0'),
        *("# HELP c C.", "# TYPE c gauge", 'c{worker="2"} 3.0'),
    ]


def test_a_worker_that_keeps_dying_is_begun_again_ever_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And one that had lived for long at once."""
    now = [0.0]
    begun: list[float] = []
    supervisor = Supervisor(1, lambda _: None, grace_s=1.0, clock=lambda: now[0])
    supervisor._has_answered = True

    def begin(number: int, *_: object) -> None:
        begun.append(now[0])
        news, other = os.pipe()
        os.close(other)
        supervisor._children[1] = _Child(number=number, process=1, news=news, begun_at=now[0])

    def die() -> None:
        supervisor._bury()
        while supervisor._due:
            now[0] = min(supervisor._due.values())
            supervisor._begin_due(tmp_path, 0, 0)

    monkeypatch.setattr(supervisor, "_begin", begin)
    monkeypatch.setattr(os, "waitpid", lambda process, _: (process, 9))
    begin(0)
    for _ in range(8):
        die()
    pauses = [after - before for before, after in itertools.pairwise(begun)]
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    now[0] += 31.0
    die()
    assert begun[-1] - begun[-2] == 31.0
    os.close(supervisor._children[1].news)


def test_programs_of_different_workers_run_as_different_users(tmp_path: Path) -> None:
    """Else what one worker runs for its client could reach into the files of another's."""
    settings = Settings()
    ranges = []
    for number in range(3):
        worker = Worker(is_first=False, number=number, count=3, folder=tmp_path, lifeline=0, tell=lambda: None)
        first = with_own_users(settings, worker).code.first_uid
        ranges.append(range(first, first + settings.code.max_sessions + settings.code.waiting))
    assert ranges[0].start == settings.code.first_uid
    assert all(before.stop <= after.start for before, after in itertools.pairwise(ranges))
