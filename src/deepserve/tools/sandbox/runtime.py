"""The Python that programs in the sandbox see: a copy of this one's, and only the packages that are offered.

A copy, because what runs there must not see what else is installed for the server, may be another user who cannot look
into this one's home, and can read the bytecode but never write it. It is made once for each set of versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import msgspec

from deepserve.core.errors import ConfigurationError
from deepserve.tools.sandbox.lease import Lease, is_leased
from deepserve.tools.sandbox.strange_folder import remove_folder

OFFERED = ("numpy", "matplotlib")
"""Offered where they are installed, with what they need."""

_LAYOUT = 1
_INSIDE = Path(__file__).parent / "inside"
_INSIDE_NAME = "sandbox_inside"
_LEFT_OUT_OF_LIBRARY = {
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip",
    "lib2to3", "pydoc_data",
}  # fmt: skip
_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
"""Shown to the sandbox as they are."""

_LIST_LIBRARIES = """
import contextlib
for name in "ctypes ssl sqlite3 zlib bz2 lzma hashlib decimal readline uuid".split():
    with contextlib.suppress(ImportError):
        __import__(name)
print(open("/proc/self/maps").read())
"""


class Package(msgspec.Struct, frozen=True):
    name: str
    version: str


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared folder. python and packages are relative to it; offered: what a program may count on."""

    folder: Path
    python: str
    packages: str = "packages"
    offered: tuple[Package, ...]
    lease: Lease

    @property
    def boot_code(self) -> str:
        return f"import sys; sys.path.insert(0, sys.argv.pop()); from {_INSIDE_NAME}.runner import main; main()"

    def offered_names(self) -> list[str]:
        """As people write them, with versions."""
        return [f"{package.name} {package.version}" for package in self.offered]

    @property
    def font_folder(self) -> Path:
        return self.folder / "fonts"

    def font_lists(self) -> list[str]:
        """Names of the files in which matplotlib has written down which fonts there are."""
        return sorted(path.name for path in self.font_folder.iterdir())

    def keep_font_list(self, name: str, content: bytes) -> None:
        """So that no program has to search for fonts again."""
        descriptor, path = tempfile.mkstemp(dir=self.folder)
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(path, 0o444)
        os.rename(path, self.font_folder / name)


