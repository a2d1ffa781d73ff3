"""SGLang's router, written in Rust, as something to compare with: finding or installing it, and a process of it.

It is looked for in .venv-router and installed there if nobody has done so: the package `sglang-router`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

VERSION = "0.3.2"
_HOME = Path(__file__).resolve().parent.parent / ".venv-router"
_INSTALL_TIMEOUT_S = 600
_START_TIMEOUT_S = 60.0


def find_router() -> Path | None:
    """A Python that has it; installed if need be, None if that fails."""
    home = _HOME / "bin" / "python"
    if _version(home) == VERSION:
        return home
    print(f"Installing sglang-router {VERSION} into {_HOME.name}; a minute, once.", file=sys.stderr)
    venv.create(_HOME, with_pip=True)
    command = [str(home), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"sglang-router=={VERSION}"]
    try:
        done = subprocess.run(command, check=False, timeout=_INSTALL_TIMEOUT_S).returncode
    except subprocess.TimeoutExpired:
        done = -1
    return home if done == 0 and _version(home) == VERSION else None


def _version(python: Path) -> str | None:
    if not python.exists():
        return None
    code = "from importlib.metadata import version; print(version('sglang-router'))"
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


@contextlib.contextmanager
def running_router(python: Path, port: int, metrics_port: int, upstream: str) -> Iterator[int]:
    """The router before one worker, taking turns; yields its process id once it answers."""
    command = [str(python), "-P", "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", upstream, "--policy", "round_robin", "--log-level", "error"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port)]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            _wait_until_ready(port, process)
            yield process.pid
        finally:
            process.terminate()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readiness")
            if connection.getresponse().status == 200:
                return
        connection.close()
        if process.poll() is not None:
            raise SystemExit(f"sglang-router stopped with {process.returncode}")
        time.sleep(0.1)
    raise SystemExit("sglang-router did not become ready")
