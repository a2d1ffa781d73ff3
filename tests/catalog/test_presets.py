"""Names that leave the choice of the model open."""

from decimal import Decimal

import pytest

from deepserve.catalog.models import load_models
from deepserve.catalog.presets import AUTO, load_presets
from deepserve.core.errors import UnknownModel

PATTERNS = (
    *("coding-agent", "long-document", "code-review", "batch-translation", "support-triage", "in-context-rag"),
    "reasoning",
)


def test_every_pattern_and_the_small_router_have_a_preset() -> None:
    ids = [row.id for row in load_presets().rows]
    assert ids == [AUTO, "auto:seed-router", *(f"auto:{name}" for name in PATTERNS)]


def test_every_lane_leads_to_a_model_of_the_catalog() -> None:
    ids = {row.id for row in load_models().models}
    for row in load_presets().rows:
        assert row.usual.model in ids
        assert row.hard is None or row.hard.model in ids


def test_every_pattern_says_what_it_is_expected_to_cost() -> None:
    presets = load_presets()
    for name in PATTERNS:
        row = presets.find(f"auto:{name}")
        assert row is not None
        assert row.cost_usd is not None
        low, high = row.cost_usd
        assert Decimal(0) < low <= high
        assert row.source
    coding = presets.find("auto:coding-agent")
    assert coding is not None
    assert coding.expected_cost == "0.001 to 0.005 USD per request"
    triage = presets.find("auto:support-triage")
    assert triage is not None
    assert triage.expected_cost == "0.002 USD per ticket"


@pytest.mark.parametrize("requested", ["auto:coding-agent", " AUTO:Coding-Agent\n"])
def test_a_preset_is_a_model_name(requested: str) -> None:
    name = load_models().resolve(requested)
    assert (name.id, name.is_automatic, name.thinking) == ("auto:coding-agent", True, None)


def test_ordinary_names_are_not_automatic() -> None:
    assert not any(load_models().resolve(row.id).is_automatic for row in load_models().models)


def test_an_unknown_preset_is_refused_with_the_list() -> None:
    with pytest.raises(UnknownModel) as caught:
        load_models().resolve("auto:everything")
    assert "auto:everything" in caught.value.message
    assert all(row.id in caught.value.message for row in load_presets().rows)
    with pytest.raises(UnknownModel) as caught:
        load_models().resolve("auto:" + "x" * 100_000)
    assert len(caught.value.message) < 600


def test_a_catalog_can_do_without_presets() -> None:
    with pytest.raises(UnknownModel, match="deepseek-v4-pro or deepseek-v4-flash"):
        load_models().without_presets().resolve(AUTO)
