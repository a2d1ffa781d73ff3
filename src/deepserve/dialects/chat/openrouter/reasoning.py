"""The checks of this service on the object `reasoning`; what it means is read by Chat's table of spellings."""

from __future__ import annotations

from collections.abc import Iterable

from deepserve.core.errors import InvalidField
from deepserve.dialects.chat.openrouter.flavour import OPENROUTER
from deepserve.dialects.node import Node


def check_reasoning(root: Node) -> None:
    """Raises InvalidField, in the words of the service."""
    efforts: list[str] = []
    reasoning = root.optional("reasoning")
    if reasoning is not None:
        effort = reasoning.optional("effort")
        if effort is not None:
            efforts.append(_option(effort, "reasoning.effort", OPENROUTER.documented_efforts))
            if reasoning.optional("max_tokens") is not None:
                raise InvalidField(
                    'Only one of "reasoning.effort" and "reasoning.max_tokens" can be specified',
                    field="reasoning.max_tokens",
                )
    effort = root.optional("reasoning_effort")
    if effort is not None:
        efforts.append(_option(effort, "reasoning_effort", OPENROUTER.documented_efforts))
    if len(set(efforts)) > 1:
        raise InvalidField(
            '"reasoning_effort" and "reasoning.effort" cannot have different values', field="reasoning_effort"
        )
    verbosity = root.optional("verbosity")
    if verbosity is not None:
        _option(verbosity, "verbosity", ("low", "medium", "high", "xhigh", "max"))


def _option(node: Node, name: str, options: Iterable[str]) -> str:
    if node.value not in options:
        listed = "|".join(f'"{option}"' for option in options)
        raise InvalidField(f"{name}: Invalid option: expected one of {listed}", field=node.field)
    return node.string()
