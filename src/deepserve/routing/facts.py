"""What is known of a request when its model is chosen. Values only, so that every choice can be repeated."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from deepserve.core.request import Thinking
from deepserve.core.routing import Difficulty, RoutingWishes

FLASH = "deepseek-v4-flash"
PRO = "deepseek-v4-pro"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A model that this server could ask.

    is_own    it runs on the operator's own machines, or can
    regions   where it can run otherwise; empty: nobody has said
    cost_usd  of an answer to this request, as far as it can be told before; None: the model has no price
    """

    model: str
    is_own: bool = True
    regions: tuple[str, ...] = ()
    cost_usd: Decimal | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """prompt_tokens: where `is_bound`, the prompt has at most so many.

    thinking    what the request itself says about thinking; None: nothing
    difficulty  with difficulty_why: who found it, and by what
    """

    candidates: tuple[Candidate, ...]
    prompt_tokens: int
    is_bound: bool = False
    has_tools: bool = False
    thinking: Thinking | None = None
    difficulty: Difficulty = "normal"
    difficulty_why: str = "nothing speaks for easy or hard"
    wishes: RoutingWishes = RoutingWishes()
