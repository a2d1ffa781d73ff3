"""Rules that choose a model, in order. Pure: facts in, a route and each rule's verdict out.

First the limits, which only take models away, because no preference may outvote them: own machines, regions, price.
Then the choices: the first that matches decides. A choice whose model a limit has taken away falls to one that is left.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Literal

import msgspec

from deepserve.catalog.presets import LaneThinking, PresetRow
from deepserve.core.errors import UnsupportedFeature
from deepserve.routing.facts import FLASH, PRO, Candidate, Facts

_FAR_TOKENS = 500_000
"""Beyond it Flash loses the thread: 62.0 against Pro's 83.5 on CorpusQA at 1M, by the guide of 2026-04-27."""

_LONG_TOKENS = 200_000
"""Where the same guide's decision flow goes to Pro."""


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """thinking: None leaves it to the request."""

    model: str
    thinking: LaneThinking | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers. preset: the name that was asked for; rule and why: what decided."""

    preset: str
    model: str
    thinking: LaneThinking | None
    rule: str
    why: str

    @property
    def label(self) -> str:
        """`model=deepseek-v4-pro; thinking=high; rule=hard; preset=auto:coding-agent; why=the client says so`."""
        thinking = "as asked" if self.thinking is None else self.thinking
        return f"model={self.model}; thinking={thinking}; rule={self.rule}; preset={self.preset}; why={self.why}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule said. excluded: models it takes away. lane: what it chooses. why: its reason, either way."""

    why: str
    excluded: tuple[str, ...] = ()
    lane: Lane | None = None

    @property
    def word(self) -> str:
        if self.lane is not None:
            return f"chooses {self.lane.model}"
        return f"excludes {', '.join(self.excluded)}" if self.excluded else "passes"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """kind: limits are asked first and all of them; choices until one decides."""

    name: str
    kind: Literal["limit", "choice"]
    judge: Callable[[Facts], Verdict]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """verdict: None where an earlier rule had decided."""

    rule: str
    verdict: Verdict | None

    @property
    def word(self) -> str:
        return "not asked" if self.verdict is None else self.verdict.word


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """left: models that no limit took away. fallbacks: those of them to be asked where the chosen one cannot answer."""

    route: Route
    left: tuple[str, ...]
    told: tuple[Told, ...]
    fallbacks: tuple[str, ...] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one preset."""

    preset: str
    rules: tuple[Rule, ...]

    def decide(self, facts: Facts) -> Decision:
        """Raises UnsupportedFeature where no model is left that may answer."""
        left = [candidate.model for candidate in facts.candidates]
        told: list[Told] = []
        reasons: list[str] = []
        decided: tuple[str, Verdict, Lane] | None = None
        for rule in self.rules:
            if decided is not None:
                told.append(Told(rule=rule.name, verdict=None))
                continue
            verdict = rule.judge(facts)
            told.append(Told(rule=rule.name, verdict=verdict))
            if verdict.excluded:
                left = [model for model in left if model not in verdict.excluded]
                reasons.append(f"{rule.name}: {verdict.why}")
            if not left:
                raise UnsupportedFeature(f"No model may answer this request ({'; '.join(reasons)}).", field="model")
            if verdict.lane is not None:
                decided = rule.name, verdict, verdict.lane
        assert decided is not None, "the last rule of a policy always chooses"
        name, verdict, lane = decided
        why = verdict.why
        model = lane.model
        if model not in left:
            model = left[0]
            why += f"; {lane.model} may not or cannot answer here" + (f" ({'; '.join(reasons)})" if reasons else "")
        route = Route(preset=self.preset, model=model, thinking=lane.thinking, rule=name, why=why)
        return Decision(route=route, left=tuple(left), told=tuple(told))


def policy_of(preset: PresetRow) -> Policy:
    """The rules of a preset."""
    usual = Lane(model=preset.usual.model, thinking=preset.usual.thinking)
    hard = None if preset.hard is None else Lane(model=preset.hard.model, thinking=preset.hard.thinking)
    choices = [_asked_for]
    if preset.rules == "decision-flow":
        choices += [_self_hosted, _beyond(_FAR_TOKENS, "context-500k"), _beyond(_LONG_TOKENS, "context-200k")]
        choices += [] if hard is None else [_hard(hard)]
        choices += [_knowledge, _easy, _tools, _deepest]
    elif hard is not None:
        choices += [_beyond(_FAR_TOKENS, "context-500k"), _hard(hard)]
    return Policy(preset=preset.id, rules=(*_LIMITS, *choices, _otherwise(usual)))


# Limits


def _judge_self_host(facts: Facts) -> Verdict:
    if not facts.wishes.is_self_host_only:
        return Verdict(why="any machine may answer")
    foreign = tuple(candidate.model for candidate in facts.candidates if not candidate.is_own)
    return Verdict(why="only the operator's own machines may answer", excluded=foreign)


def _judge_residency(facts: Facts) -> Verdict:
    regions = facts.wishes.residency
    if not regions:
        return Verdict(why="the prompt may go anywhere")
    outside = tuple(one.model for one in facts.candidates if not one.is_own and not set(one.regions) & set(regions))
    return Verdict(why=f"the prompt may only be processed here or in {', '.join(regions)}", excluded=outside)


def _judge_price(facts: Facts) -> Verdict:
    ceiling = facts.wishes.max_cost_usd
    if ceiling is None:
        return Verdict(why="no ceiling is set")
    dear = [one for one in facts.candidates if one.cost_usd is None or one.cost_usd > ceiling]
    costs = ", ".join(f"{one.model} {_shown_usd(one)}" for one in facts.candidates)
    return Verdict(why=f"at most {ceiling} USD; expected: {costs}", excluded=tuple(one.model for one in dear))


def _shown_usd(candidate: Candidate) -> str:
    cost = candidate.cost_usd
    return "without a price" if cost is None else f"{cost.quantize(Decimal('0.000001')):f} USD"


_LIMITS = (
    Rule(name="self-host", kind="limit", judge=_judge_self_host),
    Rule(name="residency", kind="limit", judge=_judge_residency),
    Rule(name="price-ceiling", kind="limit", judge=_judge_price),
)


# Choices


def _judge_asked_for(facts: Facts) -> Verdict:
    model = facts.wishes.model
    if model is None:
        return Verdict(why="the request names no model")
    return Verdict(why="the request names it", lane=Lane(model=model))


def _judge_self_hosted(facts: Facts) -> Verdict:
    if not facts.wishes.is_self_host_only:
        return Verdict(why="not bound to own machines")
    return Verdict(why="Pro is not for consumer or single-server hardware", lane=Lane(model=FLASH, thinking="off"))


def _beyond(limit: int, name: str) -> Rule:
    def judge(facts: Facts) -> Verdict:
        length = f"the prompt has {'at most ' if facts.is_bound else ''}{facts.prompt_tokens:,} tokens"
        if facts.prompt_tokens <= limit:
            return Verdict(why=length)
        return Verdict(why=f"{length}, more than {limit:,}", lane=Lane(model=PRO, thinking="off"))

    return Rule(name=name, kind="choice", judge=judge)


def _hard(lane: Lane) -> Rule:
    def judge(facts: Facts) -> Verdict:
        why = f"{facts.difficulty}: {facts.difficulty_why}"
        return Verdict(why=why, lane=lane if facts.difficulty == "hard" else None)

    return Rule(name="hard", kind="choice", judge=judge)


def _judge_knowledge(facts: Facts) -> Verdict:
    if not facts.wishes.needs_knowledge:
        return Verdict(why="no broad knowledge is asked for")
    return Verdict(why="broad knowledge is asked for", lane=Lane(model=PRO, thinking="max"))


def _judge_easy(facts: Facts) -> Verdict:
    why = f"{facts.difficulty}: {facts.difficulty_why}"
    return Verdict(why=why, lane=Lane(model=FLASH, thinking="off") if facts.difficulty == "easy" else None)


def _judge_tools(facts: Facts) -> Verdict:
    if not facts.has_tools:
        return Verdict(why="no tools are offered")
    return Verdict(why="many cheap turns with tools are what Flash is for", lane=Lane(model=FLASH, thinking="high"))


def _judge_deepest(facts: Facts) -> Verdict:
    thinking = facts.thinking
    if thinking is None or not thinking.enabled or thinking.effort != "max":
        return Verdict(why="the request does not ask for the deepest thinking")
    return Verdict(why="the request asks for the deepest thinking", lane=Lane(model=PRO, thinking="max"))


def _otherwise(lane: Lane) -> Rule:
    return Rule(name="usual", kind="choice", judge=lambda _: Verdict(why="no rule before it decided", lane=lane))


_asked_for = Rule(name="asked-for", kind="choice", judge=_judge_asked_for)
_self_hosted = Rule(name="single-server", kind="choice", judge=_judge_self_hosted)
_knowledge = Rule(name="knowledge", kind="choice", judge=_judge_knowledge)
_easy = Rule(name="easy", kind="choice", judge=_judge_easy)
_tools = Rule(name="tools", kind="choice", judge=_judge_tools)
_deepest = Rule(name="deepest-thinking", kind="choice", judge=_judge_deepest)
