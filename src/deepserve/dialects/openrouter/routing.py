"""Who is asked: the model and its fallbacks, and the wishes about providers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from deepserve.core.errors import DeepserveError, UnknownModel
from deepserve.core.model import ModelName
from deepserve.core.request import ProviderPreferences
from deepserve.dialects.node import Node
from deepserve.dialects.openrouter.provider import Prices, read_provider
from deepserve.dialects.openrouter.slugs import Slug, Slugs


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """What routing needs to know of a server.

    default_model  what is asked when the client names none
    keeps_prompts  as in `read_provider`
    """

    slugs: Slugs
    default_model: Callable[[], str]
    prices: Prices
    keeps_prompts: bool


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """ignored: paths of what has no effect, in the client's spelling."""

    slug: Slug
    preferences: ProviderPreferences
    ignored: tuple[str, ...]


class Chosen:
    """Names with the one choice already made."""

    def __init__(self, slug: Slug, slugs: Slugs) -> None:
        self._slug = slug
        self._slugs = slugs

    def resolve(self, requested: str) -> ModelName:  # noqa: ARG002 - the protocol's
        return self._slug.model

    def unknown(self, requested: str) -> DeepserveError:
        return self._slugs.unknown(requested)


def read_route(root: Node, directory: Directory, *, at: datetime) -> Route:
    """Read `model`, `models` and `provider`. Raises RequestError. at: the instant that decides the price."""
    slug, ignored = _choose(root, directory)
    ignored += slug.ignored
    preferences = ProviderPreferences()
    provider = root.optional("provider")
    if provider is not None:
        price = directory.prices.price_at(slug.model.id, at)
        preferences, unmet = read_provider(provider, price, keeps_prompts=directory.keeps_prompts)
        ignored += unmet
    return Route(slug=slug, preferences=preferences, ignored=ignored)


def _choose(root: Node, directory: Directory) -> tuple[Slug, tuple[str, ...]]:
    """The first of `model` and `models` that this server knows, and the paths of those it does not.

    All models have the same engine behind them: where one cannot answer, another could not either.
    """
    model, models = root.optional("model"), root.optional("models")
    names = [] if model is None else [model.string()]
    names += [] if models is None else [item.string() for item in models.items()]
    unknown: list[UnknownModel] = []
    for name in names or [directory.default_model()]:
        try:
            return directory.slugs.read(name), ("models[]",) if unknown else ()
        except UnknownModel as error:
            unknown.append(error)
    raise unknown[0]
