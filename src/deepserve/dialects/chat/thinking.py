"""Every way clients spell "think" and "how hard", in one table, resolved to one value.

Off wins: a client that switched thinking off anywhere does not get it. Between two efforts the earlier row of
`SPELLINGS` wins, and the loser is named to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import msgspec

from deepserve.core.errors import InvalidField
from deepserve.core.request import Thinking
from deepserve.dialects.chat.flavour import Flavour
from deepserve.dialects.deepseek import Level
from deepserve.dialects.node import Node

_SWITCH = ("enabled", "disabled", "adaptive")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What one field says; None where it is silent."""

    is_on: bool | None = None
    level: Level | None = None
    budget_tokens: int | None = None
    is_excluded: bool | None = None


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """overruled: paths of the fields that another one contradicted and beat."""

    thinking: Thinking
    overruled: tuple[str, ...] = ()


def _switch(node: Node, _: Flavour) -> Wish:
    return Wish(is_on=node.boolean())


def _shown(node: Node, _: Flavour) -> Wish:
    return Wish(is_excluded=not node.boolean())


def _hidden(node: Node, _: Flavour) -> Wish:
    return Wish(is_excluded=node.boolean())


def _budget(node: Node, _: Flavour) -> Wish:
    return Wish(budget_tokens=node.integer())


def _type(node: Node, _: Flavour) -> Wish:
    return Wish(is_on=node.variant(_SWITCH) != "disabled")


def _effort(node: Node, flavour: Flavour) -> Wish:
    if not isinstance(node.value, str):
        raise InvalidField(
            "Failed to parse the request body as JSON: reasoning_effort: expected value"
            f"{node.body.position_of(node.path)}",
            field=node.field,
        )
    if node.value not in flavour.efforts:
        raise node.unknown_variant(flavour.documented_efforts)
    level = flavour.efforts[node.value]
    return Wish(is_on=False if level == "none" else None, level=level)


def _official_effort(node: Node, flavour: Flavour) -> Wish:
    if isinstance(node.value, str) and node.value not in flavour.documented_efforts:
        raise node.unknown_variant(flavour.documented_efforts)
    return _effort(node, flavour)


SPELLINGS: tuple[tuple[str, Callable[[Node, Flavour], Wish]], ...] = (
    ("thinking", _switch),  # some clients send the bare boolean
    ("thinking.type", _type),
    ("thinking.budget_tokens", _budget),
    ("thinking.effort", _effort),
    ("thinking.reasoning_effort", _effort),
    ("reasoning_effort", _effort),
    ("reasoning.enabled", _switch),
    ("reasoning.effort", _effort),
    ("reasoning.max_tokens", _budget),
    ("reasoning.exclude", _hidden),
    ("output_config.effort", _effort),
    ("chat_template_kwargs.thinking", _switch),
    ("chat_template_kwargs.enable_thinking", _switch),
    ("chat_template_kwargs.reasoning_effort", _effort),
    ("enable_thinking", _switch),
    ("thinking_budget", _budget),
    ("include_reasoning", _shown),
)
"""Path of a field (a dot goes into an object) and how it is read. The order is the precedence."""

OFFICIAL: tuple[tuple[str, Callable[[Node, Flavour], Wish]], ...] = (
    ("thinking.type", _type),
    ("reasoning_effort", _official_effort),
)
"""The only spellings the vendor's own service knows."""


@cache
def spelling_fields(*, is_strict: bool = False) -> Mapping[str, frozenset[str]]:
    """Top-level fields that speak about thinking -> the members of theirs that do."""
    fields: dict[str, set[str]] = {}
    for path, _ in OFFICIAL if is_strict else SPELLINGS:
        name, _, inner = path.partition(".")
        fields.setdefault(name, set()).update({inner} - {""})
    return {name: frozenset(inner) for name, inner in fields.items()}


def decode_thinking(body: Node, flavour: Flavour, *, default: bool | None, is_strict: bool) -> Resolved:
    """Read all spellings. default: what the model's alias fixes; None leaves it to the flavour."""
    by_default = flavour.thinks_by_default if default is None else default
    if spelling_fields(is_strict=is_strict).keys().isdisjoint(body.keys()):  # most requests say nothing of it
        return Resolved(thinking=Thinking(enabled=by_default))
    wishes = [
        (path, read(node, flavour))
        for path, read in (OFFICIAL if is_strict else SPELLINGS)
        if (node := _at(body, path, is_strict=is_strict)) is not None
    ]
    off = [path for path, wish in wishes if wish.is_on is False]
    on = [path for path, wish in wishes if wish.is_on is True]
    efforts = [(path, wish.level) for path, wish in wishes if wish.level not in (None, "none")]
    overruled = on if off else []
    overruled += [path for path, level in efforts if off or level != efforts[0][1]]
    is_enabled = not off and (bool(on) or bool(efforts) or by_default)
    level = efforts[0][1] if efforts and is_enabled else None
    budgets = [(path, wish.budget_tokens) for path, wish in wishes if wish.budget_tokens is not None]
    overruled += [path for path, budget in budgets if off or budget != budgets[0][1]]
    return Resolved(
        thinking=Thinking(
            enabled=is_enabled,
            effort="high" if level is None or level == "none" else level,
            budget_tokens=budgets[0][1] if budgets and is_enabled else None,
            exclude=any(wish.is_excluded for _, wish in wishes),
        ),
        overruled=tuple(overruled),
    )


def _at(body: Node, path: str, *, is_strict: bool) -> Node | None:
    """The node of a dotted path. A scalar where an object may stand belongs to another row of the table."""
    name, _, inner = path.partition(".")
    node = body.optional(name)
    if node is None or (not inner and isinstance(node.value, dict) and spelling_fields(is_strict=is_strict)[name]):
        return None
    if not inner:
        return node
    if isinstance(node.value, bool) and name == "thinking" and not is_strict:
        return None
    return node.optional(inner)
