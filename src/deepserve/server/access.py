"""Who may come in: keys where there are any, else everybody on this machine but no web page of somebody else.

Looks at the raw path and the raw headers, never at a URL put together from them.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Scope

from deepserve.core.errors import AuthenticationFailed, OriginRefused
from deepserve.core.tenant import LOCAL_TENANT, Tenant, TenantId
from deepserve.server.known_keys import KnownKeys
from deepserve.server.visit import fields_of

_CATALOGUES = frozenset(
    (
        *(b"/api/v1/models", b"/api/v1/models/count", b"/api/ai/models", b"/api/ai/models/search"),
        *(b"/api/evaluations/models", b"/api/evaluations/models/search"),
    )
)
"""Raw paths that clients of OpenRouter and Oxen read before they have a key. With one, they say what it is for."""

_PUBLIC = _CATALOGUES | {b"/health", b"/ready", b"/anthropic", b"/anthropic/"}
"""Raw paths that answer without a key; they say nothing about anybody."""

_KEY_IN_BODY = frozenset((b"/", b"/v1", b"/v1/"))
"""Raw paths of POSTs whose body may bring the key: whoever answers there has to look for it."""

ANONYMOUS = Tenant(id=TenantId("anonymous"), name="anonymous")
"""Nobody yet: comes only to the addresses where the body may bring a key, and is not to be answered."""

_NO_KEY = "Authentication Fails (governor)"
_WRONG_KEY = "Authentication Fails, Your api key: ****{} is invalid"


class KeyLookup(Protocol):
    """Where keys are kept."""

    def find(self, key: str) -> Tenant | None:
        """The tenant of a valid key. May block for a database's time: it is called in a thread."""
        ...


class ConfiguredKeys:
    """The keys of the settings, each a tenant of its own. Only digests are kept; comparison takes constant time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._tenants = [(_digest(key), _tenant_of(key)) for key in keys]

    def find(self, key: str) -> Tenant | None:
        wanted, found = _digest(key), None
        for digest, tenant in self._tenants:
            if hmac.compare_digest(digest, wanted):
                found = tenant
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _tenant_of(key: str) -> Tenant:
    name = "key-" + _digest(key).hex()[:12]
    return Tenant(id=TenantId(name), name=name)


class Access:
    """Decides about one request. Without places to look keys up in, every bearer token is the local tenant."""

    def __init__(self, lookups: Sequence[KeyLookup]) -> None:
        self._lookups = lookups
        self._known = KnownKeys()

    def replace(self, lookups: Sequence[KeyLookup]) -> None:
        """Look for keys here from now on."""
        self._lookups = lookups
        self._known = KnownKeys()

    async def admit(self, scope: Scope) -> Tenant:
        """Raises AuthenticationFailed or OriginRefused."""
        if not self._lookups:
            _refuse_foreign(scope)
            return LOCAL_TENANT
        key = key_of(fields_of(scope))
        if scope.get("raw_path", b"") in _PUBLIC:
            if not key or scope["raw_path"] not in _CATALOGUES:
                return LOCAL_TENANT
            try:
                return await self.tenant_of(key)
            except AuthenticationFailed:
                return LOCAL_TENANT
        if not key:
            if scope.get("method") == "POST" and scope.get("raw_path", b"") in _KEY_IN_BODY:
                return ANONYMOUS
            raise AuthenticationFailed(_NO_KEY)
        return await self.tenant_of(key)

    async def greet(self, scope: Scope) -> Tenant:
        """Decides about a WebSocket: as `admit`, but ANONYMOUS where the key is still to come.

        Browsers let every page open one, and send no key with it: without a key a page of another site stays out.
        """
        if not self._lookups:
            _refuse_foreign(scope)
            return LOCAL_TENANT
        headers = Headers(scope=scope)
        key = key_of(headers)
        if key:
            return await self.tenant_of(key)
        _refuse_other_sites(headers)
        return ANONYMOUS

    async def tenant_of(self, key: str) -> Tenant:
        """Whose key it is; anything is a key where none is configured. Raises AuthenticationFailed."""
        if not self._lookups:
            return LOCAL_TENANT
        known = self._known.get(key)
        if known is not None:
            return known
        for lookup in self._lookups:
            if isinstance(lookup, ConfiguredKeys):
                tenant = lookup.find(key)
            else:
                tenant = await self._known.ask(lookup.find, key)
            if tenant is not None:
                return tenant
        shown = "".join(character if character.isprintable() else "?" for character in key[-4:])
        raise AuthenticationFailed(_WRONG_KEY.format(shown))


def key_of(headers: Mapping[str, str]) -> str:
    """`Authorization: Bearer` wins over `x-api-key`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key", "").strip()


def _refuse_foreign(scope: Scope) -> None:
    """A page of another site, or a name that was pointed at this machine (DNS rebinding), does not get in."""
    # All fields: which of two a browser, a proxy or a router would believe is anybody's guess.
    for name, value in scope["headers"]:
        if name == b"host" and not _names_this_machine(value):
            raise OriginRefused(
                "The Host header does not name this machine. Without API keys the server answers only to 127.0.0.1, "
                "localhost and [::1]."
            )
        if name == b"origin" and not _names_this_machine(value.partition(b"://")[2]):
            raise OriginRefused("Requests from web pages of other sites are refused while no API keys are configured.")


@lru_cache(maxsize=256)
def _names_this_machine(authority: bytes) -> bool:
    return is_loopback(_name_of(authority.decode("latin-1")))


def _refuse_other_sites(headers: Headers) -> None:
    """Only pages that came from this server itself, under whatever name it has, or from this machine."""
    hosts = [host.lower() for host in headers.getlist("host")]
    for origin in headers.getlist("origin"):
        authority = origin.partition("://")[2].lower()
        if not (is_loopback(_name_of(authority)) or (authority and hosts == [authority])):
            raise OriginRefused("WebSockets from web pages of other sites are refused.")


_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/@]+)(?::\d+)?")


def _name_of(authority: str) -> str:
    """The host of `host:port`; empty for anything else."""
    match = _HOST.fullmatch(authority)
    return match[1].strip("[]") if match else ""


@lru_cache(maxsize=256)
def is_loopback(name: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
