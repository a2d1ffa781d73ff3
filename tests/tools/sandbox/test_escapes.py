"""Everything that programs in the sandbox must not manage, tried in both kinds, of root's and of a user's server."""

from __future__ import annotations

import grp
import json
import os
import platform
import pwd
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepserve import __file__ as package_file
from deepserve.tools.sandbox.ladder import Sandbox
from deepserve.tools.sandbox.launch import user_for
from deepserve.tools.sandbox.process import Process, StartFailed
from deepserve.tools.sandbox.runtime import prepare_runtime
from tests.tools.sandbox.attempts import ATTEMPTS, PRELUDE, RAW, cell

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the system calls are numbered for x86-64")

TIMEOUT_S = 20.0


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file outside that everybody could read and write, were it not for the walls."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        path = Path(folder) / "secret"
        path.write_text("secret")
        path.chmod(0o666)
        yield path


def test_no_attempt_gets_through_and_the_session_goes_on(process: Process, secret: Path) -> None:
    before = _state(secret)
    process.run(PRELUDE, timeout_s=TIMEOUT_S)
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {"secret": str(secret), "source": package_file, "pid": os.getpid(), "port": server.getsockname()[1]}
        for name, attempt in ATTEMPTS.items():
            result = process.run(cell(attempt, **names), timeout_s=TIMEOUT_S)
            assert (result.stdout, result.stderr, result.stopped_by) == ("refused\n", "", None), name
    assert process.run("1 + 1", timeout_s=TIMEOUT_S).value == "2"
    assert _state(secret) == before
    assert secret.read_text() == "secret"
    assert [path.name for path in secret.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize("name", RAW)
def test_calls_by_other_numbers_end_the_process(name: str, process: Process) -> None:
    process.run(PRELUDE, timeout_s=TIMEOUT_S)
    result = process.run(RAW[name], timeout_s=TIMEOUT_S)
    assert result.stopped_by == "a system call that is not allowed here"
    assert result.stdout == ""


def test_nothing_of_the_server_is_in_its_environment(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    names = process.run("import os; print(*sorted(os.environ))", timeout_s=TIMEOUT_S).stdout.split()
    allowed = {"HOME", "LANG", "LD_LIBRARY_PATH", "MPLBACKEND", "MPLCONFIGDIR", "OMP_NUM_THREADS"}
    assert set(names) <= allowed | {"OPENBLAS_NUM_THREADS", "PATH", "PWD", "TMPDIR"}


def test_nothing_runs_as_root(sandbox: Sandbox, process: Process) -> None:
    assert (
        "0" not in process.run("import os; print(*os.getresuid(), *os.getresgid())", timeout_s=TIMEOUT_S).stdout.split()
    )
    if os.geteuid() == 0:
        # Not only by another name: this is how the kernel sees it from outside.
        assert os.stat(f"/proc/{process.pid}").st_uid >= sandbox.limits.first_uid


def test_users_and_groups_that_exist_are_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: _only({64_701}, uid))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: _only({64_702}, gid))
    assert [user_for(slot, 64_700) for slot in range(3)] == [64_700, 64_703, 64_704]
    with pytest.raises(StartFailed, match="not enough unused user numbers"):
        user_for(2, 65_531)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert user_for(0, 64_700) is None


def _only(taken: set[int], number: int) -> int:
    if number not in taken:
        raise KeyError(number)
    return number


def test_programs_come_after_the_model(process: Process) -> None:
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 10
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"


def test_only_what_is_offered_can_be_imported(process: Process) -> None:
    for name in ("deepserve", "msgspec", "pytest", "pip", "aiohttp"):
        assert process.run(f"import {name}", timeout_s=TIMEOUT_S).stderr.endswith(f"No module named '{name}'\n")


def test_a_link_in_the_folder_brings_nothing_back(process: Process, secret: Path) -> None:
    code = f"import os; os.symlink({str(secret)!r}, 'a'); os.symlink('/etc/passwd', 'b'); open('c', 'w').write('mine')"
    result = process.run(code, timeout_s=TIMEOUT_S)
    assert result.files == (("c", b"mine"),)


def test_folders_and_strange_names_bring_nothing_back(process: Process) -> None:
    code = """
import os
os.mkdir("folder")
for name in ["a\\nb", "\\x1b[2J", "\\udcff", "back\\\\slash", "ü" * 127, ".hidden"]:
    open(name, "w").write(name[:1] if name.isprintable() else "")
"""
    result = process.run(code, timeout_s=TIMEOUT_S)
    assert [name for name, _ in result.files] == ["ü" * 127]
    assert (
        "files left out: 4; at most 10 of 1024 KiB each are sent back, and none whose name cannot be shown"
        in result.stderr
    )


def test_a_plain_users_server_is_as_safe(python_folder: Path, secret: Path) -> None:
    """A server that is not root cannot start its programs as somebody else: then they are its own user."""
    if os.geteuid() != 0:
        pytest.skip("this is a plain user's already")
    uid = 64_600
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        own = Path(folder) / "own"
        own.mkdir()
        packages = Path(folder) / "packages"
        packages.mkdir()
        os.chown(own, uid, uid)
        os.chown(secret, uid, uid)
        os.chown(secret.parent, uid, uid)
        command, environment = _plain_python(python_folder, packages)
        command += ["-m", "tests.tools.sandbox.plain_user", str(own), str(secret)]
        done = subprocess.run(
            command, env=environment, cwd="/", user=uid, group=uid, extra_groups=[], capture_output=True, text=True
        )
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["uid"] == uid
    for tier in ("bubblewrap", "landlock"):
        outcomes = told[tier]
        if isinstance(outcomes, str) and not os.environ.get("CI"):
            pytest.skip(f"{tier}: {outcomes}")
        assert {name for name, outcome in outcomes.items() if outcome != "refused"} == set(), tier
        assert set(outcomes) == set(ATTEMPTS)
    assert secret.read_text() == "secret"


def _state(path: Path) -> tuple[object, ...]:
    status = path.stat()
    return status.st_mode, status.st_uid, status.st_mtime_ns, status.st_size, os.listxattr(path)


def _plain_python(python_folder: Path, packages: Path) -> tuple[list[str], dict[str, str]]:
    """A Python that any user may run, as this one may not be: the sandbox's own."""
    runtime = prepare_runtime(python_folder)
    runtime.lease.release()
    python = runtime.folder / runtime.python
    for name in ("msgspec", "typing_extensions"):
        origin = Path(str(sys.modules[name].__file__))
        origin = origin.parent if origin.name == "__init__.py" else origin
        (packages / origin.name).symlink_to(origin)
    root = Path(package_file).parent.parent
    tests = Path(__file__).parents[3]
    environment = {
        "PYTHONPATH": f"{packages}:{root}:{tests}",
        "PATH": os.environ["PATH"],
        "LD_LIBRARY_PATH": str(runtime.folder / "python" / "lib"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return [str(python)], environment
