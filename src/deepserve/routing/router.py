"""Finds the facts of a request, lets the policy decide, and turns the request into one for the chosen model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from deepserve.catalog.presets import LaneThinking, PresetCatalog, PresetRow, load_presets
from deepserve.catalog.prices import Prices, cost_usd
from deepserve.core.errors import InvalidField
from deepserve.core.messages import Text
from deepserve.core.provider import ServedModel
from deepserve.core.request import Request, Thinking
from deepserve.core.usage import Usage
from deepserve.dialects.deepseek import default_output_tokens
from deepserve.routing.difficulty import Ask, DifficultyEstimator, SignEstimator, TaggedEstimator
from deepserve.routing.escalation import AnswerChecks, Escalation, expected_usage
from deepserve.routing.facts import Candidate, Facts
from deepserve.routing.policy import Decision, Policy, policy_of

_OWN_PROVIDERS: Final = frozenset(("deepserve",))
"""Who `ServedBy.provider` says runs inside this server."""

_COUNTED_BYTES: Final = 200_000
"""No token is shorter than a byte: a prompt of fewer bytes has fewer tokens than any rule asks about."""

_TURN_TOKENS: Final = 8
"""Special tokens around a message, at most."""


class Router:
    """One for the whole server. estimator: how difficulty is found where the client does not say."""

    def __init__(
        self,
        prices: Prices,
        *,
        presets: PresetCatalog | None = None,
        estimator: DifficultyEstimator | None = None,
    ) -> None:
        self._prices = prices
        self._presets = load_presets() if presets is None else presets
        self._policies: Mapping[str, Policy] = {row.id: policy_of(row) for row in self._presets.rows}
        self._estimator = TaggedEstimator(estimator or SignEstimator())
        self._listed: tuple[Sequence[ServedModel], tuple[ServedModel, ...]] = ((), ())

    def take(self, estimator: DifficultyEstimator) -> None:
        """Find difficulty in another way from now on."""
        self._estimator = TaggedEstimator(estimator)

    def handles(self, model: str) -> bool:
        """Whether a name leaves the choice open."""
        return model in self._policies

    def models(self, served: Sequence[ServedModel]) -> tuple[ServedModel, ...]:
        """The names that leave the choice open, as lists show them; limits are those of the usual lane."""
        if not served:
            return ()
        known, listed = self._listed
        if known != served:  # every request asks, and back ends hardly ever serve something else
            by_id = {model.id: model for model in served}
            listed = tuple(_listed(row, by_id.get(row.usual.model, served[0])) for row in self._presets.rows)
            self._listed = tuple(served), listed
        return listed

    def in_usual_lane(self, request: Request) -> Request:
        """The request as it is answered unless something speaks against it; any other request unchanged."""
        row = self._presets.find(request.model)
        if row is None:
            return request
        return _in_lane(request, row.usual.model, row.usual.thinking)

    async def decide(
        self,
        request: Request,
        served: Sequence[ServedModel],
        *,
        ask: Ask,
        count: Callable[[Request], Awaitable[int]],
    ) -> Decision:
        """Raises InvalidField and UnsupportedFeature for wishes that nobody can meet."""
        wanted = request.routing.model
        if wanted is not None and wanted not in [model.id for model in served]:
            names = ", ".join(model.id for model in served)
            raise InvalidField(f"`{wanted[:200]}` is none of the models to choose from: {names}.", field="model")
        policy = self._policies[request.model]
        tokens, is_bound = _most_tokens(request), True
        if tokens > _COUNTED_BYTES or request.routing.max_cost_usd is not None:
            tokens, is_bound = await count(msgspec.structs.replace(request, model=served[0].id)), False
        estimate = await self._estimator.estimate(request, ask)
        decision = policy.decide(
            Facts(
                candidates=tuple(self._candidate(request, model, tokens) for model in served),
                prompt_tokens=tokens,
                is_bound=is_bound,
                has_tools=bool(request.tools or request.server_tools) and request.tool_choice.mode != "none",
                thinking=request.thinking if request.routing.has_thinking else None,
                difficulty=estimate.difficulty,
                difficulty_why=estimate.why,
                wishes=request.routing,
            )
        )
        decision = msgspec.structs.replace(decision, fallbacks=self._fallbacks(request, decision))
        if not _keeps_thinking(request):
            return decision
        return msgspec.structs.replace(decision, route=msgspec.structs.replace(decision.route, thinking=None))

    def _fallbacks(self, request: Request, decision: Decision) -> tuple[str, ...]:
        """Models of the preset's other lanes; none where the client has named one."""
        row = self._presets.find(request.model)
        if row is None or request.routing.model is not None:
            return ()
        lanes = (row.usual, *(() if row.hard is None else (row.hard,)))
        models = dict.fromkeys(lane.model for lane in lanes)
        return tuple(model for model in models if model in decision.left and model != decision.route.model)

    def escalation(self, request: Request, decision: Decision) -> Escalation | None:
        """How the chosen lane's answer is checked and, where it fails, given by the hard lane; None: not at all."""
        row = self._presets.find(request.model)
        route, wishes = decision.route, request.routing
        if row is None or row.hard is None or wishes.model is not None:
            return None
        if row.hard.model == route.model or row.hard.model not in decision.left:
            return None
        names = row.checks if wishes.checks is None else wishes.checks
        checks = AnswerChecks.of(request, names)
        if checks is None:
            return None
        return Escalation(
            routed(request, decision),
            _in_lane(request, row.hard.model, row.hard.thinking),
            route=route,
            hard_thinking=None if _keeps_thinking(request) else row.hard.thinking,
            checks=checks,
            cost=self._cost_usd,
        )

    def _cost_usd(self, request: Request, usage: Usage) -> Decimal | None:
        price = self._prices.price_at(request.model, request.arrived_at)
        return None if price is None else cost_usd(usage, price).total_usd

    def _candidate(self, request: Request, served: ServedModel, prompt_tokens: int) -> Candidate:
        cost = self._cost_usd(msgspec.structs.replace(request, model=served.id), expected_usage(request, prompt_tokens))
        if not served.endpoints:
            return Candidate(model=served.id, is_own=served.served_by.provider in _OWN_PROVIDERS, cost_usd=cost)
        return Candidate(
            model=served.id,
            is_own=any(end.is_own for end in served.endpoints),
            regions=tuple(end.region for end in served.endpoints if end.region is not None),
            cost_usd=cost,
        )


