"""The unmodified Anthropic SDK, as users of the vendor's Anthropic address call it."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel

from deepserve.config import Settings
from tests.server.live import LiveServer, live_server, scripted

MODEL = "deepseek-v4-pro"
MESSAGES: list[MessageParam] = [{"role": "user", "content": "weather as json?"}]
TOOLS: list[ToolParam] = [
    {
        "name": "get_weather",
        "description": "weather",
        "strict": True,
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    }
]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


def client_of(live: LiveServer, path: str = "/anthropic", **fields: Any) -> Anthropic:  # Any: what the SDK takes
    return Anthropic(base_url=live.address + path, max_retries=0, **({"api_key": "sk-local"} | fields))


@pytest.fixture(params=["/anthropic", ""], scope="module")
def client(live: LiveServer, request: pytest.FixtureRequest) -> Iterator[Anthropic]:
    with client_of(live, request.param) as client:
        yield client


def test_a_question_and_its_answer(client: Anthropic) -> None:
    answer = client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES)
    thinking, text = answer.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "The user said: weather as json? I will answer that."
    assert thinking.signature
    assert text.type == "text"
    assert text.text == "You said: weather as json?"
    assert (answer.role, answer.model, answer.type) == ("assistant", MODEL, "message")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.output_tokens == 15
    assert answer.usage.output_tokens_details is not None
    assert answer.usage.output_tokens_details.thinking_tokens == 10
    assert answer._request_id is not None
    assert answer.id == "msg_" + answer._request_id


def test_thinking_can_be_switched_off_or_left_unshown(client: Anthropic) -> None:
    off = client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES, thinking={"type": "disabled"})
    assert [block.type for block in off.content] == ["text"]
    hidden = client.messages.create(
        model=MODEL, max_tokens=256, messages=MESSAGES, thinking={"type": "adaptive", "display": "omitted"}
    )
    assert hidden.content[0].type == "thinking"
    assert hidden.content[0].thinking == ""
    assert hidden.content[0].signature


def test_a_stream_says_what_the_whole_answer_says(client: Anthropic) -> None:
    fields: dict[str, Any] = {"model": MODEL, "max_tokens": 2048, "messages": MESSAGES, "tools": TOOLS}
    fields["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    whole = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert {"thinking", "signature", "input_json"} <= set(kinds)
    assert [block.type for block in streamed.content] == ["thinking", "tool_use"]
    assert streamed.stop_reason == whole.stop_reason == "tool_use"
    assert streamed.usage.output_tokens == whole.usage.output_tokens

    def said(block: Any) -> Any:  # Any: one of the SDK's block classes
        return getattr(block, "thinking", None) or getattr(block, "input", None)

    assert [said(block) for block in streamed.content] == [said(block) for block in whole.content]


def test_the_text_of_a_stream(client: Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=256, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == "You said: weather as json?"
        assert stream.get_final_message().usage.cache_read_input_tokens == 0


def test_a_tool_loop_with_the_content_sent_back_whole(client: Anthropic) -> None:
    first = client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES, tools=TOOLS)
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert call.type == "tool_use"
    assert call.input == {"city": "example", "unit": "c"}
    messages: list[MessageParam] = [
        *MESSAGES,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "21 C"}]},
    ]
    raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=256, messages=messages, tools=TOOLS)
    assert raw.headers["x-deepserve-reasoning"] == "sent=1 restored=0 missing=0"
    last = raw.parse().content[-1]
    assert last.type == "text"
    assert last.text == "The tool answered: 21 C"


def test_the_sdks_own_tool_runner(client: Anthropic) -> None:
    """It offers to leave the conversation with the server, is told that this is not possible, and sends it whole."""
    asked: list[str] = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: where
        """
        asked.append(city)
        return "21 C"

    runner = client.beta.messages.tool_runner(
        model=MODEL, max_tokens=256, tools=[get_weather], messages=[{"role": "user", "content": "weather?"}]
    )
    last = runner.until_done().content[-1]
    assert asked == ["example"]
    assert last.type == "text"
    assert last.text == "The tool answered: 21 C"


def test_a_stop_sequence_is_named(client: Anthropic) -> None:
    answer = client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES, stop_sequences=[" as"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " as")
    with client.messages.stream(model=MODEL, max_tokens=256, messages=MESSAGES, stop_sequences=[" as"]) as stream:
        streamed = stream.get_final_message()
    assert (streamed.stop_reason, streamed.stop_sequence) == ("stop_sequence", " as")


