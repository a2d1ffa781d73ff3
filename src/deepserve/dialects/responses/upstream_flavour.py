"""What services that speak Responses take from us: one frozen row each, for the requests that we send."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.core.sampling import KNOBS


class UpstreamFlavour(msgspec.Struct, frozen=True, kw_only=True):
    """One service, or a family of them. What a row does not carry is asked for in words, named as lost, or refused.

    knobs            of sampling, by the names of `core.sampling`; besides `seed`, `logprobs`
    needs_json_word  a form in JSON is refused unless the conversation says so
    is_literal       texts stay in the parts in which they came, and a tool without a schema has none
    names_server     tells in `x-deepserve-served-by` who really answers
    """

    name: str
    knobs: frozenset[str] = frozenset(("temperature", "top_p", "logprobs"))
    needs_json_word: bool = True
    is_literal: bool = False
    names_server: bool = False


DEEPSERVE = UpstreamFlavour(
    name="deepserve",
    knobs=frozenset(KNOBS) | {"seed", "logprobs"},
    needs_json_word=False,
    is_literal=True,
    names_server=True,
)
"""This server."""

OPENAI = UpstreamFlavour(name="openai")
"""Any address that takes what OpenAI documents (platform.openai.com/docs/api-reference/responses), and no more."""

RESPONSES_FLAVOURS: Mapping[str, UpstreamFlavour] = {flavour.name: flavour for flavour in (DEEPSERVE, OPENAI)}
