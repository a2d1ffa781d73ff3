"""Rows to test with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from deepserve.store.ledger_row import LedgerRow

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def row(name: str, **changes: Any) -> LedgerRow:  # Any: values of columns
    made = LedgerRow(
        attempt_id=f"attempt-{name}",
        request_id=f"request-{name}",
        number=1,
        tenant_id="local",
        key_id=None,
        dialect="chat",
        provider="deepseek",
        model="deepseek-v4-flash",
        answered_model="deepseek-v4-flash",
        served_by="deepseek/deepseek-v4-flash",
        fingerprint="fp",
        arrived_at=NOON,
        ended_at=NOON,
        first_token_ms=7,
        hit_tokens=128,
        miss_tokens=10,
        reasoning_tokens=3,
        answer_tokens=5,
        cache_write_tokens=0,
        num_tool_calls=0,
        num_results=1,
        is_estimated=False,
        price="deepseek/deepseek-v4-flash@2026-09-10T04:00Z",
        hit_pico_usd=128 * 3_000,
        miss_pico_usd=10 * 150_000,
        output_pico_usd=8 * 600_000,
        tools_pico_usd=0,
        stated_pico_usd=None,
        outcome="stop",
        checked=None,
        route=None,
    )
    return msgspec.structs.replace(made, **changes)
