"""Requests of this service: routing first, then what Chat reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from deepserve.config import Limits
from deepserve.core.errors import DeepserveError, UnknownModel
from deepserve.core.model import ModelName
from deepserve.core.request import ProviderPreferences
from deepserve.dialects.chat.openrouter.flavour import OPENROUTER
from deepserve.dialects.chat.openrouter.plugins import read_plugins, read_transforms
from deepserve.dialects.chat.openrouter.provider import ListPrice, read_provider, refuse_unmet_parameters
from deepserve.dialects.chat.openrouter.reasoning import check_reasoning
from deepserve.dialects.chat.openrouter.slugs import Slug, Slugs
from deepserve.dialects.chat.request import ChatRequest, decode_root, read_root
from deepserve.dialects.exchange import Arrival
from deepserve.dialects.node import Node

PriceOf = Callable[[str], ListPrice | None]
"""The price in force of a canonical model id."""


class OpenRouterRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request; dated_name is the model's name in the answer."""

    chat: ChatRequest
    dated_name: str


class _Chosen:
    """The names, with the one choice already made."""

    def __init__(self, slug: Slug, slugs: Slugs) -> None:
        self._slug = slug
        self._slugs = slugs

    def resolve(self, requested: str) -> ModelName:  # noqa: ARG002 - the protocol's
        return self._slug.model

    def unknown(self, requested: str) -> DeepserveError:
        return self._slugs.unknown(requested)


def decode_request(
    raw: bytes, arrival: Arrival, *, slugs: Slugs, default_model: str, limits: Limits, price_of: PriceOf
) -> OpenRouterRequest:
    """Read a body. Raises RequestError. default_model: what is asked when the client names none."""
    root = read_root(raw, limits)
    slug, ignored = _choose(root, slugs, default_model)
    ignored += slug.ignored
    if arrival.is_strict:
        ignored += ("x-deepserve-strict",)
    preferences = ProviderPreferences()
    provider = root.optional("provider")
    if provider is not None:
        preferences, unmet = read_provider(provider, price_of(slug.model.id))
        ignored += unmet
    plugins, transforms = root.optional("plugins"), root.optional("transforms")
    ignored += () if plugins is None else read_plugins(plugins)
    ignored += () if transforms is None else read_transforms(transforms)
    check_reasoning(root)
    ignored += ("verbosity",) if root.optional("verbosity") is not None else ()
    chat = decode_root(
        _completed(root, slug),
        msgspec.structs.replace(arrival, is_strict=False),
        flavour=OPENROUTER,
        names=_Chosen(slug, slugs),
        limits=limits,
    )
    # Usage is always sent, so that these change nothing, as the service documents.
    ignored += tuple(path for path in chat.ignored if not path.startswith("stream_options"))
    if preferences.require_parameters:
        refuse_unmet_parameters(ignored)
    request = msgspec.structs.replace(chat.request, provider=preferences)
    return OpenRouterRequest(
        chat=msgspec.structs.replace(chat, request=request, ignored=tuple(dict.fromkeys(ignored)), include_usage=True),
        dated_name=slug.dated_name,
    )


def _choose(root: Node, slugs: Slugs, default_model: str) -> tuple[Slug, tuple[str, ...]]:
    """The first of `model` and `models` that this server knows, and the paths of those it does not."""
    candidates: list[Node | str] = []
    model, models = root.optional("model"), root.optional("models")
    if model is not None:
        candidates.append(model)
    if models is not None:
        candidates += models.items()
    unknown: Sequence[UnknownModel] = ()
    for candidate in candidates or [default_model]:
        try:
            slug = slugs.read(candidate if isinstance(candidate, str) else candidate.string())
        except UnknownModel as error:
            unknown = (*unknown, error)
            continue
        return slug, ("models[]",) if unknown else ()
    raise unknown[0]


def _completed(root: Node, slug: Slug) -> Node:
    """The body with what this service lets a client leave out."""
    value = {**root.mapping(), "model": slug.model.requested}
    prompt = root.optional("prompt")
    if value.get("messages") is None and prompt is not None:
        value["messages"] = [{"role": "user", "content": prompt.string()}]
    return Node(root.body, value)
