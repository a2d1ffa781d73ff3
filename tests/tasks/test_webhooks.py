"""Results that are brought to receivers: at least once, recognisably, patiently, and never at another's expense."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from standardwebhooks import Webhook

from deepserve.core.errors import InvalidField
from deepserve.core.task import DeliveryState
from deepserve.outgoing.client import OutgoingLimits
from deepserve.store.database import Database, open_database
from deepserve.store.deliveries import DeliveryStore, delivery_row
from deepserve.store.tables import deliveries
from deepserve.store.tasks import TaskStore
from deepserve.tasks.performer import WebhookShape
from deepserve.tasks.retries import RetrySchedule
from deepserve.tasks.runner import TaskRunner
from deepserve.tasks.webhooks import WebhookLimits
from tests.outgoing.receiver import OK, Receiver, answer, silent
from tests.tasks.setup import (
    ALICE,
    AT_ONCE,
    BOB,
    LETTERS,
    NOON,
    PATIENCE_S,
    Clock,
    Scripted,
    ended,
    fresh_database,
    new_task,
    running,
    until,
)

QUICK = WebhookLimits(rescan_s=0.02, outgoing=OutgoingLimits(connect_s=1.0, total_s=0.3))

pytestmark = pytest.mark.usefixtures("both_kinds")


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await coroutine

    asyncio.run(bounded())


async def settled(runner: TaskRunner, task_id: str = "one") -> list[DeliveryState]:
    """The calls of a task once none is pending."""
    while True:
        found = await runner.deliveries(ALICE.id, task_id)
        if found and all(delivery.status != "pending" for delivery in found):
            return found
        await asyncio.sleep(0.002)


def test_a_result_is_posted_with_an_id_and_the_time_of_the_attempt() -> None:
    async def scenario() -> None:
        shape = WebhookShape(id_header="X-Example-Delivery")
        async with (
            Receiver() as receiver,
            running(allowed=(receiver.host,), webhooks=shape) as runner,
        ):
            await runner.submit(new_task(webhook_url=f"{receiver.url}?token=abc"))
            (delivery,) = await settled(runner)
            (received,) = receiver.received
            assert (received.target, received.body) == ("/hook?token=abc", b"HELLO")
            assert received.headers["content-type"] == "application/json"
            assert received.headers["webhook-id"] == received.headers["x-example-delivery"] == delivery.id
            assert received.headers["webhook-timestamp"] == str(int(NOON.timestamp()))
            assert "webhook-signature" not in received.headers
            assert (delivery.status, delivery.num_attempts, delivery.last_status) == ("delivered", 1, 200)
            assert delivery.body == b"", "the content is kept no longer than needed"
            assert runner.counts()["webhook_attempts"] == {("delivered",): 1}

    run(scenario())


def test_a_failed_task_is_announced_and_a_cancelled_one_is_not() -> None:
    async def scenario() -> None:
        performer = Scripted()
        performer.errors = [InvalidField("wrong")]
        async with Receiver() as receiver, running(performer, allowed=(receiver.host,)) as runner:
            await runner.submit(new_task(webhook_url=receiver.url))
            await settled(runner)
            assert receiver.received[0].body == b"failed: invalid_field: wrong"
            await runner.submit(new_task("two", b"wait", webhook_url=receiver.url))
            await until(lambda: performer.performed == ["one", "two"])
            await runner.cancel(ALICE.id, "two")
            assert await runner.deliveries(ALICE.id, "two") == []

    run(scenario())


def test_a_receiver_that_fails_three_times_gets_each_item_once_by_id() -> None:
    async def scenario() -> None:
        failing = [answer(500), answer(503), b""]
        async with (
            Receiver(*failing, OK) as receiver,
            running(allowed=(receiver.host,), webhooks=LETTERS) as runner,
        ):
            await runner.submit(new_task(body=b"abc", webhook_url=receiver.url))
            found = await settled(runner)
            assert [delivery.status for delivery in found] == ["delivered"] * 3
            bodies: dict[str, set[bytes]] = {}
            for received in receiver.received:
                bodies.setdefault(received.headers["webhook-id"], set()).add(received.body)
            assert len(receiver.received) == 6
            assert sorted(bodies.values(), key=sorted) == [{b"A"}, {b"B"}, {b"C"}], "one body for each id"
            assert sum(delivery.num_attempts for delivery in found) == 6

    run(scenario())


def test_every_attempt_is_on_record() -> None:
    async def scenario() -> None:
        database = fresh_database()
        async with (
            Receiver(answer(500), answer(302, "Location: http://elsewhere/in?token=1"), b"", OK) as receiver,
            running(database=database, allowed=(receiver.host,)) as runner,
        ):
            await runner.submit(new_task(webhook_url=receiver.url))
            (delivery,) = await settled(runner)
        attempts = DeliveryStore(database).attempts(delivery.id)
        assert [(each.number, each.status, each.error) for each in attempts] == [
            (1, 500, "status_500"),
            (2, 302, "redirect to http://elsewhere"),
            (3, None, "connection_failed"),
            (4, 200, None),
        ]
        assert {each.address for each in attempts} == {receiver.host}
        assert all(each.started_at == NOON and 0 <= each.duration_ms < 5000 for each in attempts)

    run(scenario())


@pytest.mark.parametrize("target", ["http://[", "", "/elsewhere", "\\", "http://user:word@" + "a" * 500 + "/"])
def test_any_redirect_is_a_failure_like_others(target: str) -> None:
    async def scenario() -> None:
        async with (
            Receiver(answer(301, f"Location: {target}"), OK) as receiver,
            running(allowed=(receiver.host,)) as runner,
        ):
            await runner.submit(new_task(webhook_url=receiver.url))
            (delivery,) = await settled(runner)
            assert (delivery.status, delivery.num_attempts) == ("delivered", 2)

    run(scenario())


def test_a_dead_receiver_is_given_up_after_the_last_attempt_and_the_result_stays() -> None:
    async def scenario() -> None:
        async with Receiver(answer(500)) as receiver, running(allowed=(receiver.host,)) as runner:
            await runner.submit(new_task(webhook_url=receiver.url))
            (delivery,) = await settled(runner)
            assert (delivery.status, delivery.num_attempts, delivery.last_error) == ("failed", 8, "status_500")
            assert len(receiver.received) == 8
            assert (await ended(runner)).result == b"HELLO"
            assert runner.gauges()["webhooks_pending"] == 0

    run(scenario())


def test_a_slow_receiver_is_not_waited_for() -> None:
    async def scenario() -> None:
        schedule = RetrySchedule(delays_s=(0.0,))
        async with silent() as host, running(allowed=(host,), schedule=schedule, webhook_limits=QUICK) as runner:
            await runner.submit(new_task(webhook_url=f"http://{host}/"))
            (delivery,) = await settled(runner)
            assert (delivery.status, delivery.last_error) == ("failed", "timed_out")

    run(scenario())


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "https://127.0.0.1/", "https://10.0.0.1/", "https://u:p@example.com", "file:///x", ""],
)
def test_an_address_that_is_never_called_is_refused_with_the_task(url: str) -> None:
    async def scenario() -> None:
        async with running() as runner:
            with pytest.raises(InvalidField) as refused:
                await runner.submit(new_task(webhook_url=url))
            assert refused.value.field == "webhook_url"
            assert await runner.find(ALICE.id, "one") is None

    run(scenario())


def test_a_name_that_leads_inside_is_never_connected_to() -> None:
    async def scenario() -> None:
        async with Receiver() as receiver, running() as runner:
            await runner.submit(new_task(webhook_url=f"https://localhost:{receiver.port}/"))
            (delivery,) = await settled(runner)
            assert (delivery.status, delivery.last_error) == ("failed", "address_refused")
            assert receiver.received == []

    run(scenario())


def test_signatures_are_those_the_standard_library_verifies_also_during_rotation(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with (
            Receiver() as receiver,
            running(state_dir=tmp_path, clock=clock, allowed=(receiver.host,)) as runner,
        ):
            await runner.submit(new_task("unsigned", webhook_url=receiver.url))
            await settled(runner, "unsigned")
            first = await runner.create_secret(ALICE.id)
            await runner.submit(new_task("first", webhook_url=receiver.url))
            await settled(runner, "first")
            second = await runner.create_secret(ALICE.id)
            await runner.submit(new_task("overlap", webhook_url=receiver.url))
            await settled(runner, "overlap")
            clock.pass_s(86_400)
            await runner.submit(new_task("second", webhook_url=receiver.url))
            await settled(runner, "second")
            await runner.submit(new_task("foreign", tenant=BOB, webhook_url=receiver.url))
            await until(lambda: len(receiver.received) == 5)
        signatures = [received.headers.get("webhook-signature", "") for received in receiver.received]
        assert [len(signature.split()) for signature in signatures] == [0, 1, 2, 1, 0]
        assert first is not None
        assert second is not None
        for secret, indexes in ((first, (1, 2)), (second, (2, 3))):
            assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
            for index in indexes:
                assert _verifies(secret, receiver.received[index].headers, receiver.received[index].body)
        assert not _verifies(first, receiver.received[3].headers, receiver.received[3].body)
        assert not _verifies(second, receiver.received[1].headers, receiver.received[1].body)
        shown.append(first)

    shown: list[str] = []
    run(scenario())
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert shown[0].encode() not in kept
    assert base64.b64decode(shown[0].removeprefix("whsec_")) not in kept


def _verifies(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """By the library that receivers use; the time of the call is set to the time of the attempt."""
    webhook = Webhook(secret)
    timestamp = NOON + timedelta(seconds=int(headers["webhook-timestamp"]) - int(NOON.timestamp()))
    expected = webhook.sign(headers["webhook-id"], timestamp, body.decode())
    return expected in headers["webhook-signature"].split()


def test_a_secret_cannot_be_made_where_nothing_survives() -> None:
    async def scenario() -> None:
        async with running() as runner:
            assert await runner.create_secret(ALICE.id) is None

    run(scenario())


def test_what_was_not_delivered_is_delivered_after_a_restart_with_the_same_id(tmp_path: Path) -> None:
    async def scenario() -> None:
        later = RetrySchedule(delays_s=(0.0, 3600.0), jitter_ratio=0.0)
        async with Receiver(answer(500), OK) as receiver:
            async with running(state_dir=tmp_path, allowed=(receiver.host,), schedule=later) as runner:
                await runner.submit(new_task(webhook_url=receiver.url))
                await until(lambda: runner.counts()["webhook_attempts"] == {("pending",): 1})
            clock = Clock()
            clock.pass_s(3600)
            async with running(state_dir=tmp_path, clock=clock, allowed=(receiver.host,), schedule=later) as runner:
                (delivery,) = await settled(runner)
                assert (delivery.status, delivery.num_attempts) == ("delivered", 2)
            first, second = receiver.received
            assert first.headers["webhook-id"] == second.headers["webhook-id"]
            assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]

    run(scenario())


def pending_row(number: int, host: str, *, tenant: str = "alice", **fields: Any) -> dict[str, Any]:  # Any: columns
    delivery = DeliveryState(
        id=f"msg_{number}",
        task_id=str(number),
        tenant=ALICE,
        kind="scripted",
        item=0,
        url=f"http://{host}/",
        host=host,
        body=b"{}",
        status="pending",
        num_attempts=0,
        next_attempt_at=NOON,
        created_at=NOON,
    )
    return {**delivery_row(delivery), "tenant_id": tenant, **fields}


def put(database: Database, *rows: dict[str, Any]) -> None:  # Any: columns
    with database.begin() as connection:
        connection.execute(insert(deliveries), rows)


def test_after_the_clock_was_set_back_a_retry_still_comes_within_its_schedule() -> None:
    async def scenario() -> None:
        database = fresh_database()
        async with Receiver() as receiver:
            # Written by a clock that was a year ahead.
            put(database, pending_row(1, receiver.host, next_attempt_at=NOON + timedelta(days=365)))
            async with running(database=database, allowed=(receiver.host,)) as runner:
                (delivery,) = await settled(runner, "1")
                assert delivery.status == "delivered"

    run(scenario())


def test_a_clock_that_jumps_ahead_does_not_fire_what_is_planned() -> None:
    async def scenario() -> None:
        clock = Clock()
        later = RetrySchedule(delays_s=(0.0, 3600.0))
        async with (
            Receiver(answer(500), OK) as receiver,
            running(clock=clock, allowed=(receiver.host,), schedule=later, webhook_limits=QUICK) as runner,
        ):
            await runner.submit(new_task(webhook_url=receiver.url))
            await until(lambda: runner.counts()["webhook_attempts"] == {("pending",): 1})
            clock.pass_s(10 * 86_400)
            await runner.submit(new_task("two", webhook_url=receiver.url))
            await settled(runner, "two")
            assert len(receiver.received) == 2
            assert runner.gauges()["webhooks_pending"] == 1

    run(scenario())


def test_a_delivery_that_has_become_too_old_is_given_up_unsent() -> None:
    async def scenario() -> None:
        database, clock = fresh_database(), Clock()
        clock.pass_s(3 * 86_400 + 1)
        async with Receiver() as receiver:
            put(database, pending_row(1, receiver.host))
            async with running(database=database, clock=clock, allowed=(receiver.host,)) as runner:
                (delivery,) = await settled(runner, "1")
                assert (delivery.status, delivery.last_error, receiver.received) == ("failed", "expired", [])

    run(scenario())


def test_ten_thousand_calls_to_a_dead_host_do_not_delay_another() -> None:
    async def scenario() -> None:
        database = fresh_database()
        async with silent() as dead, Receiver() as receiver:
            put(database, *(pending_row(number, dead) for number in range(10_000)))
            limits = WebhookLimits(outgoing=OutgoingLimits(connect_s=1.0, total_s=5.0))
            async with running(
                database=database, allowed=(dead, receiver.host), webhook_limits=limits, schedule=AT_ONCE
            ) as runner:
                assert runner.gauges()["webhooks_pending"] == 10_000
                await runner.submit(new_task(tenant=BOB, webhook_url=receiver.url))
                async with asyncio.timeout(1):
                    await until(lambda: len(receiver.received) == 1)

    run(scenario())


def test_a_host_that_fails_ten_times_in_a_row_is_left_alone_for_a_minute() -> None:
    async def scenario() -> None:
        database = fresh_database()
        schedule = RetrySchedule(delays_s=(0.0, 3600.0))
        async with Receiver(answer(500)) as receiver:
            put(database, *(pending_row(number, receiver.host) for number in range(30)))
            async with running(database=database, allowed=(receiver.host,), schedule=schedule) as runner:
                await until(lambda: runner.counts()["webhook_attempts"].get(("pending",), 0) >= 10)
                await asyncio.sleep(0.05)
                assert len(receiver.received) in (10, 11), "one more was on its way"
                assert runner.gauges()["webhooks_pending"] == 30

    run(scenario())


def test_a_host_gets_no_more_than_two_calls_at_once() -> None:
    async def scenario() -> None:
        database = fresh_database()
        at_once = 0
        most = 0

        async def slow(_: Any, writer: asyncio.StreamWriter) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1
            writer.write(OK)

        async with Receiver(slow) as receiver:
            put(database, *(pending_row(number, receiver.host, tenant=f"t{number % 3}") for number in range(12)))
            async with running(database=database, allowed=(receiver.host,)) as runner:
                await until(lambda: runner.gauges()["webhooks_pending"] == 0)
        assert (len(receiver.received), most) == (12, 2)

    run(scenario())


def test_two_senders_on_one_directory_deliver_each_call_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = open_database(tmp_path)
        async with Receiver() as receiver:
            put(database, *(pending_row(number, receiver.host) for number in range(40)))
            allowed = (receiver.host,)
            async with (
                running(state_dir=tmp_path, allowed=allowed) as one,
                running(state_dir=tmp_path, allowed=allowed) as other,
            ):
                await until(lambda: one.gauges()["webhooks_pending"] + other.gauges()["webhooks_pending"] == 0)
            assert len(receiver.received) == 40
            assert len({received.headers["webhook-id"] for received in receiver.received}) == 40

    run(scenario())


def test_what_a_dead_process_was_sending_is_sent_again_at_once(tmp_path: Path) -> None:
    """Killed between the receiver's answer and its record: the one case that gives a repetition, with the same id."""

    async def scenario() -> None:
        database = open_database(tmp_path)
        async with Receiver() as receiver:
            put(database, pending_row(1, receiver.host))
            claimed = DeliveryStore(database).claim("msg_1", owner="main", now=NOON, lease_s=60)
            assert claimed is not None
            async with running(state_dir=tmp_path, allowed=(receiver.host,)) as runner:
                await settled(runner, "1")
            assert [received.headers["webhook-id"] for received in receiver.received] == ["msg_1"]

    run(scenario())


