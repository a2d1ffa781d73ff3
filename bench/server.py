"""The whole server as a client sees it: start-up, first tokens, health under load, turns on a long prefix.

python -m bench.server
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from bench.bandwidth import bandwidth_probe
from bench.results import Recorder

MODEL = "deepseek-v4-flash"
STREAMS = 8
NUM_HEALTH_REQUESTS = 500
NUM_STARTS = 5
NUM_SHORT_PROMPTS = 9
SHORT_PROMPT_TOKENS = 200
NUM_WARM_TURNS = 5
LONG_PROMPT_TOKENS = 32_768
SHORT = {"thinking": {"type": "disabled"}, "max_tokens": 16}


def main() -> int:
    recorder = Recorder("Server with the shipped model, as a client sees it", probe=bandwidth_probe())
    for backend in ("scripted", "embedded"):
        times = []
        with tempfile.TemporaryDirectory() as state:
            for _ in range(NUM_STARTS):
                recorder.probe()
                with running(backend, Path(state)) as (start_s, _):
                    times.append(start_s)
        recorder.add(f"ready, {backend} back end", statistics.median(times), "s", at_most=1.0)
    with tempfile.TemporaryDirectory() as state:
        with running("embedded", Path(state)) as (_, base):
            measure_first_token(base, recorder)
            measure_health(base, recorder)
            conversation = measure_long_prompt(base, recorder)
        with running("embedded", Path(state)) as (_, base):
            measure_after_restart(base, conversation, recorder)
    return recorder.finish()


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextlib.contextmanager
def running(backend: str, state: Path) -> Iterator[tuple[float, str]]:
    """Start a server on this state directory; yields the seconds until it was ready, and its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "deepserve", "serve", "--backend", backend, "--port", str(port)]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--state-dir", str(state)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{base}/ready").status_code == 200:
                        break
                if process.poll() is not None:
                    raise SystemExit(f"the server with the {backend} back end stopped with {process.returncode}")
                time.sleep(0.005)
            yield time.perf_counter() - began, base
        finally:
            process.terminate()


def body(content: str, **fields: Any) -> dict[str, Any]:  # Any: JSON
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


