"""The names the vendor's API knows, and what they mean here."""

from datetime import UTC, datetime

import pytest

from deepserve.catalog.models import load_models
from deepserve.core.errors import UnknownModel


def test_canonical_names_mean_themselves() -> None:
    for row in load_models().models:
        name = load_models().resolve(row.id)
        assert (name.id, name.thinking, name.retired_at, name.replacement) == (row.id, None, None, None)


def test_every_alias_leads_to_a_model_and_hides_none() -> None:
    catalog = load_models()
    ids = {row.id for row in catalog.models}
    names = [alias.name for alias in catalog.aliases]
    assert all(alias.id in ids for alias in catalog.aliases)
    assert not ids & set(names)
    assert len(set(names)) == len(names)
    assert all(name == name.lower() for name in [*names, *ids])


def test_the_legacy_names_fix_the_thinking() -> None:
    catalog = load_models()
    end = datetime(2026, 7, 24, 15, 59, tzinfo=UTC)
    for requested, thinking in (("deepseek-chat", False), ("deepseek-reasoner", True)):
        name = catalog.resolve(requested)
        assert (name.id, name.thinking, name.retired_at) == ("deepseek-v4-flash", thinking, end)
        assert name.replacement == "deepseek-v4-flash"


@pytest.mark.parametrize("requested", ["DeepSeek-V4-Pro", " deepseek-v4-pro\n", "deepseek-v4-PRO"])
def test_case_and_blanks_do_not_matter(requested: str) -> None:
    assert load_models().resolve(requested).id == "deepseek-v4-pro"


@pytest.mark.parametrize("requested", ["", "gpt-4", "deepseek", "deepseek-v4"])
def test_unknown_names_are_refused_in_the_vendors_words(requested: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        load_models().resolve(requested)
    assert caught.value.message == (
        f"The supported API model names are deepseek-v4-pro or deepseek-v4-flash, but you passed {requested}."
    )


def test_an_endless_name_is_not_sent_back_whole() -> None:
    with pytest.raises(UnknownModel) as caught:
        load_models().resolve("x" * 1_000_000)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("requested", "canonical"),
    [
        ("claude-opus-4-8", "deepseek-v4-pro"),
        ("Claude-Opus-5 ", "deepseek-v4-pro"),
        ("claude-sonnet-5", "deepseek-v4-flash"),
        ("claude-haiku-4-5", "deepseek-v4-flash"),
        ("claude-3-opus-20240229", "deepseek-v4-flash"),
    ],
)
def test_another_vendors_names_are_families(requested: str, canonical: str) -> None:
    name = load_models().resolve_family(requested)
    assert name is not None
    assert (name.id, name.requested) == (canonical, requested)


def test_families_are_no_names_of_the_vendors_own_api() -> None:
    assert load_models().resolve_family("gpt-5") is None
    assert all(family.id in {row.id for row in load_models().models} for family in load_models().families)
    with pytest.raises(UnknownModel):
        load_models().resolve("claude-opus-4-8")
