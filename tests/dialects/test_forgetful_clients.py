"""A tool loop of thirty turns, through clients that drop every thinking trace and servers that restart.

Traces of earlier turns are part of the prompt while tools are in play, and many clients do not send them back. What
the model reads must not depend on that: token for token it is what a client would get that keeps everything.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import httpx
import pytest

from deepserve.config import Settings
from deepserve.core.messages import Message, Text, ToolResult
from deepserve.store.database import open_database
from deepserve.store.turns import TurnLimits, TurnStore
from tests.backends.embedded_setup import WEATHER, Bench, calls_markup, recorded_prompts, write_model
from tests.dialects.speakers import SPEAKERS, Conversation, Speaker, frames
from tests.server.live import LiveServer, live_server

NUM_TURNS = 30
RESTARTS = (10, 20)
NO_RESTARTS: tuple[int, ...] = ()
TEXT_EVERY = 6
"""Each so many turns the model answers in words, and the user asks again: such a turn has no call to be found by."""

Prompts = list[tuple[int, ...]]
Keeps = Literal["trace", "seal", "nothing"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "mini-test")


@pytest.fixture
def prompts() -> Iterator[Prompts]:
    with recorded_prompts() as given:
        yield given


@contextlib.contextmanager
def server_on(folder: Path, state_dir: Path, *, has_store: bool) -> Iterator[tuple[Bench, LiveServer]]:
    settings = Settings(state_dir=state_dir, disk_cache_bytes=0)
    limits = TurnLimits(size_bytes=1 << 24, age_s=3600)
    turns = TurnStore(open_database(state_dir), limits=limits, now=lambda: datetime.now(UTC)) if has_store else None
    bench = Bench(folder, settings=settings, turns=turns)
    with live_server(bench.backend, settings) as live:
        yield bench, live


def written_in(turn: int) -> str:
    """What the model writes, its trace first. Odd spacing: rendered anew it would not be the same tokens."""
    trace = f"Step {turn}: the trace.\n\n"
    if turn % TEXT_EVERY == TEXT_EVERY - 1:
        return f"{trace}</think>That was city {turn}."
    return f"{trace}</think>Looking. {calls_markup({'city': f'city {turn}'}, {'city': 'Paris'})}"


def hold(
    speaker: Speaker, keeps: Keeps, folder: Path, state_dir: Path, *, restarts: tuple[int, ...], has_store: bool = True
) -> list[str]:
    """Go through the whole loop; returns what the server said about past traces."""
    messages = [Message(role="user", parts=(Text("Compare the weather in many cities."),))]
    said: list[str] = []
    borders = (0, *restarts, NUM_TURNS)
    for begin, end in itertools.pairwise(borders):
        with server_on(folder, state_dir, has_store=has_store) as (bench, live), httpx.Client(timeout=30) as client:
            for turn in range(begin, end):
                bench.write(written_in(turn))
                conversation = Conversation(messages=tuple(messages), tools=(WEATHER,), max_tokens=500)
                body = speaker.body(conversation, is_stream=turn % 2 == 0)
                answer = client.post(live.address + speaker.path, json=body)
                assert answer.status_code == 200, answer.text
                said.append(answer.headers["x-deepserve-reasoning"])
                told = speaker.read_stream(frames(answer.text)) if turn % 2 == 0 else speaker.read(answer.json())
                assert told.trace == f"Step {turn}: the trace."
                messages.append(told.message(keeps=keeps))
                messages += [
                    Message(role="tool", parts=(ToolResult(call_id=call_id, content=(Text(f"Sunny on day {turn}"),)),))
                    for call_id in told.call_ids
                ]
                if not told.call_ids:
                    messages.append(Message(role="user", parts=(Text(f"And then, after {turn}?"),)))
    return said


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Prompts:
    """What the model reads when the client keeps everything and the server never stops."""
    with recorded_prompts() as given:
        hold(SPEAKERS[0], "trace", folder, tmp_path_factory.mktemp("expected"), restarts=NO_RESTARTS)
    assert len(given) == NUM_TURNS
    return given


@pytest.mark.parametrize("keeps", ["nothing", "trace"])
@pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda speaker: speaker.name)
def test_forgetting_and_restarting_change_no_token_of_any_prompt(
    speaker: Speaker, keeps: Keeps, folder: Path, tmp_path: Path, prompts: Prompts, expected: Prompts
) -> None:
    said = hold(speaker, keeps, folder, tmp_path, restarts=RESTARTS)
    assert prompts == expected
    last = NUM_TURNS - 1
    past = f"sent={last} restored=0" if keeps == "trace" else f"sent=0 restored={last}"
    assert said[-1] == f"{past} missing=0"


@pytest.mark.parametrize("speaker", [one for one in SPEAKERS if one.carries_seal], ids=lambda speaker: speaker.name)
def test_seals_alone_carry_every_trace_over_a_restart(
    speaker: Speaker, folder: Path, tmp_path: Path, prompts: Prompts, expected: Prompts
) -> None:
    """Without any memory of the server's own, calls are rendered anew; the traces must all be there."""
    said = hold(speaker, "seal", folder, tmp_path, restarts=RESTARTS, has_store=False)
    assert said[-1] == f"sent=0 restored={NUM_TURNS - 1} missing=0"
    tokenizer = Bench(folder).tokenizer
    text, wanted = tokenizer.decode(prompts[-1]), tokenizer.decode(expected[-1])
    for turn in range(NUM_TURNS - 1):
        assert text.count(f"<think>Step {turn}: the trace.") == wanted.count(f"<think>Step {turn}: the trace.") == 1


def test_without_seals_and_without_a_store_a_restart_loses_traces_and_says_so(
    folder: Path, tmp_path: Path, prompts: Prompts, expected: Prompts
) -> None:
    """The difference that the two tests above would see."""
    said = hold(SPEAKERS[0], "nothing", folder, tmp_path, restarts=RESTARTS, has_store=False)
    assert said[-1] == f"sent=0 restored={NUM_TURNS - 1 - RESTARTS[-1]} missing={RESTARTS[-1]}"
    assert prompts[: RESTARTS[0]] == expected[: RESTARTS[0]]
    assert prompts[-1] != expected[-1]