async def chunks(client: httpx.AsyncClient, base: str, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    async with client.stream("POST", f"{base}/v1/chat/completions", json={**request, "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])


class FirstToken(NamedTuple):
    """What one streamed answer told: seconds to its first token, its text, and the usage reported at the end."""

    seconds: float
    text: str
    usage: dict[str, Any]  # Any: JSON


def ask(base: str, request: Mapping[str, Any]) -> FirstToken:
    async def answer() -> FirstToken:
        async with httpx.AsyncClient(timeout=None) as client:
            began, first, text = time.perf_counter(), None, []
            usage: dict[str, Any] = {}
            async for chunk in chunks(client, base, request):
                delta = chunk["choices"][0]["delta"]
                if first is None and (delta.get("content") or delta.get("reasoning_content")):
                    first = time.perf_counter() - began
                text.append(delta.get("content") or "")
                usage = chunk.get("usage") or usage
            if first is None:
                raise SystemExit("an answer without a token")
            return FirstToken(first, "".join(text), usage)

    return asyncio.run(answer())


def prompt_of(base: str, start: str, num_tokens: int) -> tuple[dict[str, Any], int]:
    """A question of about so many tokens that begins like no other, and how many it really has."""
    words = "The river runs past the old mill, and nobody counts the stones. "
    count, measured = 8, 0
    # Every try begins differently, so that none of them leaves a prefix that the question could hit.
    for number in range(10):
        usage = ask(base, body(f"Try {number} of {start}. " + words * count, **SHORT)).usage
        measured = usage["prompt_tokens"]
        if abs(measured - num_tokens) <= max(8, num_tokens // 50):
            break
        count = max(1, round(count * num_tokens / measured))
    return body(f"{start}. " + words * count, **SHORT), measured


def measure_first_token(base: str, recorder: Recorder) -> None:
    question, num_tokens = prompt_of(base, "Question", SHORT_PROMPT_TOKENS)
    times = []
    for number in range(NUM_SHORT_PROMPTS):
        recorder.probe()
        content = f"Number {number}. " + question["messages"][0]["content"]
        times.append(ask(base, body(content, **SHORT)).seconds)
    milliseconds = 1e3 * statistics.median(times)
    recorder.add(f"first token of a prompt of {num_tokens} tokens", milliseconds, "ms", at_most=50)


def measure_health(base: str, recorder: Recorder) -> None:
    """/health while the streams run, and how fast they run together."""

    async def measure() -> tuple[list[float], int, float]:
        latencies: list[float] = []
        num_tokens = 0
        async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=100)) as client:

            async def stream(number: int) -> None:
                nonlocal num_tokens
                # The end token is forbidden, so that every stream lasts until it is cancelled.
                request = body(f"Count to {number + 10} slowly.", logit_bias={"1": -100}, max_tokens=100_000)
                async for _ in chunks(client, base, request):
                    num_tokens += 1

            tasks = [asyncio.create_task(stream(number)) for number in range(STREAMS)]
            await asyncio.sleep(1.0)
            num_tokens, began = 0, time.perf_counter()
            for _ in range(NUM_HEALTH_REQUESTS):
                asked = time.perf_counter()
                (await client.get(f"{base}/health")).raise_for_status()
                latencies.append(time.perf_counter() - asked)
                await asyncio.sleep(0.01)
            took_s = time.perf_counter() - began
            if any(task.done() for task in tasks):
                raise SystemExit("a stream ended before the measurement did")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return latencies, num_tokens, took_s

    recorder.probe()
    latencies, num_tokens, took_s = asyncio.run(measure())
    recorder.probe()
    recorder.add(f"/health p99 while {STREAMS} streams run", 1e3 * quantile(latencies, 0.99), "ms", at_most=20)
    recorder.add(f"{STREAMS} streams over HTTP, total", num_tokens / took_s, "tok/s")


class Conversation(NamedTuple):
    messages: list[dict[str, Any]]  # Any: JSON
    cold_s: float


def measure_long_prompt(base: str, recorder: Recorder) -> Conversation:
    """A long first turn, and the first token of the turn after it, which finds the first in memory."""
    question, num_tokens = prompt_of(base, "Cold", LONG_PROMPT_TOKENS)
    recorder.probe()
    cold = ask(base, question)
    messages = [*question["messages"], {"role": "assistant", "content": cold.text}]
    warm = []
    for number in range(NUM_WARM_TURNS):
        recorder.probe()
        warm.append(ask(base, {**question, "messages": [*messages, follow_up(number)]}))
    add_hit(recorder, f"first token on {num_tokens:,} tokens in memory", warm, cold.seconds, at_most=3)
    return Conversation(messages, cold.seconds)


def measure_after_restart(base: str, conversation: Conversation, recorder: Recorder) -> None:
    """The same turn on a server that was started anew. Only the first one reads the disk."""
    ask(base, body("Hello.", **SHORT))  # the first request of all also pays for what is loaded late
    recorder.probe()
    turn = ask(base, body("", **SHORT) | {"messages": [*conversation.messages, follow_up(NUM_WARM_TURNS)]})
    add_hit(recorder, "the same after a restart, from disk", [turn], conversation.cold_s, at_most=8)


def follow_up(number: int) -> dict[str, Any]:
    return {"role": "user", "content": f"Thank you. Count to {number + 3}."}


def add_hit(recorder: Recorder, what: str, turns: Sequence[FirstToken], cold_s: float, *, at_most: float) -> None:
    seconds = statistics.median(turn.seconds for turn in turns)
    hit = min(turn.usage["prompt_cache_hit_tokens"] for turn in turns)
    details = f"{1e3 * seconds:,.0f} ms of {1e3 * cold_s:,.0f} cold, hit {hit:,} tokens"
    recorder.add(what, 100 * seconds / cold_s, "%", details=details, at_most=at_most)


if __name__ == "__main__":
    sys.exit(main())
