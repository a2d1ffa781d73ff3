"""Release profiles."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from deepserve.core.errors import ConfigurationError
from deepserve.prompt import profile as module
from deepserve.prompt.profile import PROFILE_NAMES, load_profile


def test_every_profile_loads_and_has_a_text_for_every_effort(recipe: ModuleType) -> None:
    for name in PROFILE_NAMES:
        profile = load_profile(name)
        assert profile.name == name
        assert set(profile.effort_prefixes) == {"low", "high", "max"}
        assert profile.tools_head.startswith("## Tools\n\n")


def test_the_default_text_of_the_later_release_is_the_maximum_of_the_first(recipe: ModuleType) -> None:
    later, first = load_profile("0731"), load_profile("preview")
    assert later.effort_prefixes["high"] == first.effort_prefixes["max"] != ""
    assert first.effort_prefixes["high"] == ""
    assert later.effort_prefixes["max"] not in ("", later.effort_prefixes["high"])
    assert later.tools_head == first.tools_head


def test_the_mini_profile_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepseek_recipe", None)
    assert load_profile("mini").effort_prefixes["high"] == "Think carefully.\n\n"


def test_without_the_package_an_official_profile_is_refused_with_the_install_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module._vendor_texts.cache_clear()
    monkeypatch.setitem(sys.modules, "deepseek_recipe", None)
    with pytest.raises(ConfigurationError, match=r'pip install "deepserve\[v4\]"'):
        load_profile("0731")


def test_another_wording_than_the_released_one_is_refused(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    module._vendor_texts.cache_clear()
    monkeypatch.setitem(module._DIGESTS, "the text for effort max", "0" * 64)
    with pytest.raises(ConfigurationError, match="effort max"):
        load_profile("preview")
    module._vendor_texts.cache_clear()
