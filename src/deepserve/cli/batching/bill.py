"""What a batch will cost, and what it has cost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from deepserve.backends.upstream.estimate import estimate_tokens
from deepserve.catalog.models import ModelCatalog
from deepserve.catalog.prices import PriceCatalog, cost_usd
from deepserve.cli.batching.questions import Question
from deepserve.core.errors import UnknownModel
from deepserve.core.usage import Usage

_READ = ("messages", "system", "instructions", "input", "prompt", "suffix", "tools", "functions")
"""Members of bodies, in all dialects, that the model reads."""

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class Tariff:
    """Prices of one provider. at: the instant whose prices hold."""

    def __init__(self, prices: PriceCatalog, names: ModelCatalog, provider: str) -> None:
        self._prices = prices
        self._names = names
        self.provider = provider

    def usd(self, model: object, usage: Usage, at: datetime) -> Decimal | None:
        """None: this model has no price there."""
        if not isinstance(model, str):
            return None
        try:
            canonical = self._names.resolve(model).id
        except UnknownModel:
            canonical = model
        price = self._prices.price_at(canonical, at, provider=self.provider, prompt_tokens=usage.prompt_tokens)
        return None if price is None else cost_usd(usage, price).total_usd


class Estimate(msgspec.Struct, kw_only=True):
    """Before anything is asked. The prompt is counted by the letter and taken for uncached.

    num_unlimited  questions that set no limit to their answer; each counts with what was assumed for them
    num_unpriced   questions to models without a price
    """

    num_questions: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    num_unlimited: int = 0
    num_unpriced: int = 0
    usd: Decimal = Decimal(0)

    def add(self, question: Question, tariff: Tariff, at: datetime, *, assumed_output_tokens: int) -> None:
        body = question.body
        prompt_tokens = round(sum(_tokens_in(body[name]) for name in _READ if name in body))
        limits = [
            body[name] for name in _LIMITS if isinstance(body.get(name), int) and not isinstance(body[name], bool)
        ]
        num_results = body.get("n") if isinstance(body.get("n"), int) else 1
        output_tokens = (limits[0] if limits else assumed_output_tokens) * max(1, num_results or 1)
        self.num_questions += 1
        self.num_unlimited += not limits
        self.prompt_tokens += prompt_tokens
        self.output_tokens += max(0, output_tokens)
        usage = Usage(miss_tokens=prompt_tokens, answer_tokens=max(0, output_tokens))
        usd = tariff.usd(body.get("model"), usage, at)
        if usd is None:
            self.num_unpriced += 1
        else:
            self.usd += usd


class Bill(msgspec.Struct, kw_only=True):
    """After, from the answers themselves. num_unpriced: answers that tell no usage, or whose model has no price."""

    usage: Usage = Usage()
    usd: Decimal = Decimal(0)
    num_unpriced: int = 0

    def add(self, question: Question, answer: Mapping[str, Any], tariff: Tariff, at: datetime) -> None:
        """An amount that the answer itself states goes before the price list."""
        told = answer.get("usage")
        usage = None if not isinstance(told, dict) else usage_told(told)
        if usage is None or not isinstance(told, dict):
            self.num_unpriced += 1
            return
        self.usage = self.usage.plus(usage)
        usd = _stated(told.get("cost"))
        if usd is None:
            usd = tariff.usd(question.body.get("model"), usage, at)
        if usd is None:
            self.num_unpriced += 1
        else:
            self.usd += usd


def usage_told(told: Mapping[str, Any]) -> Usage | None:
    """The usage of an answer in any dialect; None where it cannot be read.

    Chat and completions say prompt_tokens; Responses and Messages input_tokens, which in Messages leaves out what the
    cache gave and took.
    """
    prompt = _count(told, "prompt_tokens", "input_tokens")
    output = _count(told, "completion_tokens", "output_tokens")
    if prompt is None or output is None:
        return None
    if "cache_read_input_tokens" in told:
        hits = _count(told, "cache_read_input_tokens") or 0
        misses = prompt + (_count(told, "cache_creation_input_tokens") or 0)
        return Usage(hit_tokens=hits, miss_tokens=misses, answer_tokens=output)
    details = told.get("prompt_tokens_details") or told.get("input_tokens_details")
    within = _count(details, "cached_tokens") if isinstance(details, dict) else None
    hits = min(_count(told, "prompt_cache_hit_tokens") or within or 0, prompt)
    inner = told.get("completion_tokens_details") or told.get("output_tokens_details")
    thought = min((_count(inner, "reasoning_tokens") if isinstance(inner, dict) else None) or 0, output)
    return Usage(hit_tokens=hits, miss_tokens=prompt - hits, reasoning_tokens=thought, answer_tokens=output - thought)


def _count(told: Mapping[str, Any], *names: str) -> int | None:
    found = next((told[name] for name in names if name in told), None)
    return found if isinstance(found, int) and found >= 0 else None


def _stated(cost: object) -> Decimal | None:
    if isinstance(cost, bool) or not isinstance(cost, (int, float, str)):
        return None
    try:
        amount = Decimal(str(cost))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None


def _tokens_in(value: object) -> float:
    """Of all texts within, and of the names that schemas are made of."""
    match value:
        case str():
            return estimate_tokens(value)
        case list():
            return sum(map(_tokens_in, value))
        case dict():
            return sum(estimate_tokens(str(name)) + _tokens_in(inner) for name, inner in value.items())
        case _:
            return 1.0
