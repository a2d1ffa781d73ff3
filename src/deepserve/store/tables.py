"""The tables, as the newest migration leaves them; a test holds both equal."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

_NUMBER = BigInteger().with_variant(Integer, "sqlite")
"""Of rows that are counted by the database: SQLite counts only in columns of the one type, to 2^63 all the same."""

ledger = Table(
    "ledger",
    metadata,
    # Rises with time, so that rows are written where the last ones were.
    Column("attempt_id", String(64), primary_key=True),
    Column("request_id", String(64), nullable=False),
    # Counts the attempts at one request from 1.
    Column("number", Integer, nullable=False),
    Column("tenant_id", String(64), nullable=False),
    Column("key_id", String(64)),
    Column("dialect", String(16), nullable=False),
    Column("provider", Text, nullable=False),
    # What was asked for, and what answered; `served_by` is what really ran.
    Column("model", String(128), nullable=False),
    Column("answered_model", String(128), nullable=False),
    Column("served_by", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("arrived_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("first_token_ms", Integer),
    Column("hit_tokens", BigInteger, nullable=False),
    Column("miss_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("answer_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("num_tool_calls", Integer, nullable=False),
    Column("num_results", Integer, nullable=False),
    Column("is_estimated", Boolean, nullable=False),
    # The id of the price that was applied; without one, the amounts are what the provider stated, or zero.
    Column("price", Text),
    # Millionths of a millionth of a dollar. A sum in SQL overflows at nine million dollars: sum elsewhere.
    Column("hit_pico_usd", BigInteger, nullable=False),
    Column("miss_pico_usd", BigInteger, nullable=False),
    Column("output_pico_usd", BigInteger, nullable=False),
    Column("tools_pico_usd", BigInteger, nullable=False),
    Column("stated_pico_usd", BigInteger),
    # a finish reason, `client_left`, or the code of the error that ended the attempt
    Column("outcome", String(64), nullable=False),
    # what was found and done where the answer's form could only be checked, as in the response header
    Column("checked", String(64)),
    # which rule chose the model, where the request left that open, as in the response header
    Column("route", Text),
    Index("ledger_by_request", "request_id"),
    Index("ledger_by_tenant_and_time", "tenant_id", "arrived_at"),
)
"""One row for each attempt at an answer, written once and never changed. Content is never stored."""

tasks = Table(
    "tasks",
    metadata,
    Column("tenant_id", String(64), primary_key=True),
    Column("id", String(256), primary_key=True),
    Column("tenant_name", String(256), nullable=False),
    # The key that brought it; none: it needed none
    Column("key_id", String(64)),
    Column("kind", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("result", LargeBinary, nullable=True),
    Column("error_code", String(64), nullable=True),
    Column("details", LargeBinary, nullable=False),
    Column("webhook_url", String(2048), nullable=True),
    Column("arrived_at", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=True),
    Column("ended_at", DateTime(timezone=True), nullable=True),
    Column("keep_s", Float, nullable=False),
    Column("num_attempts", Integer, nullable=False),
    Column("lease_owner", String(64), nullable=True),
    Column("lease_expires_at", DateTime(timezone=True), nullable=True),
    # From here on the content is gone; the row stays a while, so that its id is not taken twice.
    Column("expires_at", DateTime(timezone=True), nullable=True),
    Column("is_purged", Boolean, nullable=False),
    Index("tasks_by_status", "status", "created_at"),
    Index("tasks_by_expiry", "expires_at"),
)
"""Answers that come later. The content of `body` and `result` is kept until `expires_at`, no longer."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("tenant_name", String(256), nullable=False),
    Column("task_id", String(256), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("item", Integer, nullable=False),
    Column("url", String(2048), nullable=False),
    Column("host", String(256), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("status", String(16), nullable=False),
    Column("num_attempts", Integer, nullable=False),
    Column("next_attempt_at", DateTime(timezone=True), nullable=False),
    Column("lease_owner", String(64), nullable=True),
    Column("lease_expires_at", DateTime(timezone=True), nullable=True),
    Column("last_status", Integer, nullable=True),
    Column("last_error", String(64), nullable=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True), nullable=True),
    Index("deliveries_by_status", "status", "next_attempt_at"),
    Index("deliveries_by_task", "tenant_id", "task_id"),
)
"""Webhook calls, each written in the transaction that writes down what it announces."""

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("delivery_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("status", Integer, nullable=True),
    Column("error", String(64), nullable=True),
    Column("address", String(128), nullable=True),
)
"""Every try of every call. Response bodies are never stored."""

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("tenant_id", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
"""Which signing secrets a tenant has. They are derived from the state directory's key: none is stored."""

responses = Table(
    "responses",
    metadata,
    Column("tenant_id", String(64), primary_key=True),
    Column("response_id", String(64), primary_key=True),
    Column("kept_at", DateTime(timezone=True), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    # The response and the items that were sent, as compressed JSON.
    Column("record", LargeBinary, nullable=False),
    Index("responses_by_tenant_and_time", "tenant_id", "kept_at"),
    Index("responses_by_time", "kept_at"),
)
"""Responses that clients may ask for again or continue. Content, kept because the client did not say `store: false`."""

turns = Table(
    "turns",
    metadata,
    Column("id", _NUMBER, primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("kept_at", DateTime(timezone=True), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("turn", LargeBinary, nullable=False),
    Index("turns_by_tenant", "tenant_id", "id"),
    Index("turns_by_time", "kept_at"),
)
"""Turns with tools in play: drawn tokens and traces, compressed, for clients that do not send them back."""

turn_names = Table(
    "turn_names",
    metadata,
    Column("tenant_id", String(64), primary_key=True),
    Column("name", LargeBinary(16), primary_key=True),
    Column("turn_id", _NUMBER, nullable=False),
    Index("turn_names_by_turn", "turn_id"),
)
"""What a turn is found by: digests of call ids and conversations."""

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("tenant_id", String(64), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    # What it may be used for: JSON lists of names; none: everything
    Column("models", Text),
    Column("dialects", Text),
    Column("tools", Text),
    Column("is_admin", Boolean, nullable=False),
    # How much: none: without bound. 10**12 pico-dollars are one
    Column("day_budget_pico", BigInteger),
    Column("month_budget_pico", BigInteger),
    Column("max_concurrent", Integer),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", BigInteger),
    Index("keys_by_tenant", "tenant_id", "created_at"),
)
"""What keys may do. Their secrets are elsewhere, and may be exchanged."""

key_secrets = Table(
    "key_secrets",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("shown", String(16), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Index("key_secrets_by_key", "key_id"),
)
"""Secrets by SHA-256 digest only; `shown` is the beginning that lists may print."""

key_rates = Table(
    "key_rates",
    metadata,
    Column("key_id", String(64), primary_key=True),
    # Instants at which nothing will be used any more, in microseconds since 1970: all that a rate has to remember.
    Column("requests_until_us", BigInteger, nullable=False),
    Column("tokens_until_us", BigInteger, nullable=False),
)
"""One row for each key, from its first day on: whoever changes what is reserved for a key holds this row meanwhile."""

reservations = Table(
    "reservations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    # The process that answers has to say again and again that it is alive.
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("day", Date, nullable=False),
    Column("amount_pico", BigInteger, nullable=False),
    Index("reservations_by_key", "key_id"),
)
"""Answers that run now, and what they may come to cost beyond what is written of them. Only of keys with limits."""

key_spending = Table(
    "key_spending",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("spent_pico", BigInteger, nullable=False),
    Column("num_attempts", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("last_used_at", DateTime(timezone=True), nullable=False),
)
"""Sums of the ledger by key and day in UTC, written in the transaction that writes the ledger's rows."""

agreements = Table(
    "agreements",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(128), nullable=False),
)
"""What all servers on this database have in common, such as the fingerprint of their secret."""

replays = Table(
    "replays",
    metadata,
    Column("tenant_id", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("head", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=True),
    Column("size_bytes", Integer, nullable=False),
    Column("owner", String(64), nullable=True),
    # Until then the owner is at it, or the answer is kept.
    Column("until", DateTime(timezone=True), nullable=False),
    Index("replays_by_time", "until"),
)
"""Answers for requests that are sent again under their `Idempotency-Key`. Content, sealed for its tenant."""
