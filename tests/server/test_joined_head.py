"""The head of an answer leaves with what follows it at once, and is never kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from typing_extensions import override

from deepserve.server.joined_head import JoinedHead

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
LARGE = b"x" * 100_000


class Written(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[bytes] = []
        self.has_ended = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said.append(bytes(data))

    @override
    def close(self) -> None:
        self.has_ended = True

    @override
    def abort(self) -> None:
        self.has_ended = True

    @override
    def is_closing(self) -> bool:
        return self.has_ended


def written(use: Callable[[JoinedHead], None]) -> tuple[list[bytes], list[bytes]]:
    """At once, and a turn of the loop later."""

    async def run() -> tuple[list[bytes], list[bytes]]:
        behind = Written()
        use(JoinedHead(behind, asyncio.get_running_loop()))
        at_once = list(behind.said)
        await asyncio.sleep(0)
        return at_once, behind.said

    return asyncio.run(run())


def then(*pieces: bytes) -> Callable[[JoinedHead], None]:
    def use(joined: JoinedHead) -> None:
        for piece in pieces:
            joined.write(piece)

    return use


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ((HEAD, b"body"), [HEAD + b"body"]),
        ((HEAD, b"5\r\nfirst\r\n", b"0\r\n\r\n"), [HEAD + b"5\r\nfirst\r\n", b"0\r\n\r\n"]),
        ((HEAD, LARGE), [HEAD, LARGE]),
        ((b"body",), [b"body"]),
        ((HEAD, HEAD), [HEAD + HEAD]),
    ],
)
def test_a_head_leaves_with_what_follows_it_at_once(pieces: tuple[bytes, ...], said: list[bytes]) -> None:
    assert written(then(*pieces)) == (said, said)


def test_a_head_that_nothing_follows_leaves_by_itself() -> None:
    assert written(then(HEAD)) == ([], [HEAD])


def test_closing_writes_the_head_and_aborting_drops_it() -> None:
    def close(joined: JoinedHead) -> None:
        joined.write(HEAD)
        joined.close()

    def abort(joined: JoinedHead) -> None:
        joined.write(HEAD)
        joined.abort()

    assert written(close) == ([HEAD], [HEAD])
    assert written(abort) == ([], [])
