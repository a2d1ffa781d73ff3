"""Who else answers, and how much of it they really take."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.backends.upstream.probe import step_sizes
from deepserve.catalog.providers import load_providers
from deepserve.cli import main
from tests.outgoing.receiver import Received, Receiver, Respond, answer

KEY = "sk-0123456789"
GOOD = json.dumps({"choices": [{"message": {"content": "H"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})


def run(*arguments: str, agreed: str = "", **environment: str | None) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["providers", *arguments], input=agreed, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@contextmanager
def upstream(respond: bytes | Respond) -> Iterator[Receiver]:
    """In a thread of its own."""
    receiver = Receiver(respond)
    started = threading.Event()
    ends: list[Callable[[], object]] = []

    async def serve() -> None:
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(ending.set))
        async with receiver:
            started.set()
            await ending.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield receiver
    finally:
        ends[0]()
        thread.join(10)


class Narrow:
    """Takes so many at once and refuses others. Each step of a probe is answered when all of it has come."""

    def __init__(self, limit: int, *headers: str) -> None:
        self._limit = limit
        self._headers = headers
        self._sizes = step_sizes(256)
        self._waiting: list[asyncio.Future[bool]] = []

    async def __call__(self, _: Received, writer: asyncio.StreamWriter) -> None:
        mine: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        if len(self._waiting) == self._sizes[0]:
            self._sizes.pop(0)
            for number, one in enumerate(self._waiting):
                one.set_result(number < self._limit)
            self._waiting = []
        if await mine:
            writer.write(answer(200, *self._headers, body=GOOD.encode()))
        else:
            writer.write(answer(429, "Retry-After: 7", body=b'{"error":{"message":"slow down"}}'))
        await writer.drain()


def probe(receiver: Receiver, *arguments: str, agreed: str = "y\n") -> tuple[int, str]:
    address = f"openai=http://{receiver.host}/v1"
    return run("probe", address, *arguments, agreed=agreed, DEEPSERVE_UPSTREAM_KEY=KEY)


def test_every_row_of_the_catalogue_is_listed_with_its_key() -> None:
    code, output = run("list", DEEPSEEK_API_KEY=KEY, OPENROUTER_API_KEY=None)
    assert code == 0
    lines = {line.split()[0]: line for line in output.splitlines() if line}
    for row in load_providers().values():
        assert row.key_variable in lines[row.id]
        assert (row.base_url or f"{row.id}=http://") in lines[row.id]
    assert lines["deepseek"].endswith(" set")
    assert lines["openrouter"].endswith(" –")
    assert lines["vllm"].endswith(" not needed")
    assert KEY not in output


def test_upstreams_of_the_configuration_are_listed_first(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    file = tmp_path / "deepserve.toml"
    file.write_text(
        '[[upstreams]]\nid = "first"\nkind = "deepseek"\nkey_file = "key"\n'
        '[[upstreams]]\nid = "second"\nkind = "oxen"\nkey_variable = "NOBODY_SETS_THIS"\n'
    )
    code, output = run("list", "--config", str(file))
    assert (code, KEY in output) == (0, False)
    lines = output.splitlines()
    assert lines[0] == "Named in your configuration:"
    assert lines[4].split() == ["first", "deepseek", "https://api.deepseek.com", str(tmp_path / "key")]
    assert lines[5].endswith("NOBODY_SETS_THIS: not set")


def test_steps_double_up_to_the_most() -> None:
    assert [step_sizes(most) for most in (1, 2, 3, 8, 10)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 10]]


def test_a_probe_finds_how_many_are_taken_at_once() -> None:
    with upstream(Narrow(5, "x-ratelimit-limit-requests: 5")) as receiver:
        code, output = probe(receiver, "--most", "16")
    assert code == 0, output
    assert len(receiver.received) == 1 + 2 + 4 + 8
    assert "Up to 31 requests of about 20 tokens each for deepseek-v4-flash" in output
    assert "   8 at once: 5 answered, 3 refused" in output
    assert "Stopped because it refused with the status 429." in output
    assert "It takes 4 at once, and refused some of 8; it asks to wait for 7 s then." in output
    assert "max_concurrent = 4" in output
    assert ["x-ratelimit-limit-requests", "5"] in [line.split() for line in output.splitlines()]
    assert "Used: 108 prompt tokens and 12 of answers." in output
    sent = json.loads(receiver.received[0].body)
    assert (sent["max_tokens"], sent["model"], sent.get("stream")) == (1, "deepseek-v4-flash", None)
    assert receiver.received[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_service_that_speaks_messages_is_probed_in_its_own_dialect() -> None:
    body = {"content": [{"type": "text", "text": "H"}], "stop_reason": "max_tokens"}
    said = json.dumps({**body, "usage": {"input_tokens": 9, "output_tokens": 1}}).encode()
    with upstream(answer(200, body=said)) as receiver:
        address = f"anthropic=http://{receiver.host}"
        code, output = run("probe", address, "--most", "2", "--yes", DEEPSERVE_UPSTREAM_KEY=KEY)
    assert code == 0, output
    assert "Used: 27 prompt tokens and 3 of answers." in output
    assert receiver.received[0].target == "/v1/messages"
    assert receiver.received[0].headers["x-api-key"] == KEY
    assert json.loads(receiver.received[0].body)["max_tokens"] == 1


def test_a_probe_that_is_never_refused_says_so() -> None:
    with upstream(Narrow(99)) as receiver:
        code, output = probe(receiver, "--most", "4", "--yes", agreed="")
    assert code == 0, output
    assert len(receiver.received) == 7
    assert "It takes 4 at once, and perhaps more: try --most 8." in output


def test_a_probe_stops_before_it_uses_up_what_is_left() -> None:
    with upstream(Narrow(99, "X-RateLimit-Remaining-Requests: 3", "x-ratelimit-remaining-tokens: 1")) as receiver:
        code, output = probe(receiver)
    assert code == 0, output
    assert len(receiver.received) == 3
    assert "x-ratelimit-remaining-requests says that 3 requests are left, and the next step would take 4" in output


def test_nothing_is_sent_without_consent() -> None:
    with upstream(Narrow(99)) as receiver:
        code, output = probe(receiver, agreed="n\n")
    assert (code, receiver.received) == (1, [])
    assert "Shall they be sent?" in output
    assert "its price is not known" in output


def test_the_price_of_a_known_service_is_told_before_anything_is_sent() -> None:
    code, output = run("probe", "deepseek", agreed="n\n", DEEPSEEK_API_KEY=KEY)
    assert code == 1
    assert "at https://api.deepseek.com, up to 16 of them at once: about 0.0" in output
    assert "US dollars" in output


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (answer(401, body=f"no: {KEY}".encode()), "it answered with the status 401: no: …"),
        (answer(200, body=b"<html>"), "it answered with no answer"),
        (answer(200, body=b'{"choices":'), "it answered with no answer"),
        (answer(200, body=b"[" * 100_000), "it answered with no answer"),
        (answer(500), "it answered with the status 500: nothing else"),
        (answer(429, "Retry-After: soon"), "it refused with the status 429"),
        (b"garbage\r\n\r\n", "127.0.0.1"),
        (b"", "127.0.0.1"),
    ],
)
def test_an_upstream_that_misbehaves_ends_the_probe_at_its_first_request(given: bytes, said: str) -> None:
    with upstream(given) as receiver:
        code, output = probe(receiver)
    assert (code, len(receiver.received)) == (1, 1)
    assert f"Stopped because {said}" in output
    assert "Not one request was answered" in output
    assert KEY not in output


def test_a_body_that_never_ends_is_not_read_for_ever() -> None:
    async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()

    with upstream(endless) as receiver:
        code, output = probe(receiver)
    assert code == 1
    assert "it answered with no answer" in output


def test_what_cannot_be_probed_is_said(tmp_path: Path) -> None:
    assert "is no upstream that is known" in run("probe", "nobody")[1]
    assert "has no limits of somebody else" in run("probe", "embedded")[1]
    assert "set DEEPSEEK_API_KEY" in run("probe", "deepseek", DEEPSEEK_API_KEY=None)[1]
    key = tmp_path / "key"
    key.write_text(KEY)
    code, output = run("probe", "deepseek", "--key-file", str(key), "--model", "gpt", DEEPSEEK_API_KEY=None)
    assert (code, "deepseek has no gpt; it has deepseek-v4-pro, deepseek-v4-flash" in output) == (1, True)
