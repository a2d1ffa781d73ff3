"""Which sites a search may show and a fetch may visit, as clients write them down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import msgspec

from deepserve.core.errors import InvalidField

_MAX_ENTRIES = 100
_MAX_CHARACTERS = 512
_HOST = re.compile(r"(\*\.)?(?!-)[\w-]{1,63}(\.[\w-]{1,63})*\.?")


class DomainRules(msgspec.Struct, frozen=True, kw_only=True):
    """Entries are hosts, with all their subdomains, and perhaps a path: `example.com`, `example.com/blog`.

    A star in the path stands for anything. With allowed entries nothing else passes; blocked ones never pass.
    """

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    def allows(self, url: str) -> bool:
        place = _place_of(url)
        if place is None or any(_covers(entry, *place) for entry in self.blocked):
            return False
        return not self.allowed or any(_covers(entry, *place) for entry in self.allowed)


def read_domains(entries: Sequence[str], *, field: str) -> tuple[str, ...]:
    """Entries as DomainRules takes them. Raises InvalidField naming the one that is wrong."""
    if len(entries) > _MAX_ENTRIES:
        raise InvalidField(f"At most {_MAX_ENTRIES} domains can be named.", field=field)
    return tuple(_read_domain(entry, f"{field}[{number}]") for number, entry in enumerate(entries))


def _read_domain(entry: str, field: str) -> str:
    if "://" in entry:
        raise InvalidField(
            "A domain is written without https://, such as example.com or example.com/blog.", field=field
        )
    host, _, path = entry.strip().partition("/")
    if len(entry) > _MAX_CHARACTERS or not _HOST.fullmatch(host) or not path.isprintable():
        raise InvalidField("This is not a domain; write for example example.com or example.com/blog.", field=field)
    if path.count("*") > 1:
        raise InvalidField("A domain's path may contain one star at most.", field=field)
    return entry.strip()


def _place_of(url: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    return None if not host else (_plain_host(host), unquote(parts.path) or "/")


def _covers(entry: str, host: str, path: str) -> bool:
    wanted, slash, rest = entry.partition("/")
    wanted = _plain_host(wanted.removeprefix("*."))
    if host != wanted and not host.endswith(f".{wanted}"):
        return False
    if not slash or not rest:
        return True
    before, star, after = rest.rstrip("/").partition("*")
    if not star:
        return path == f"/{before}" or path.startswith(f"/{before}/")
    return path.startswith(f"/{before}") and (not after or after in path[len(before) + 1 :])


def _plain_host(host: str) -> str:
    """One spelling for each host: look-alike letters of other scripts stay different."""
    host = host.rstrip(".").lower()
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host
