"""The whole server as a client sees it: start-up, health under load, first token of a second turn.

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
from typing import Any

import httpx

MODEL = "deepseek-v4-flash"
STREAMS = 8
NUM_HEALTH_REQUESTS = 500
NUM_STARTS = 5
PREFIX_TOKENS = 4096


def main() -> int:
    rows: list[tuple[str, str, str, bool]] = []

    def judge(what: str, value: float, unit: str, limit: float) -> None:
        rows.append((what, f"{value:,.3g} {unit}", f"<= {limit:g} {unit}", value <= limit))

    for backend, limit_s in (("scripted", 1.0), ("embedded", 5.0)):
        times = [measure_start(backend) for _ in range(NUM_STARTS)]
        judge(f"ready, {backend} (median of {NUM_STARTS})", statistics.median(times), "s", limit_s)
    with running("embedded") as (_, base):
        latencies, num_tokens, took_s = asyncio.run(measure_health(base))
        judge(f"/health p99 while {STREAMS} streams run", 1e3 * quantile(latencies, 0.99), "ms", 20)
        rows.append((f"{STREAMS} streams, total", f"{num_tokens / took_s:,.0f} tokens/s", "", True))
    with running("embedded") as (_, base):
        cold_s, warm_s, usage = measure_second_turn(base)
        judge(f"second turn on {usage['prompt_tokens']:,} tokens, share of cold", 100 * warm_s / cold_s, "%", 10)
        rows.append(("  its reported hit", f"{usage['prompt_cache_hit_tokens']:,} tokens", "", True))
        rows.append(("  first token cold, warm", f"{1e3 * cold_s:,.0f}, {1e3 * warm_s:,.0f} ms", "", True))
    for what, value, goal, is_met in rows:
        print(f"{what:<48} {value:>20}  {goal:<12} {'' if not goal else 'ok' if is_met else 'MISSED'}")
    return 0 if all(row[3] for row in rows) else 1


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextlib.contextmanager
def running(backend: str) -> Iterator[tuple[float, str]]:
    """Start a server in a fresh state directory; yields the seconds until it was ready, and its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "deepserve", "serve", "--backend", backend, "--port", str(port)]
        began = time.perf_counter()
        with subprocess.Popen(
            [*command, "--state-dir", state],
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


def measure_start(backend: str) -> float:
    with running(backend) as (seconds, _):
        return seconds


def body(content: str, **fields: Any) -> dict[str, Any]:  # Any: JSON
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


async def chunks(client: httpx.AsyncClient, base: str, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    async with client.stream("POST", f"{base}/v1/chat/completions", json={**request, "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])


async def measure_health(base: str) -> tuple[list[float], int, float]:
    """Seconds of each /health request while the streams run, and how fast they ran together."""
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


def measure_second_turn(base: str) -> tuple[float, float, dict[str, Any]]:
    """Seconds to the first token of a long prompt, cold, and of the turn after it; and the latter's usage."""

    async def first_token(request: Mapping[str, Any]) -> tuple[float, str, dict[str, Any]]:
        async with httpx.AsyncClient(timeout=None) as client:
            began, first, text = time.perf_counter(), None, []
            usage: dict[str, Any] = {}
            async for chunk in chunks(client, base, request):
                delta = chunk["choices"][0]["delta"]
                if first is None and (delta.get("content") or delta.get("reasoning_content")):
                    first = time.perf_counter() - began
                text.append(delta.get("content") or "")
                usage = chunk.get("usage") or usage
            assert first is not None
            return first, "".join(text), usage

    fixed = {"thinking": {"type": "disabled"}, "max_tokens": 16}
    words = "The river runs past the old mill, and nobody counts the stones. "
    count = 8
    while True:
        _, _, usage = asyncio.run(first_token(body(f"Warm {count}. " + words * count, **fixed)))
        if usage["prompt_tokens"] >= PREFIX_TOKENS:
            break
        count = int(count * max(1.02, PREFIX_TOKENS / usage["prompt_tokens"])) + 1
    question = body("Cold. " + words * count, **fixed)
    cold_s, answer, _ = asyncio.run(first_token(question))
    followed = [
        *question["messages"],
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "Thank you. Count to three."},
    ]
    warm_s, _, usage = asyncio.run(first_token({**question, "messages": followed}))
    return cold_s, warm_s, usage


if __name__ == "__main__":
    sys.exit(main())
