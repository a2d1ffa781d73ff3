"""Who is asked: the model and its fallbacks, and the wishes about providers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from deepserve.core.errors import DeepserveError, UnknownModel
from deepserve.core.model import ModelName
from deepserve.core.provider import Endpoint
from deepserve.core.request import ProviderPreferences
from deepserve.dialects.node import Node
from deepserve.dialects.openrouter.metadata import RoutingNotes
from deepserve.dialects.openrouter.provider import Prices, read_provider
from deepserve.dialects.openrouter.slugs import Slug, Slugs


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """What routing needs to know of a server.

    default_model  what is asked when the client names none
    keeps_prompts  as in `read_provider`
    endpoints      who may answer for a model, by its canonical id; empty: this server alone; None: it is not served
    """

    slugs: Slugs
    default_model: Callable[[], str]
    prices: Prices
    keeps_prompts: bool
    endpoints: Callable[[str], tuple[Endpoint, ...] | None] = lambda _: ()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """fallbacks: asked in turn where the first cannot answer. ignored: paths of what has no effect, as the client
    spelled them.
    """

    slug: Slug
    fallbacks: tuple[Slug, ...]
    preferences: ProviderPreferences
    ignored: tuple[str, ...]

    def notes(self, directory: Directory) -> RoutingNotes:
        """For clients that want to know how they were routed."""
        return RoutingNotes(
            requested=self.slug.dated_name,
            offers=tuple(
                (end.provider, slug.dated_name)
                for slug in (self.slug, *self.fallbacks)
                for end in directory.endpoints(slug.model.id) or ()
            ),
            name_of=directory.slugs.dated_name,
        )


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
    (slug, *fallbacks), ignored = _choose(root, directory)
    ignored += slug.ignored
    preferences = ProviderPreferences()
    provider = root.optional("provider")
    if provider is not None:
        ends = [end for one in (slug, *fallbacks) for end in directory.endpoints(one.model.id) or ()]
        # Where several may answer, each has a price of its own, and whoever chooses among them looks at it.
        price = None if ends else directory.prices.price_at(slug.model.id, at)
        preferences, unmet = read_provider(
            provider,
            price,
            keeps_prompts=directory.keeps_prompts,
            members=frozenset(name for end in ends for name in end.names),
        )
        ignored += unmet
    return Route(slug=slug, fallbacks=tuple(fallbacks), preferences=preferences, ignored=ignored)


def _choose(root: Node, directory: Directory) -> tuple[list[Slug], tuple[str, ...]]:
    """Those of `model` and `models` that this server has, each model once, and the paths of those it has not."""
    model, models = root.optional("model"), root.optional("models")
    names = [] if model is None else [model.string()]
    names += [] if models is None else [item.string() for item in models.items()]
    unknown: list[UnknownModel] = []
    found: dict[str, Slug] = {}
    unserved: dict[str, Slug] = {}
    for name in names or [directory.default_model()]:
        try:
            slug = directory.slugs.read(name)
        except UnknownModel as error:
            unknown.append(error)
        else:
            is_served = directory.endpoints(slug.model.id) is not None
            (found if is_served else unserved).setdefault(slug.model.id, slug)
    # What this server knows by name and does not have is refused by the gateway, which knows what it has.
    chosen = list(found.values()) or list(unserved.values())[:1]
    if not chosen:
        raise unknown[0]
    return chosen, ("models[]",) if unknown or (found and unserved) else ()
