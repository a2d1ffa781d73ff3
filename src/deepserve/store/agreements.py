"""What all servers on one database must have in common: the first one says it, the others compare."""

from __future__ import annotations

from sqlalchemy import delete, select

from deepserve.store.database import Database, insert_new
from deepserve.store.tables import agreements

FINGERPRINT = "secret"
"""Under this name: that of what they seal and sign with."""


def agree(database: Database, name: str, value: str) -> bool:
    """Whether this is what the first server said, which this one may be."""
    with database.begin() as connection:
        insert_new(connection, agreements, {"name": name, "value": value})
        agreed = connection.execute(select(agreements.c.value).where(agreements.c.name == name)).scalar_one()
    return bool(agreed == value)


def agreed(database: Database, name: str) -> bool:
    """Whether some server has said it."""
    with database.connect() as connection:
        return connection.execute(select(agreements.c.value).where(agreements.c.name == name)).first() is not None


def forget(database: Database, name: str) -> bool:
    """Let the next server say it anew; whether it had been said."""
    with database.begin() as connection:
        return connection.execute(delete(agreements).where(agreements.c.name == name)).rowcount > 0
