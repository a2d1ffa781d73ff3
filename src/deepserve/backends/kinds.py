"""How each kind of upstream is opened: one line for each protocol that rows of `catalog/providers.toml` name.

Each is imported only when an upstream needs it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from deepserve.backends.backend import Backend
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.catalog.models import load_models
from deepserve.catalog.providers import Provider, load_providers
from deepserve.config import Settings, UpstreamSettings
from deepserve.core.errors import ConfigurationError
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.keys import find_key
from deepserve.store.turns import TurnStore


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an upstream before it is opened.

    provider  its row, with the operator's id, address and models
    key       None where it needs none
    policy    which addresses may be called for it
    settings  of the whole server
    turns     where turns with tools outlive this process, for kinds whose prompts are written here
    """

    upstream: UpstreamSettings
    provider: Provider
    key: str | None
    limits: UpstreamLimits
    policy: AddressPolicy
    settings: Settings
    turns: TurnStore | None = None

    @property
    def address(self) -> str:
        return self.provider.base_url or ""


def _open_answering(opening: Opening) -> Backend:
    from deepserve.backends.upstream.opening import open_answering

    return open_answering(opening)


def _open_cluster(opening: Opening) -> Backend:
    from deepserve.backends.cluster.opening import open_cluster

    return open_cluster(opening)


TOKENS: Final = "tokens"
"""The protocol of servers that are given token ids; theirs for whom the operator names a tokenizer."""

KINDS: Final[Mapping[str, Callable[[Opening], Backend]]] = {
    "chat": _open_answering,
    "messages": _open_answering,
    "responses": _open_answering,
    "runware": _open_answering,
    TOKENS: _open_cluster,
}
"""Protocol -> how a back end that speaks it is made, not yet started. Each raises SetupError."""


def open_upstream(
    upstream: UpstreamSettings,
    settings: Settings,
    *,
    environment: Mapping[str, str] | None = None,
    turns: TurnStore | None = None,
) -> Backend:
    """The back end in front of one upstream, not yet started. Raises SetupError, which shows no key."""
    opening = prepare_opening(upstream, settings, environment=environment, turns=turns)
    return KINDS[opening.provider.protocol if upstream.tokenizer is None else TOKENS](opening)


def prepare_opening(
    upstream: UpstreamSettings,
    settings: Settings,
    *,
    environment: Mapping[str, str] | None = None,
    turns: TurnStore | None = None,
) -> Opening:
    """Everything that is needed to call an upstream. Raises SetupError, which shows no key."""
    rows = load_providers()
    row = rows.get(upstream.kind)
    if row is None:
        raise ConfigurationError(
            f"The upstream {upstream.id} is of the kind {upstream.kind!r}, which is not known: {', '.join(rows)}."
        )
    provider = _named(row, upstream)
    if upstream.replicas and upstream.tokenizer is None:
        raise ConfigurationError(
            f"The upstream {upstream.id} has several addresses, which servers have that are given token ids: name the "
            "folder of its `tokenizer`, or make each address an upstream of its own."
        )
    return Opening(
        upstream=upstream,
        provider=provider,
        key=_key(provider, upstream, os.environ if environment is None else environment),
        limits=upstream_limits(upstream),
        policy=policy_of(provider.base_url or "", settings, is_usual=provider.base_url == row.base_url),
        settings=settings,
        turns=turns,
    )


def _named(row: Provider, upstream: UpstreamSettings) -> Provider:
    address = upstream.address or row.base_url
    if not address:
        raise ConfigurationError(f"The upstream {upstream.id} stands nowhere of its own: give it an address.")
    known = [model.id for model in load_models().models]
    for model_id in upstream.models:
        if model_id not in known:
            raise ConfigurationError(f"{model_id} is no model of this server: it has {', '.join(known)}.")
    return msgspec.structs.replace(
        row, id=upstream.id, base_url=address, models=dict(upstream.models) if upstream.models else row.models
    )


def _key(provider: Provider, upstream: UpstreamSettings, environment: Mapping[str, str]) -> str | None:
    variable = upstream.key_variable or provider.key_variable
    key = find_key(variable, file=upstream.key_file, environment=environment)
    if key is None and provider.needs_key:
        raise ConfigurationError(
            f"{provider.title} needs a key: set {variable}, or name a file that holds it with --upstream-key-file."
        )
    return key


def upstream_limits(upstream: UpstreamSettings) -> UpstreamLimits:
    """The usual ones, but for what the operator says."""
    wanted = {name: getattr(upstream, name) for name in ("connect_s", "first_event_s", "idle_s", "num_retries")}
    return UpstreamLimits(**{name: value for name, value in wanted.items() if value is not None})


def policy_of(address: str, settings: Settings, *, is_usual: bool = False) -> AddressPolicy:
    """Where the operator wrote an address down, it may be a private one, and without TLS; but not this server."""
    try:
        url = urlsplit(address)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        named = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    except ValueError as error:
        raise ConfigurationError(f"The upstream {address} is no address.") from error
    return AddressPolicy(
        allowed_hosts=frozenset() if is_usual else frozenset((named,)),
        own_addresses=_own_addresses(settings),
    )


def _own_addresses(settings: Settings) -> frozenset[tuple[str, int]]:
    """Where requests would come back to us without end. A port that is not chosen yet cannot be named as upstream."""
    host = settings.host.strip("[]")
    hosts = {"127.0.0.1", "::1"} if host == "localhost" else {host}
    ports = {port for port in (settings.port, settings.runware_port) if port}
    return frozenset((one, port) for one in hosts if _is_number(one) for port in ports)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
