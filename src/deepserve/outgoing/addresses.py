"""Which addresses the server may connect to on behalf of a user.

A URL is looked at twice: its text, before anything is done (`check_url`), and the numeric address that is about to be
connected to (`refusal`), which alone is safe against names that change their meaning between two look-ups. Users are
told that an address they wrote down is refused; what a name resolved to is for the operator's log.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

import msgspec
from yarl import URL

from deepserve.core.errors import ConfigurationError
from deepserve.outgoing.errors import AddressRefused, InvalidUrl

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOW_PORTS = frozenset((80, 443))
_DEFAULT_PORTS = {"http": 80, "https": 443}

_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is routed; https://www.iana.org/assignments/ipv6-address-space."""

_TRANSLATED = (
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 of local use, RFC 8215
    ipaddress.IPv6Network("2001::/32"),  # Teredo, RFC 4380
)
"""Addresses that lead to an IPv4 address that somebody else decides."""


_RESERVED = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments, RFC 6890
    ipaddress.IPv4Network("192.88.99.0/24"),  # relays of 6to4, RFC 7526
)
"""Not public either, though `is_global` of some releases of Python says so."""

_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?\Z")
"""Hosts that systems read as IPv4 addresses in one of many spellings, and that no name can be:
https://url.spec.whatwg.org/#ends-in-a-number-checker."""


class AddressPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """allowed_hosts     `host:port` as URLs spell it, in lower case: exempt from everything but the own addresses
    allowed_networks  whose addresses may be reached though they are not public
    allows_http       URLs without TLS are taken for every host, not only for allowed ones
    own_addresses     where this server listens: never reached, whatever is allowed
    max_characters    of a URL
    """

    allowed_hosts: frozenset[str] = frozenset()
    allowed_networks: tuple[Network, ...] = ()
    allows_http: bool = False
    own_addresses: frozenset[tuple[str, int]] = frozenset()
    max_characters: int = 2048

    def check_url(self, text: str) -> URL:
        """The URL, exactly as written, if it could be called.

        Raises InvalidUrl or AddressRefused, in words for its author.
        """
        if len(text) > self.max_characters:
            raise InvalidUrl(f"The URL is longer than {self.max_characters} characters.")
        if not text.isprintable() or any(character in text for character in " \\"):
            raise InvalidUrl("The URL contains blanks, backslashes or control characters.")
        try:
            url = URL(text)
            host, port = url.host, url.port
        except (ValueError, UnicodeError) as error:
            raise InvalidUrl("The URL cannot be read.") from error
        if url.scheme not in _DEFAULT_PORTS:
            raise InvalidUrl("The URL must begin with https://.")
        if not host or port is None:
            raise InvalidUrl("The URL names no host.")
        # In the text itself: what stands before an empty name is dropped when it is read.
        authority = re.split("[/?#]", text.partition("//")[2], maxsplit=1)[0]
        if url.user is not None or url.password is not None or "@" in authority:
            raise InvalidUrl("The URL must not contain a user name or a password.")
        if "%" in authority:
            raise InvalidUrl("The URL's host must not contain a percent sign.")
        if text.isascii():
            # Exactly as written: whoever signed the query signed its bytes.
            url = URL(text, encoded=True)
        if self._allows_host(host, port):
            return url
        if url.scheme == "http" and not self.allows_http:
            raise AddressRefused("The URL must begin with https://.")
        if port not in _LOW_PORTS and port < 1024:
            raise AddressRefused(f"Port {port} is not called by this server; use 443, or 1024 and above.")
        literal = _literal(host)
        if literal is None and _ENDS_IN_NUMBER.search(host) is not None:
            raise InvalidUrl("The URL's host is a number that is not a plain address: write four decimal numbers.")
        if literal is not None and self._judge(literal, port) is not None:
            raise AddressRefused("The URL's address is not a public one.")
        return url

    def exempts(self, host: str, port: int) -> bool:
        """Whether the operator has named this very host and port."""
        return self._allows_host(host, port)

    def refusal(self, host: str, sockaddr: tuple[object, ...]) -> str | None:
        """Why the address of a socket, to which the name in the URL has led, must not be connected to."""
        number, port = str(sockaddr[0]), int(str(sockaddr[1]))
        try:
            address: Address = ipaddress.ip_address(number)
        except ValueError:
            return "is not an IP address"
        if self._is_own(address, port):
            return "is this server itself"
        if self._allows_host(host, port):
            return None
        if len(sockaddr) == 4 and sockaddr[3]:
            return "belongs to a network zone"
        return self._judge(address, port)

    def _allows_host(self, host: str, port: int) -> bool:
        return f"{f'[{host}]' if ':' in host else host}:{port}".lower() in self.allowed_hosts

    def _judge(self, address: Address, port: int) -> str | None:
        if self._is_own(address, port):
            return "is this server itself"
        if any(address in network for network in self.allowed_networks):
            return None
        if isinstance(address, ipaddress.IPv6Address):
            if address.scope_id is not None:
                return "belongs to a network zone"
            if any(address in network for network in _TRANSLATED):
                return "is translated to an address that cannot be known"
            inner = address.ipv4_mapped or address.sixtofour
            if inner is not None:
                return self._judge(inner, port)
            if address not in _UNICAST:
                return "is not a public address"
        is_public = address.is_global and not address.is_multicast
        if not is_public or any(address in network for network in _RESERVED):
            return "is not a public address"
        return None

    def _is_own(self, address: Address, port: int) -> bool:
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        for listening, own_port in self.own_addresses:
            if port != own_port:
                continue
            own = ipaddress.ip_address(listening.partition("%")[0])
            if address in (own, ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("::")):  # noqa: S104 - "here"
                return True
            if own.is_unspecified and _is_of_this_machine(address):
                return True
        return False


def parse_allowances(entries: Iterable[str]) -> tuple[frozenset[str], tuple[Network, ...]]:
    """Hosts with ports, and networks, out of what an operator wrote. Raises ConfigurationError."""
    hosts: set[str] = set()
    networks: list[Network] = []
    for entry in entries:
        text = entry.strip().lower()
        host, _, port = text.rpartition(":")
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:
            if not host or not port.isdigit() or "/" in text:
                raise ConfigurationError(
                    f"{entry!r} is neither a host with a port nor a network. Write for example hooks.internal:8443, "
                    "127.0.0.1:9000, [::1]:9000 or 10.1.0.0/16."
                ) from None
            hosts.add(text)
    return frozenset(hosts), tuple(networks)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_of_this_machine(address: Address) -> bool:
    """Only an address of this machine can be bound to."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
