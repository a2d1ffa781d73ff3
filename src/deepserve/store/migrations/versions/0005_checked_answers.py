"""Add what was done about the form of an answer to its record."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("answers", sa.Column("checked", sa.String(64), nullable=True))


def downgrade() -> None:
    op.drop_column("answers", "checked")
