"""What services that speak Messages take from us: one frozen row each, for the requests that we send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec


class MessagesFlavour(msgspec.Struct, frozen=True, kw_only=True):
    """One service, or a family of them. What a row does not carry is asked for in words, named as lost, or refused.

    key_headers          in which the key goes there
    budget               of thinking: a number that is kept to, that must be there, or that has no effect
    needs_traces         past turns with calls must have a trace, whatever it says
    takes_seals          traces without text go back, by their signature or sealed; elsewhere they count as lost
    knobs                of sampling, by the names of `core.sampling`
    fixed_while_thinking knobs that do nothing while the model thinks
    has_schemas          `output_config.format` is kept to
    has_strict_tools     the flag has an effect
    has_parallel_switch  calls can be limited to one at a time
    forces_while_thinking  a call can be demanded while the model thinks, too
    has_system_turns     `system` is a role in the history; elsewhere all such turns stand before it
    is_literal           texts stay in the blocks in which they came, and a tool without a schema has none
    continues            an answer that was begun for the model, by standing last
    needs_limit          an answer without `max_tokens` is refused
    names_server         tells in `x-deepserve-served-by` who really answers
    """

    name: str
    key_headers: frozenset[Literal["x-api-key", "authorization"]] = frozenset(("x-api-key",))
    budget: Literal["kept", "needed", "ignored"] = "ignored"
    needs_traces: bool = False
    takes_seals: bool = False
    knobs: frozenset[str] = frozenset(("temperature", "top_p", "top_k"))
    fixed_while_thinking: frozenset[str] = frozenset()
    has_schemas: bool = False
    has_strict_tools: bool = False
    has_parallel_switch: bool = False
    forces_while_thinking: bool = False
    has_system_turns: bool = False
    is_literal: bool = False
    continues: bool = False
    needs_limit: bool = True
    names_server: bool = False


DEEPSEEK = MessagesFlavour(
    name="deepseek",
    needs_traces=True,
    knobs=frozenset(("temperature", "top_p")),
    fixed_while_thinking=frozenset(("temperature", "top_p")),
    has_system_turns=True,
)
"""api-docs.deepseek.com/guides/anthropic_api and /api/create-message, November 2026. Of an answer that was begun for
the model the pages say nothing; Chat has a flag for it."""

DEEPSERVE = MessagesFlavour(
    name="deepserve",
    budget="kept",
    takes_seals=True,
    has_schemas=True,
    has_strict_tools=True,
    has_parallel_switch=True,
    forces_while_thinking=True,
    has_system_turns=True,
    is_literal=True,
    continues=True,
    needs_limit=False,
    names_server=True,
)
"""This server."""

ANTHROPIC = MessagesFlavour(
    name="anthropic",
    key_headers=frozenset(("x-api-key", "authorization")),
    budget="needed",
    takes_seals=True,
    has_parallel_switch=True,
    continues=True,
)
"""Any address that takes what Anthropic documents (platform.claude.com/docs/en/api/messages), and no more. Servers
differ in the header they look at: vLLM's takes `Authorization` alone."""

MESSAGES_FLAVOURS: Mapping[str, MessagesFlavour] = {
    flavour.name: flavour for flavour in (DEEPSEEK, DEEPSERVE, ANTHROPIC)
}
