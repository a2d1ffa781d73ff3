"""The tables, as the newest migration leaves them; a test holds both equal."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()

answers = Table(
    "answers",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("served_by", String(256), nullable=False),
    Column("fingerprint", String(128), nullable=False),
    Column("arrived_at", DateTime(timezone=True), nullable=False),
    Column("hit_tokens", BigInteger, nullable=False),
    Column("miss_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("answer_tokens", BigInteger, nullable=False),
    Column("num_results", Integer, nullable=False),
    # finish reason of the last result, or the code of the error that ended the request
    Column("outcome", String(64), nullable=False),
    Index("answers_by_tenant_and_time", "tenant_id", "arrived_at"),
)
"""One row for each request that reached a back end. Content is never stored."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("shown", String(16), nullable=False),
    Column("tenant_id", String(64), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("is_revoked", Boolean, nullable=False, default=False),
)
"""Keys by SHA-256 digest only; `shown` is the beginning that lists may print."""
