"""What a server tells of requests that missed the prefix cache, to their own tenant alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.catalog.price_book import PriceBook
from deepserve.cli import main
from deepserve.config import Settings
from deepserve.core.messages import Image, Message, Text, ToolResult
from deepserve.core.request import Request, RequestId
from deepserve.core.tenant import Tenant, TenantId
from deepserve.gateway import Gateway
from deepserve.server.cache_watch import CacheWatch, _remembered
from tests.server.live import LiveServer, live_server, scripted

ON = Settings(explains_cache=True)
SYSTEM = "You are a careful assistant. " * 20
DEBUG = {"x-deepserve-cache-debug": "1"}


def ask(
    server: LiveServer, system: str, user: str = "hello", *, key: str | None = None, **fields: Any
) -> httpx.Response:
    headers = {**DEBUG, **({} if key is None else {"Authorization": f"Bearer {key}"})}
    body = {
        "model": "deepseek-v4-flash",
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "max_tokens": 4,
        **fields,
    }
    answer = httpx.post(f"{server.address}/chat/completions", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def explained(server: LiveServer, *, key: str | None = None, **query: str) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{server.address}/v1/cache/explain", params=query, headers=headers, timeout=30)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["cache", "explain", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_engine_tells_the_place_and_exact_tokens() -> None:
    with live_server(EmbeddedBackend.load(ON), ON) as server:
        first = ask(server, SYSTEM + "Now 10:01.")
        assert "compared=none" in first.headers["x-deepserve-cache"]
        later = ask(server, SYSTEM + "Now 10:02.")
        told = later.headers["x-deepserve-cache"]
        usage = later.json()["usage"]
        assert f"hit={usage['prompt_cache_hit_tokens']} miss={usage['prompt_cache_miss_tokens']}" in told
        assert f"first-difference=messages[0].content@{len(SYSTEM) + len('Now 10:0')}" in told
        first_id, later_id = (answer.headers["x-ds-trace-id"] for answer in (first, later))
        assert f"compared={first_id}" in told
        found = explained(server).json()
        assert (found["earlier"], found["later"], found["reason"]) == (first_id, later_id, "differs")
        assert not found["is_estimated"]
        assert found["prompt_tokens"] == usage["prompt_tokens"]
        assert found["hit_tokens"] == usage["prompt_cache_hit_tokens"] <= found["common_tokens"]
        assert "a date or a time" in found["words"]
        assert found["difference"]["one"].startswith("1.")
        # The same prompt once more hits what was kept, and nothing is lost.
        again = ask(server, SYSTEM + "Now 10:02.")
        assert "first-difference=same" in again.headers["x-deepserve-cache"]
        same = explained(server).json()
        assert (same["reason"], same["is_lost"]) == ("same", False)
        # From the terminal: the last one, one by its id, and two by their ids; the answer's id will do.
        base = ("--base-url", server.address)
        assert run(*base)[1].startswith("The prompts are the same.")
        assert "messages[0].content, after" in run(later_id, *base)[1]
        assert (
            json.loads(run(first_id, again.json()["id"], "--json", *base)[1])["later"] == again.headers["x-ds-trace-id"]
        )


def test_a_trace_that_is_put_back_is_no_difference() -> None:
    """What counts is the prompt that the model reads, not what the client sent."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    with live_server(EmbeddedBackend.load(ON), ON) as server:
        fields: dict[str, Any] = {"tools": [tool], "max_tokens": 200, "seed": 1}
        turn = ask(server, "Be brief.", **fields).json()["choices"][0]["message"]
        past = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
        kept = {name: turn[name] for name in ("role", "content", "reasoning_content")}
        dropped = {name: turn[name] for name in ("role", "content")}
        more = {"role": "user", "content": "and now?"}
        ask(server, "", **fields, messages=[*past, kept, more])
        told = ask(server, "", **fields, messages=[*past, dropped, more]).headers["x-deepserve-cache"]
        assert "first-difference=same" in told


def test_without_a_tokenizer_the_numbers_are_estimates() -> None:
    with live_server(scripted(text="yes"), ON) as server:
        ask(server, SYSTEM + "a")
        assert "common=~" in ask(server, SYSTEM + "b").headers["x-deepserve-cache"]
        assert explained(server).json()["is_estimated"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/anthropic/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "{}"}]}),
        ("/v1/responses", {"input": "{}"}),
        ("/v1/completions", {"prompt": "{}", "max_tokens": 9}),
        ("/api/v1/chat/completions", {"messages": [{"role": "user", "content": "{}"}]}),
    ],
)
def test_every_dialect_is_told(path: str, body: dict[str, Any]) -> None:
    with live_server(scripted(text="yes"), ON) as server:
        for word in ("wet", "web"):
            sent = json.dumps({"model": "deepseek-v4-flash", **body}).replace("{}", word)
            answer = httpx.post(server.address + path, content=sent, headers=DEBUG, timeout=10)
            assert answer.status_code == 200, answer.text
        assert "@2 " in answer.headers["x-deepserve-cache"]


