"""Which engine is chosen, and what is said when it cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deepserve.config import Settings, WeightFormats
from deepserve.core.errors import ConfigurationError
from deepserve.engine import loader
from deepserve.engine.loader import choose_engine
from deepserve.engine.options import EngineOptions

NATIVE_CHOICES = {
    "--isa": EngineOptions(memory_bytes=1, isa="generic"),
    "--weights": EngineOptions(memory_bytes=1, weights=WeightFormats(head="bf16")),
    "--mapped": EngineOptions(memory_bytes=1, is_mapped=True),
    "--packed-dir": EngineOptions(memory_bytes=1, packed_dir=Path("packed")),
}


@pytest.fixture
def with_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "find_library", lambda: Path("_core.so"))


@pytest.fixture
def without_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "find_library", lambda: None)


def test_auto_is_the_native_engine_where_it_is_installed(with_core: None) -> None:
    assert choose_engine(EngineOptions(memory_bytes=1)) == "native"
    assert choose_engine(EngineOptions(memory_bytes=1, name="reference")) == "reference"


def test_auto_is_the_reference_engine_where_there_is_no_native_core(without_core: None) -> None:
    assert choose_engine(EngineOptions(memory_bytes=1)) == "reference"


@pytest.mark.parametrize("option", NATIVE_CHOICES)
def test_a_choice_that_only_the_native_engine_knows_is_never_ignored(option: str, without_core: None) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option}: .* not part of this installation\. Install a C\+\+17"):
        choose_engine(NATIVE_CHOICES[option])


def test_the_reference_engine_refuses_what_it_does_not_know(with_core: None) -> None:
    with pytest.raises(ConfigurationError, match=r"--isa and --mapped: .* Leave out one"):
        choose_engine(EngineOptions(memory_bytes=1, name="reference", isa="avx2", is_mapped=True))


def test_without_torch_and_core_both_ways_out_are_named(monkeypatch: pytest.MonkeyPatch, without_core: None) -> None:
    # None in sys.modules is how Python marks a module that must not be found.
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("deepserve.engine.reference")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        ConfigurationError, match=r"needs torch.*deepserve\[reference\].*native engine.*C\+\+17 compiler"
    ):
        loader.load_engine(Path("model"), EngineOptions(memory_bytes=1))


def test_every_setting_of_the_engine_reaches_its_options() -> None:
    settings = Settings(
        engine="native",
        isa="avx2",
        weights=WeightFormats(dense="int8"),
        is_mapped=True,
        packed_dir=Path("packed"),
        num_threads=3,
        cache_bytes=7,
    )
    options = EngineOptions.from_settings(settings)
    assert options == EngineOptions(
        name="native",
        isa="avx2",
        weights=WeightFormats(dense="int8"),
        is_mapped=True,
        packed_dir=Path("packed"),
        num_threads=3,
        memory_bytes=7,
    )
    untouched = EngineOptions.from_settings(Settings())
    assert [name for name in options.__struct_fields__ if getattr(options, name) == getattr(untouched, name)] == []