def routed(request: Request, decision: Decision) -> Request:
    """The request for the chosen model."""
    chosen = _in_lane(request, decision.route.model, decision.route.thinking)
    return msgspec.structs.replace(chosen, fallback_models=decision.fallbacks) if decision.fallbacks else chosen


def _keeps_thinking(request: Request) -> bool:
    """Whether the request says itself how to think, or cannot think at all."""
    return request.routing.has_thinking or request.infill is not None


def _in_lane(request: Request, model: str, level: LaneThinking | None) -> Request:
    if level is None or _keeps_thinking(request):
        return msgspec.structs.replace(request, model=model)
    thinking = _thinking(request.thinking, level)
    default = request.default_output_tokens
    return msgspec.structs.replace(
        request,
        model=model,
        thinking=thinking,
        default_output_tokens=None if default is None else default_output_tokens(thinking),
    )


def _thinking(asked: Thinking, level: LaneThinking) -> Thinking:
    if level == "off":
        return Thinking(enabled=False)
    return msgspec.structs.replace(asked, enabled=True, effort=level)


def _listed(row: PresetRow, usual: ServedModel) -> ServedModel:
    cost = row.expected_cost
    note = f"{row.title}. The server chooses the model for each request; the header x-deepserve-route says why."
    return msgspec.structs.replace(
        usual,
        id=row.id,
        display_name=row.title,
        note=note + (f" Expected: {cost}, by {row.source}." if cost is not None else ""),
    )


def _most_tokens(request: Request) -> int:
    """A bound that needs no tokenizer."""
    texts: list[str] = []
    if request.infill is not None:
        texts += [request.infill.prompt, request.infill.suffix or ""]
    for message in request.messages:
        texts += [message.text, message.reasoning or ""]
        texts += [call.name + call.arguments for call in message.tool_calls]
        for result in message.tool_results:
            texts += [part.text for part in result.content if isinstance(part, Text)]
    for tool in request.tools:
        texts += [tool.name, tool.description, msgspec.json.encode(tool.parameters).decode()]
    return sum(len(text.encode()) for text in texts) + _TURN_TOKENS * (len(request.messages) + len(request.tools) + 1)
