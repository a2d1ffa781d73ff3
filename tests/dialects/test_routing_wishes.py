"""Headers that say what matters for the choice of the model."""

from decimal import Decimal

import pytest

from deepserve.catalog.models import load_models
from deepserve.core.errors import InvalidField
from deepserve.core.routing import RoutingWishes
from deepserve.dialects.routing_wishes import read_wishes

AUTO = load_models().resolve("deepseek-v4-auto")
HEADERS = {
    "x-deepserve-difficulty": "Hard",
    "x-deepserve-knowledge": "broad",
    "x-deepserve-model": "deepseek-v4-PRO",
    "x-deepserve-max-cost-usd": "0.05",
    "x-deepserve-self-host": "1",
    "x-deepserve-residency": "EU, ch",
    "x-deepserve-escalate": "confidence, Form, form",
    "x-deepserve-test": "(?i)ok$",
}


def test_every_header_is_read() -> None:
    assert read_wishes(HEADERS, AUTO, is_thinking=None) == RoutingWishes(
        difficulty="hard",
        needs_knowledge=True,
        model="deepseek-v4-pro",
        max_cost_usd=Decimal("0.05"),
        is_self_host_only=True,
        residency=("eu", "ch"),
        checks=("confidence", "form"),
        test="(?i)ok$",
    )


def test_checks_can_be_switched_off() -> None:
    assert read_wishes({"x-deepserve-escalate": "never"}, AUTO, is_thinking=None).checks == ()
    assert read_wishes({}, AUTO, is_thinking=None).checks is None


def test_where_a_prompt_may_go_holds_for_models_that_the_client_chose_too() -> None:
    chosen = load_models().resolve("deepseek-v4-pro")
    assert read_wishes(HEADERS, chosen, is_thinking=None) == RoutingWishes(
        is_self_host_only=True, residency=("eu", "ch")
    )
    with pytest.raises(InvalidField, match="x-deepserve-self-host"):
        read_wishes({"x-deepserve-self-host": "maybe"}, chosen, is_thinking=None)


def test_the_others_mean_nothing_to_a_client_that_chose_the_model() -> None:
    chosen = load_models().resolve("deepseek-v4-pro")
    others = {name: "?" for name in HEADERS if name not in ("x-deepserve-self-host", "x-deepserve-residency")}
    assert read_wishes(others, chosen, is_thinking=bool) == RoutingWishes()


def test_a_request_that_no_default_changes_has_said_whether_to_think() -> None:
    assert not read_wishes({}, AUTO, is_thinking=lambda default: default).has_thinking
    assert read_wishes({}, AUTO, is_thinking=lambda _: True).has_thinking
    assert read_wishes({}, AUTO, is_thinking=lambda _: False).has_thinking


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-deepserve-difficulty", "impossible"),
        ("x-deepserve-knowledge", "yes"),
        ("x-deepserve-max-cost-usd", "cheap"),
        ("x-deepserve-max-cost-usd", "NaN"),
        ("x-deepserve-max-cost-usd", "-1"),
        ("x-deepserve-max-cost-usd", "Infinity"),
        ("x-deepserve-max-cost-usd", "0." + "1" * 40),
        ("x-deepserve-self-host", "maybe"),
        ("x-deepserve-residency", " , "),
        ("x-deepserve-escalate", "sometimes"),
        ("x-deepserve-escalate", "form,"),
        ("x-deepserve-test", ""),
        ("x-deepserve-test", "("),
        ("x-deepserve-test", "(a)\\1"),
        ("x-deepserve-test", "a{9999}"),
        ("x-deepserve-test", "((a{99}){99}){99}"),
        ("x-deepserve-test", "a" * 2_000),
        ("x-deepserve-residency", ",".join("abcdefghijklmnopqrstu")),
    ],
)
def test_a_header_with_another_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidField, match=name) as caught:
        read_wishes({name: value}, AUTO, is_thinking=None)
    assert caught.value.field == name
