"""The copy of Python that programs see."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from deepserve.core.errors import ConfigurationError
from deepserve.tools.sandbox import runtime
from deepserve.tools.sandbox.runtime import Runtime, default_folder, prepare_runtime

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are sandboxes for Linux only")


@pytest.fixture
def prepared(python_folder: Path) -> Iterator[Runtime]:
    found = prepare_runtime(python_folder)
    yield found
    found.lease.release()


def test_nobody_can_write_to_it_and_everybody_can_read_it(prepared: Runtime) -> None:
    for folder, _, files in os.walk(prepared.folder):
        assert os.stat(folder).st_mode & 0o777 == 0o755
        for name in files:
            assert os.stat(os.path.join(folder, name)).st_mode & 0o777 in (0o444, 0o555)


def test_everything_is_compiled_beforehand(prepared: Runtime) -> None:
    """Nothing inside can keep bytecode: without it every start would compile again."""
    sources = set(prepared.folder.rglob("*.py"))
    compiled = set(prepared.folder.rglob("*.pyc"))
    assert len(sources) > 500
    assert len(compiled) >= len(sources) - 3
    # The flags of PEP 552: by hash, and never checked.
    assert {path.read_bytes()[4:8] for path in compiled} == {b"\1\0\0\0"}


def test_only_what_is_offered_is_in_it(prepared: Runtime) -> None:
    names = {path.name for path in (prepared.folder / "packages").iterdir() if not path.name.endswith(".dist-info")}
    assert "sandbox_inside" in names
    assert not names & {"deepserve", "msgspec", "pip", "pytest", "torch", "aiohttp"}
    library = next((prepared.folder / "python").glob("lib*/python3*"))
    assert not {"site-packages", "test", "ensurepip", "idlelib"} & {path.name for path in library.iterdir()}


def test_it_is_made_once(prepared: Runtime, python_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_build", lambda *_: pytest.fail("made again"))
    assert prepare_runtime(python_folder).folder == prepared.folder


def small(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Makes what is prepared small, and of this version."""
    monkeypatch.setattr(runtime, "_copy_library", lambda library, target: target.mkdir(parents=True))
    monkeypatch.setattr(runtime, "OFFERED", ())
    monkeypatch.setattr(platform, "python_version", lambda: version)


def test_another_version_takes_the_place_of_one_that_nobody_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, "3.99.1")
    first = prepare_runtime(tmp_path)
    small(monkeypatch, "3.99.2")
    second = prepare_runtime(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {first.folder.name, second.folder.name}
    first.lease.release()
    small(monkeypatch, "3.99.3")
    third = prepare_runtime(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {second.folder.name, third.folder.name}


def test_what_was_never_finished_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new-abc" / "python").mkdir(parents=True)
    (tmp_path / "somebody's").mkdir()
    small(monkeypatch, "3.99.1")
    found = prepare_runtime(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"somebody's", found.folder.name}


def test_without_the_extra_only_the_standard_library_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(runtime, "_copy_library", lambda library, target: target.mkdir(parents=True))
    monkeypatch.setattr(metadata, "distribution", not_installed)
    found = prepare_runtime(tmp_path)
    assert found.offered == ()
    assert [path.name for path in (found.folder / "packages").iterdir()] == ["sandbox_inside"]


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="writable by nobody else"):
        prepare_runtime(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be prepared in .*/file/python"):
        prepare_runtime(tmp_path / "file" / "python")


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", is_full)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        prepare_runtime(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_roots_copy_is_where_other_users_can_read_it(
    readable_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_folder() == Path("/var/cache/deepserve/python")
    # pytest's folders are closed to others.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == Path("/var/cache/deepserve/python")
    monkeypatch.setenv("XDG_CACHE_HOME", str(readable_folder))
    assert default_folder() == readable_folder / "deepserve" / "python"


def test_a_plain_users_copy_is_in_his_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "deepserve" / "python"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_folder() == Path("/home/somebody/.cache/deepserve/python")


def test_copying_is_told_before_it_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "3.99.1")
    told: list[str] = []
    found = prepare_runtime(tmp_path, on_progress=told.append)
    assert told == [f"Copying Python for programs of models to {found.folder}"]
    prepare_runtime(tmp_path, on_progress=told.append)
    assert len(told) == 1