def test_a_stream_has_the_header_too() -> None:
    with live_server(scripted(text="yes"), ON) as server:
        assert "compared=none" in ask(server, "x", stream=True).headers["x-deepserve-cache"]


def test_nobody_hears_of_the_requests_of_another_tenant() -> None:
    settings = Settings(explains_cache=True, api_keys=("sk-one", "sk-other"))
    with live_server(scripted(text="yes"), settings) as server:
        own = ask(server, SYSTEM + "a", key="sk-one").headers["x-ds-trace-id"]
        assert "compared=none" in ask(server, SYSTEM + "b", key="sk-other").headers["x-deepserve-cache"]
        ask(server, SYSTEM + "c", key="sk-other")
        refused = explained(server, a=own, key="sk-other")
        assert refused.status_code == 404
        assert "No request" in refused.json()["error"]["message"]
        assert explained(server, b=own, key="sk-one").status_code == 404, "there is nothing before it"


def test_nothing_is_remembered_or_told_unless_the_operator_says_so() -> None:
    with live_server(scripted(text="yes")) as server:
        assert "x-deepserve-cache" not in ask(server, "x").headers
        refused = explained(server)
        assert refused.status_code == 404
        assert "--explain-cache" in refused.json()["error"]["message"]
        code, output = run("--base-url", server.address)
        assert code == 1
        assert "--explain-cache" in output


def test_a_client_that_does_not_ask_gets_no_header_and_a_wrong_word_is_refused() -> None:
    with live_server(scripted(text="yes"), ON) as server:
        assert "x-deepserve-cache" not in server.post().headers
        wrong = httpx.post(
            f"{server.address}/chat/completions",
            json={"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "x"}]},
            headers={"x-deepserve-cache-debug": "yes"},
        )
        assert wrong.status_code == 400
        assert "1 or 0" in wrong.json()["error"]["message"]


# --- what is remembered -----------------------------------------------------------------------------------------------


def remembered(tenant: str, text: str, user_id: str | None = None) -> Any:
    return _remembered(
        Request(
            id=RequestId(f"{abs(hash((tenant, text, user_id))):032x}"),
            model="deepseek-v4-flash",
            arrived_at=datetime(2026, 5, 1, tzinfo=UTC),
            messages=(Message(role="user", parts=(Text(text),)),),
            tenant=Tenant(id=TenantId(tenant), name=tenant),
            user_id=user_id,
        )
    )


def watch(most_characters: int) -> CacheWatch:
    return CacheWatch(Gateway(scripted()), PriceBook(), is_on=True, most_characters=most_characters)


def test_a_tenant_that_holds_most_loses_its_oldest_and_pushes_nobody_out() -> None:
    memory = watch(10_000)
    quiet = remembered("quiet", "q" * 1_000)
    memory._add(quiet)
    loud = [remembered("loud", letter * 3_000) for letter in "abcdef"]
    for one in loud:
        memory._add(one)
    assert memory.last(TenantId("quiet")) is quiet
    assert memory.find(TenantId("loud"), loud[0].request.id) is None
    assert memory.find(TenantId("loud"), loud[-1].request.id) is loud[-1]
    assert memory._held_characters <= 10_000


def test_only_the_last_requests_of_a_tenant_are_remembered() -> None:
    memory = watch(1_000_000)
    every = [remembered("one", str(number)) for number in range(40)]
    for one in every:
        memory._add(one)
    assert [memory.find(TenantId("one"), one.request.id) is not None for one in every] == [False] * 8 + [True] * 32


def test_a_request_larger_than_the_memory_is_not_kept() -> None:
    memory = watch(100)
    memory._add(remembered("one", "x" * 200))
    assert memory.last(TenantId("one")) is None
    assert memory._held_characters == 0


def test_what_the_model_does_not_read_counts_too() -> None:
    picture = Message(role="user", parts=(ToolResult(call_id="c", content=(Image(url="data:" + "x" * 5_000),)),))
    own = remembered("one", "hi")
    assert _remembered(msgspec.structs.replace(own.request, messages=(picture,))).size > 5_000


def test_the_nearest_is_the_one_that_shares_most_and_of_the_same_user() -> None:
    memory = watch(1_000_000)
    far, near, stranger = remembered("t", "abc"), remembered("t", "abcdef"), remembered("t", "abcdefg", "bob")
    for one in (near, far, stranger):
        memory._add(one)
    assert memory.nearest(remembered("t", "abcdxx")) is near
    only_stranger = watch(1_000_000)
    only_stranger._add(stranger)
    assert only_stranger.nearest(remembered("t", "abc")) is stranger
