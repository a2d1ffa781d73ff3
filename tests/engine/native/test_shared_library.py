"""Finding and loading the shared library: what is wrong is said, and what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deepserve.core.errors import ConfigurationError
from deepserve.engine import native
from deepserve.engine.native import abi, shared_library


def build(folder: Path, source: str) -> Path:
    """A library of one C file, built for this test."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc)")
    path = folder / "_other.so"
    (folder / "other.c").write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(folder / "other.c")], check=True)
    return path


def test_an_override_that_is_no_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(shared_library.OVERRIDE, str(tmp_path / "nowhere.so"))
    with pytest.raises(ConfigurationError, match=r"DEEPSERVE_CORE names .*nowhere\.so"):
        shared_library.find_library()


def test_an_installation_without_the_core_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(shared_library.OVERRIDE, raising=False)
    monkeypatch.setattr(native, "__path__", [str(tmp_path)])
    assert shared_library.find_library() is None
    with pytest.raises(ConfigurationError, match=r"compiler.*--engine reference"):
        shared_library.load_library()


def test_a_file_that_is_no_library_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "_core.so"
    path.write_bytes(b"not a library")
    monkeypatch.setenv(shared_library.OVERRIDE, str(path))
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        shared_library.load_library()


def test_a_library_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = build(tmp_path, "int something_else(void) { return 1; }")
    monkeypatch.setenv(shared_library.OVERRIDE, str(path))
    with pytest.raises(ConfigurationError, match="is not deepserve's native core"):
        shared_library.load_library()


def test_a_core_of_another_abi_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = build(tmp_path, "int ds_abi_version(void) { return 4711; }")
    monkeypatch.setenv(shared_library.OVERRIDE, str(path))
    with pytest.raises(ConfigurationError, match=rf"version 4711 .* version {abi.ABI_VERSION}"):
        shared_library.load_library()


def test_the_core_is_found_wherever_the_package_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Editable installations have the sources in one folder and what was built in another."""
    monkeypatch.delenv(shared_library.OVERRIDE, raising=False)
    built = tmp_path / f"_core{shared_library.SUFFIX}"
    built.touch()
    monkeypatch.setattr(native, "__path__", [str(tmp_path / "sources"), str(tmp_path)])
    assert shared_library.find_library() == built
