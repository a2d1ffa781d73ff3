"""Tests of several servers use one PostgreSQL database."""

from collections.abc import Iterator

import pytest

from deepserve.store.database import Database, open_database
from tests.databases import Opener


@pytest.fixture
def open_place(postgres_place: str) -> Iterator[Opener]:
    """Opens the same database once more, as a further server does."""
    opened: list[Database] = []

    def open_once_more() -> Database:
        opened.append(open_database(postgres_place))
        return opened[-1]

    yield open_once_more
    for database in opened:
        database.dispose()
