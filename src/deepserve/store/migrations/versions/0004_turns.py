"""Create the turns and turn_names tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "turns",
        sa.Column("id", _NUMBER, primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("turn", sa.LargeBinary, nullable=False),
    )
    op.create_index("turns_by_tenant", "turns", ["tenant_id", "id"])
    op.create_index("turns_by_time", "turns", ["kept_at"])
    op.create_table(
        "turn_names",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.LargeBinary(16), primary_key=True),
        sa.Column("turn_id", _NUMBER, nullable=False),
    )
    op.create_index("turn_names_by_turn", "turn_names", ["turn_id"])


def downgrade() -> None:
    op.drop_table("turn_names")
    op.drop_table("turns")
