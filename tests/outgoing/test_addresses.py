"""Which addresses may be called for users."""

from __future__ import annotations

import asyncio
import socket

import pytest

from deepserve.core.errors import ConfigurationError
from deepserve.outgoing.addresses import AddressPolicy, parse_allowances
from deepserve.outgoing.client import OutgoingClient, system_lookup
from deepserve.outgoing.errors import AddressRefused, InvalidUrl, OutgoingError

POLICY = AddressPolicy(allows_http=True)

REFUSED_NUMBERS = (
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.127.255.255", "198.18.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.0.8", "192.88.99.1"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:7f00:1", "2002:7f00:1::", "2002:a00:1::"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2001:0:53aa:64c::1", "fe80::1", "fe80::1%lo", "fc00::1"),
    *("fd00::1", "ff02::1", "2001:db8::1", "100::1", "fec0::1", "4000::1"),
)
PUBLIC_NUMBERS = ("1.1.1.1", "93.184.216.34", "::ffff:1.1.1.1", "2606:4700:4700::1111", "2002:101:101::", "172.32.0.1")


def sockaddr(number: str, port: int = 443) -> tuple[object, ...]:
    return (number, port, 0, 0) if ":" in number else (number, port)


@pytest.mark.parametrize("number", REFUSED_NUMBERS)
def test_no_address_that_is_not_public_is_connected_to(number: str) -> None:
    assert POLICY.refusal("name.example", sockaddr(number)) is not None


@pytest.mark.parametrize("number", PUBLIC_NUMBERS)
def test_public_addresses_are_connected_to(number: str) -> None:
    assert POLICY.refusal("name.example", sockaddr(number)) is None


def test_an_address_within_a_zone_is_refused() -> None:
    assert POLICY.refusal("name.example", ("2606:4700::1", 443, 0, 3)) == "belongs to a network zone"


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "gopher://example.com/", "ftp://example.com", "//example.com", "example.com", ""),
        *("https://user@example.com/", "https://user:password@example.com", "https://:@example.com", "https://@a.com"),
        *("https://example.com\\@127.0.0.1/", "https://example.com/a b", "https://example.com/\n", "https:///path"),
        *("https://[fe80::1%25lo]/", "https://[::1", "https://example.com:99999/", "https://example.com:x/"),
        "https://example.com/" + "a" * 2048,
    ],
)
def test_what_is_no_plain_web_address_is_invalid(url: str) -> None:
    with pytest.raises(InvalidUrl):
        POLICY.check_url(url)


@pytest.mark.parametrize("number", [number for number in REFUSED_NUMBERS if "%" not in number])
def test_a_forbidden_address_in_the_url_is_refused_before_anything_is_done(number: str) -> None:
    host = f"[{number}]" if ":" in number else number
    with pytest.raises(AddressRefused):
        POLICY.check_url(f"https://{host}/")


@pytest.mark.parametrize(
    "host",
    ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.0.0.1.", "0x", "8.8.2056", "1.2.3.4.5", "a.0X7f", "①②⑦.①"],
)
def test_a_number_in_an_odd_spelling_is_no_host(host: str) -> None:
    """They were taken as names, and refused only when a webhook was due."""
    with pytest.raises(InvalidUrl, match="four decimal numbers"):
        POLICY.check_url(f"https://{host}/hook")


@pytest.mark.parametrize("host", ["a1.example", "1.example", "0x7f.example", "8.8.8.8", "1e100.net", "a-1.example."])
def test_numbers_within_names_are_names(host: str) -> None:
    assert POLICY.check_url(f"https://{host}/hook").host == host


@pytest.mark.parametrize("host", ["127。0。0。1", "①②⑦.⓪.⓪.①", "１２７.0.0.1"])
def test_letters_that_mean_digits_are_read_as_digits(host: str) -> None:
    with pytest.raises(AddressRefused):
        POLICY.check_url(f"https://{host}/hook")


@pytest.mark.parametrize("port", [1, 22, 25, 53, 1023])
def test_ports_of_other_services_are_refused(port: int) -> None:
    with pytest.raises(AddressRefused, match=str(port)):
        POLICY.check_url(f"https://example.com:{port}/")


