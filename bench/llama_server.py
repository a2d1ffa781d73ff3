"""llama.cpp's own HTTP server, built from the release that `llama.py` names, and a process of it.

It lies beside that release: in .venv-llama, or wherever the interpreter is that DEEPSERVE_LLAMA_PYTHON names.

    python -m bench.llama_server        builds it where it is missing; a minute or two, after llama-cpp-python itself
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.llama import VERSION, find_llama, installed_llama

_START_TIMEOUT_S = 60.0
_RECIPE = Path(__file__).with_name("llama_server")


def installed_llama_server() -> Path | None:
    """The program; None where nobody has built it."""
    python = installed_llama()
    if python is None:
        return None
    program = _program(python)
    return program if program.exists() else None


def find_llama_server() -> Path | None:
    """The same; built if need be, None where llama-cpp-python cannot be."""
    python = find_llama()
    if python is None:
        return None
    program = _program(python)
    if not program.exists():
        print(f"Building llama.cpp's server beside llama-cpp-python {VERSION}; a minute or two, once.", file=sys.stderr)
        with tempfile.TemporaryDirectory() as name:
            _build(python, program, Path(name))
    return program


def _program(python: Path) -> Path:
    return python.parent / f"llama-server-{VERSION}"


def _build(python: Path, program: Path, folder: Path) -> None:
    archive = ["--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}", "--dest", str(folder)]
    pip = [str(python), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *archive], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as packed:
        packed.extractall(folder, filter="data")
    source = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-P", "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    build = folder / "build"
    where = ["-S", str(_RECIPE), "-B", str(build), f"-DLLAMA_SOURCE={source}", f"-DLLAMA_INSTALLED={site}"]
    subprocess.run(["cmake", *where], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1)], check=True)
    (build / "llama-server").rename(program)


@contextlib.contextmanager
def running_llama_server(program: Path, model: Path, port: int, *, alias: str, num_slots: int = 2) -> Iterator[str]:
    """One process that always draws the likeliest token; yields its address once it answers."""
    command = [str(program), "--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--alias", alias]
    command += ["--ctx-size", str(8192 * num_slots), "--parallel", str(num_slots), "--threads", "1", "--jinja"]
    with _running([*command, "--temp", "0", "--offline"], f"http://127.0.0.1:{port}", "/health") as address:
        yield address


def has_python_server(python: Path) -> bool:
    """Whether llama-cpp-python's own server can run there: what it needs is an extra of that package."""
    done = subprocess.run([python, "-P", "-c", "import llama_cpp.server.app"], capture_output=True, check=False)
    return done.returncode == 0


@contextlib.contextmanager
def running_python_server(python: Path, model: Path, port: int, *, alias: str) -> Iterator[str]:
    """llama-cpp-python's own server, which is another program with another protocol than llama.cpp's."""
    command = [str(python), "-P", "-m", "llama_cpp.server", "--model", str(model), "--model_alias", alias]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "4096", "--n_threads", "1"]
    with _running(command, f"http://127.0.0.1:{port}", "/v1/models") as address:
        yield address


@contextlib.contextmanager
def _running(command: list[str], address: str, ready_path: str) -> Iterator[str]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(address + ready_path, process)
            yield address
        finally:
            process.terminate()


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(address).status_code == 200:
                return
        if process.poll() is not None:
            raise RuntimeError(f"llama.cpp's server stopped with {process.returncode}")
        time.sleep(0.05)
    raise RuntimeError("llama.cpp's server did not become ready")


if __name__ == "__main__":
    found = find_llama_server()
    raise SystemExit(f"It is {found}." if found is not None else "llama-cpp-python could not be built.")
