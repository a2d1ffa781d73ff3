"""Starting and stopping."""

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.server import run
from deepserve.server.run import bind
from deepserve.store.database import clock_difference_s, open_database
from tests.server.live import PATIENCE_S


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_are_let_in_only_with_keys(host: str) -> None:
    with pytest.raises(ConfigurationError, match="Without API keys"):
        bind(Settings(host=host, port=0), has_keys=False)


def test_a_port_in_use_is_said_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"Port {port} on 127.0.0.1 is in use"):
            bind(Settings(port=port), has_keys=False)


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("192.0.2.1", 0, "not an address of this machine"),
        ("127.0.0.1", 99_999, "99999 is not a port"),
        ("a..b", 0, "a..b"),
    ],
)
def test_impossible_addresses_are_said_in_words(host: str, port: int, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        bind(Settings(host=host, port=port), has_keys=True)


def test_loopback_addresses_can_be_bound_without_keys() -> None:
    with bind(Settings(host="127.0.0.2", port=0), has_keys=False) as listening:
        assert listening.getsockname()[0] == "127.0.0.2"


_PROGRAM = """
from deepserve.backends.scripted import ScriptedBackend
from deepserve.config import Settings
from deepserve.server.run import serve

class Told(ScriptedBackend):
    async def close(self):
        await super().close()
        print("closed", flush=True)

serve(Settings(port=0), Told(), on_ready=lambda address, _: print(address, flush=True))
print("returned", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_and_closes_the_back_end(number: signal.Signals) -> None:
    command = [sys.executable, "-c", _PROGRAM]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_S + 10)
    assert output == "closed\nreturned\n"
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(("minutes", "said"), [(5, "300 s ahead of"), (-5, "300 s behind"), (0, None)])
def test_a_clock_that_differs_from_the_databases_is_told_of(
    minutes: int,
    said: str | None,
    postgres_place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = open_database(postgres_place)
    difference_s = clock_difference_s(database, datetime.now(UTC))
    monkeypatch.setattr(run, "clock_difference_s", lambda *_: difference_s + 60 * minutes)
    run._compare_clocks(database, Settings())
    database.dispose()
    assert said in caplog.text if said else not caplog.records
