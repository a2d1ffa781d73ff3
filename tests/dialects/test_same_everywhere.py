"""One conversation is one conversation, whatever dialect it is held in: same prompt, same answer, same bill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deepserve import __file__ as package_file
from deepserve.backends.embedded import EmbeddedBackend
from deepserve.config import Settings
from deepserve.core.messages import Message, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Tool
from deepserve.engine.native.shared_library import find_library
from tests.backends.embedded_setup import recorded_prompts
from tests.dialects.speakers import ELSEWHERE, SPEAKERS, Conversation, Speaker, Told, frames
from tests.server.live import LiveServer, live_server

WEATHER = Tool(
    name="get_weather",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
SYSTEM = Message(role="system", parts=(Text("You are brief."),))
QUESTION = Message(role="user", parts=(Text("What is the weather in Paris?"),))
CALL = ToolCall(id="call_00_abcdefghijklmnopqrstuvwx", name="get_weather", arguments='{"city": "Paris"}')
CALLED = Message(role="assistant", parts=(Reasoning(text="I should look."), Text("One moment."), CALL))
RESULT = Message(role="tool", parts=(ToolResult(call_id=CALL.id, content=(Text("Sunny, 21 °C"),)),))

CONVERSATIONS = {
    "a question, cut off": Conversation(messages=(SYSTEM, QUESTION), effort=None, max_tokens=5),
    "a question, thinking": Conversation(messages=(SYSTEM, QUESTION), max_tokens=300),
    "tools offered": Conversation(messages=(SYSTEM, QUESTION), tools=(WEATHER,), max_tokens=200),
    "tools, not thinking": Conversation(messages=(QUESTION,), tools=(WEATHER,), effort=None, max_tokens=200),
    "a tool's result": Conversation(messages=(SYSTEM, QUESTION, CALLED, RESULT), tools=(WEATHER,), max_tokens=200),
    "a later turn": Conversation(
        messages=(
            SYSTEM,
            QUESTION,
            Message(role="assistant", parts=(Reasoning(text="Easy."), Text("It is sunny."))),
            Message(role="user", parts=(Text("And what is 7 times 6?"),)),
        ),
        max_tokens=200,
    ),
}
CASES = [(speaker, is_stream) for speaker in SPEAKERS + ELSEWHERE for is_stream in (False, True)]


@pytest.fixture(scope="module")
def prompts() -> Iterator[list[tuple[int, ...]]]:
    with recorded_prompts() as given:
        yield given


@pytest.fixture(scope="module")
def server(prompts: list[tuple[int, ...]]) -> Iterator[LiveServer]:
    """The shipped model. Each case has a key, so a tenant, so a cold cache of its own."""
    assert prompts == []
    if find_library() is None:
        pytest.importorskip("torch", reason="the shipped model needs the native core or deepserve[reference]")
    settings = Settings(api_keys=tuple(f"sk-{number}" for number in range(len(CASES) * len(CONVERSATIONS))))
    with live_server(EmbeddedBackend.load(settings), settings) as live:
        yield live


def ask(server: LiveServer, speaker: Speaker, conversation: Conversation, *, is_stream: bool, key: str) -> Told:
    answer = httpx.post(
        server.address + speaker.path,
        json=speaker.body(conversation, is_stream=is_stream),
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert "x-deepserve-ignored" not in answer.headers
    return speaker.read_stream(frames(answer.text)) if is_stream else speaker.read(answer.json())


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_dialect_renders_the_same_prompt_and_tells_the_same_answer(
    server: LiveServer, prompts: list[tuple[int, ...]], name: str
) -> None:
    conversation, told = CONVERSATIONS[name], []
    prompts.clear()
    first_key = list(CONVERSATIONS).index(name) * len(CASES)
    for number, (speaker, is_stream) in enumerate(CASES):
        key = f"sk-{first_key + number}"
        told.append(ask(server, speaker, conversation, is_stream=is_stream, key=key).without_names())
    assert len(prompts) == len(CASES)
    for (speaker, is_stream), prompt, one in zip(CASES, prompts, told, strict=True):
        assert prompt == prompts[0], speaker.name
        assert one == told[0], (speaker.name, is_stream)
    assert told[0].hit_tokens == 0
    assert told[0].miss_tokens == len(prompts[0])
    assert told[0].trace or conversation.effort is None
    assert (told[0].finish == "length") == ("cut off" in name)


@pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda speaker: speaker.name)
def test_a_prompt_held_in_one_dialect_is_a_hit_in_every_other(server: LiveServer, speaker: Speaker) -> None:
    conversation = CONVERSATIONS["tools offered"]
    key = "sk-0"
    ask(server, SPEAKERS[0], conversation, is_stream=False, key=key)
    assert ask(server, speaker, conversation, is_stream=False, key=key).hit_tokens > 0


def test_the_folder_of_dialects_has_no_dialect_without_a_speaker() -> None:
    """Plain completions hold no conversations."""
    folder = Path(package_file).parent / "dialects"
    packages = {path.parent.name for path in folder.glob("*/exchange.py")}
    assert packages - {"completions"} <= {speaker.name for speaker in SPEAKERS}
