"""The upstream that the settings name: its key, its address, its models."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from deepserve.backends.backend import Backend
from deepserve.backends.kinds import KINDS, TOKENS
from deepserve.backends.kinds import open_upstream as open_one
from deepserve.backends.selection import select_backend
from deepserve.backends.upstream.estimate import estimate_prompt_tokens, estimate_tokens
from deepserve.backends.upstream.plain_request import plain_request
from deepserve.backends.upstream.users import upstream_user
from deepserve.catalog.providers import load_providers, read_upstream
from deepserve.config import Settings
from deepserve.core.errors import BackendFailure, ConfigurationError
from deepserve.core.messages import Message, Text, ToolCall
from deepserve.core.request import Tool
from deepserve.core.tenant import Tenant, TenantId
from tests.backends.upstream.setup import request, upstream


def _settings(wanted: str = "deepseek", **fields: object) -> Settings:
    return Settings(backend="upstream", upstream=wanted, **fields)  # type: ignore[arg-type]  # fields of Settings


KEYS = {"DEEPSEEK_API_KEY": "sk-from-the-environment"}


def open_upstream(settings: Settings, *, environment: Mapping[str, str]) -> Backend:
    assert settings.upstream is not None
    wanted = msgspec.structs.replace(
        read_upstream(settings.upstream), key_file=settings.upstream_key_file, models=settings.upstream_models
    )
    return open_one(wanted, settings, environment=environment)


def test_every_row_is_of_a_kind_that_can_be_opened() -> None:
    assert {row.protocol for row in load_providers().values()} | {TOKENS} == set(KINDS)


def test_models_say_who_really_answers_and_that_counts_are_estimates() -> None:
    models = open_upstream(_settings(), environment=KEYS).models()
    assert [model.served_by.label for model in models] == ["deepseek/deepseek-v4-pro", "deepseek/deepseek-v4-flash"]
    assert all(model.counts_by_estimate and "DeepSeek" in model.note for model in models)
    assert models[0].context_tokens == 1_048_576


def test_only_models_that_are_named_are_served() -> None:
    settings = _settings("vllm=http://10.0.0.7:8000/v1", upstream_models={"deepseek-v4-flash": "mine"})
    models = open_upstream(settings, environment={}).models()
    assert [(model.id, model.served_by.label) for model in models] == [("deepseek-v4-flash", "vllm/mine")]


def test_a_model_that_nobody_can_ask_for_is_refused() -> None:
    settings = _settings(upstream_models={"gpt": "x"})
    with pytest.raises(ConfigurationError, match="gpt is no model"):
        open_upstream(settings, environment=KEYS)


def test_a_missing_key_says_where_it_belongs() -> None:
    with pytest.raises(ConfigurationError, match="DEEPSEEK_API_KEY"):
        open_upstream(_settings(), environment={})


def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-a-file\n")
    assert open_upstream(_settings(upstream_key_file=file), environment={}).models()
    file.write_text("two words")
    with pytest.raises(ConfigurationError, match="is no key") as caught:
        open_upstream(_settings(upstream_key_file=file), environment={})
    assert "two words" not in caught.value.message
    with pytest.raises(ConfigurationError, match="cannot be read"):
        open_upstream(_settings(upstream_key_file=tmp_path / "none"), environment={})


@pytest.mark.parametrize("address", ["ftp://host/v1", "http://user:secret@host/v1", "http:///v1", "http://ho st/v1"])
def test_an_address_that_cannot_be_called_is_refused_at_start(address: str) -> None:
    with pytest.raises(ConfigurationError):
        open_upstream(_settings(address), environment={})


def test_a_server_is_not_its_own_upstream() -> None:
    """Requests would come back to it without end."""
    backend = open_upstream(_settings("http://127.0.0.1:8000/v1", port=8000), environment={})

    async def ask() -> None:
        try:
            [event async for event in backend.answer(request())]
        finally:
            await backend.close()

    with pytest.raises(BackendFailure, match="must not call"):
        asyncio.run(ask())


def test_answers_of_upstreams_are_checked_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(KEYS.items())))
    assert select_backend(_settings()).enforces()
    assert not select_backend(_settings(answer_checks="off")).enforces()


def test_tenants_are_apart_at_the_upstream_and_nobody_is_named() -> None:
    one, other = (Tenant(id=TenantId(name), name=name) for name in ("acme", "initech"))
    users = {
        upstream_user(request(tenant=tenant, user_id=user)) for tenant in (one, other) for user in (None, "bob", "eve")
    }
    assert len(users) == 6
    assert not any(name in user for user in users if user for name in ("acme", "initech", "bob"))
    assert upstream_user(request(user_id="bob")) == "bob"
    assert upstream_user(request()) is None


def test_tools_that_only_we_know_are_plain_functions_elsewhere() -> None:
    asked = request(
        tools=(Tool(name="patch", kind="custom"), Tool(name="look", namespace="web")),
        messages=(
            Message(
                role="assistant",
                parts=(
                    ToolCall(id="a", name="patch", arguments="*** Begin", kind="custom"),
                    ToolCall(id="b", name="look", namespace="web"),
                ),
            ),
        ),
    )
    plain = plain_request(asked)
    assert [(tool.name, tool.kind, tool.namespace) for tool in plain.tools] == [
        ("patch", "function", None),
        ("web__look", "function", None),
    ]
    assert plain.tools[0].parameters is not None
    assert plain.messages[0].tool_calls == (
        ToolCall(id="a", name="patch", arguments='{"input":"*** Begin"}'),
        ToolCall(id="b", name="web__look"),
    )


def test_an_estimate_grows_with_everything_the_model_reads() -> None:
    assert estimate_tokens("abcdefghij") == pytest.approx(3)
    assert estimate_tokens("你好") == pytest.approx(1.2)
    short = request()
    longer = request(tools=(Tool(name="f", description="does this and that"),))
    longest = request(messages=(Message(role="user", parts=(Text("Hello" * 1000),)),))
    counts = [estimate_prompt_tokens(one) for one in (short, longer, longest)]
    assert counts == sorted(counts)
    assert counts[0] > 0

    async def count() -> int:
        async with upstream("127.0.0.1:9") as backend:
            return await backend.count(longest)

    assert asyncio.run(count()) == counts[-1]
