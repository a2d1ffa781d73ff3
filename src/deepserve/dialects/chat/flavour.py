"""What differs between the services that speak Chat Completions: one frozen row each."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.core.request import Dialect
from deepserve.dialects.chat.fields import REFUSED
from deepserve.dialects.deepseek import (
    DEFAULT_OUTPUT_TOKENS,
    DOCUMENTED_EFFORTS,
    EFFORTS,
    MAX_OUTPUT_TOKENS,
    MAX_TOOL_NAME,
    Level,
)


class Flavour(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of the dialect.

    thinks_by_default      what a request means that says nothing about thinking
    efforts                every spelling of an effort -> its level
    documented_efforts     the spellings a refusal lists, in the vendor's order
    max_output_tokens      largest `max_tokens` the service takes, whatever model stands behind it
    default_output_tokens  (without thinking, thinking, effort max), where the client sets no limit
    max_tool_name          longest function name, in characters
    refused                fields that promise something this server cannot do, and what to use instead
    own_fields             top-level fields that the service's own modules read
    dialect                what records call it
    """

    name: str
    thinks_by_default: bool
    efforts: Mapping[str, Level]
    documented_efforts: tuple[str, ...]
    max_output_tokens: int
    default_output_tokens: tuple[int, int, int]
    max_tool_name: int
    refused: Mapping[str, str]
    own_fields: frozenset[str] = frozenset()
    dialect: Dialect = "chat"


DEEPSEEK = Flavour(
    name="deepseek",
    thinks_by_default=True,
    efforts=EFFORTS,
    documented_efforts=DOCUMENTED_EFFORTS,
    max_output_tokens=MAX_OUTPUT_TOKENS,
    default_output_tokens=DEFAULT_OUTPUT_TOKENS,
    max_tool_name=MAX_TOOL_NAME,
    refused=REFUSED,
)
