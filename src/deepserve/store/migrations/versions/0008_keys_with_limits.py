"""Give keys scopes, budgets and limits, and tasks the key that brought them.

Keys made before keep what they could do: everything, also what is now for administrators.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_OLD = sa.table(
    "api_keys",
    sa.column("digest", sa.LargeBinary),
    sa.column("shown", sa.String),
    sa.column("tenant_id", sa.String),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("is_revoked", sa.Boolean),
)
_KEYS = sa.table(
    "keys",
    sa.column("id", sa.String),
    sa.column("name", sa.String),
    sa.column("tenant_id", sa.String),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("revoked_at", sa.DateTime(timezone=True)),
    sa.column("is_admin", sa.Boolean),
)
_SECRETS = sa.table(
    "key_secrets",
    sa.column("digest", sa.LargeBinary),
    sa.column("key_id", sa.String),
    sa.column("shown", sa.String),
    sa.column("created_at", sa.DateTime(timezone=True)),
)
_RATES = sa.table(
    "key_rates",
    sa.column("key_id", sa.String),
    sa.column("requests_until_us", sa.BigInteger),
    sa.column("tokens_until_us", sa.BigInteger),
)


def upgrade() -> None:
    _create()
    connection = op.get_bind()
    for digest, shown, tenant, created_at, is_revoked in connection.execute(sa.select(_OLD)).all():
        key = f"key-{digest.hex()[:12]}"
        # When it was revoked nobody has written down: not before it was made.
        revoked_at = created_at if is_revoked else None
        row = {"id": key, "name": tenant, "tenant_id": tenant, "created_at": created_at, "revoked_at": revoked_at}
        connection.execute(sa.insert(_KEYS), {**row, "is_admin": True})
        secret = {"digest": digest, "key_id": key, "shown": shown, "created_at": created_at}
        connection.execute(sa.insert(_SECRETS), secret)
        connection.execute(sa.insert(_RATES), {"key_id": key, "requests_until_us": 0, "tokens_until_us": 0})
    op.drop_table("api_keys")
    op.add_column("tasks", sa.Column("key_id", sa.String(64), nullable=True))


def _create() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("models", sa.Text),
        sa.Column("dialects", sa.Text),
        sa.Column("tools", sa.Text),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("day_budget_pico", sa.BigInteger),
        sa.Column("month_budget_pico", sa.BigInteger),
        sa.Column("max_concurrent", sa.Integer),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("tokens_per_minute", sa.BigInteger),
    )
    op.create_index("keys_by_tenant", "keys", ["tenant_id", "created_at"])
    op.create_table(
        "key_secrets",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("shown", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
    )
    op.create_index("key_secrets_by_key", "key_secrets", ["key_id"])
    op.create_table(
        "key_rates",
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("requests_until_us", sa.BigInteger, nullable=False),
        sa.Column("tokens_until_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("amount_pico", sa.BigInteger, nullable=False),
    )
    op.create_index("reservations_by_key", "reservations", ["key_id"])
    op.create_table(
        "key_spending",
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("spent_pico", sa.BigInteger, nullable=False),
        sa.Column("num_attempts", sa.Integer, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("tasks", "key_id")
    op.create_table(
        "api_keys",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("shown", sa.String(16), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_revoked", sa.Boolean, nullable=False),
    )
    connection = op.get_bind()
    found = sa.select(
        _SECRETS.c.digest, _SECRETS.c.shown, _KEYS.c.tenant_id, _KEYS.c.created_at, _KEYS.c.revoked_at
    ).join_from(_SECRETS, _KEYS, _SECRETS.c.key_id == _KEYS.c.id)
    for digest, shown, tenant, created_at, revoked_at in connection.execute(found).all():
        row = {"digest": digest, "shown": shown, "tenant_id": tenant, "created_at": created_at}
        connection.execute(sa.insert(_OLD), {**row, "is_revoked": revoked_at is not None})
    for name in ("key_spending", "reservations", "key_rates", "key_secrets", "keys"):
        op.drop_table(name)
