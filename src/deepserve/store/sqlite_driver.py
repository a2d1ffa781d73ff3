"""SQLite's own driver below a connection of SQLAlchemy, for statements that belong to every answer.

What SQLAlchemy does around such a statement takes longer than the statement. Values have to be spelled as it stores
them, for it reads them elsewhere.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

REFUSALS: Final = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError)
"""What says that the same values will never be taken."""


def driver_of(connection: Connection) -> sqlite3.Connection | None:
    """None where the database is another."""
    driver: object = connection.connection.dbapi_connection
    return driver if isinstance(driver, sqlite3.Connection) else None


def spell_instant(at: datetime) -> str:
    """An instant in UTC; the zone is left out."""
    return at.isoformat(" ", "microseconds")[:26]
