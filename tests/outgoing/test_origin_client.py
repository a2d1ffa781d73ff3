"""Calls to one server: connections are kept, answers come in pieces, and whatever the server does has a name."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.errors import (
    AddressRefused,
    BadCertificate,
    ConnectionFailed,
    InvalidAnswer,
    InvalidUrl,
    NotConnected,
    OutgoingError,
)
from deepserve.outgoing.origin_client import OriginClient
from tests.outgoing.receiver import Received, Receiver, Respond, answer, silent

Found = TypeVar("Found")

SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def origin(
    host: str, *, scheme: str = "http", max_bytes: int = 10**9, certificates: ssl.SSLContext | None = None
) -> AsyncIterator[OriginClient]:
    client = OriginClient(
        f"{scheme}://{host}/v1/",
        policy=AddressPolicy(allowed_hosts=frozenset((host,))),
        user_agent="test",
        max_bytes=max_bytes,
        connect_s=2,
        certificates=certificates,
    )
    try:
        yield client
    finally:
        await client.close()


async def said_by(*answers: bytes | Respond, max_bytes: int = 10**9) -> tuple[int, bytes]:
    async with Receiver(*answers) as receiver, origin(receiver.host, max_bytes=max_bytes) as client:
        async with asyncio.timeout(5):
            found = await client.call("/x", body=b"{}", headers={})
            try:
                return found.status, await found.read()
            finally:
                found.close()


def said(*answers: bytes | Respond, max_bytes: int = 10**9) -> tuple[int, bytes]:
    return asyncio.run(said_by(*answers, max_bytes=max_bytes))


def test_a_request_says_where_it_goes_and_what_it_holds() -> None:
    async def ask() -> list[Received]:
        async with Receiver(answer(200)) as receiver, origin(receiver.host) as client:
            for body in (b'{"a":1}', None):
                (await client.call("/x y", body=body, headers={"Authorization": "Bearer k"})).close()
            return receiver.received

    posted, fetched = asyncio.run(ask())
    assert (posted.target, posted.body) == ("/v1/x%20y", b'{"a":1}')
    assert (fetched.target, fetched.body, "content-length" in fetched.headers) == ("/v1/x%20y", b"", False)
    named = {name: posted.headers[name] for name in ("user-agent", "accept-encoding", "authorization")}
    assert named == {"user-agent": "test", "accept-encoding": "identity", "authorization": "Bearer k"}
    assert posted.headers["host"].startswith("127.0.0.1:")


def test_a_line_break_in_a_field_is_refused() -> None:
    async def ask() -> None:
        async with Receiver(SHORT) as receiver, origin(receiver.host) as client:
            await client.call("/x", headers={"A": "b\r\nC: d"})

    with pytest.raises(InvalidUrl, match="line break"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (answer(200, body=b"whole"), b"whole"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" + SHORT, b"ok"),
        (answer(200, "Content-Encoding: gzip", body=gzip.compress(b"packed" * 1000)), b"packed" * 1000),
    ],
)
def test_bodies_end_as_their_servers_say(raw: bytes, body: bytes) -> None:
    assert said(raw) == (200, body)


def in_bytes(raw: bytes) -> Respond:
    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        for byte in raw:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    return respond


def test_an_answer_may_come_byte_by_byte() -> None:
    assert said(in_bytes(answer(404, body=b"not here"))) == (404, b"not here")


@pytest.mark.parametrize(
    ("raw", "cls"),
    [
        (b"", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\nContent-Le", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", ConnectionFailed),
        (b"SSH-2.0-OpenSSH_9.2\r\n", InvalidAnswer),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", InvalidAnswer),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", InvalidAnswer),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", InvalidAnswer),
        (answer(200, "Content-Encoding: br", body=b"x"), InvalidAnswer),
        (answer(200, "Content-Encoding: gzip", body=b"not packed"), InvalidAnswer),
    ],
)
def test_what_is_no_whole_answer_has_a_name(raw: bytes, cls: type[OutgoingError]) -> None:
    with pytest.raises(OutgoingError) as caught:
        said(raw)
    assert type(caught.value) is cls


def test_more_than_is_taken_is_refused_packed_or_not() -> None:
    for raw in (
        answer(200, body=b"x" * 1001),
        answer(200, "Content-Encoding: gzip", body=gzip.compress(bytes(100_000_000))),
    ):
        with pytest.raises(InvalidAnswer, match="more than 1000 bytes"):
            said(raw, max_bytes=1000)


def served(
    respond: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]],
    ask: Callable[[OriginClient], Coroutine[None, None, Found]],
) -> tuple[int, Found]:
    """How many connections were made, and what came of asking."""

    async def run() -> tuple[int, Found]:
        num_connections = 0

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal num_connections
            num_connections += 1
            try:
                await respond(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(count, "127.0.0.1", 0)
        async with origin(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as client, asyncio.timeout(5):
            found = await ask(client)
        server.close()
        return num_connections, found

    return asyncio.run(run())


async def twice(client: OriginClient) -> list[bytes]:
    bodies = []
    for _ in range(2):
        found = await client.call("/x", headers={})
        bodies.append(await found.read())
        found.close()
    return bodies


@pytest.mark.parametrize(
    ("raw", "num_connections"),
    [
        (SHORT, 1),
        (SHORT.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), 2),
        (SHORT + b"HTTP/1.1 200 OK\r\n", 2),  # more than was asked for
    ],
)
def test_a_connection_is_used_again_where_its_answer_was_read_and_nothing_is_left(
    raw: bytes, num_connections: int
) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(raw)

    assert served(respond, twice) == (num_connections, [b"ok", b"ok"])


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used_again() -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SHORT)

    async def ask(client: OriginClient) -> list[bytes]:
        bodies = []
        for _ in range(2):
            found = await client.call("/x", headers={})
            bodies.append(await found.read())
            found.close()
            for _ in range(20):
                await asyncio.sleep(0)
        return bodies

    assert served(respond, ask) == (2, [b"ok", b"ok"])


def test_an_answer_that_is_closed_early_breaks_its_connection_off() -> None:
    left = asyncio.Event()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.read()
        left.set()

    async def ask(client: OriginClient) -> bytes:
        found = await client.call("/x", headers={})
        piece = await found.piece()
        found.close()
        await left.wait()
        return piece

    assert served(respond, ask) == (1, b"a")


def test_a_server_that_sends_more_than_is_read_has_to_wait() -> None:
    num_sent = 0

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(bytes(100_000))
            await writer.drain()
            num_sent += 100_000

    async def ask(client: OriginClient) -> tuple[int, int]:
        found = await client.call("/x", headers={})
        before = -1
        while before != num_sent:  # until it sends no more
            before = num_sent
            for _ in range(100):
                await asyncio.sleep(0)
        body = await found.read()
        found.close()
        return before, len(body)

    _, (before, num_read) = served(respond, ask)
    assert before < 40_000_000
    assert num_read == 50_000_000


def test_who_does_not_answer_the_phone_was_not_connected() -> None:
    async def ask() -> None:
        async with silent() as address:
            pass
        async with origin(address) as client:
            await client.call("/x", headers={})

    with pytest.raises(NotConnected):
        asyncio.run(ask())


def test_an_address_that_the_policy_forbids_is_not_connected_to() -> None:
    async def ask() -> None:
        async with Receiver(SHORT) as receiver:
            client = OriginClient(
                f"http://localhost:{receiver.port}",
                policy=AddressPolicy(allows_http=True),
                user_agent="test",
                max_bytes=100,
            )
            try:
                await client.call("/x", headers={})
            finally:
                assert not receiver.received
                await client.close()

    with pytest.raises(AddressRefused, match="not a public address"):
        asyncio.run(ask())


def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "1", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is not installed")

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SHORT)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def ask(*, trusts: bool) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = await asyncio.start_server(respond, "127.0.0.1", 0, ssl=context)
        try:
            trusted = ssl.create_default_context(cafile=str(certificate)) if trusts else None
            host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with origin(host, scheme="https", certificates=trusted) as client:
                found = await client.call("/x", headers={})
                body = await found.read()
                found.close()
                return body
        finally:
            server.close()

    with pytest.raises(BadCertificate):
        asyncio.run(ask(trusts=False))
    assert asyncio.run(ask(trusts=True)) == b"ok"
