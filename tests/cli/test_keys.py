"""`deepserve keys`: what it prints, what it changes, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.cli import main
from deepserve.cli.keys import open_key_store
from deepserve.core.tenant import Grant
from deepserve.store.database import open_database


class Shell:
    """Runs commands in one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    def __call__(self, *arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, ["keys", *arguments, "--state-dir", str(self.state_dir)])
        assert result.exit_code == code, result.output
        return result.output

    def grant_of(self, secret: str) -> Grant:
        tenant = open_key_store(open_database(self.state_dir)).find(secret)
        assert tenant is not None
        assert tenant.grant is not None
        return tenant.grant


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def made(shell: Shell, *options: str) -> tuple[str, str]:
    """The id and the secret of a new key."""
    found = json.loads(shell("create", "acme", *options, "--json").splitlines()[0])
    return found["id"], found["key"]


_LIMITS = (
    *("--name", "ci", "--model", "deepseek-v4-flash", "--dialect", "messages", "--tool", "none", "--admin"),
    *("--usd-per-day", "$5", "--usd-per-month", "0.000001", "--max-concurrent", "4"),
    *("--requests-per-minute", "1,000", "--tokens-per-minute", "1_000_000", "--expires", "30d"),
)


def test_every_limit_can_be_set_shown_and_taken_away(shell: Shell) -> None:
    key, secret = made(shell, *_LIMITS)
    shown = json.loads(shell("show", key, "--json"))
    assert {name: shown[name] for name in ("name", "tenant", "models", "dialects", "tools", "is_admin")} == {
        "name": "ci",
        "tenant": "acme",
        "models": ["deepseek-v4-flash"],
        "dialects": ["messages"],
        "tools": [],
        "is_admin": True,
    }
    assert [shown[name] for name in ("usd_per_day", "usd_per_month", "max_concurrent")] == [5, 0.000001, 4]
    assert [shown[name] for name in ("requests_per_minute", "tokens_per_minute")] == [1_000, 1_000_000]
    assert shown["expires_at"] is not None
    none = [f"--{name}" for name in ("usd-per-day", "usd-per-month", "max-concurrent")]
    none += ["--requests-per-minute", "--tokens-per-minute"]
    shell("set", "ci", "--model", "any", "--dialect", "any", "--tool", "any", "--no-admin", "--expires", "never")
    shell("set", "ci", *(word for option in none for word in (option, "none")))
    assert shell.grant_of(secret) == Grant()


def test_what_is_not_named_stays_as_it_is(shell: Shell) -> None:
    _, secret = made(shell, *_LIMITS)
    before = shell.grant_of(secret)
    shell("set", "ci", "--max-concurrent", "5")
    after = shell.grant_of(secret)
    assert after.limits.max_concurrent == 5
    assert (after.models, after.budgets, after.is_admin) == (before.models, before.budgets, before.is_admin)


def test_the_table_shows_budgets_beside_what_is_spent_and_never_a_secret(shell: Shell) -> None:
    _, secret = made(shell, *_LIMITS)
    table = shell("list")
    assert "$0.00 of $5.00" in table
    assert secret[:12] in table
    assert secret not in table
    page = shell("show", secret)
    assert secret not in page
    assert re.search(r"tools +none\n", page)
    assert re.search(r"last used +never\n", page)


def test_a_secret_is_shown_once_alone_on_its_line(shell: Shell) -> None:
    result = CliRunner().invoke(main, ["keys", "create", "--state-dir", str(shell.state_dir)])
    assert re.fullmatch(r"sk-ds-[0-9a-f]{64}\n", result.stdout)
    assert "cannot be shown again" in result.stderr


def test_revoked_keys_leave_the_list_but_not_its_whole(shell: Shell) -> None:
    key, secret = made(shell)
    assert "Revoked" in shell("revoke", secret)
    assert open_key_store(open_database(shell.state_dir)).find(secret) is None
    assert "No keys" in shell("list")
    assert key in shell("list", "--all")
    assert "revoked for good" in shell("set", key, "--name", "x", code=1)
    assert "is revoked" in shell("rotate", key, code=1)


def test_a_secret_is_exchanged_with_a_grace_or_without(shell: Shell) -> None:
    key, old = made(shell)
    new = json.loads(shell("rotate", key, "--json").splitlines()[0])["key"]
    assert shell.grant_of(old) == shell.grant_of(new) == Grant()
    newest = json.loads(shell("rotate", key, "--grace", "0m", "--json").splitlines()[0])["key"]
    assert open_key_store(open_database(shell.state_dir)).find(old) is None
    assert open_key_store(open_database(shell.state_dir)).find(new) is None
    assert shell.grant_of(newest) == Grant()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "gpt-9"), "supported API model names"),
        (("--usd-per-day", "five"), "'five' is not an amount"),
        (("--usd-per-day", "-1"), "from 0 to 9,000,000"),
        (("--usd-per-day", "NaN"), "from 0 to 9,000,000"),
        (("--usd-per-day", "1e7"), "from 0 to 9,000,000"),
        (("--usd-per-month", "0.0000000000001"), "twelve decimals"),
        (("--max-concurrent", "0"), "none for no bound"),
        (("--requests-per-minute", "99999999999"), "2,000,000,000"),
        (("--expires", "soon"), "'soon' is no time"),
        (("--expires", "2001-01-01"), "in the past"),
        (("--dialect", "smoke"), "'smoke' is not one of"),
        (("--tool", "none", "--tool", "mcp"), "stand alone"),
        (("--model", "any", "--model", "deepseek-v4-flash"), "stand alone"),
        (("--name", "a\nb"), "printable"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(shell: Shell, options: tuple[str, ...], said: str) -> None:
    assert said in re.sub(r"\s+", " ", shell("create", "acme", *options, code=2))
    assert "No keys" in shell("list")


def test_a_name_is_given_once(shell: Shell) -> None:
    made(shell, "--name", "ci")
    assert "already" in shell("create", "acme", "--name", "ci", code=2)
    made(shell, "--name", "home")
    assert "already" in shell("set", "home", "--name", "ci", code=2)
    shell("set", "home", "--name", "home")


def test_an_unclear_key_changes_nothing(shell: Shell) -> None:
    made(shell)
    made(shell)
    assert "name one by its id" in shell("revoke", "sk-ds-", code=1)
    assert len(json.loads(shell("list", "--json"))) == 2
    assert "deepserve keys list" in shell("revoke", "sk-ds-nothing", code=1)


def test_a_whole_secret_that_is_unknown_is_not_repeated(shell: Shell) -> None:
    assert "9" * 20 not in shell("show", "sk-ds-" + "9" * 64, code=1)
