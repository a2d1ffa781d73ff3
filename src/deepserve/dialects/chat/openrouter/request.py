"""Requests of this service: routing first, then what Chat reads."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from deepserve.config import Limits
from deepserve.dialects.chat.openrouter.flavour import OPENROUTER
from deepserve.dialects.chat.openrouter.plugins import read_plugins, read_transforms
from deepserve.dialects.chat.openrouter.reasoning import check_reasoning
from deepserve.dialects.chat.openrouter.server_tools import (
    Wanted,
    chosen_function,
    is_server_tool,
    merged,
    read_budget,
    read_search_options,
    read_tools,
    search_first,
)
from deepserve.dialects.chat.request import ChatRequest, decode_root, read_root
from deepserve.dialects.exchange import Arrival, Caller
from deepserve.dialects.node import Node
from deepserve.dialects.openrouter.metadata import RoutingNotes, wants_metadata
from deepserve.dialects.openrouter.provider import refuse_unmet_parameters
from deepserve.dialects.openrouter.routing import Chosen, Directory, read_route
from deepserve.dialects.openrouter.slugs import Slug


class OpenRouterRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request.

    dated_name  the model's name in the answer; name_of: that of another one, by its id, which answers in its place
    caller      who asked
    notes       what the answer says of its routing; None: nothing
    """

    chat: ChatRequest
    dated_name: str
    name_of: Callable[[str], str]
    caller: Caller
    notes: RoutingNotes | None = None


def decode_request(raw: bytes, arrival: Arrival, *, directory: Directory, limits: Limits) -> OpenRouterRequest:
    """Read a body. Raises RequestError."""
    root = read_root(raw, limits)
    route = read_route(root, directory, at=arrival.at)
    slug, ignored = route.slug, route.ignored
    if arrival.is_strict:
        ignored += ("x-deepserve-strict",)
    plugins, transforms = root.optional("plugins"), root.optional("transforms")
    wanted = merged(
        (
            read_tools(root.optional("tools")),
            Wanted() if plugins is None else read_plugins(plugins),
            read_search_options(root.optional("web_search_options")),
            search_first() if slug.is_online else Wanted(),
        )
    )
    ignored += wanted.ignored
    ignored += () if transforms is None else read_transforms(transforms)
    check_reasoning(root)
    ignored += ("verbosity",) if root.optional("verbosity") is not None else ()
    chat = decode_root(
        _completed(root, slug),
        msgspec.structs.replace(arrival, is_strict=False),
        flavour=OPENROUTER,
        names=Chosen(slug, directory.slugs),
        limits=limits,
        server_tools=wanted.tools,
        is_own_tool=is_server_tool,
    )
    # Usage is always sent, so that these change nothing, as the service documents.
    ignored += tuple(path for path in chat.ignored if not path.startswith("stream_options"))
    if route.preferences.require_parameters:
        refuse_unmet_parameters(ignored)
    request = msgspec.structs.replace(
        chat.request,
        provider=route.preferences,
        fallback_models=tuple(one.model.id for one in route.fallbacks),
        tool_budget=read_budget(root),
    )
    return OpenRouterRequest(
        chat=msgspec.structs.replace(chat, request=request, ignored=tuple(dict.fromkeys(ignored)), include_usage=True),
        dated_name=slug.dated_name,
        name_of=directory.slugs.dated_name,
        caller=Caller(tenant=arrival.tenant, headers=arrival.headers),
        notes=route.notes(directory) if wants_metadata(arrival.headers) else None,
    )


def _completed(root: Node, slug: Slug) -> Node:
    """The body with what this service lets a client leave out."""
    value = {**root.mapping(), "model": slug.model.requested}
    prompt, choice = root.optional("prompt"), root.optional("tool_choice")
    if choice is not None:
        value["tool_choice"] = chosen_function(choice.value)
    if value.get("messages") is None and prompt is not None:
        value["messages"] = [{"role": "user", "content": prompt.string()}]
    return Node(root.body, value)
