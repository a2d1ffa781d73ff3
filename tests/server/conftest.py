"""A server that many tests share because they change nothing about it."""

from collections.abc import Iterator

import pytest

from tests.server.live import LiveServer, live_server


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server
