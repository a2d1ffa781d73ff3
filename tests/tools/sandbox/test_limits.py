"""Programs that take too much: each is stopped or refused, and the next request is answered."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepserve.tools.sandbox.ladder import Sandbox
from deepserve.tools.sandbox.process import Process
from tests.tools.sandbox.conftest import open_sandbox

TIMEOUT_S = 20.0

MIB = 1024 * 1024


@pytest.fixture(scope="module", params=["bubblewrap", "landlock"])
def sandbox(request: pytest.FixtureRequest, python_folder: Path) -> Sandbox:
    """With limits that are soon reached."""
    return open_sandbox(
        python_folder,
        request.param,
        memory_bytes=256 * MIB,
        session_bytes=16 * MIB,
        file_bytes=8 * MIB,
        session_files=500,
        output_read_bytes=256 * 1024,
        output_bytes=64 * 1024,
    )


@pytest.fixture
def process(sandbox: Sandbox) -> Iterator[Process]:
    process = sandbox.tier.start(0)
    yield process
    process.end()


ENDLESS = {
    "a loop": "while True: pass",
    "a loop that catches everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "a large power": "10 ** 10 ** 9",
    "a pattern that backtracks": "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    "waiting": "import time; time.sleep(1e6)",
    "waiting for input that never comes": "import os; reading, _ = os.pipe(); os.read(reading, 1)",
    "a lock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "deaf to signals": "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except OSError: pass\nwhile True: pass",
    "a value that never ends": "class Value:\n    def __repr__(self):\n        while True: pass\nValue()",
    "recursion without a limit": "import sys; sys.setrecursionlimit(10 ** 9)\nf = lambda n: f(n + 1) or 1\n"
    "while True:\n    try: f(0)\n    except BaseException: pass",
    "threads that stay": "import threading\ndef spin():\n    while True: pass\n"
    "for _ in range(3): threading.Thread(target=spin).start()\nwhile True: pass",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_ended(name: str, process: Process) -> None:
    result = process.run(ENDLESS[name], timeout_s=0.3)
    # An interpreter that crashes under it has ended as well.
    assert result.stopped_by is not None
    assert result.stopped_by.startswith(("the time limit of 0.3 s", "a crash"))
    assert process.has_ended


def test_processor_time_is_limited_too(python_folder: Path) -> None:
    sandbox = open_sandbox(python_folder, "auto", cell_cpu_s=0.2)
    process = sandbox.tier.start(0)
    assert process.run("while True: pass", timeout_s=TIMEOUT_S).stopped_by == "the limit of 0.2 s of processor time"
    assert process.has_ended


def test_the_processor_time_of_a_session_ends_even_what_nobody_watches(python_folder: Path) -> None:
    sandbox = open_sandbox(python_folder, "landlock", cell_s=120.0, cell_cpu_s=60.0, session_cpu_s=1.0)
    process = sandbox.tier.start(0)
    assert process.run("while True: pass", timeout_s=120.0).stopped_by == "the limit of processor time of a session"


REFUSED = {
    "a large block": ("bytearray(1 << 30)", "MemoryError"),
    "memory bit by bit": ("blocks = []\nwhile True: blocks.append(bytearray(1 << 20))", "MemoryError"),
    "a large text": ("'x' * (1 << 40)", "MemoryError"),
    "address space": ("import mmap; mmap.mmap(-1, 1 << 30)", "Cannot allocate memory"),
    "locked memory": (
        "import ctypes, mmap; memory = mmap.mmap(-1, 1 << 20)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))), 1 << 20):\n"
        "    raise MemoryError(ctypes.get_errno())",
        "MemoryError",
    ),
    "threads": (
        "import threading\nthreading.stack_size(32768); event = threading.Event()\n"
        "try:\n    for _ in range(200): threading.Thread(target=event.wait).start()\nfinally: event.set()",
        "can't start new thread",
    ),
    "descriptors": ("kept = [open('a', 'w') for _ in range(100)]", "Too many open files"),
    "a large file": ("open('a', 'wb').write(bytes(9 << 20))", "File too large"),
    "a file with holes": ("open('a', 'wb').truncate(1 << 40)", "File too large"),
    "deep recursion": ("f = lambda: f()\nf()", "RecursionError"),
    "a deep expression": ("(" * 100_000, "too many nested parentheses"),
    "a deep document": ("import json; json.loads('[' * 100_000)", "RecursionError"),
    "null bytes in it": ("a = '\0'", "null bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_too_large_is_an_error_of_the_program(name: str, process: Process) -> None:
    code, complaint = REFUSED[name]
    result = process.run(code, timeout_s=TIMEOUT_S)
    assert (result.stopped_by, result.exit_code) == (None, 1)
    assert complaint in result.stderr
    assert process.run("1 + 1", timeout_s=TIMEOUT_S).value == "2"


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        ("for n in range(3000): open(str(n), 'w').close()", "the limit of 500 files"),
        ("for n in range(3000): os.mkdir(str(n))", "the limit of 500 files"),
        ("for n in range(3000): os.mkdir('d'); os.chdir('d')", "the limit of 500 files"),
    ],
)
def test_many_files_end_the_session(code: str, limit: str, process: Process) -> None:
    assert process.run(f"import os\n{code}", timeout_s=TIMEOUT_S).stopped_by == limit
    assert process.has_ended


def test_a_full_folder_is_an_error_or_the_end(sandbox: Sandbox, process: Process) -> None:
    code = "for n in range(40): open(str(n), 'wb').write(bytes(1 << 20))"
    result = process.run(code, timeout_s=TIMEOUT_S)
    if sandbox.tier.name == "bubblewrap":
        assert "No space left on device" in result.stderr
    else:
        assert result.stopped_by == "the limit of 16 MiB of files"


def test_a_flood_of_output_is_cut_and_then_ended(process: Process) -> None:
    result = process.run("print('a' * 100_000)", timeout_s=TIMEOUT_S)
    assert result.stopped_by is None
    assert result.stdout == "a" * 48 * 1024 + f"\n[{100_001 - 48 * 1024:,} bytes were left out]\n"
    result = process.run("while True: print('a' * 1000)", timeout_s=TIMEOUT_S)
    assert result.stopped_by == "the limit of 256 KiB of output"
    assert len(result.stdout) < 50_000


def test_of_a_flood_of_complaints_the_end_is_kept(process: Process) -> None:
    result = process.run("import sys; sys.stderr.write('a' * 100_000); 1 / 0", timeout_s=TIMEOUT_S)
    assert result.stderr.startswith("[")
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert len(result.stderr) < 20_000


def test_a_long_value_is_cut(process: Process) -> None:
    value = process.run("'a' * 1_000_000", timeout_s=TIMEOUT_S).value
    assert value is not None
    assert value.startswith("'aaa")
    assert value.endswith(" [the rest was left out]")
    assert len(value) < 40_000


def test_too_many_and_too_large_files_are_left_out_by_number(process: Process) -> None:
    code = "for n in range(12): open(f'{n:02}', 'w').write('x')\nopen('large', 'wb').write(bytes(2 << 20))"
    result = process.run(code, timeout_s=TIMEOUT_S)
    assert [name for name, _ in result.files] == [f"{n:02}" for n in range(10)]
    assert result.stderr.startswith("[files left out: 3; at most 10 of 1024 KiB each are sent back, ")


ENDS = {
    "its own end": ("import os; os._exit(3)", "its own wish, with exit code 3"),
    "a crash": ("import ctypes; ctypes.string_at(1)", "a crash (SIGSEGV)"),
    "an abort": ("import os; os.abort()", "a crash (SIG"),
    # A server with many files open hands over a high number.
    "its way out closed": (
        "import os; os.closerange(3, 4096)\nwhile True: pass",
        "it closed the way its answers take",
    ),
    "an answer of its own": (
        "import os\nfor n in range(3, 4096):\n    try: os.write(n, b'\\0\\0\\0\\2{}')\n    except OSError: pass",
        "it answered in a form that is not its own",
    ),
    "an endless answer": (
        "import os\nfor n in range(3, 4096):\n    try: os.write(n, b'\\xff' * 1000)\n    except OSError: pass",
        "it answered in a form that is not its own",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_process_that_ends_says_how(name: str, process: Process) -> None:
    code, reason = ENDS[name]
    result = process.run(f"print('before', flush=True)\n{code}", timeout_s=TIMEOUT_S)
    assert result.stopped_by is not None
    assert result.stopped_by.startswith(reason)
    assert result.stdout == "before\n"
    assert process.has_ended


def test_nothing_runs_between_cells(process: Process) -> None:
    code = "import threading, time\nticks = []\ndef tick():\n    while True: ticks.append(1)\n"
    process.run(f"{code}threading.Thread(target=tick, daemon=True).start()", timeout_s=TIMEOUT_S)
    state = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + TIMEOUT_S
    while state.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
    assert process.run("len(ticks) > 0", timeout_s=TIMEOUT_S).value == "True"


def test_a_hundred_sessions_of_each_kind_leave_nothing_behind(sandbox: Sandbox) -> None:
    folders = [path for path in Path("/tmp").iterdir() if path.name.startswith("deepserve-code-")]
    descriptors = os.listdir("/proc/self/fd")
    others = _children(os.getpid())
    for number in range(100):
        process = sandbox.tier.start(number % 8)
        if number % 3 == 0:
            process.run("open('file', 'w').write('x')", timeout_s=TIMEOUT_S)
        if number % 3 == 1:
            process.kill()
        process.end()
    assert _children(os.getpid()) <= others
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    assert [path for path in Path("/tmp").iterdir() if path.name.startswith("deepserve-code-")] == folders


def _children(pid: int) -> set[int]:
    """Processes begun by this one, dead ones too that nobody has waited for."""
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    return {number for number, parent in parents.items() if parent == pid}
