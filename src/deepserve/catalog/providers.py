"""Services that can answer in our place: rows of `providers.toml`."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from importlib import resources

import msgspec

from deepserve.config import EMBEDDED, UpstreamSettings
from deepserve.core.errors import ConfigurationError

GENERIC = "openai"
"""The kind of a server of which nothing but its address is known."""


class PlainCompletions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a service that speaks Chat continues plain texts.

    path         after its base address
    has_suffix   it fills holes, too
    needs_limit  where `max_tokens` is left out it ends after a few tokens
    """

    path: str
    has_suffix: bool = False
    needs_limit: bool = True


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One service.

    protocol      how it is spoken to: a row of `backends.kinds`,
    flavour       and what is special about it there
    base_url      None: a kind of server, whose address the operator gives
    key_variable  of the environment, which holds the key
    models        our canonical id -> the service's name for it
    completions   None: it has none, or none is documented for these models
    collects_data  whether it keeps prompts or trains on them; None: not known
    source        who says all this, and when it was read
    """

    id: str
    title: str
    protocol: str = "chat"
    flavour: str = ""
    key_variable: str
    models: Mapping[str, str]
    source: str
    completions: PlainCompletions | None = None
    collects_data: bool | None = None
    base_url: str | None = None
    needs_key: bool = True
    context_tokens: int | None = None
    max_output_tokens: int | None = None


def load_providers() -> Mapping[str, Provider]:
    """The rows that ship with the package, by id."""
    text = resources.files("deepserve.catalog").joinpath("providers.toml").read_text(encoding="utf-8")
    return {row.id: row for row in msgspec.convert(tomllib.loads(text)["provider"], list[Provider])}


_HOST = re.compile(r"[\w.-]+:\d{1,5}", re.ASCII)
"""What people write for an address."""


def find_provider(wanted: str, providers: Mapping[str, Provider]) -> Provider:
    """What an operator means by `openrouter`, by an address, or by `deepserve=http://10.0.0.7:8000/v1`.

    The row with its address. Raises ConfigurationError.
    """
    kind, is_assigned, address = wanted.partition("=")
    if "://" in kind or not is_assigned:
        kind, address = (GENERIC, wanted) if "://" in wanted else (wanted, "")
    provider = providers.get(kind.strip().lower())
    if provider is None:
        if _HOST.fullmatch(wanted.strip()):
            raise ConfigurationError(
                f"{wanted!r} lacks the beginning of an address: write http://{wanted.strip()}/v1, or https://… for one "
                "with TLS."
            )
        near = difflib.get_close_matches(kind.strip().lower(), providers, n=1)
        raise ConfigurationError(
            f"{kind!r} is no upstream that is known: {', '.join(providers)}. "
            f"{f'Did you mean {near[0]}? ' if near else ''}"
            "Name one of these, an address (https://…/v1), or what stands at an address (vllm=http://…/v1)."
        )
    address = address.strip() or provider.base_url or ""
    if not address:
        raise ConfigurationError(
            f"{provider.id} stands nowhere of its own: add its address, as in {provider.id}=http://10.0.0.7:8000/v1."
        )
    if "://" not in address:
        raise ConfigurationError(
            f"The address {address!r} of {provider.id} lacks its beginning: write {provider.id}=http://{address}, or "
            "https:// for one with TLS."
        )
    return msgspec.structs.replace(provider, base_url=address)


def read_upstream(wanted: str, *, taken: Collection[str] = ()) -> UpstreamSettings:
    """What an operator means by one word, as settings. taken: ids of others. Raises ConfigurationError."""
    if wanted.strip().lower() == EMBEDDED and EMBEDDED not in taken:
        return UpstreamSettings(id=EMBEDDED, kind=EMBEDDED)
    providers = load_providers()
    found = find_provider(wanted, providers)
    number, id_ = 1, found.id
    while id_ in taken:
        number += 1
        id_ = f"{found.id}-{number}"
    address, *replicas = [one.strip() for one in (found.base_url or "").split(",")]
    is_usual = address == providers[found.id].base_url
    return UpstreamSettings(id=id_, kind=found.id, address=None if is_usual else address, replicas=tuple(replicas))