def default_folder() -> Path:
    """Where the copy is kept: where other users can look into it if this one is root, who never runs it himself."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    if os.geteuid() == 0 and not (chosen and _is_open_to_others(Path(chosen))):
        return Path("/var/cache/deepserve/python")
    return Path(chosen or Path.home() / ".cache") / "deepserve" / "python"


def _is_open_to_others(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.resolve().parents))
    return False


def prepare_runtime(folder: Path, *, on_progress: Callable[[str], None] | None = None) -> Runtime:
    """The prepared folder for what is installed now, made if it is not there. Takes seconds the first time, which
    `on_progress` is told before.

    Raises ConfigurationError when it cannot be made, or others could write into it.
    """
    distributions = list(_offered_distributions())
    name = f"runtime-{_digest(distributions)}"
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        _refuse_writable_by_others(folder)
        _remove_unused(folder, kept=name)
        path = folder / name
        if not path.exists():
            if on_progress is not None:
                on_progress(f"Copying Python for programs of models to {path}")
            _build(path, distributions)
        lease = Lease(path)
    except (OSError, subprocess.SubprocessError, shutil.Error) as error:
        raise ConfigurationError(
            f"The Python of the code tool cannot be prepared in {folder}: {error}. Set XDG_CACHE_HOME to a folder "
            "where it can, and which every user can look into if the server is root."
        ) from error
    offered = [Package(found.name, found.version) for found in distributions if found.name in OFFERED]
    python = _relative_interpreter()
    return Runtime(folder=path, python=python, offered=tuple(offered), lease=lease)


def _interpreter() -> Path:
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


def _relative_interpreter() -> str:
    return f"python/bin/{_interpreter().name}"


def _offered_distributions() -> Iterator[metadata.Distribution]:
    seen = set()
    waiting = list(OFFERED)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop(0)).lower()
        if name in seen:
            continue
        seen.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = metadata.distribution(name)
            yield found
            for requirement in found.requires or ():
                # Markers that do not hold here name packages that are not installed, or that do no harm.
                wanted = re.match(r"[\w.-]+", requirement)
                if wanted is not None and "extra ==" not in requirement:
                    waiting.append(wanted.group())


def _digest(distributions: list[metadata.Distribution]) -> str:
    """Changes with everything that the folder is made of."""
    interpreter = _interpreter()
    status = interpreter.stat()
    parts = [
        str(_LAYOUT),
        platform.python_version(),
        f"{interpreter} {status.st_size} {status.st_mtime_ns}",
        *(f"{found.name} {found.version}" for found in distributions),
        *(path.read_text("utf-8") for path in sorted(_INSIDE.glob("*.py"))),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _refuse_writable_by_others(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"{folder} must belong to the server's user or to root, and be writable by nobody else"
        )


def _remove_unused(folder: Path, *, kept: str) -> None:
    """Earlier versions, and what was never finished, unless another server is at it."""
    for path in folder.iterdir():
        if path.name.startswith(("runtime-", "new-")) and path.name != kept:
            with contextlib.suppress(OSError):
                if not is_leased(path):
                    remove_folder(path)


def _build(path: Path, distributions: list[metadata.Distribution]) -> None:
    new = Path(tempfile.mkdtemp(prefix="new-", dir=path.parent))
    lease = Lease(new)
    try:
        _copy_python(new / "python")
        for found in distributions:
            _copy_distribution(found, new / "packages")
        inside = new / "packages" / _INSIDE_NAME
        inside.mkdir(parents=True)
        for source in _INSIDE.glob("*.py"):
            _copy_file(source, inside / source.name)
        (new / "fonts").mkdir()
        _compile(new)
        _make_readable(new)
        try:
            os.rename(new, path)
        except OSError:
            # Another server may have been faster: a folder with something in it is not replaced.
            if not path.exists():
                raise
    finally:
        lease.release()
        if new.exists():
            remove_folder(new)


def _copy_python(target: Path) -> None:
    interpreter = _interpreter()
    _copy_file(interpreter, target / "bin" / interpreter.name)
    base = Path(sys.base_prefix)
    for scheme in ("stdlib", "platstdlib"):
        library = Path(sysconfig.get_path(scheme, vars={"installed_base": str(base), "platbase": str(base)}))
        copy = target / library.relative_to(base)
        if not copy.exists():
            _copy_library(library, copy)
    for library in _libraries_elsewhere(interpreter):
        _copy_file(library, target / "lib" / library.name)


def _copy_library(library: Path, target: Path) -> None:
    for folder, names, files in os.walk(library):
        names[:] = [name for name in names if name not in _LEFT_OUT_OF_LIBRARY and not name.startswith("config-")]
        for name in files:
            source = Path(folder) / name
            if source.suffix in (".py", ".so", ".txt", ".json", ".pem") and not name.startswith("_tkinter"):
                _copy_file(source, target / source.relative_to(library))


def _libraries_elsewhere(interpreter: Path) -> Iterator[Path]:
    """Shared libraries that this Python needs and that lie in none of the system's folders, libpython among them."""
    command = [str(interpreter), "-I", "-c", _LIST_LIBRARIES]
    # The interpreter that already runs us, and a text of ours.
    maps = subprocess.run(command, env=_library_path(), check=True, capture_output=True, text=True, timeout=60).stdout  # noqa: S603
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count(" ") and "/" in line}
    for name in sorted(paths):
        path = Path(name)
        is_library = ".so" in path.name and "lib-dynload" not in name
        if is_library and not name.startswith(tuple(f"{folder}/" for folder in _SYSTEM_LIBRARIES)):
            yield path


def _copy_distribution(found: metadata.Distribution, target: Path) -> None:
    for file in found.files or ():
        parts = file.parts
        if ".." in parts or "tests" in parts or "__pycache__" in parts or file.suffix in (".pyi", ".h", ".a"):
            continue
        _copy_file(Path(str(found.locate_file(file))), target / file)


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    os.chmod(target, 0o555 if os.access(source, os.X_OK) else 0o444)


def _library_path() -> dict[str, str]:
    """All that an interpreter of ours needs of the environment: some find their own libraries by it."""
    path = os.environ.get("LD_LIBRARY_PATH")
    return {} if path is None else {"LD_LIBRARY_PATH": path}


def _compile(folder: Path) -> None:
    """Compile everything, valid whatever the files' times say: nobody can write there to keep bytecode later."""
    command = [sys.executable, "-I", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash", str(folder)]
    # Files that no Python 3 can compile, as some packages carry, are no reason to stop: hence no check of the result.
    subprocess.run(command, env=_library_path(), check=False, stdout=subprocess.DEVNULL, timeout=600)  # noqa: S603


def _make_readable(folder: Path) -> None:
    for name, _, files in os.walk(folder):
        os.chmod(name, 0o755)  # noqa: S103  # the sandbox may be another user
        for file in files:
            path = os.path.join(name, file)
            os.chmod(path, 0o555 if os.access(path, os.X_OK) else 0o444)