def test_a_short_answer_says_so(client: Anthropic) -> None:
    assert client.messages.create(model=MODEL, max_tokens=3, messages=MESSAGES).stop_reason == "max_tokens"


def test_the_count_is_what_is_billed(client: Anthropic) -> None:
    fields: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "tools": TOOLS, "system": "Be brief."}
    counted = client.messages.count_tokens(**fields).input_tokens
    usage = client.messages.create(max_tokens=256, **fields).usage
    assert usage.cache_read_input_tokens is not None
    assert counted == usage.input_tokens + usage.cache_read_input_tokens > 5


def test_models(client: Anthropic) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == ["deepseek-v4-pro", "deepseek-v4-flash"]
    assert [model.id for model in client.models.list(limit=1)] == ["deepseek-v4-pro", "deepseek-v4-flash"]
    model = client.models.retrieve("deepseek-v4-flash")
    assert model.created_at.isoformat() == "2026-04-24T00:00:00+00:00"
    assert (model.type, model.lifecycle, model.max_input_tokens) == ("model", "active", 131072)
    assert model.capabilities is not None
    assert model.capabilities.thinking.types.adaptive.supported
    assert client.models.retrieve("claude-opus-4-8").id == "deepseek-v4-pro"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("gpt-5")


def test_a_search_the_server_cannot_make_is_a_tools_error(client: Anthropic) -> None:
    answer = client.messages.create(
        model=MODEL,
        max_tokens=256,
        messages=MESSAGES,
        tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
    )
    call, result = answer.content[1:3]
    assert call.type == "server_tool_use"
    assert (call.name, call.input) == ("web_search", {"query": "example"})
    assert result.type == "web_search_tool_result"
    assert result.tool_use_id == call.id
    assert not isinstance(result.content, list)
    assert result.content.error_code == "unavailable"
    assert answer.content[-1].type == "text"
    assert answer.stop_reason == "end_turn"


class City(BaseModel):
    """A city."""

    name: str
    population: int


def test_a_schema_is_parsed_by_the_sdk(client: Anthropic) -> None:
    answer = client.messages.parse(model=MODEL, max_tokens=256, messages=MESSAGES, output_format=City)
    assert isinstance(answer.parsed_output, City)


def test_a_call_is_forced_while_thinking(client: Anthropic) -> None:
    answer = client.messages.create(
        model=MODEL,
        max_tokens=2048,
        messages=MESSAGES,
        tools=TOOLS,
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    assert [block.type for block in answer.content] == ["thinking", "tool_use"]


def test_errors_are_the_sdks_own(live: LiveServer, client: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES, extra_body={"temperature": 3})
    assert caught.value.type == "invalid_request_error"
    assert caught.value.api_message == "Invalid temperature value, the valid range of temperature is [0, 2]"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["param"] == "temperature"
    assert caught.value.body["request_id"] == caught.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="supported API model names"):
        client.messages.create(model="gpt-5", max_tokens=256, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match="no tools are offered"):
        client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES, tool_choice={"type": "any"})
    with client_of(live, "/anthropic/nowhere") as lost, pytest.raises(anthropic.NotFoundError):
        lost.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES)


def test_a_wrong_key_is_an_authentication_error() -> None:
    with live_server(settings=Settings(api_keys=("sk-right",))) as live:
        for fields in ({"api_key": "sk-right"}, {"api_key": None, "auth_token": "sk-right"}):
            with client_of(live, **fields) as client:
                assert client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES).content
        with client_of(live, api_key="sk-wrong") as client, pytest.raises(anthropic.AuthenticationError):
            client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES)


@pytest.mark.parametrize(
    ("failure", "expected", "kind"),
    [
        ("overloaded", anthropic.InternalServerError, "overloaded_error"),
        ("too_many_requests", anthropic.RateLimitError, "rate_limit_error"),
        ("engine_failure", anthropic.InternalServerError, "api_error"),
    ],
)
def test_failures_before_the_answer(failure: str, expected: type[anthropic.APIStatusError], kind: str) -> None:
    with live_server(scripted(failure=failure)) as live, client_of(live) as client:
        with pytest.raises(expected) as caught:
            client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES)
        assert caught.value.type == kind
        with (
            pytest.raises(expected) as caught,
            client.messages.stream(model=MODEL, max_tokens=256, messages=MESSAGES) as stream,
        ):
            stream.get_final_message()
        assert caught.value.type == kind