def test_a_delivery_is_claimed_by_one_sender_until_its_lease_runs_out() -> None:
    store = DeliveryStore(database := fresh_database())
    put(database, pending_row(1, "host:80"))
    assert store.claim("msg_1", owner="a", now=NOON, lease_s=60) is not None
    assert store.claim("msg_1", owner="b", now=NOON + timedelta(seconds=59), lease_s=60) is None
    assert store.claim("msg_1", owner="b", now=NOON + timedelta(seconds=61), lease_s=60) is not None


def test_result_and_webhook_are_written_together_or_not_at_all() -> None:
    database = fresh_database()
    store = TaskStore(database)
    store.insert(new_task(webhook_url="https://example.com/"), now=NOON, max_unfinished=10, max_bytes=1000)
    state = store.claim((ALICE.id, "one"), owner="a", now=NOON, lease_s=30)
    assert state is not None
    put(database, pending_row(1, "host:80"))  # the same id again breaks the transaction
    planned = DeliveryStore(database).find("msg_1")
    assert planned is not None
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.finish(
            (ALICE.id, "one"),
            owner="a",
            status="succeeded",
            result=b"x",
            error_code=None,
            now=NOON,
            announcements=[planned],
        )
    found = store.find((ALICE.id, "one"), now=NOON)
    assert found is not None
    assert (found.status, found.result) == ("running", None)


