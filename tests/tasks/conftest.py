"""Tests of several servers use one PostgreSQL database; those of one server run there, too."""

from collections.abc import Iterator

import pytest

from deepserve.store.database import Database, open_database
from tests.databases import Opener
from tests.tasks.setup import makers


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


@pytest.fixture(params=["memory", "postgresql"])
def both_kinds(request: pytest.FixtureRequest) -> Iterator[None]:
    """What `fresh_database` gives is of either kind."""
    if request.param == "memory":
        yield
        return
    open_once_more: Opener = request.getfixturevalue("open_place")
    makers.append(open_once_more)
    yield
    makers.pop()
