"""llama.cpp as something to compare with: finding or building llama-cpp-python, and a process of it.

It is looked for in the interpreter that DEEPSERVE_LLAMA_PYTHON names, in the one that runs this, and in .venv-llama.
If nobody has it, it is built into .venv-llama, for this very processor, which takes some ten minutes on two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

VERSION = "0.3.36"
OVERRIDE = "DEEPSERVE_LLAMA_PYTHON"
_ROOT = Path(__file__).resolve().parent.parent
_HOME = _ROOT / ".venv-llama"
_BUILD_TIMEOUT_S = 3600


class Seconds(NamedTuple):
    cpu: float
    wall: float


def installed_llama() -> Path | None:
    """A Python that has llama-cpp-python in the version compared with; None where there is none yet."""
    named = os.environ.get(OVERRIDE)
    if named:
        version = _version(Path(named))
        if version != VERSION:
            raise SystemExit(f"{OVERRIDE} names {named}, which has llama-cpp-python {version}, not {VERSION}.")
        return Path(named)
    places = (Path(sys.executable), _HOME / "bin" / "python")
    return next((python for python in places if _version(python) == VERSION), None)


def find_llama() -> Path | None:
    """The same; built if need be, None if that fails."""
    found = installed_llama()
    if found is not None:
        return found
    home = _HOME / "bin" / "python"
    print(f"Building llama-cpp-python {VERSION} into {_HOME.name}; ten minutes on two cores, once.", file=sys.stderr)
    venv.create(_HOME, with_pip=True)
    command = [str(home), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # From source, so that it may use all that this processor has.
    command += ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}"]
    try:
        done = subprocess.run(command, check=False, timeout=_BUILD_TIMEOUT_S).returncode
    except subprocess.TimeoutExpired:
        done = -1
    return home if done == 0 and _version(home) == VERSION else None


def _version(python: Path) -> str | None:
    """Of the llama-cpp-python that an interpreter imports."""
    if not python.exists():
        return None
    done = subprocess.run(
        [python, "-P", "-c", "import llama_cpp; print(llama_cpp.__version__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


class Llama:
    """One process with one model. Its calls are the worker's; they wait for the answer.

    Raises RuntimeError with what llama.cpp says when it refuses something.
    """

    def __init__(self, python: Path, model: Path) -> None:
        self._process = subprocess.Popen(
            [python, "-P", Path(__file__).with_name("llama_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        self.features: str = self._ask("load", path=str(model))

    def __enter__(self) -> Llama:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe(self._process.stdin).close()
        self._process.wait()

    def open(self, num_tokens: int, *, num_sequences: int = 1, exact: bool = False) -> None:
        """A new context for so many tokens in each sequence. exact: float32 states and no fused attention."""
        self._ask("open", num_tokens=num_tokens, num_sequences=num_sequences, exact=exact)

    def clear(self) -> None:
        self._ask("clear")

    def prefill(self, num_tokens: int, sequence: int = 0) -> Seconds:
        return Seconds(*self._ask("prefill", num_tokens=num_tokens, sequence=sequence))

    def decode(self, num_tokens: int) -> Seconds:
        """One token at a time for every sequence of the context."""
        return Seconds(*self._ask("decode", num_tokens=num_tokens))

    def logits(self, tokens: Sequence[int], path: Path) -> None:
        """Write the logits after each token, float32."""
        self._ask("logits", tokens=list(tokens), path=str(path))

    def _ask(self, what: str, **arguments: object) -> Any:  # Any: JSON
        requests, answers = self._pipe(self._process.stdin), self._pipe(self._process.stdout)
        requests.write(json.dumps({"do": what, **arguments}) + "\n")
        requests.flush()
        line = answers.readline()
        if not line:
            raise RuntimeError(f"llama.cpp stopped with {self._process.wait()} while asked to {what}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"llama.cpp: {answer['error']}")
        return answer["result"]

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe
