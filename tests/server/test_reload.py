"""Settings that change while the server runs: what takes them at once, what waits, and what nobody notices."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest

from deepserve.config import LIVE, Limits, Settings, ToolLimits
from deepserve.configuration.configuration import Configuration, load_configuration
from deepserve.core.errors import AuthenticationFailed, ConfigurationError
from deepserve.server.access import Access, ConfiguredKeys
from deepserve.server.app import _prepare_keys
from deepserve.server.live_settings import REFITTED, LiveSettings, differences
from deepserve.server.reload import Reloader, Source
from tests.backends.upstream.setup import DONE, END, GOOD, HELLO, head
from tests.outgoing.receiver import Received, Receiver, Respond, answer
from tests.server.live import HELLO as QUESTION

PATIENCE_S = 30.0


def changed(live: LiveSettings, **fields: object) -> tuple[str, ...]:
    return asyncio.run(live.change(msgspec.structs.replace(live.current, **fields)))


def test_a_change_reaches_everybody_who_follows_and_what_cannot_change_waits() -> None:
    live = LiveSettings(Settings())
    heard: list[Settings] = []
    live.follow(heard.append)
    names = changed(live, port=1, limits=Limits(tools=3), is_strict=True)
    assert sorted(names) == ["is_strict", "limits.tools"]
    assert live.waiting == ("port",)
    assert [(one.limits.tools, one.port) for one in heard] == [(3, 8000)]
    assert live.current is heard[0]
    assert changed(live) == ()
    assert not live.waiting


def test_a_change_that_somebody_refuses_changes_nothing() -> None:
    live = LiveSettings(Settings())
    heard: list[Settings] = []

    def refuse(_: Settings) -> object:
        raise ConfigurationError("not so")

    live.follow(heard.append)
    live.consult(refuse)  # type: ignore[arg-type]  # it never returns
    before = live.current
    with pytest.raises(ConfigurationError, match="not so"):
        changed(live, is_strict=True)
    assert (live.current, heard) == (before, [])


def test_a_refit_comes_last_and_what_only_it_can_change_waits_without_it() -> None:
    calls: list[str] = []

    class Refit:
        async def change(self, before: Settings, after: Settings) -> Sequence[str]:
            assert (before.check_retries, after.check_retries) == (1, 5)
            calls.append("refitted")
            return ["the key of first"]

    def prepare(_: Settings) -> object:
        calls.append("asked")
        return lambda: calls.append("done")

    live = LiveSettings(Settings())
    live.refit_with(Refit())
    live.consult(prepare)  # type: ignore[arg-type]  # what it returns takes nothing and gives nothing
    assert changed(live, check_retries=5) == ("check_retries", "the key of first")
    assert calls == ["asked", "refitted", "done"]
    alone = LiveSettings(Settings())
    alone.refit_with(None)
    assert changed(alone, check_retries=5) == ()
    assert (alone.waiting, alone.current.check_retries) == (("check_retries",), 1)


def test_keys_change_but_not_to_none_where_others_can_reach_the_server() -> None:
    async def run() -> None:
        settings = Settings(host="192.0.2.1", api_keys=("sk-one",))
        live, access = LiveSettings(settings), Access([ConfiguredKeys(settings.api_keys)])
        live.consult(partial(_prepare_keys, access, [ConfiguredKeys(settings.api_keys)]))
        await live.change(msgspec.structs.replace(settings, api_keys=("sk-two",)))
        assert (await access.tenant_of("sk-two")).id
        with pytest.raises(AuthenticationFailed):
            await access.tenant_of("sk-one")
        with pytest.raises(ConfigurationError, match="everybody could come in"):
            await live.change(msgspec.structs.replace(settings, api_keys=()))
        assert (await access.tenant_of("sk-two")).id

    asyncio.run(run())


def test_differences_are_named_by_their_dotted_names() -> None:
    other = Settings(port=1, limits=Limits(tools=1, messages=2), tool_limits=ToolLimits(rounds=1))
    assert sorted(differences(Settings(), other)) == ["limits.messages", "limits.tools", "port", "tool_limits.rounds"]


def test_what_can_change_is_declared() -> None:
    assert set(Settings.__struct_fields__) >= LIVE >= REFITTED


def is_faulty(live: LiveSettings) -> bool:
    return live.problem is not None


def reloader(folder: Path, text: str) -> tuple[Reloader, LiveSettings, Path, list[str]]:
    file = folder / "deepserve.toml"
    file.write_text(text)

    def load() -> Configuration:
        return load_configuration(file=file, environment={})

    first = load()
    live, told = LiveSettings(first.settings), list[str]()
    made = Reloader(live, Source(configuration=first, load=load), tell=told.append, stop=lambda: told.append("stopped"))
    return made, live, file, told


def test_a_fault_is_logged_once_and_ends_when_the_file_is_right_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        made, live, file, told = reloader(tmp_path, "[limits]\ntools = 1\n")
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                file.write_text("[limits]\ntools = 0.5\n")
                await made.reload()
        assert is_faulty(live)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "The settings stay as they were: " in caplog.text
        assert "line 2, column 1: `tools` is 0.5" in caplog.text
        assert (live.current.limits.tools, told) == (1, [])
        file.write_text("[limits]\ntools = 2\n[server]\nport = 5\n")
        await made.reload()
        assert not is_faulty(live)
        assert (live.current.limits.tools, live.current.port) == (2, 8000)
        assert told == [f"Settings read again from {file}: limits.tools changed."]
        assert "Settings that wait for the next start: port" in caplog.text

    asyncio.run(run())


def test_a_file_is_read_when_it_has_been_left_alone(tmp_path: Path) -> None:
    """An editor empties a file before it writes it: read in between, an empty file would be every default."""

    async def run() -> None:
        made, _, file, _ = reloader(tmp_path, "[limits]\ntools = 1\n")
        assert not made.has_news()
        file.write_text("")
        assert not made.has_news()
        file.write_text("[limits]\ntools = 22\n")
        assert not made.has_news()
        assert made.has_news()
        await made.reload()
        assert not made.has_news()
        file.unlink()
        assert not made.has_news()
        assert made.has_news()

    asyncio.run(run())


def test_who_comes_late_takes_what_has_changed_meanwhile(tmp_path: Path) -> None:
    """A worker that takes a dead one's place begins with what the supervisor read long ago."""

    async def run() -> None:
        late, live, file, told = reloader(tmp_path, "[limits]\ntools = 1\n")
        file.write_text("[limits]\ntools = 2\n")
        late.start(is_behind=True)
        while not told:
            await asyncio.to_thread(lambda: None)
        await late.close()
        assert (live.current.limits.tools, told) == (2, [f"Settings read again from {file}: limits.tools changed."])

    asyncio.run(run())


class Process:
    """`deepserve serve`, as a user runs it. said: everything that it has printed."""

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S)
        self.process = process
        self.said = ""
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while piece := await self.process.stdout.readline():
            async with self._news:
                self.said += piece.decode()
                self._news.notify_all()
        async with self._news:
            self.said += "\nThe process has ended."
            self._news.notify_all()

    async def says(self, words: str, times: int = 1) -> None:
        """Wait until it has."""
        async with self._news, asyncio.timeout(PATIENCE_S):
            while self.said.count(words) < times:
                assert not self.said.endswith("has ended."), self.said
                await self._news.wait()

    async def metrics(self) -> list[str]:
        """Of the configuration."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return [line.removeprefix("deepserve_configuration_") for line in lines if "_configuration_" in line]

    async def ask(self, **fields: object) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json={**QUESTION, **fields})

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    async def close(self) -> None:
        await self.client.aclose()
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()
        await self._reading


@asynccontextmanager
async def serving(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[Process]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = (sys.executable, "-m", "deepserve", "serve", "--port", str(port), "--state-dir", str(folder / "state"))
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
    )
    served = Process(port, process)
    try:
        await served.says("Try: curl")
        yield served
    finally:
        await served.close()


def upstream_that(*answers: bytes | Respond) -> Respond:
    """Says nothing about its models, and then gives these answers."""
    left = list(answers)

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.target.endswith("/models"):
            writer.write(answer(404))
            return
        given = left.pop(0)
        if isinstance(given, bytes):
            writer.write(given)
            await writer.drain()
        else:
            await given(received, writer)

    return respond


def configured(folder: Path, upstream: str, host: str, more: str = "") -> Path:
    file = folder / "deepserve.toml"
    key = folder / "key"
    if not key.exists():
        key.write_text("sk-first")
    file.write_text(
        f'{more}\n[[upstreams]]\nid = "{upstream}"\nkind = "openai"\naddress = "http://{host}/v1"\nkey_file = "key"\n'
    )
    return file


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_stream_in_flight_goes_on_through_a_reload_and_new_requests_see_new_settings(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def held(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head() + HELLO)
        await writer.drain()
        await gate.wait()
        writer.write(END + DONE)
        await writer.drain()

    async def run() -> None:
        async with (
            Receiver(upstream_that(held)) as first,
            Receiver(upstream_that(GOOD, GOOD)) as second,
            serving(tmp_path, "--config", str(configured(tmp_path, "first", first.host))) as server,
        ):
            assert f"Settings from {tmp_path / 'deepserve.toml'}" in server.said
            async with server.client.stream(
                "POST", "/v1/chat/completions", json={**QUESTION, "stream": True}
            ) as stream:
                lines = stream.aiter_lines()
                said = ""
                while "there" not in said:
                    said += await anext(lines)
                # The upstream is another one, a limit is lower, and a setting that needs a start is different.
                configured(tmp_path, "second", second.host, "[server]\nhost = '127.0.0.3'\n[limits]\nmessages = 1")
                server.hang_up()
                await server.says("Settings that wait for the next start: host")
                assert {'reloads_total{outcome="applied"} 1.0', "is_faulty 0.0", "waiting 1.0"} <= set(
                    await server.metrics()
                )
                found = await server.ask()
                assert (found.status_code, found.json()["choices"][0]["message"]["content"]) == (200, "Hello there")
                assert second.received[-1].headers["authorization"] == "Bearer sk-first"
                refused = await server.ask(messages=[*QUESTION["messages"]] * 2)
                assert refused.status_code == 400, refused.text
                gate.set()
                rest = "".join([line async for line in lines])
            assert stream.status_code == 200
            assert rest.endswith("data: [DONE]")
            assert '"finish_reason":"stop"' in rest
            # A key that was exchanged in its file is used from then on, though nothing else has changed.
            (tmp_path / "key").write_text("sk-second")
            await server.says("the key of second changed")
            assert (await server.ask()).status_code == 200
            assert second.received[-1].headers["authorization"] == "Bearer sk-second"
            assert "sk-second" not in server.said

    asyncio.run(asyncio.wait_for(run(), 2 * PATIENCE_S))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the user's configuration elsewhere")
def test_a_faulty_file_leaves_the_running_settings_and_shows(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "deepserve").mkdir(parents=True)
    file = home / "deepserve" / "deepserve.toml"
    keys = file.with_name("keys")

    async def run() -> None:
        file.write_text('[server]\napi_keys_file = "keys"\n')
        keys.write_text("sk-one\n")
        # Found where the user's configuration is, and not named.
        async with serving(tmp_path, "--backend", "scripted", DEEPSERVE_CONFIG="", XDG_CONFIG_HOME=str(home)) as server:
            server.client.headers["authorization"] = "Bearer sk-one"
            file.write_text('[limits]\nmesages = 1\n[server]\napi_keys_file = "keys"\n')
            await server.says("The settings stay as they were")  # nobody sent a signal: the file is looked at
            assert "is_faulty 1.0" in await server.metrics()
            assert (await server.client.get("/ready")).json() == {"status": "ready", "configuration": "faulty"}
            server.hang_up()
            while 'reloads_total{outcome="refused"} 2.0' not in await server.metrics():
                pass  # a fault is told once
            assert (await server.ask()).status_code == 200
            assert (
                server.said.count("line 2, column 1: `mesages` is not known in [limits]; did you mean `messages`?") == 1
            )
            file.unlink()
            server.hang_up()
            await server.says("There is no configuration file")
            file.write_text('[server]\napi_keys_file = "keys"\n')
            keys.write_text("sk-one\nsk-two\n")
            server.hang_up()
            await server.says("api_keys changed")
            assert "is_faulty 0.0" in await server.metrics()
            assert (await server.client.get("/ready")).json() == {"status": "ready"}
            server.client.headers["authorization"] = "Bearer sk-two"
            assert (await server.ask()).status_code == 200

    asyncio.run(asyncio.wait_for(run(), 2 * PATIENCE_S))


@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up as Linux lists them")
def test_all_workers_take_a_change_and_so_does_one_that_comes_later(tmp_path: Path) -> None:
    async def run() -> None:
        file = configured(tmp_path, "first", "127.0.0.1:9")
        async with serving(tmp_path, "--workers", "2", "--config", str(file)) as server:
            await server.says("did not say what its models are", times=2)  # both have begun
            workers = children_of(server.process.pid)
            assert len(workers) == 2
            configured(tmp_path, "first", "127.0.0.1:9", "[limits]\ntools = 3")
            server.hang_up()
            await server.says("limits.tools changed", times=2)
            os.kill(workers[0], signal.SIGKILL)
            await server.says("limits.tools changed", times=3)

    asyncio.run(asyncio.wait_for(run(), 2 * PATIENCE_S))


def children_of(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_server_without_a_file_survives_a_signal_and_ends_with_its_terminal(tmp_path: Path) -> None:
    """Closing the window sends SIGHUP, too: then nobody is there any more who could stop the server."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "deepserve", "serve", "--backend", "scripted", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--state-dir", str(tmp_path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        seen = b""
        while b"Hello!" not in seen:  # the end of what it says at its start
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGHUP)
        while b"nothing changed" not in seen:
            seen += os.read(ours, 4096)
        assert json.loads(httpx.get(f"http://127.0.0.1:{port}/ready").content) == {"status": "ready"}
        os.close(ours)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
