"""Calls to other servers, which may be anything."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deepserve.outgoing.addresses import AddressPolicy, parse_allowances
from deepserve.outgoing.client import OutgoingAnswer, OutgoingClient, OutgoingLimits, system_lookup
from deepserve.outgoing.errors import (
    AddressRefused,
    BadCertificate,
    ConnectionFailed,
    InvalidAnswer,
    OutgoingError,
    OutgoingTimedOut,
)
from tests.outgoing.receiver import OK, Received, Receiver, Respond, answer, silent

QUICK = OutgoingLimits(connect_s=1.0, total_s=0.3, max_bytes=100)


def names(**addresses: list[str]) -> Callable[..., list[tuple[Any, ...]]]:
    """A look-up in which each name leads somewhere else each time it is asked for; the last answer stays."""
    left = {name: list(numbers) for name, numbers in addresses.items()}

    def look_up(host: str, port: int, family: socket.AddressFamily) -> list[tuple[Any, ...]]:
        numbers = left.get(host.partition(".")[0])
        if not numbers:
            raise socket.gaierror(f"nobody knows {host}")
        number = numbers.pop(0) if len(numbers) > 1 else numbers[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (each, port)) for each in number.split(",")
        ]

    return look_up


def call(
    scenario: Callable[[OutgoingClient], Awaitable[None]],
    *allowed: str,
    look_up: Callable[..., list[tuple[Any, ...]]] = system_lookup,
) -> None:
    async def run() -> None:
        hosts, networks = parse_allowances(allowed)
        policy = AddressPolicy(allowed_hosts=hosts, allowed_networks=networks, allows_http=True)
        client = OutgoingClient(policy, user_agent="deepserve-test", lookup=look_up)
        try:
            async with asyncio.timeout(10):
                await scenario(client)
        finally:
            client.close()

    asyncio.run(run())


def ask(*answers: bytes | Respond, limits: OutgoingLimits = QUICK) -> OutgoingAnswer:
    """What one call gets from a receiver."""
    got: list[OutgoingAnswer] = []

    async def scenario(client: OutgoingClient) -> None:
        async with Receiver(*answers) as receiver:
            got.append(await client.request("POST", receiver.url, body=b"{}", limits=limits))

    call(scenario, "127.0.0.0/8")
    return got[0]


def test_a_call_sends_what_it_is_given_and_nothing_else() -> None:
    async def scenario(client: OutgoingClient) -> None:
        async with Receiver(answer(201, "X-Word: here", "Set-Cookie: a=b", body=b"hi")) as receiver:
            for _ in range(2):
                got = await client.request("POST", f"{receiver.url}?a=%2Fb", body=b"{}", headers={"x-id": "7"})
            assert (got.status, got.body, got.is_cut, got.headers["x-word"]) == (201, b"hi", False, "here")
            assert got.address == receiver.host
            sent = receiver.received[1]
            assert (sent.target, sent.body, sent.headers["x-id"]) == ("/hook?a=%2Fb", b"{}", "7")
            assert sent.headers["user-agent"] == "deepserve-test"
            assert sent.headers.keys() <= {
                *("host", "accept", "accept-encoding", "user-agent", "x-id", "content-length", "content-type"),
                "connection",
            }

    call(scenario, "127.0.0.0/8")


def test_a_name_that_leads_to_a_private_address_is_refused() -> None:
    async def scenario(client: OutgoingClient) -> None:
        async with Receiver() as receiver:
            with pytest.raises(AddressRefused) as refused:
                await client.request("POST", f"http://inside.example:{receiver.port}/")
            assert refused.value.address is None
            assert receiver.received == []

    call(scenario, look_up=names(inside=["127.0.0.1"]))


def test_a_name_that_turns_private_after_it_was_looked_at_is_refused() -> None:
    """DNS rebinding: what is checked and what is connected to are one value, so there is no moment in between."""

    async def scenario(client: OutgoingClient) -> None:
        async with Receiver() as receiver:
            url = f"http://turning.example:{receiver.port}/"
            client.policy.check_url(url)
            with pytest.raises(OutgoingError) as first:
                await client.request("POST", url, limits=QUICK)
            assert first.value.address == f"192.0.0.171:{receiver.port}", "allowed here, leads nowhere"
            with pytest.raises(AddressRefused):
                await client.request("POST", url, limits=QUICK)
            assert receiver.received == []

    call(scenario, "192.0.0.171/32", look_up=names(turning=["192.0.0.171", "127.0.0.1"]))


def test_of_a_name_with_a_public_and_a_private_address_only_the_public_one_is_tried() -> None:
    async def scenario(client: OutgoingClient) -> None:
        async with Receiver() as receiver:
            got = await client.request("POST", f"http://both.example:{receiver.port}/")
            assert got.address == receiver.host
            assert len(receiver.received) == 1

    call(scenario, "127.0.0.1/32", look_up=names(both=["127.0.0.2,127.0.0.1"]))


def test_an_unknown_name_cannot_be_reached() -> None:
    async def scenario(client: OutgoingClient) -> None:
        with pytest.raises(ConnectionFailed):
            await client.request("POST", "http://nobody.example/")

    call(scenario, look_up=names())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_answers_and_not_followed(status: int) -> None:
    async def scenario(client: OutgoingClient) -> None:
        async with Receiver() as other, Receiver(answer(status, f"Location: {other.url}")) as receiver:
            got = await client.request("POST", receiver.url, body=b"{}")
            assert (got.status, got.headers["location"]) == (status, other.url)
            assert other.received == []

    call(scenario, "127.0.0.0/8")


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask(OK).status == 200


def test_a_body_is_read_up_to_the_limit_only() -> None:
    assert ask(answer(200, body=b"a" * 100)).body == b"a" * 100
    assert not ask(answer(200, body=b"a" * 100)).is_cut
    got = ask(answer(200, body=b"a" * 101))
    assert (len(got.body), got.is_cut) == (100, True)


def test_an_endless_body_ends_with_the_limit() -> None:
    async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"a" * 4096 + b"\r\n")
            await writer.drain()

    got = ask(endless, limits=OutgoingLimits(total_s=5.0, max_bytes=100))
    assert (got.status, len(got.body), got.is_cut) == (200, 100, True)


def test_a_compressed_bomb_is_cut_at_its_decompressed_size() -> None:
    bomb = zlib.compress(b"a" * 50_000_000, wbits=31)
    got = ask(answer(200, "Content-Encoding: gzip", body=bomb), limits=OutgoingLimits(total_s=5.0, max_bytes=100))
    assert (got.status, len(got.body), got.is_cut) == (200, 100, True)


def test_a_status_counts_though_the_body_never_comes() -> None:
    async def stalling(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc")
        await asyncio.sleep(60)

    got = ask(stalling)
    assert (got.status, got.body, got.is_cut) == (200, b"abc", True)


def test_a_receiver_that_trickles_or_says_nothing_times_out() -> None:
    async def trickling(_: Received, writer: asyncio.StreamWriter) -> None:
        for byte in answer(200):
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0.1)

    with pytest.raises(OutgoingTimedOut) as slow:
        ask(trickling)
    assert slow.value.address is not None

    async def scenario(client: OutgoingClient) -> None:
        async with silent() as host:
            with pytest.raises(OutgoingTimedOut):
                await client.request("POST", f"http://{host}/", body=b"a" * 10_000_000, limits=QUICK)

    call(scenario, "127.0.0.0/8")


def test_an_answer_before_the_body_was_sent_is_taken() -> None:
    async def run() -> None:
        async def impatient(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer(413))
            await writer.drain()
            writer.write_eof()
            await is_heard.wait()
            writer.transport.abort()
            is_closed.set()

        is_heard, is_closed = asyncio.Event(), asyncio.Event()

        server = await asyncio.start_server(impatient, "127.0.0.1", 0)
        _, networks = parse_allowances(("127.0.0.0/8",))
        client = OutgoingClient(AddressPolicy(allowed_networks=networks, allows_http=True), user_agent="test")
        port = server.sockets[0].getsockname()[1]
        got = await client.request("POST", f"http://127.0.0.1:{port}/", body=b"a" * 1000)
        assert got.status == 413
        is_heard.set()
        await is_closed.wait()
        server.close()
        client.close()

    asyncio.run(run())


def test_what_is_not_http_is_no_answer() -> None:
    with pytest.raises(InvalidAnswer):
        ask(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def test_a_connection_that_breaks_or_is_refused_is_said_so() -> None:
    with pytest.raises(ConnectionFailed):
        ask(b"")

    async def scenario(client: OutgoingClient) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        with pytest.raises(ConnectionFailed) as failed:
            await client.request("POST", f"http://127.0.0.1:{port}/")
        assert failed.value.address == f"127.0.0.1:{port}"

    call(scenario, "127.0.0.0/8")


def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "1", "-subj", "/CN=localhost"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is not installed")

    async def scenario(client: OutgoingClient) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        with pytest.raises(BadCertificate):
            await client.request("POST", f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        server.close()

    call(scenario, "127.0.0.0/8")
