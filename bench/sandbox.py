"""The code tool: how long programs wait for their walls, and what these cost while they run.

python -m bench.sandbox
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.bandwidth import bandwidth_probe
from bench.results import Recorder
from deepserve.config import CodeLimits, SandboxTier
from deepserve.tools.sandbox.ladder import NoSandbox, Sandbox, choose_sandbox
from deepserve.tools.sandbox.process import Process

TIERS: tuple[SandboxTier, ...] = ("bubblewrap", "landlock")
NUM_STARTS = 21
NUM_CELLS = 201
TIMEOUT_S = 60.0
LOOP = "total = 0\nfor n in range(1_000_000):\n    total += n\n"
TIMED_LOOP = f"import time\nbegan = time.perf_counter()\n{LOOP}print(time.perf_counter() - began)"
PLOT = "import matplotlib.pyplot as plt\nplt.plot(range(100))"


def main() -> int:
    recorder = Recorder("Programs of models, behind walls", probe=bandwidth_probe())
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for tier in TIERS:
            began = time.perf_counter()
            sandbox = choose_sandbox(CodeLimits(tier=tier, folder=Path(folder)), clock=time.monotonic)
            took_s = time.perf_counter() - began
            if isinstance(sandbox, NoSandbox):
                recorder.note(f"{tier} was not measured: {sandbox.reason}")
                continue
            first = tier == TIERS[0]
            recorder.add(f"{tier}: tried out{', Python copied' if first else ''}", took_s, "s", details="once")
            measure(sandbox, recorder)
    recorder.probe()
    command = [sys.executable, "-I", "-c", TIMED_LOOP]
    times = [float(subprocess.check_output(command)) for _ in range(5)]
    recorder.add("no walls: a loop of a million steps", statistics.median(times) * 1e3, "ms")
    return recorder.finish()


def measure(sandbox: Sandbox, recorder: Recorder) -> None:
    name = sandbox.tier.name

    def tell(what: str, values: list[float]) -> None:
        details = f"median of {len(values)}, {min(values) * 1e3:.3g} to {max(values) * 1e3:.3g}"
        recorder.add(f"{name}: {what}", statistics.median(values) * 1e3, "ms", details=details)

    def in_new_process(use: Callable[[Process], float]) -> list[float]:
        recorder.probe()
        values = []
        for _ in range(NUM_STARTS):
            process = sandbox.tier.start(0)
            values.append(use(process))
            process.end()
        return values

    recorder.probe()
    tell("a process, started and ended", [timed(lambda: sandbox.tier.start(0).end()) for _ in range(NUM_STARTS)])
    tell("importing numpy", in_new_process(lambda process: cell_s(process, "import numpy")))
    tell("a first plot", in_new_process(lambda process: cell_s(process, PLOT)))
    process = sandbox.tier.start(0)
    resident = next(line for line in status(process) if line.startswith("VmRSS"))
    recorder.add(f"{name}: memory of a waiting process", int(resident.split()[1]) / 1024, "MiB")
    recorder.probe()
    tell("a cell in a waiting process", [cell_s(process, "1 + 1") for _ in range(NUM_CELLS)])
    cell_s(process, PLOT)
    recorder.probe()
    tell("another plot", [cell_s(process, PLOT) for _ in range(NUM_STARTS)])
    recorder.probe()
    tell("a loop of a million steps", [float(run(process, TIMED_LOOP)) for _ in range(5)])
    process.end()


def status(process: Process) -> list[str]:
    return Path(f"/proc/{process.pid}/status").read_text().splitlines()


def run(process: Process, code: str) -> str:
    result = process.run(code, timeout_s=TIMEOUT_S)
    if result.exit_code:
        raise RuntimeError(result.stderr or result.stopped_by)
    return result.stdout


def cell_s(process: Process, code: str) -> float:
    return timed(lambda: run(process, code))


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