def test_plain_http_needs_a_setting() -> None:
    assert POLICY.check_url("http://example.com/hook?token=1").path == "/hook"
    with pytest.raises(AddressRefused, match="https"):
        AddressPolicy().check_url("http://example.com/")
    assert AddressPolicy().check_url("https://example.com").port == 443


def allowing(*entries: str) -> AddressPolicy:
    hosts, networks = parse_allowances(entries)
    return AddressPolicy(allowed_hosts=hosts, allowed_networks=networks)


def test_an_allowed_host_is_reached_wherever_it_is_but_only_at_its_port() -> None:
    policy = allowing("Hooks.internal:22", "[::1]:9000", "127.0.0.1:9000")
    assert policy.check_url("http://HOOKS.internal:22/").port == 22
    assert policy.refusal("hooks.internal", sockaddr("10.0.0.1", 22)) is None
    assert policy.refusal("hooks.internal", sockaddr("10.0.0.1", 443)) is not None
    assert policy.refusal("::1", sockaddr("::1", 9000)) is None
    assert policy.refusal("other.internal", sockaddr("127.0.0.1", 9000)) is not None
    with pytest.raises(AddressRefused):
        policy.check_url("https://127.0.0.1:9001/")


def test_an_allowed_network_is_reached_by_any_name() -> None:
    policy = allowing("10.1.0.0/16", "fd00::/8")
    assert policy.refusal("name.example", sockaddr("10.1.2.3")) is None
    assert policy.refusal("name.example", sockaddr("::ffff:10.1.2.3")) is None
    assert policy.refusal("name.example", sockaddr("fd00::1")) is None
    assert policy.refusal("name.example", sockaddr("10.2.0.1")) is not None


@pytest.mark.parametrize("entry", ["", "name", "name:", ":80", "10.0.0.0/99", "10.0.0.1/8", "name:80/x", "name:http"])
def test_an_allowance_that_cannot_be_read_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"neither a host with a port nor a network"):
        parse_allowances((entry,))


@pytest.mark.parametrize("number", ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::"])
def test_the_server_never_calls_itself_whatever_is_allowed(number: str) -> None:
    hosts, networks = parse_allowances(("localhost:8000", "127.0.0.0/8", "0.0.0.0/0", "::/0"))
    own = frozenset((("127.0.0.1", 8000),))
    policy = AddressPolicy(allowed_hosts=hosts, allowed_networks=networks, own_addresses=own)
    assert policy.refusal("localhost", sockaddr(number, 8000)) == "is this server itself"
    assert policy.refusal("localhost", sockaddr("127.0.0.1", 8001)) is None


def test_a_server_that_listens_everywhere_is_at_each_address_of_its_machine() -> None:
    _, networks = parse_allowances(("0.0.0.0/0",))
    policy = AddressPolicy(allowed_networks=networks, own_addresses=frozenset((("0.0.0.0", 8000),)))
    assert policy.refusal("name", sockaddr("127.0.0.9", 8000)) == "is this server itself"
    assert policy.refusal("name", sockaddr("192.0.2.1", 8000)) is None


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "localhost",
            "localhost.",
            "0.0.0.0",
            "[::1]",
        ),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "①②⑦.⓪.⓪.①", "[2002:7f00:1::]", "[64:ff9b::7f00:1]"),
    ],
)
def test_no_spelling_of_this_machine_opens_a_connection(host: str) -> None:
    async def scenario() -> None:
        client = OutgoingClient(POLICY, user_agent="test", lookup=_numbers_only)
        try:
            with pytest.raises(OutgoingError) as refused:
                await client.request("GET", f"http://{host}:{port}/")
            assert refused.value.address is None, "nothing was connected to"
        finally:
            client.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        asyncio.run(scenario())
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


def _numbers_only(host: str, port: int, family: socket.AddressFamily) -> list[tuple[object, ...]]:
    """The system's look-up, which reads numbers in all their spellings; never asks a name server."""
    if host.rstrip(".") != "localhost" and not host[0].isdigit():
        raise socket.gaierror("no such name")
    return list(system_lookup(host, port, family))
