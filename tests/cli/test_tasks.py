"""`deepserve tasks` and `deepserve webhooks`, on what a server left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.cli import main
from deepserve.core.errors import InvalidField
from deepserve.store.database import open_database
from deepserve.store.deliveries import DeliveryStore
from tests.outgoing.receiver import Receiver, answer
from tests.tasks.setup import ALICE, Scripted, ended, new_task, running, until


def run(*arguments: str, state_dir: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [*arguments, "--state-dir", str(state_dir)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """One task whose receiver has gone, and one that failed."""

    async def scenario() -> None:
        performer = Scripted()
        async with (
            Receiver(answer(410)) as receiver,
            running(performer, state_dir=tmp_path, allowed=(receiver.host,)) as runner,
        ):
            await runner.submit(new_task("first", webhook_url=f"{receiver.url}?token=secret"))
            await until(lambda: runner.counts()["webhook_attempts"] == {("failed",): 1})
            performer.errors = [InvalidField("secret detail")]
            await runner.submit(new_task("second"))
            await ended(runner, "second")

    asyncio.run(scenario())
    return tmp_path


def test_nothing_is_said_to_be_nothing(tmp_path: Path) -> None:
    assert run("tasks", "list", state_dir=tmp_path) == (0, "There are no tasks.\n")
    assert run("webhooks", "list", state_dir=tmp_path) == (0, "There are no webhook calls.\n")


def test_tasks_are_listed_and_shown_with_every_attempt_but_without_contents(state_dir: Path) -> None:
    listed = run("tasks", "list", state_dir=state_dir)[1]
    assert "succeeded" in listed
    assert "failed: invalid_field" in listed
    shown = run("tasks", "show", "first", state_dir=state_dir)[1]
    assert "status_410" in shown
    assert "5 bytes" in shown
    assert not {"secret", "HELLO", "hello"} & set((listed + shown).replace("=", " ").split())
    code, output = run("tasks", "show", "third", state_dir=state_dir)
    assert (code, "deepserve tasks list" in output) == (1, True)


def test_a_call_that_was_given_up_is_found_and_tried_again(state_dir: Path) -> None:
    listed = run("webhooks", "list", "--status", "failed", state_dir=state_dir)[1]
    assert "status_410" in listed
    assert "token" not in listed
    (call,) = DeliveryStore(open_database(state_dir)).of_task(ALICE.id, "first")
    assert run("webhooks", "retry", call.id, state_dir=state_dir)[0] == 0
    assert "pending" in run("webhooks", "list", state_dir=state_dir)[1]
    assert "given up" in run("webhooks", "retry", call.id, state_dir=state_dir)[1]
    assert run("webhooks", "disable", call.host, state_dir=state_dir) == (0, "Stopped 1 call.\n")
    assert run("webhooks", "disable", call.host, state_dir=state_dir)[0] == 1
    assert "cancelled" in run("webhooks", "list", state_dir=state_dir)[1]


def test_each_secret_is_new(tmp_path: Path) -> None:
    first = run("webhooks", "secret", "alice", state_dir=tmp_path)[1].strip()
    second = run("webhooks", "secret", "alice", state_dir=tmp_path)[1].strip()
    other = run("webhooks", "secret", "bob", state_dir=tmp_path)[1].strip()
    assert len({first, second, other}) == 3
    assert all(secret.startswith("whsec_") for secret in (first, second, other))
