"""What types cannot say: settings that contradict each other, and names of things that do not exist."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from deepserve.catalog.models import load_models
from deepserve.catalog.price_table import load_prices, read_own_prices
from deepserve.catalog.providers import load_providers, read_upstream
from deepserve.config import EMBEDDED, Settings
from deepserve.configuration.declarations import Path
from deepserve.configuration.problems import unknown_name
from deepserve.core.domains import read_domains
from deepserve.core.errors import ConfigurationError, InvalidField
from deepserve.outgoing.addresses import parse_allowances

FOLDER_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Names under which folders are told; they stand in addresses of documents."""

_DATABASE: Final = re.compile(r"postgres(?:ql)?://")


class Contradiction(msgspec.Struct, frozen=True):
    """path: of the setting at fault, by its names in `Settings`."""

    path: Path
    text: str


def contradictions(settings: Settings) -> Iterator[Contradiction]:
    """All of them."""
    if settings.port and settings.port == settings.runware_port:
        yield Contradiction(("runware_port",), f"`runware_port` is {settings.port}, as `port` is: choose another.")
    models = [row.id for row in load_models().models]
    yield from _unknown_models(("upstream_models",), settings.upstream_models, models)
    yield from _unknown_models(("model_paths",), settings.model_paths, models)
    yield from _upstreams(settings, models)
    yield from _chains(settings, models)
    if settings.upstream is None:
        for name in ("upstream_models", "upstream_key_file", "upstream_tokenizer"):
            if getattr(settings, name):
                yield Contradiction((name,), f"`{name}` says something about `upstream`: name it.")
    if settings.backend == "upstream" and settings.upstream is None and not settings.upstreams:
        yield Contradiction(
            ("backend",),
            "`backend` is upstream, but none is named: set `upstream` (--upstream) or [[upstreams]].",
        )
    yield from _outgoing(settings)
    yield from _tools(settings)
    if settings.database is not None and not _DATABASE.match(settings.database):
        yield Contradiction(
            ("database",), "`database` is the address of a PostgreSQL server: postgresql://USER@HOST:PORT/NAME."
        )
    if settings.prices_file is not None:
        try:
            read_own_prices(settings.prices_file, load_prices())
        except ConfigurationError as error:
            yield Contradiction(("prices_file",), error.message)
    if settings.search_service == "searxng" and settings.search_url is None:
        yield Contradiction(
            ("search_service",), "SearXNG has no address of its own: `search_url` (--search-url) must name it."
        )


def _outgoing(settings: Settings) -> Iterator[Contradiction]:
    for name in ("outgoing_allowed", "fetch_allowed"):
        for number, entry in enumerate(getattr(settings, name)):
            try:
                parse_allowances([entry])
            except ConfigurationError as error:
                yield Contradiction((name, number), error.message)


def _tools(settings: Settings) -> Iterator[Contradiction]:
    for name in ("fetch_sites", "fetch_blocked_sites"):
        try:
            read_domains(getattr(settings, name), field=name)
        except InvalidField as error:
            yield Contradiction((name,), error.message)
    for name in settings.search_folders:
        if not FOLDER_NAME.fullmatch(name):
            yield Contradiction(
                ("search_folders", name),
                f"{name!r} is not a name for a folder: lower-case letters, digits and hyphens.",
            )


def _upstreams(settings: Settings, models: Iterable[str]) -> Iterator[Contradiction]:
    rows = load_providers()
    kinds = [*rows, EMBEDDED]
    seen: set[str] = set()
    for number, upstream in enumerate(settings.upstreams):
        path: Path = ("upstreams", number)
        if (upstream.id == EMBEDDED) != (upstream.kind == EMBEDDED):
            yield Contradiction((*path, "id"), f"Our own engine has the id and the kind {EMBEDDED!r}, and nobody else.")
        elif not upstream.id.strip():
            yield Contradiction((*path, "id"), "`id` is empty: give this upstream a name.")
        elif upstream.id in seen:
            yield Contradiction((*path, "id"), f"Two upstreams have the id {upstream.id!r}.")
        seen.add(upstream.id)
        if upstream.address is not None and not _is_address(upstream.address):
            yield Contradiction(
                (*path, "address"), "`address` is not one that can be called: write for example https://example.com/v1."
            )
        row = rows.get(upstream.kind)
        if upstream.kind not in kinds:
            yield Contradiction((*path, "kind"), unknown_name(upstream.kind, kinds, what="kind of upstream"))
        elif row is not None and row.base_url is None and upstream.address is None:
            yield Contradiction(
                path, f"{upstream.id!r} needs an `address`: {row.title} stands nowhere of its own (http://…/v1)."
            )
        yield from _unknown_models((*path, "models"), upstream.models, models)


def _chains(settings: Settings, models: Iterable[str]) -> Iterator[Contradiction]:
    known = [upstream.id for upstream in settings.upstreams]
    if settings.upstream is not None:
        try:
            known.append(read_upstream(settings.upstream, taken=known).id)
        except ConfigurationError as error:
            yield Contradiction(("upstream",), error.message)
    known = list(dict.fromkeys([*known, EMBEDDED]))
    yield from _unknown_models(("chains",), settings.chains, models)
    for model, chain in settings.chains.items():
        path: Path = ("chains", model)
        if not chain:
            yield Contradiction(path, f"The chain of {model} is empty: name the upstreams that it asks.")
        for number, name in enumerate(chain):
            if name not in known:
                yield Contradiction((*path, number), unknown_name(name, known, what="upstream"))
            elif name in chain[:number]:
                yield Contradiction((*path, number), f"The chain of {model} names {name!r} twice.")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text.strip())
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _unknown_models(path: Path, given: Mapping[str, object], known: Iterable[str]) -> Iterator[Contradiction]:
    for name in given:
        if name not in known:
            yield Contradiction((*path, name), unknown_name(name, known, what="model of this server"))
