"""What differs between the services that speak Chat Completions: one frozen row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Level = Literal["none", "low", "high", "max"]
"""A wish for thinking, resolved: `none` turns it off."""


class Flavour(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of the dialect.

    thinks_by_default      what a request means that says nothing about thinking
    efforts                every spelling of an effort -> its level
    documented_efforts     the spellings a refusal lists, in the vendor's order
    max_output_tokens      largest `max_tokens` the service takes, whatever model stands behind it
    default_output_tokens  (without thinking, thinking, effort max), where the client sets no limit
    max_tool_name          longest function name, in characters
    """

    name: str
    thinks_by_default: bool
    efforts: Mapping[str, Level]
    documented_efforts: tuple[str, ...]
    max_output_tokens: int
    default_output_tokens: tuple[int, int, int]
    max_tool_name: int


DEEPSEEK = Flavour(
    name="deepseek",
    thinks_by_default=True,
    # api-docs.deepseek.com/guides/thinking_mode, as since the release of 2026-07-31; `ultra` came with V4.1.
    efforts={
        "none": "none",
        "minimal": "low",
        "low": "low",
        "medium": "high",
        "high": "high",
        "xhigh": "high",
        "max": "max",
        "ultra": "max",
    },
    documented_efforts=("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    max_output_tokens=393_216,
    # api-docs.deepseek.com/api/create-chat-completion: 8K, 64K, 128K.
    default_output_tokens=(8_192, 65_536, 131_072),
    max_tool_name=128,
)
