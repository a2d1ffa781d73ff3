"""The native core under the address and undefined-behaviour sanitizers, fuzzed for a while."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECONDS = 10


def find_runtime(compiler: str, name: str) -> str:
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def compile_object(compiler: str, source: Path, flags: list[str], folder: Path) -> Path:
    path = folder / f"{source.stem}.o"
    command = [compiler, "-std=c++17", "-O0", "-g1", "-fPIC", "-ffp-contract=off", *flags, "-c", str(source)]
    subprocess.run([*command, "-o", str(path)], check=True)
    return path


def build(compiler: str, folder: Path) -> Path:
    """The core with sanitizers, unoptimised, because that is compiled in a quarter of the time."""
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sets = re.findall(r"add_instruction_set\((\w+) (\w+)\s+([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert {name for name, _, _ in sets} == {"avx2", "avx512", "neon"}
    objects = []
    for source in sorted((ROOT / "csrc").glob("*.cpp"), key=lambda path: (path.stem.startswith("isa_"), path)):
        flags = list(sanitize)
        for name, processor, options in sets:
            if source.stem == f"isa_{name}":
                probe = [compiler, *options.split(), "-x", "c++", "-E", "-dM", "/dev/null"]
                macros = subprocess.run(probe, capture_output=True, text=True, check=False).stdout
                flags += options.split() if f"#define {processor} " in macros else [f"-DDS_NO_{name.upper()}"]
        objects.append(str(compile_object(compiler, source, flags, folder)))
    library = folder / "_core.so"
    subprocess.run([compiler, "-shared", *sanitize, *objects, "-lpthread", "-o", str(library)], check=True)
    return library


@pytest.mark.slow
def test_random_calls_find_nothing_under_sanitizers(tmp_path: Path) -> None:
    """Fixed seeds, so that it finds the same every time; `python -m tests.engine.native.fuzz` looks further."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C++ compiler (c++, or what CXX names)")
    runtimes = [find_runtime(compiler, name) for name in ("libasan.so", "libubsan.so")]
    if not all(Path(runtime).is_absolute() for runtime in runtimes):
        pytest.skip(f"{compiler} has no runtime of its sanitizers: libasan and libubsan")
    environment = os.environ | {
        "DEEPSERVE_CORE": str(build(compiler, tmp_path)),
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # so that the sanitizer knows the end of every buffer
    }
    command = [sys.executable, "-m", "tests.engine.native.fuzz", "--seconds", str(SECONDS)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "continuations compared" in done.stdout
