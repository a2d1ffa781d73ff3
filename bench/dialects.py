"""What it costs to speak each dialect: CPU time of the server for a streamed event and for a whole answer.

The back end is scripted, so that nothing but the server is measured. LiteLLM's proxy translates the same answers in the
same run, with a server of ours behind it.

python -m bench.dialects
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx

from bench.bandwidth import bandwidth_probe
from bench.http_load import Load, cpu_seconds_of, measure_load
from bench.litellm import VERSION, find_litellm, running_litellm
from bench.results import Recorder

MODEL = "deepseek-v4-flash"
EVENT_GOAL_US = 60
WHOLE_GOAL_MS = 0.25
COUNT_GOAL_MS = 30
STREAMS, EVENTS, PACE_S = 64, 50, 0.02
"""64 clients read 50 tokens each, at 50 tokens a second."""
CONNECTIONS, WHOLE_ANSWERS = 16, 50
LITELLM_WHOLE_ANSWERS = 10
ROUNDS = 3
TOOLS_BYTES = 64 * 1024
NUM_COUNTS = 21
PROMPT = ("the quick brown fox jumps over the lazy dog " * 46)[:2000]
ANSWER = ("It is a truth universally acknowledged. " * 23)[:900]

SCRIPT = {
    "rules": [
        {"when": {"contains": "slowly"}, "reply": {"text": "word " * EVENTS, "delay_s": PACE_S}},
        {"reply": {"text": ANSWER, "piece_characters": len(ANSWER)}},
    ]
}


class Dialect(NamedTuple):
    """body: the request with this question, streamed or not; never twice the same where a dialect refuses that."""

    name: str
    path: str
    body: Callable[[str, bool], Mapping[str, Any] | list[Mapping[str, Any]]]  # Any: JSON


def chat(question: str, is_stream: bool) -> Mapping[str, Any]:
    return {"model": MODEL, "messages": [user(question)], "stream": is_stream}


def openrouter(question: str, is_stream: bool) -> Mapping[str, Any]:
    return {"model": f"deepseek/{MODEL}", "messages": [user(question)], "stream": is_stream}


def messages(question: str, is_stream: bool) -> Mapping[str, Any]:
    return {"model": MODEL, "max_tokens": 1000, "messages": [user(question)], "stream": is_stream}


def responses(question: str, is_stream: bool) -> Mapping[str, Any]:
    return {"model": MODEL, "input": question, "stream": is_stream, "store": False}


def runware(question: str, is_stream: bool) -> list[Mapping[str, Any]]:
    delivery = "stream" if is_stream else "sync"
    task = {"taskType": "textInference", "taskUUID": str(uuid4()), "model": MODEL, "messages": [user(question)]}
    return [{**task, "deliveryMethod": delivery}]


def user(question: str) -> Mapping[str, Any]:
    return {"role": "user", "content": question}


DIALECTS = (
    Dialect("Chat", "/v1/chat/completions", chat),
    Dialect("OpenRouter", "/api/v1/chat/completions", openrouter),
    Dialect("Oxen", "/api/ai/chat/completions", chat),
    Dialect("Messages", "/anthropic/v1/messages", messages),
    Dialect("Responses", "/v1/responses", responses),
    Dialect("Runware", "/v1", runware),
)


class Cost(NamedTuple):
    """CPU time of the server."""

    event_us: float
    whole_ms: float


def main() -> int:
    recorder = Recorder("Speaking each dialect, scripted answers", probe=bandwidth_probe())
    if not Path("/proc/self/stat").exists():
        recorder.note("CPU time of other processes is read from Linux's /proc only; nothing was measured")
        return recorder.finish()
    with tempfile.TemporaryDirectory() as folder, running("scripted", Path(folder)) as (port, pid):
        ours = {dialect.name: measure_dialect(recorder, port, pid, dialect) for dialect in DIALECTS}
        compare(recorder, port, ours["Chat"])
    with tempfile.TemporaryDirectory() as folder, running("embedded", Path(folder)) as (port, _):
        measure_count(recorder, port)
    return recorder.finish()


@contextlib.contextmanager
def running(backend: str, folder: Path) -> Iterator[tuple[int, int]]:
    """A server of ours; yields its port and its process id."""
    port = free_port()
    command = [sys.executable, "-m", "deepserve", "serve", "--backend", backend, "--port", str(port)]
    command += ["--state-dir", str(folder / "state")]
    if backend == "scripted":
        (folder / "script.json").write_text(json.dumps(SCRIPT))
        command += ["--script", str(folder / "script.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                        break
                if process.poll() is not None:
                    raise SystemExit(f"the server with the {backend} back end stopped with {process.returncode}")
                time.sleep(0.02)
            yield port, process.pid
        finally:
            process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def measure_dialect(recorder: Recorder, port: int, pid: int, dialect: Dialect) -> Cost:
    cost = cost_of(recorder, port, pid, dialect, whole_answers=WHOLE_ANSWERS)
    recorder.add(f"{dialect.name}: a streamed event", cost.event_us, "us CPU", at_most=EVENT_GOAL_US, keep_probes=True)
    recorder.add(f"{dialect.name}: a whole answer", cost.whole_ms, "ms CPU", at_most=WHOLE_GOAL_MS)
    return cost


def cost_of(
    recorder: Recorder, port: int, pid: int, dialect: Dialect, *, whole_answers: int, headers: str = ""
) -> Cost:
    """Medians of a few rounds, after one that does not count."""

    def load(question: str, connections: int, requests: int, *, is_stream: bool) -> Load:
        def body() -> bytes:
            return json.dumps(dialect.body(question, is_stream)).encode()

        return measure_load(port, dialect.path, body, connections=connections, requests=requests, headers=headers)

    load(PROMPT, 4, 5, is_stream=False)
    event_us, whole_ms = [], []
    for _ in range(ROUNDS):
        recorder.probe()
        before = cpu_seconds_of(pid)
        streamed = load(f"slowly {PROMPT}", STREAMS, 1, is_stream=True)
        between = cpu_seconds_of(pid)
        event_us.append(1e6 * (between - before) / streamed.events)
        whole = load(PROMPT, CONNECTIONS, whole_answers, is_stream=False)
        whole_ms.append(1e3 * (cpu_seconds_of(pid) - between) / whole.requests)
    return Cost(statistics.median(event_us), statistics.median(whole_ms))


def compare(recorder: Recorder, upstream_port: int, ours: Cost) -> None:
    """LiteLLM speaks Chat to its client and to the server behind it, whose CPU time is not counted."""
    python = find_litellm()
    if python is None:
        recorder.note(f"LiteLLM {VERSION} could not be installed here, so nothing is compared")
        return
    port = free_port()
    with running_litellm(python, port, f"http://127.0.0.1:{upstream_port}", MODEL) as (pid, key):
        headers = f"authorization: Bearer {key}\r\n"
        theirs = cost_of(recorder, port, pid, DIALECTS[0], whole_answers=LITELLM_WHOLE_ANSWERS, headers=headers)
    what = f"LiteLLM {VERSION}, Chat to Chat, beside ours: "
    recorder.add(
        what + "a streamed event", theirs.event_us / ours.event_us, "x", details=f"{theirs.event_us:,.0f} us CPU"
    )
    recorder.add(
        what + "a whole answer", theirs.whole_ms / ours.whole_ms, "x", details=f"{theirs.whole_ms:,.2f} ms CPU"
    )


def measure_count(recorder: Recorder, port: int) -> None:
    """Many tools, as an agent has them, and another question each time."""
    tools: list[Mapping[str, Any]] = []
    while len(json.dumps(tools)) < TOOLS_BYTES:
        tools.append(tool(len(tools)))
    address = f"http://127.0.0.1:{port}/anthropic/v1/messages/count_tokens"
    times_ms = []
    with httpx.Client() as client:
        for number in range(NUM_COUNTS):
            recorder.probe()
            body = {"model": MODEL, "messages": [user(f"Question {number}?")], "tools": tools}
            began = time.perf_counter()
            answer = client.post(address, json=body)
            times_ms.append(1e3 * (time.perf_counter() - began))
            answer.raise_for_status()
    num_tokens = answer.json()["input_tokens"]
    details = f"{num_tokens:,} tokens; the first {times_ms[0]:,.0f} ms, at worst {max(times_ms[1:]):,.0f} ms"
    recorder.add(
        f"count_tokens with {TOOLS_BYTES >> 10} KB of tools", statistics.median(times_ms[1:]), "ms",
        details=details, at_most=COUNT_GOAL_MS,
    )  # fmt: skip


def tool(number: int) -> Mapping[str, Any]:
    text = f"Reads entry {number} of the register and gives it back as it stands there, with its notes. " * 3
    members = {
        f"field_{at}": {"type": "string", "description": f"Part {at} of the key. {text[:60]}"} for at in range(6)
    }
    schema = {"type": "object", "properties": members, "required": ["field_0"]}
    return {"name": f"read_register_{number}", "description": text, "input_schema": schema}


if __name__ == "__main__":
    sys.exit(main())
