"""Every test that asks for `database` runs on SQLite and on PostgreSQL."""

from tests.databases import database as database
from tests.databases import open_place as open_place
from tests.databases import place as place
