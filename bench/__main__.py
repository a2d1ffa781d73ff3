"""Run every measurement, each in its own process, so that one cannot warm or disturb the next; one table at the end.

    python -m bench [--json results.json] [bench.engine_native ...]

The exit code is 1 when a goal is missed or a module breaks.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.results import Section, exit_code, load_sections, save_sections, table

MODULES = (
    "bench.engine_native",
    "bench.engine_python",
    "bench.constrained",
    "bench.constrained_compile",
    "bench.random_answers",
    "bench.flash_layer",
    "bench.engine_reference",
    "bench.server",
    "bench.dialects",
    "bench.gateway",
    "bench.sandbox",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure deepserve against its goals.")
    parser.add_argument("--json", type=Path, help="also write every line to this file")
    parser.add_argument("modules", nargs="*", default=MODULES, help=f"of {', '.join(MODULES)}")
    arguments = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    sections: list[Section] = []
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(arguments.modules):
            path = Path(folder) / f"{number}.json"
            command = [sys.executable, "-m", name, "--json", str(path)]
            code = subprocess.run(command, env=environment, check=False).returncode
            if path.exists():
                sections += load_sections(path)
            else:
                broken.append(f"{name} stopped with {code}")
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(table(sections))
    for fault in broken:
        print(fault)
    if arguments.json is not None:
        save_sections(arguments.json, sections)
    return 1 if broken else exit_code(sections)


if __name__ == "__main__":
    sys.exit(main())
