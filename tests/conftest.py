"""Fixtures that many tests share."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepserve import __file__ as package_file
from deepserve.engine.native.shared_library import find_library
from tests.databases import postgres_place as postgres_place
from tests.databases import postgres_server as postgres_server
from tests.databases import postgres_tables as postgres_tables

# The settings of whoever runs the tests are none of theirs.
os.environ["DEEPSERVE_CONFIG"] = os.devnull

MINI_FLASH = Path(package_file).parent / "models" / "mini-flash"


@contextlib.contextmanager
def running_server(*arguments: str, state_dir: Path, is_killed: bool = False) -> Iterator[str]:
    """Run `deepserve serve` as a user would; yields its base URL once it is ready.

    is_killed: at the end, without warning
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    log = state_dir / "server.log"
    command = [sys.executable, "-m", "deepserve", "serve", "--port", str(port), "--state-dir", str(state_dir)]
    with (
        log.open("w") as output,
        subprocess.Popen([*command, *arguments], stdout=output, stderr=output, env=os.environ) as process,
    ):
        try:
            while process.poll() is None:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    if urllib.request.urlopen(f"{base}/ready").status == 200:
                        break
            assert process.poll() is None, log.read_text()
            yield base
        finally:
            if is_killed:
                process.kill()
            else:
                process.terminate()
            process.wait()


@pytest.fixture(scope="session")
def scripted_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server("--backend", "scripted", state_dir=tmp_path_factory.mktemp("scripted")) as base:
        yield base


@pytest.fixture(scope="session")
def mini_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the model that ships."""
    if find_library() is None:
        pytest.importorskip("torch", reason="the shipped model needs the native core or deepserve[reference]")
    with running_server(state_dir=tmp_path_factory.mktemp("mini")) as base:
        yield base
