"""Why a request found less of its prompt in the prefix cache than an earlier one had put there, and what that cost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

import msgspec

from deepserve.catalog.prices import PricePoint
from deepserve.core.usage import Usage
from deepserve.prompt.difference import Difference, first_difference
from deepserve.prompt.outline import Section

Reason = Literal["other_user", "other_model", "differs", "continues", "same"]

_UNIT_TOKENS: Final = 128
"""Prefixes are kept at places of their own; so far before the last shared token one of them is to be expected."""

_ESTIMATED_SLACK: Final = 0.25

_WORDS: Final[dict[Reason, str]] = {
    "other_user": "the two have different users: what one user's prompts left in the cache is never given to another",
    "other_model": "the two asked different models, which share no cache",
    "differs": "the prompts part",
    "continues": "the later prompt goes on where the earlier one ended",
    "same": "the prompts are the same",
}


class AskedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, as far as it matters to the cache.

    ids     the prompt's tokens; None where the tokenizer is somebody else's
    usage   what was told of the answer; None: nothing yet, or it was not asked
    """

    id: str
    model: str
    user_id: str | None
    arrived_at: datetime
    sections: tuple[Section, ...]
    ids: Sequence[int] | None = None
    usage: Usage | None = None


class CacheExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """common_tokens  of the later prompt, those that stand at the same place in the earlier one: a hit could have them

    is_estimated   both counts are by letters, for lack of a tokenizer
    is_lost        they could have been hit and were not: no longer kept, or not at that place
    token          number of the first token that differs, where tokens are known
    missed_tokens, missed_usd  what would have been hit had the later prompt begun with all of the earlier one, and what
                   that made it dearer; None where there is no price
    """

    earlier: str
    later: str
    reason: Reason
    words: str
    difference: Difference | None
    prompt_tokens: int
    common_tokens: int
    is_estimated: bool
    hit_tokens: int | None
    is_lost: bool
    missed_tokens: int
    missed_usd: Decimal | None
    price: str | None


def explain(earlier: AskedPrompt, later: AskedPrompt, *, point: PricePoint | None) -> CacheExplanation:
    """point: the price in force for the later request."""
    difference = first_difference(earlier.sections, later.sections)
    is_exact = earlier.ids is not None and later.ids is not None
    if earlier.ids is not None and later.ids is not None:
        prompt_tokens, earlier_tokens = len(later.ids), len(earlier.ids)
        common = _num_common(earlier.ids, later.ids)
    else:
        prompt_tokens, earlier_tokens = _num_tokens(later), _num_tokens(earlier)
        ratio = _ratio(earlier, later) if difference is None else difference.shared_ratio
        common = min(prompt_tokens, earlier_tokens, round(prompt_tokens * ratio))
    reason = _reason(earlier, later, difference, is_exact=is_exact)
    if reason in ("other_user", "other_model"):
        common = 0
    hit = None if later.usage is None else later.usage.hit_tokens
    slack = _UNIT_TOKENS if is_exact else max(_UNIT_TOKENS, round(common * _ESTIMATED_SLACK))
    is_lost = hit is not None and hit < common - slack
    missed = max(0, min(prompt_tokens, earlier_tokens) - (common if hit is None else min(hit, prompt_tokens)))
    words = _WORDS[reason] if difference is None or reason != "differs" else f"the prompts part: {difference.cause}"
    if is_lost:
        words += "; what both share is no longer kept (expired, or evicted for something newer), or was kept elsewhere"
    return CacheExplanation(
        earlier=earlier.id,
        later=later.id,
        reason=reason,
        words=words,
        difference=difference if reason == "differs" else None,
        prompt_tokens=prompt_tokens,
        common_tokens=common,
        is_estimated=not is_exact,
        hit_tokens=hit,
        is_lost=is_lost,
        missed_tokens=missed,
        missed_usd=None if point is None else (point.price.miss - point.price.hit) * missed / 1_000_000,
        price=None if point is None else point.id,
    )


def header_value(explanation: CacheExplanation, usage: Usage | None) -> str:
    """For `x-deepserve-cache`: ASCII, and nothing of any text."""
    counts = "hit=? miss=?" if usage is None else f"hit={usage.hit_tokens} miss={usage.miss_tokens}"
    found = explanation.difference
    place = explanation.reason.replace("_", "-") if found is None else found.place
    about = "~" if explanation.is_estimated else ""
    return f"{counts} compared={explanation.earlier} first-difference={place} common={about}{explanation.common_tokens}"


def _reason(earlier: AskedPrompt, later: AskedPrompt, difference: Difference | None, *, is_exact: bool) -> Reason:
    if earlier.user_id != later.user_id:
        return "other_user"
    # Our own engine answers every model with one network, and shares its cache among them.
    if not is_exact and earlier.model != later.model:
        return "other_model"
    if difference is not None:
        return "differs"
    return "same" if len(earlier.sections) == len(later.sections) else "continues"


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))


def _num_characters(prompt: AskedPrompt) -> int:
    return sum(len(section.text) for section in prompt.sections)


def _num_tokens(prompt: AskedPrompt) -> int:
    """As told, else by the letter."""
    if prompt.usage is not None and prompt.usage.prompt_tokens:
        return prompt.usage.prompt_tokens
    return round(_num_characters(prompt) * 0.3)  # api-docs.deepseek.com/quick_start/token_usage


def _ratio(earlier: AskedPrompt, later: AskedPrompt) -> float:
    return min(1.0, _num_characters(earlier) / (_num_characters(later) or 1))
