"""What docs/webhooks.md says is so."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepserve.config import TaskLimits
from deepserve.tasks.retries import RetrySchedule
from deepserve.tasks.signing import OVERLAP_S
from deepserve.tasks.webhooks import WebhookLimits
from tests.outgoing.receiver import Receiver
from tests.tasks.setup import ALICE, new_task, running, until

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()


def test_the_receivers_example_accepts_our_calls_and_nothing_else(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    defined: dict[str, Any] = {}  # Any: whatever the example defines
    exec(example, defined)
    secrets: list[str] = []

    async def scenario() -> None:
        async with (
            Receiver() as receiver,
            running(state_dir=tmp_path, allowed=(receiver.host,), now=lambda: datetime.now(UTC)) as runner,
        ):
            secrets.append(await runner.create_secret(ALICE.id) or "")
            await runner.submit(new_task(body=b'{"text": "caf\xc3\xa9"}', webhook_url=receiver.url))
            await until(lambda: len(receiver.received) == 1)
            received = receiver.received[0]
            is_genuine = defined["is_genuine"]
            assert is_genuine(secrets[0], received.headers, received.body)
            assert not is_genuine(secrets[0], received.headers, received.body + b" ")
            assert not is_genuine("whsec_" + "A" * 44, received.headers, received.body)

    asyncio.run(scenario())


def test_the_numbers_are_those_of_the_code() -> None:
    schedule, limits, sending = RetrySchedule(), TaskLimits(), WebhookLimits()
    assert list(schedule.delays_s) == [0, 5, 30, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600]
    assert (schedule.jitter_ratio, schedule.max_retry_after_s, schedule.max_refusals) == (1 / 5, 3600, 3)
    assert (sending.max_failures_in_row, sending.quarantine_s, sending.max_in_flight_per_host) == (10, 60, 2)
    assert (sending.outgoing.total_s, OVERLAP_S) == (15, 24 * 3600)
    assert (limits.max_attempts, limits.max_running, limits.max_unfinished_per_tenant) == (3, 4, 1000)
    assert (limits.max_bytes_per_tenant, limits.patience_s) == (256 << 20, 86_400)
    assert (limits.record_s, limits.delivery_record_s) == (30 * 86_400, 7 * 86_400)
    assert "5 s, 30 s,\n5 min, 30 min, 2 h, 5 h and 10 h" in PAGE