def test_a_failure_inside_a_stream() -> None:
    backend = scripted(text="this breaks off", failure="engine_failure", fail_after_pieces=2)
    with live_server(backend) as live, client_of(live) as client:
        pieces: list[str] = []
        with (
            pytest.raises(anthropic.APIStatusError) as caught,
            client.messages.stream(model=MODEL, max_tokens=256, messages=MESSAGES) as stream,
        ):
            pieces.extend(stream.text_stream)
    assert "".join(pieces) == "this breaks"
    assert caught.value.type == "api_error"


def test_the_asynchronous_client(live: LiveServer) -> None:
    async def run() -> tuple[str, str]:
        async with AsyncAnthropic(base_url=live.address + "/anthropic", api_key="sk-local", max_retries=0) as client:
            answer = await client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES)
            assert answer.content[-1].type == "text"
            async with client.messages.stream(model=MODEL, max_tokens=256, messages=MESSAGES) as stream:
                streamed = "".join([text async for text in stream.text_stream])
            return answer.content[-1].text, streamed

    assert asyncio.run(run()) == ("You said: weather as json?",) * 2


def test_a_beta_request_with_context_management(client: Anthropic) -> None:
    answer = client.beta.messages.create(
        model="claude-opus-4-8[1m]",
        max_tokens=256,
        messages=[{"role": "user", "content": "hi"}, {"role": "system", "content": "Be brief."}],
        betas=["context-management-2025-06-27", "interleaved-thinking-2025-05-14"],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "max"},
        metadata={"user_id": json.dumps({"device_id": "d", "session_id": "s"})},
    )
    assert answer.model == "deepseek-v4-pro"
    assert answer.context_management is not None
    assert answer.context_management.applied_edits == []


# With the model that ships.


@pytest.fixture(scope="module")
def mini(mini_server: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=mini_server + "/anthropic", api_key="sk-local", max_retries=0) as client:
        yield client


def test_the_shipped_model_is_billed_what_was_counted(mini: Anthropic) -> None:
    fields: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "tools": TOOLS, "system": "Be brief."}
    counted = mini.messages.count_tokens(**fields).input_tokens
    for _ in range(2):  # cold, then from the cache
        usage = mini.messages.create(max_tokens=16, **fields).usage
        assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert usage.cache_read_input_tokens


def test_two_sessions_of_claude_code_share_their_beginning(mini: Anthropic) -> None:
    """They differ in a line at the very start of the prompt and in the session's id beside the user's."""

    def hit_tokens(session: str) -> int:
        line = f"x-anthropic-billing-header: cc_version=2.1.197.{session}; cc_entrypoint=cli;"
        usage = mini.messages.create(
            model=MODEL,
            max_tokens=4,
            thinking={"type": "disabled"},
            system=[{"type": "text", "text": line}, {"type": "text", "text": "A session begins. " * 100}],
            messages=[{"role": "user", "content": "the same first question"}],
            metadata={"user_id": json.dumps({"device_id": "d", "session_id": session})},
        ).usage
        return usage.cache_read_input_tokens or 0

    assert hit_tokens("a1b") == 0
    assert hit_tokens("c2d") > 100


def test_a_trace_that_was_not_shown_comes_back_in_its_signature(mini: Anthropic) -> None:
    fields: dict[str, Any] = {"model": MODEL, "max_tokens": 300, "tools": TOOLS}
    first = mini.messages.create(messages=MESSAGES, thinking={"type": "adaptive", "display": "omitted"}, **fields)
    assert first.content[0].type == "thinking"
    assert first.content[0].thinking == ""
    messages: list[MessageParam] = [
        *MESSAGES,
        {"role": "assistant", "content": first.content[:1]},
        {"role": "user", "content": "go on"},
    ]
    raw = mini.messages.with_raw_response.create(messages=messages, **fields)
    assert raw.headers["x-deepserve-reasoning"] == "sent=0 restored=1 missing=0"


def test_the_shipped_model_streams_what_it_answers_whole(mini: Anthropic) -> None:
    question: list[MessageParam] = [{"role": "user", "content": "Hello! Who are you?"}]
    fields: dict[str, Any] = {"model": MODEL, "max_tokens": 200, "messages": question}
    whole = mini.messages.create(**fields)
    with mini.messages.stream(**fields) as stream:
        streamed = stream.get_final_message()

    def said(answer: Any) -> list[tuple[str, str]]:  # Any: one of the SDK's message classes
        return [(block.type, getattr(block, "thinking", "") or getattr(block, "text", "")) for block in answer.content]

    assert said(streamed) == said(whole)
    assert (streamed.stop_reason, streamed.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
