"""What a client may say about who is to answer, where it leaves the choice of the model to the server."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

Difficulty = Literal["easy", "normal", "hard"]

CheckName = Literal["form", "arguments", "confidence"]
"""What an answer of the usual lane may have to pass: the form that was asked for, arguments of calls that fit their
tools, tokens that were likely."""


class RoutingWishes(msgspec.Struct, frozen=True, kw_only=True):
    """Said besides the question itself; None and False: nothing was said.

    difficulty         the client's own tag, which no estimate outvotes
    needs_knowledge    the answer depends on how many facts the model knows
    model              answer with this model, whatever the rules would choose
    max_cost_usd       refuse what is expected to cost more
    is_self_host_only  only what runs on the operator's own machines may answer
    residency          regions in which the prompt may be processed; empty: anywhere
    checks             what an answer has to pass, or the hard lane answers instead; None: as the preset has it
    test               a regular expression that its text has to match besides, somewhere
    has_thinking       the request says itself whether to think, so that no rule decides it
    """

    difficulty: Difficulty | None = None
    needs_knowledge: bool = False
    model: str | None = None
    max_cost_usd: Decimal | None = None
    is_self_host_only: bool = False
    residency: tuple[str, ...] = ()
    checks: tuple[CheckName, ...] | None = None
    test: str | None = None
    has_thinking: bool = False
