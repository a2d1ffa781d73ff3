"""`deepserve doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.cli import main
from deepserve.store.database import HEAD, open_database
from tests.outgoing.receiver import Receiver, answer

MODELS = b'{"object":"list","data":[{"id":"deepseek-v4-pro","object":"model"},{"id":"deepseek-v4-flash"}]}'


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast memory is read is not asked here, and takes a second."""
    monkeypatch.setattr("deepserve.cli.machine_checks._PROBE_BYTES", 1 << 16)


def doctor(folder: Path, *arguments: str, text: str = "", **environment: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and what was said: name -> mark and detail."""
    file = folder / "deepserve.toml"
    file.write_text(f"[model]\nbackend = 'scripted'\n{text}" if "upstreams" not in text else text)
    file.chmod(0o600)
    command = ["doctor", "--config", str(file), "--state-dir", str(folder / "state"), *arguments]
    result = CliRunner().invoke(main, command, env={"DEEPSEEK_API_KEY": None, **environment})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.output.splitlines() if len(line) > 24 and line[4:6] == "  "]
    return result.exit_code, {line[6:24].strip(): (line[:4].strip(), line[25:]) for line in lines if line[:4].strip()}


@contextmanager
def upstream(*answers: bytes) -> Iterator[str]:
    """`host:port` of a server in a thread of its own, which gives these answers."""
    started, found = threading.Event(), list[str]()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        ending = asyncio.Event()
        loops.append((asyncio.get_running_loop(), ending))
        async with Receiver(*answers) as receiver:
            found.append(receiver.host)
            started.set()
            await ending.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(10)
    try:
        yield found[0]
    finally:
        loop, ending = loops[0]
        loop.call_soon_threadsafe(ending.set)
        thread.join(10)


def named(host: str, more: str = "") -> str:
    return f'[[upstreams]]\nid = "first"\nkind = "openai"\naddress = "http://{host}/v1"\n{more}'


def test_a_sound_configuration_is_fine(tmp_path: Path) -> None:
    code, said = doctor(tmp_path)
    assert code == 0
    assert said["configuration"] == ("ok", f"{tmp_path / 'deepserve.toml'}, 2 settings given")
    assert said["state"] == ("ok", f"{tmp_path / 'state'} (will be created)")
    assert said["free space"][0] in ("ok", "warn")
    assert not (tmp_path / "state").exists()


def test_a_faulty_configuration_fails_with_its_place(tmp_path: Path) -> None:
    code, said = doctor(tmp_path, text="[limits]\ntols = 1\n")
    assert (code, said["configuration"][0]) == (1, "fail")
    assert "line 4, column 1: `tols` is not known in [limits]; did you mean `tools`?" in said["configuration"][1]
    assert "native core" in said


def test_files_that_others_can_read_or_change_are_pointed_at(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-one")
    key.chmod(0o644)
    code, said = doctor(tmp_path, text="[server]\napi_keys_file = 'key'\n")
    assert (code, said["api_keys_file"]) == (0, ("warn", f"{key} can be read by others: chmod 600 {key}"))
    key.chmod(0o600)
    assert doctor(tmp_path, text="[server]\napi_keys_file = 'key'\n")[1]["api_keys_file"][0] == "ok"
    file = tmp_path / "open.toml"
    file.write_text("[model]\nbackend = 'scripted'\n")
    file.chmod(0o666)
    result = CliRunner().invoke(main, ["doctor", "--config", str(file), "--state-dir", str(tmp_path / "state")])
    assert f"chmod go-w {file}" in result.output


def test_upstreams_need_their_keys_and_addresses(tmp_path: Path) -> None:
    text = '[[upstreams]]\nid = "first"\nkind = "deepseek"\n'
    code, said = doctor(tmp_path, text=text)
    assert (code, said["first"][0]) == (1, "fail")
    assert "set DEEPSEEK_API_KEY" in said["first"][1]
    code, said = doctor(tmp_path, text=text, DEEPSEEK_API_KEY="sk-0123")
    assert (code, said["first"]) == (0, ("ok", "DeepSeek at https://api.deepseek.com, key in DEEPSEEK_API_KEY"))
    assert "deepseek-v4-pro" in said
    code, said = doctor(tmp_path, text=named("127.0.0.1:8000"))
    assert (code, said["first"][0]) == (0, "ok")


@pytest.mark.parametrize(
    ("given", "mark", "detail"),
    [
        (answer(200, "Content-Type: application/json", body=MODELS), "ok", "takes the key, lists 2 models, in "),
        (answer(401), "fail", "it does not take the key (status 401): check its address and its key"),
        (answer(402), "fail", "the account there is empty (status 402)"),
        (answer(404), "warn", "it lists no models (status 404), so the key is not proven"),
        (answer(429), "warn", "it has too many requests just now"),
        (answer(500), "fail", "it answers with the status 500"),
        (answer(200, body=b"<html>"), "warn", "its list of models cannot be read"),
        (b"not HTTP at all\r\n\r\n", "fail", "127.0.0.1"),
    ],
)
def test_online_each_upstream_is_asked_for_its_models(tmp_path: Path, given: bytes, mark: str, detail: str) -> None:
    with upstream(given) as host:
        code, said = doctor(tmp_path, "--online", text=named(host))
    assert said["first online"][0] == mark
    assert said["first online"][1].startswith(detail)
    assert code == (1 if mark == "fail" else 0)


def test_an_upstream_that_is_not_there_fails_only_online(tmp_path: Path) -> None:
    with upstream() as host:
        pass
    assert doctor(tmp_path, text=named(host))[0] == 0
    code, said = doctor(tmp_path, "--online", text=named(host))
    assert (code, said["first online"][0]) == (1, "fail")
    assert "could not be reached" in said["first online"][1]


def test_models_that_an_upstream_does_not_list_and_clocks_that_differ_are_pointed_at(tmp_path: Path) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    given = answer(200, "Content-Type: application/json", f"Date: {date}", body=MODELS)
    with upstream(given) as host:
        code, said = doctor(tmp_path, "--online", text=named(host, 'models = { deepseek-v4-flash = "mine" }\n'))
    assert code == 0
    # Two lines have the same name; the later one is what it lists.
    assert said["first online"] == ("warn", "it lists no mine: say its own names with `models`")
    assert said["clock"][0] == "warn"
    assert "s behind that of first: set it" in said["clock"][1]


def test_a_database_of_another_release_is_named(tmp_path: Path) -> None:
    state = tmp_path / "state"
    open_database(state).dispose()
    assert doctor(tmp_path)[1]["state"] == ("ok", f"{state} (no keys: this machine only)")
    for version, code, mark, words in (
        ("0001", 0, "ok", f"has tables of version 0001, not {HEAD}: the next start brings it up to date"),
        ("9999", 1, "fail", f"was written by a newer release (tables 9999, here {HEAD}): use that one"),
    ):
        raw = sqlite3.connect(state / "deepserve.db")
        with raw:
            raw.execute("UPDATE alembic_version SET version_num = ?", (version,))
        raw.close()
        found, said = doctor(tmp_path)
        assert (found, said["state"]) == (code, (mark, f"{state} {words}"))
