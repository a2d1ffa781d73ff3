"""Create the responses table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("response_id", sa.String(64), primary_key=True),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    op.create_index("responses_by_tenant_and_time", "responses", ["tenant_id", "kept_at"])
    op.create_index("responses_by_time", "responses", ["kept_at"])


def downgrade() -> None:
    op.drop_table("responses")
