"""Starting and stopping."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.server.run import bind
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
