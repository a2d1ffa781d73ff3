"""The upstream that the settings name: its row, its key, and which address may be called."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from deepserve import __version__
from deepserve.backends.upstream.backend import UpstreamBackend
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.catalog.models import load_models
from deepserve.catalog.providers import Provider, find_provider, load_providers
from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.errors import OutgoingError
from deepserve.outgoing.origin_client import OriginClient

_MAX_KEY_CHARACTERS = 4096


def open_upstream(settings: Settings, *, environment: Mapping[str, str] | None = None) -> UpstreamBackend:
    """Raises ConfigurationError, which shows no key."""
    assert settings.upstream is not None
    provider = find_provider(settings.upstream, load_providers())
    if settings.upstream_models:
        known = [row.id for row in load_models().models]
        for model_id in settings.upstream_models:
            if model_id not in known:
                raise ConfigurationError(f"{model_id} is no model of this server: it has {', '.join(known)}.")
        provider = msgspec.structs.replace(provider, models=dict(settings.upstream_models))
    key = _read_key(provider, settings.upstream_key_file, os.environ if environment is None else environment)
    limits = UpstreamLimits()
    try:
        client = OriginClient(
            provider.base_url or "",
            policy=_policy(provider, settings),
            user_agent=f"deepserve/{__version__}",
            connect_s=limits.connect_s,
            max_bytes=limits.answer_bytes,
        )
    except OutgoingError as error:
        raise ConfigurationError(f"The upstream {provider.base_url} cannot be called: {error.message}") from error
    return UpstreamBackend(
        provider, client=client, key=key, limits=limits, learns_models=provider.context_tokens is None
    )


def _policy(provider: Provider, settings: Settings) -> AddressPolicy:
    """Where the operator wrote an address down, it may be a private one, and without TLS; but not this server."""
    try:
        url = urlsplit(provider.base_url or "")
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        named = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    except ValueError as error:
        raise ConfigurationError(f"The upstream {provider.base_url} is no address.") from error
    is_from_catalog = provider.base_url == load_providers()[provider.id].base_url
    return AddressPolicy(
        allowed_hosts=frozenset() if is_from_catalog else frozenset((named,)),
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


def _read_key(provider: Provider, file: Path | None, environment: Mapping[str, str]) -> str | None:
    """From the file, where one is named, else from the environment: never from a command line others can read."""
    if file is None:
        key, source = environment.get(provider.key_variable, ""), f"the environment variable {provider.key_variable}"
    else:
        source = str(file)
        try:
            key = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The key file {file} cannot be read: {type(error).__name__}.") from error
    key = key.strip()
    if not key:
        if file is None and not provider.needs_key:
            return None
        raise ConfigurationError(
            f"{provider.title} needs a key: set {provider.key_variable}, or name a file that holds it with "
            "--upstream-key-file."
        )
    if len(key) > _MAX_KEY_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(f"What {source} holds is no key.")
    return key
