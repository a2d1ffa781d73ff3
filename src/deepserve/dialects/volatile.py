"""Lines that clients put into a prompt for a machine to read: they differ in every session and mean nothing to a model.

Left where they stand, at the very beginning of the prompt, they keep any two conversations from sharing a cached
prefix. Seen from Claude Code 2.1: `x-anthropic-billing-header: …` as the first system block, with a suffix of its own
in each session (https://github.com/vllm-project/vllm/pull/36829 tells the same).
"""

from __future__ import annotations

import re

_PSEUDO_HEADER = re.compile(r"\Ax-anthropic-[a-z0-9-]{1,64}:[^\n]*(?:\n+|\Z)")


def without_volatile_line(system_text: str) -> str:
    """The beginning of a system prompt without a pseudo-header line; the text itself where there is none."""
    return _PSEUDO_HEADER.sub("", system_text, count=1)