def test_calls_are_forgotten_a_week_after_their_end() -> None:
    store = DeliveryStore(database := fresh_database())
    put(database, pending_row(1, "host:80"), pending_row(2, "host:80"))
    with database.begin() as connection:
        ended_row = update(deliveries).where(deliveries.c.id == "msg_1")
        connection.execute(ended_row.values(status="failed", ended_at=NOON))
    store.purge(now=NOON + timedelta(days=7, seconds=-1), record_s=7 * 86_400)
    assert store.find("msg_1") is not None
    store.purge(now=NOON + timedelta(days=7), record_s=7 * 86_400)
    assert store.find("msg_1") is None
    assert store.find("msg_2") is not None


def test_a_failed_call_can_be_retried_and_waiting_ones_disabled_by_hand() -> None:
    async def scenario() -> None:
        database = fresh_database()
        store = DeliveryStore(database)
        async with Receiver(answer(410), OK) as receiver:
            async with running(database=database, allowed=(receiver.host,), webhook_limits=QUICK) as runner:
                await runner.submit(new_task(webhook_url=receiver.url))
                (delivery,) = await settled(runner)
                assert delivery.status == "failed"
                assert store.retry(delivery.id, now=NOON)
                assert not store.retry(delivery.id, now=NOON), "it is pending already"
                await until(lambda: len(receiver.received) == 2)
                (delivery,) = await settled(runner)
                assert (delivery.status, delivery.num_attempts) == ("delivered", 1)
                assert receiver.received[1].body == b"HELLO"
            put(database, pending_row(1, "a:80"), pending_row(2, "a:80"), pending_row(3, "b:80"))
            assert store.disable("a:80", now=NOON) == 2
            with database.connect() as connection:
                left = connection.execute(select(deliveries.c.id).where(deliveries.c.status == "pending")).scalars()
                assert list(left) == ["msg_3"]

    run(scenario())
