"""Wishes about who answers: one provider, this server, or several behind it.

A wish that this server cannot meet is refused by name; what none of several meets is refused by whoever chooses one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Protocol

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.core.request import ProviderPreferences
from deepserve.dialects.node import Node

PROVIDER_NAME = "deepserve"
"""Display name and routing tag of this server, which means whoever answers behind it."""

_SORTS = ("price", "throughput", "latency", "exacto")
_QUANTIZATIONS = (*("int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32", "unknown"),)
_WITHOUT_EFFECT = frozenset(
    # Met by any single provider of V4, or a preference among several.
    ("enforce_distillable_text", "preferred_min_throughput", "preferred_max_latency")
)
_KNOWN = frozenset(
    (
        *("order", "only", "ignore", "allow_fallbacks", "require_parameters", "data_collection", "quantizations"),
        *("sort", "max_price", "zdr"),
    )
)

EXCLUDED_BY: Mapping[str, str] = {
    "provider.only": "allowed_providers",
    "provider.order": "allowed_providers",
    "provider.ignore": "allowed_providers",
    "provider.quantizations": "quantization",
    "provider.max_price": "max_price",
    "provider.require_parameters": "require_parameters",
    "provider.zdr": "data_policy:zdr",
    "provider.data_collection": "data_policy:training",
}
"""Field that excluded the provider -> the service's word for it."""


class ListPrice(Protocol):
    """US dollars for a million tokens."""

    @property
    def miss(self) -> Decimal: ...

    @property
    def output(self) -> Decimal: ...


class Prices(Protocol):
    """What models cost."""

    def price_at(self, model: str, at: datetime) -> ListPrice | None: ...


def read_provider(
    node: Node, price: ListPrice | None, *, keeps_prompts: bool, members: frozenset[str] = frozenset()
) -> tuple[ProviderPreferences, tuple[str, ...]]:
    """The preferences, and paths of what has no effect. Raises UnsupportedFeature for a wish that cannot be met.

    keeps_prompts  the server writes what it has read to its own disk, as cached prefixes or turns with tools
    members        names of those who may answer; empty: only this server, whose price is given
    """
    known = members | {PROVIDER_NAME}
    ignored: list[str] = []
    order, only, excluded = _names(node, "order"), _names(node, "only"), _names(node, "ignore")
    allows_fallbacks = _flag(node, "allow_fallbacks", default=True)
    whose = f"this server has {', '.join(f'`{name}`' for name in sorted(known))}"
    if only and known.isdisjoint(only):
        raise _none_left("only", whose)
    if PROVIDER_NAME in excluded and PROVIDER_NAME not in members:
        raise _none_left("ignore", f"`{PROVIDER_NAME}` is this server, and answers all come through it")
    if order and known.isdisjoint(order) and not allows_fallbacks:
        raise _none_left("order", f"{whose}, and fallbacks are not allowed")
    if not known.issuperset(order):
        ignored.append("provider.order[]")
    quantizations = node.optional("quantizations")
    if quantizations is not None:
        asked = [item.variant(_QUANTIZATIONS) for item in quantizations.items()]
        if asked and "unknown" not in asked:
            raise _none_left("quantizations", "this server does not state one; add `unknown` to accept that")
    wants_zero = _flag(node, "zdr", default=False)
    if keeps_prompts and wants_zero:
        raise _none_left("zdr", "this server keeps cached prefixes and turns on its own disk")
    collection = node.optional("data_collection")
    if collection is not None:
        collection.variant(("allow", "deny"))
    max_price = _max_price(node, price)
    for key in node.keys():  # noqa: SIM118 - a Node, not a dict
        if key not in _KNOWN | _WITHOUT_EFFECT and node.optional(key) is not None:
            ignored.append(f"provider.{key}")
    preferences = ProviderPreferences(
        order=order,
        only=only,
        ignore=excluded,
        allow_fallbacks=allows_fallbacks,
        require_parameters=_flag(node, "require_parameters", default=False),
        sort=_sort(node),
        max_price=max_price,
        data_collection=("deny" if wants_zero or (collection is not None and collection.value == "deny") else "allow"),
    )
    return preferences, tuple(ignored)


def refuse_unmet_parameters(ignored: tuple[str, ...]) -> None:
    """What `require_parameters` demands: every field that was sent has an effect. Raises UnsupportedFeature."""
    if ignored:
        raise UnsupportedFeature(
            "No endpoints found that can handle the requested parameters. These have no effect here: "
            f"{', '.join(ignored)[:500]}.",
            field="provider.require_parameters",
        )


def _names(node: Node, key: str) -> tuple[str, ...]:
    """Display names and tags mean the same; a tag's quantisation is not looked at."""
    names = node.optional(key)
    if names is None:
        return ()
    return tuple(item.string().strip().lower().partition("/")[0] for item in names.items())


def _flag(node: Node, key: str, *, default: bool) -> bool:
    flag = node.optional(key)
    return default if flag is None else flag.boolean()


def _sort(node: Node) -> str | None:
    sort = node.optional("sort")
    if sort is not None and isinstance(sort.value, dict):
        sort = sort.optional("by")
    return None if sort is None else sort.variant(_SORTS)


def _max_price(node: Node, price: ListPrice | None) -> Mapping[str, str]:
    limits = node.optional("max_price")
    if limits is None:
        return {}
    found: dict[str, str] = {}
    for kind in limits.keys():  # noqa: SIM118 - a Node, not a dict
        limit = limits.optional(kind)
        if limit is None:
            continue
        at_most = _decimal(limit)
        found[kind] = str(at_most)
        actual = None
        if price is not None and kind in ("prompt", "completion"):
            actual = price.miss if kind == "prompt" else price.output
        if actual is not None and actual > at_most:
            raise _none_left("max_price", f"{kind} costs {actual} US dollars for a million tokens")
    return found


def _decimal(node: Node) -> Decimal:
    value: Json = node.value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise node.mistyped("a number")
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        raise node.mistyped("a number") from None
    if not found.is_finite():
        raise InvalidField("A price limit is a number.", field=node.field)
    return found


def _none_left(key: str, why: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"No allowed providers are available for the selected model: {why}. Change or remove `provider.{key}`.",
        field=f"provider.{key}",
    )
