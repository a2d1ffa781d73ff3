"""LiteLLM's proxy as something to compare with: finding or installing it, and a process of it before one of ours.

It is looked for in the interpreter that DEEPSERVE_LITELLM_PYTHON names and in .venv-litellm. If nobody has it, it is
installed there, which takes a minute or two.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx

VERSION = "1.106.2"
OVERRIDE = "DEEPSERVE_LITELLM_PYTHON"
_HOME = Path(__file__).resolve().parent.parent / ".venv-litellm"
_INSTALL_TIMEOUT_S = 600
_START_TIMEOUT_S = 90.0
_NO_HOST = "http://127.0.0.1:9"


def installed_litellm() -> Path | None:
    """A Python that has LiteLLM in the version compared with; None where there is none yet."""
    named = os.environ.get(OVERRIDE)
    if named:
        version = _version(Path(named))
        if version != VERSION:
            raise SystemExit(f"{OVERRIDE} names {named}, which has LiteLLM {version}, not {VERSION}.")
        return Path(named)
    home = _HOME / "bin" / "python"
    return home if _version(home) == VERSION else None


def find_litellm() -> Path | None:
    """The same; installed if need be, None if that fails."""
    found = installed_litellm()
    if found is not None:
        return found
    home = _HOME / "bin" / "python"
    print(f"Installing LiteLLM {VERSION} into {_HOME.name}; a minute or two, once.", file=sys.stderr)
    venv.create(_HOME, with_pip=True)
    command = [
        str(home),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        f"litellm[proxy]=={VERSION}",
    ]
    try:
        done = subprocess.run(command, check=False, timeout=_INSTALL_TIMEOUT_S).returncode
    except subprocess.TimeoutExpired:
        done = -1
    return home if done == 0 and _version(home) == VERSION else None


def _version(python: Path) -> str | None:
    if not python.exists():
        return None
    code = "from importlib.metadata import version; print(version('litellm'))"
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


@contextlib.contextmanager
def running_litellm(python: Path, port: int, upstream: str, model: str) -> Iterator[tuple[int, str]]:
    """The proxy with one worker, no database and nothing to log; yields its process id and its key once it answers."""
    key = f"sk-{secrets.token_hex(32)}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        route = {"model": f"openai/{model}", "api_base": f"{upstream}/v1", "api_key": "any"}
        # JSON is YAML.
        config.write_text(json.dumps({"model_list": [{"model_name": model, "litellm_params": route}]}))
        command = [str(python), "-P", "-m", "litellm.proxy.proxy_cli", "--config", str(config), "--port", str(port)]
        environment = {
            **os.environ,
            "LITELLM_MASTER_KEY": key,
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "HTTPS_PROXY": _NO_HOST,  # it is to call nobody but the server behind it
            "NO_PROXY": "127.0.0.1",
        }
        with subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--num_workers", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=folder,
        ) as process:
            try:
                _wait_until_ready(f"http://127.0.0.1:{port}/health/liveliness", process)
                yield process.pid, key
            finally:
                process.terminate()


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(address).status_code == 200:
                return
        if process.poll() is not None:
            raise SystemExit(f"LiteLLM stopped with {process.returncode}")
        time.sleep(0.1)
    raise SystemExit("LiteLLM did not become ready")
