"""What all of DeepSeek's own dialects have in common: efforts and limits, as facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deepserve.core.request import Thinking

Level = Literal["none", "low", "high", "max"]
"""A wish for thinking, resolved: `none` turns it off."""

EFFORTS: Mapping[str, Level] = {
    "none": "none",
    "minimal": "low",
    "low": "low",
    "medium": "high",
    "high": "high",
    "xhigh": "high",
    "max": "max",
    "ultra": "max",
}
"""Every spelling of an effort (api-docs.deepseek.com/guides/thinking_mode, as since the release of 2026-07-31; `ultra`
came with V4.1)."""

DOCUMENTED_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""The spellings a refusal lists, in the vendor's order."""

MAX_OUTPUT_TOKENS = 393_216
"""Largest output limit the service takes, whatever model stands behind it."""

DEFAULT_OUTPUT_TOKENS = (8_192, 65_536, 131_072)
"""Without thinking, thinking, effort max (api-docs.deepseek.com/api/create-chat-completion), where the client sets no
limit."""

MAX_TOOL_NAME = 128
"""Characters."""


def default_output_tokens(thinking: Thinking, defaults: tuple[int, int, int] = DEFAULT_OUTPUT_TOKENS) -> int:
    """The output limit of an answer whose client sets none; defaults: as `DEFAULT_OUTPUT_TOKENS`."""
    without, with_thinking, at_most = defaults
    if not thinking.enabled:
        return without
    return at_most if thinking.effort == "max" else with_thinking
