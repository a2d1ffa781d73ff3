"""Each rule, and their order."""

from decimal import Decimal

import pytest

from deepserve.catalog.presets import AUTO, load_presets
from deepserve.core.errors import UnsupportedFeature
from deepserve.core.request import Thinking
from deepserve.core.routing import RoutingWishes
from deepserve.routing.facts import FLASH, PRO, Candidate, Facts
from deepserve.routing.policy import Decision, Policy, policy_of

BOTH = (Candidate(model=PRO, cost_usd=Decimal("0.05")), Candidate(model=FLASH, cost_usd=Decimal("0.004")))
ABROAD = (
    Candidate(model=PRO, is_own=False, regions=("eu",), cost_usd=Decimal("0.05")),
    Candidate(model=FLASH, is_own=False, cost_usd=Decimal("0.004")),
)
MAX = Thinking(effort="max")


def policy(preset: str = AUTO) -> Policy:
    row = load_presets().find(preset)
    assert row is not None
    return policy_of(row)


def facts(**changed: object) -> Facts:
    return Facts(**{"candidates": BOTH, "prompt_tokens": 100, **changed})  # type: ignore[arg-type]  # tests spell fields


def chosen(decision: Decision) -> tuple[str, str | None, str]:
    return decision.route.model, decision.route.thinking, decision.route.rule


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, (FLASH, "off", "usual")),
        ({"prompt_tokens": 200_000}, (FLASH, "off", "usual")),
        ({"prompt_tokens": 200_001}, (PRO, "off", "context-200k")),
        ({"prompt_tokens": 500_000}, (PRO, "off", "context-200k")),
        ({"prompt_tokens": 500_001}, (PRO, "off", "context-500k")),
        ({"difficulty": "hard"}, (PRO, "high", "hard")),
        ({"difficulty": "easy"}, (FLASH, "off", "easy")),
        ({"wishes": RoutingWishes(needs_knowledge=True)}, (PRO, "max", "knowledge")),
        ({"has_tools": True}, (FLASH, "high", "tools")),
        ({"thinking": MAX}, (PRO, "max", "deepest-thinking")),
        ({"thinking": Thinking(effort="high")}, (FLASH, "off", "usual")),
        ({"thinking": Thinking(enabled=False, effort="max")}, (FLASH, "off", "usual")),
        ({"wishes": RoutingWishes(is_self_host_only=True)}, (FLASH, "off", "single-server")),
        ({"wishes": RoutingWishes(model=PRO)}, (PRO, None, "asked-for")),
    ],
)
def test_each_rule_of_the_decision_flow_decides(changed: dict[str, object], expected: tuple[str, str, str]) -> None:
    assert chosen(policy().decide(facts(**changed))) == expected


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"wishes": RoutingWishes(model=FLASH, is_self_host_only=True), "prompt_tokens": 600_000}, "asked-for"),
        ({"wishes": RoutingWishes(is_self_host_only=True), "prompt_tokens": 600_000}, "single-server"),
        ({"prompt_tokens": 300_000, "difficulty": "hard"}, "context-200k"),
        ({"difficulty": "hard", "wishes": RoutingWishes(needs_knowledge=True)}, "hard"),
        ({"difficulty": "easy", "wishes": RoutingWishes(needs_knowledge=True)}, "knowledge"),
        ({"difficulty": "easy", "has_tools": True}, "easy"),
        ({"has_tools": True, "thinking": MAX}, "tools"),
    ],
)
def test_the_first_rule_that_matches_decides(changed: dict[str, object], rule: str) -> None:
    decision = policy().decide(facts(**changed))
    assert decision.route.rule == rule
    after = [told for told in decision.told if told.verdict is None]
    assert after == list(decision.told[len(decision.told) - len(after) :])
    assert all(told.word == "not asked" for told in after)


