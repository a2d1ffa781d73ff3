"""Whether and how hard to think: `thinking` and `output_config.effort`, resolved to one value. Off wins."""

from __future__ import annotations

from deepserve.core.request import Thinking
from deepserve.dialects.deepseek import DOCUMENTED_EFFORTS, EFFORTS
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading

_TYPES = ("enabled", "disabled", "adaptive", "between_tools")
_DISPLAYS = ("summarized", "omitted")


def decode_thinking(reading: Reading, *, default: bool | None) -> Thinking:
    """default: what the model's alias fixes; None: on, as in all of the vendor's dialects, unlike at Anthropic."""
    thinking = reading.root.optional("thinking")
    effort = _effort(reading)
    is_enabled = True if default is None else default
    budget_tokens, is_excluded = None, False
    if thinking is not None:
        kind = thinking.required("type").variant(_TYPES)
        is_enabled = kind != "disabled"
        if kind == "between_tools":
            reading.ignore("thinking.type")  # the model thinks before its first word as well
        budget, display = thinking.optional("budget_tokens"), thinking.optional("display")
        if budget is not None and not reading.is_strict:
            budget_tokens = budget.integer()
        is_excluded = display is not None and display.variant(_DISPLAYS) == "omitted"
        known = ("type", "display") if reading.is_strict else ("type", "display", "budget_tokens")
        reading.ignore_others(thinking, known, "thinking")
    level = "high" if effort is None else EFFORTS[effort.string()]
    if level == "none" or not is_enabled:
        if effort is not None and level != "none":
            reading.ignore("output_config.effort")
        return Thinking(enabled=False)
    return Thinking(effort=level, budget_tokens=budget_tokens, exclude=is_excluded)


def _effort(reading: Reading) -> Node | None:
    config = reading.root.optional("output_config")
    if config is None:
        return None
    reading.ignore_others(config, ("effort", "format"), "output_config")
    effort = config.optional("effort")
    if effort is not None and effort.string() not in EFFORTS:
        raise effort.unknown_variant(DOCUMENTED_EFFORTS)
    return effort
