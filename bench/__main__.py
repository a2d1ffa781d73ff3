"""Run every measurement, each in its own process, so that one cannot warm or disturb the next."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

MODULES = ("bench.engine_reference", "bench.server")


def main() -> int:
    names = sys.argv[1:] or MODULES
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, one compute thread\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    codes = [subprocess.run([sys.executable, "-m", name], env=environment, check=False).returncode for name in names]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
