"""Keys and what people write never reach logs, records, metrics or the command line, at any log level."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.live import PATIENCE_S

KEY = "sk-canary-key-0123456789abcdef"
WRONG_KEY = "sk-canary-wrong-0123456789abcdef"
SAID = "canary-said-by-a-person"
_SCRIPT = """
[[rules]]
when = { contains = "break" }
reply = { text = "canary-said-by-a-person and more", failure = "engine_failure", fail_after_pieces = 2 }
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The real program, talking as much as it can, with a key and records."""
    folder = tmp_path_factory.mktemp("canary")
    (folder / "script.toml").write_text(_SCRIPT)
    command = [sys.executable, "-m", "deepserve", "serve", "--backend", "scripted", "--port", "0"]
    command += ["--script", str(folder / "script.toml"), "--state-dir", str(folder / "state"), "--log-level", "debug"]
    with (
        (folder / "output").open("w") as output,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env={**os.environ, "DEEPSERVE_API_KEYS": KEY, "PYTHONASYNCIODEBUG": "1"},
        ) as started,
    ):
        yield started, folder
        started.kill()


def _bodies() -> Iterator[Any]:  # Any: JSON, or bytes that are none
    messages = [{"role": "user", "content": SAID}]
    hello: dict[str, Any] = {"model": "deepseek-v4-flash", "messages": messages}
    tool = {"type": "function", "function": {"name": "f", "description": SAID, "strict": True}}
    for is_stream in (False, True):
        yield {**hello, "stream": is_stream}
        yield {**hello, "stream": is_stream, "tools": [tool], "user_id": SAID, "stop": [SAID]}
        yield {**hello, "stream": is_stream, "messages": [{"role": "user", "content": f"break {SAID}"}]}
        yield {**hello, "stream": is_stream, "max_tokens": 200_000}
    yield {**hello, "model": SAID}
    yield {**hello, "temperature": SAID}
    yield {**hello, SAID: SAID}
    yield {**hello, "messages": [{"role": SAID, "content": SAID}]}
    yield {**hello, "response_format": {"type": "json_schema", "json_schema": {"name": SAID}}}
    yield b'{"model": "' + SAID.encode()
    yield b"\xff" + SAID.encode()


def _response_bodies() -> Iterator[Any]:  # Any: JSON
    """What is kept for clients is content by their own wish, so these say that nothing is to be kept."""
    hello: dict[str, Any] = {"model": "deepseek-v4-flash", "input": SAID, "store": False}
    for is_stream in (False, True):
        yield {**hello, "stream": is_stream, "instructions": SAID, "metadata": {SAID: SAID}, "user": SAID}
        yield {**hello, "stream": is_stream, "input": f"break {SAID}"}
    yield {**hello, "previous_response_id": SAID}
    yield {**hello, "input": [{"type": "item_reference", "id": SAID}]}
    yield {**hello, "input": [{"type": "compaction", "encrypted_content": SAID}]}
    yield {**hello, "background": True}
    yield {**hello, SAID: SAID}


def test_no_canary_gets_out(process: tuple[subprocess.Popen[str], Path]) -> None:
    started, folder = process
    assert started.stdout is not None
    banner = started.stdout.readline()
    address = re.findall(r"http://[\d.]+:\d+", banner)[0]
    statuses = set()
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        for key in (KEY, WRONG_KEY):
            for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
                for value in _bodies():
                    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
                    for path in ("/v1/chat/completions", "/v1/messages"):
                        answer = client.post(path, content=raw, headers=headers)
                        statuses.add(answer.status_code)
                        assert key not in answer.text + str(answer.headers)
                for value in _response_bodies():
                    for path in ("/v1/responses", "/v1/responses/compact"):
                        answer = client.post(path, json=value, headers=headers)
                        statuses.add(answer.status_code)
                        assert key not in answer.text + str(answer.headers)
                client.get(f"/v1/responses/{SAID}", headers=headers)
                client.get(f"/v1/models/{SAID}", headers=headers)
                client.get(f"/{SAID}?key={key}", headers=headers)
        metrics = client.get("/metrics", headers={"x-api-key": KEY}).text
    assert statuses == {200, 400, 401, 500}
    command_line = Path(f"/proc/{started.pid}/cmdline")
    told = metrics + (command_line.read_text() if command_line.exists() else "")
    started.terminate()
    told += banner + started.communicate(timeout=PATIENCE_S + 10)[0]
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name != "script.toml"]
    assert {"output"} < {path.name for path in kept}
    everything = told.encode() + b"".join(path.read_bytes() for path in kept)
    assert b"DEBUG" in everything
    assert b"fp_deepserve_scripted_1" in everything, "the records are there"
    for secret in (KEY, WRONG_KEY, SAID):
        assert secret.encode() not in everything