def test_a_price_ceiling_takes_the_dear_model_away_from_every_rule() -> None:
    wishes = RoutingWishes(max_cost_usd=Decimal("0.01"), needs_knowledge=True)
    decision = policy().decide(facts(prompt_tokens=600_000, difficulty="hard", wishes=wishes))
    assert (decision.route.model, decision.route.rule) == (FLASH, "context-500k")
    assert "price-ceiling" in decision.route.why
    assert "0.050000 USD" in decision.route.why
    assert f"excludes {PRO}" in [told.word for told in decision.told]


def test_a_ceiling_that_nothing_keeps_is_refused_with_the_costs() -> None:
    with pytest.raises(UnsupportedFeature, match=r"at most 0\.001 USD.*0\.004000 USD"):
        policy().decide(facts(wishes=RoutingWishes(max_cost_usd=Decimal("0.001"))))


def test_a_model_without_a_price_keeps_no_ceiling() -> None:
    free = (Candidate(model=FLASH),)
    with pytest.raises(UnsupportedFeature, match="without a price"):
        policy().decide(facts(candidates=free, wishes=RoutingWishes(max_cost_usd=Decimal(1))))


def test_only_own_machines_answer_where_that_is_asked_for() -> None:
    wishes = RoutingWishes(is_self_host_only=True)
    with pytest.raises(UnsupportedFeature, match="own machines"):
        policy().decide(facts(candidates=ABROAD, wishes=wishes))
    mixed = (ABROAD[1], BOTH[0])
    decision = policy().decide(facts(candidates=mixed, wishes=wishes))
    assert (decision.route.model, decision.route.rule) == (PRO, "single-server")


def test_prompts_stay_in_the_regions_that_are_allowed() -> None:
    wishes = RoutingWishes(residency=("eu",))
    assert policy().decide(facts(candidates=ABROAD, wishes=wishes)).route.model == PRO
    assert policy().decide(facts(wishes=wishes)).route.model == FLASH, "own machines are always allowed"
    with pytest.raises(UnsupportedFeature, match="residency"):
        policy().decide(facts(candidates=ABROAD, wishes=RoutingWishes(residency=("us",))))


@pytest.mark.parametrize("preset", [row.id for row in load_presets().rows])
def test_every_preset_answers_every_mixture_of_facts_and_says_why(preset: str) -> None:
    row = load_presets().find(preset)
    assert row is not None
    lanes = {lane.model for lane in (row.usual, row.hard) if lane is not None}
    for tokens in (0, 300_000, 900_000):
        for difficulty in ("easy", "normal", "hard"):
            for has_tools in (False, True):
                found = policy(preset).decide(facts(prompt_tokens=tokens, difficulty=difficulty, has_tools=has_tools))
                assert found.route.model in lanes
                assert found.route.why
                assert [told.rule for told in found.told] == [rule.name for rule in policy(preset).rules]
                assert f"rule={found.route.rule}; preset={preset}" in found.route.label


@pytest.mark.parametrize("preset", ["auto:support-triage", "auto:code-review", "auto:batch-translation"])
def test_presets_without_a_second_lane_never_leave_flash(preset: str) -> None:
    assert chosen(policy(preset).decide(facts(prompt_tokens=900_000, difficulty="hard"))) == (FLASH, "off", "usual")


def test_the_small_router_is_the_published_one() -> None:
    def choose_v4_model(difficulty: str, context_tokens: int) -> str:
        if context_tokens > 500_000 or difficulty == "hard":
            return PRO
        return FLASH

    for difficulty in ("easy", "normal", "hard"):
        for tokens in (0, 200_001, 500_000, 500_001):
            found = policy("auto:seed-router").decide(facts(difficulty=difficulty, prompt_tokens=tokens))
            assert found.route.model == choose_v4_model(difficulty, tokens)


def test_a_server_with_one_model_answers_with_it() -> None:
    decision = policy().decide(facts(candidates=(BOTH[1],), difficulty="hard"))
    assert (decision.route.model, decision.route.rule) == (FLASH, "hard")
    assert "cannot answer here" in decision.route.why
