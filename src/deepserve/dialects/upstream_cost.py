"""What another service says it charges."""

from __future__ import annotations

from decimal import Decimal

from deepserve.core.cost import Cost


def stated_cost(total_usd: Decimal | None, prompt_usd: Decimal | None) -> Cost | None:
    """None where it says nothing sensible. prompt_usd: the prompt's part of it, where that is told."""
    if total_usd is None or not total_usd.is_finite() or total_usd < 0:
        return None
    if prompt_usd is None or not prompt_usd.is_finite() or not 0 <= prompt_usd <= total_usd:
        prompt_usd = Decimal(0)
    return Cost(miss_usd=prompt_usd, output_usd=total_usd - prompt_usd, source="provider", stated_usd=total_usd)
