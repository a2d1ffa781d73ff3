"""Add to the record of answers which rule chose the model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("answers", sa.Column("route", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("answers", "route")
