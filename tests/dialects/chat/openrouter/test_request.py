"""What this service adds to a Chat request: names, routing, plugins, reasoning."""

from __future__ import annotations

from typing import Any

import pytest

from deepserve.core.errors import InvalidField, UnknownModel, UnsupportedFeature
from deepserve.core.request import Thinking
from deepserve.dialects.chat.openrouter.flavour import EFFORTS, REFUSED
from deepserve.dialects.openrouter.errors import status_of
from deepserve.dialects.openrouter.provider import EXCLUDED_BY
from tests.dialects.chat.openrouter.setup import decode, refusal

PRO, FLASH = "deepseek/deepseek-v4-pro-20260423", "deepseek/deepseek-v4-flash-20260423"


@pytest.mark.parametrize(
    ("name", "dated"),
    [
        ("deepseek/deepseek-v4-pro", PRO),
        ("deepseek/deepseek-v4-pro-20260423", PRO),
        ("deepseek-ai/DeepSeek-V4-Pro", PRO),
        ("deepseek-v4-pro", PRO),
        ("~deepseek/deepseek-v4-flash-latest", FLASH),
        ("deepseek-chat", FLASH),
        ("deepseek/deepseek-v4-flash:nitro", FLASH),
        ("deepseek/deepseek-v4-flash:floor:exacto", FLASH),
        ("deepseek/deepseek-v4-pro-0813", "deepseek/deepseek-v4-pro-20260813"),
        ("deepseek/deepseek-v4-flash-0731", "deepseek/deepseek-v4-flash-20260731"),
    ],
)
def test_every_spelling_of_a_model_is_understood(name: str, dated: str) -> None:
    assert decode(model=name).asked.dated_name == dated


def test_variants_mean_what_they_say_or_are_refused() -> None:
    assert decode(model="deepseek-chat").request.thinking.enabled is False
    assert decode(model="deepseek-chat:thinking").request.thinking.enabled is True
    assert decode(model="deepseek/deepseek-v4-pro:free").ignored == ("model:free",)
    assert isinstance(refusal(model="deepseek/deepseek-v4-pro@preset/mine"), UnsupportedFeature)
    error = refusal(model="deepseek/deepseek-v4-pro:nonsense")
    assert isinstance(error, UnknownModel)
    assert error.message == "deepseek/deepseek-v4-pro:nonsense is not a valid model ID"


def test_the_first_model_that_is_known_is_asked() -> None:
    exchange = decode(model="other/model", models=["another/model", "deepseek/deepseek-v4-flash"])
    assert exchange.request.model == "deepseek-v4-flash"
    assert exchange.ignored == ("models[]",)
    assert isinstance(refusal(model="other/model", models=["another/model"]), UnknownModel)
    assert decode(model=None).request.model == "deepseek-v4-flash"


def test_a_prompt_may_stand_for_the_messages() -> None:
    exchange = decode(messages=None, prompt="Hello")
    assert [(message.role, message.text) for message in exchange.request.messages] == [("user", "Hello")]


@pytest.mark.parametrize(
    "wish",
    [
        {"only": ["fireworks"]},
        {"ignore": ["DeepServe"]},
        {"order": ["fireworks"], "allow_fallbacks": False},
        {"quantizations": ["fp8"]},
        {"max_price": {"prompt": 0.1}},
        {"max_price": {"completion": "0.86"}},
    ],
)
def test_a_wish_that_no_provider_meets_is_not_found(wish: dict[str, Any]) -> None:
    error = refusal(provider=wish)
    assert isinstance(error, UnsupportedFeature)
    assert error.field in EXCLUDED_BY
    assert status_of(error) == 404


def test_a_wish_that_is_met_is_honoured() -> None:
    wishes = {
        "order": ["fireworks", "deepserve"],
        "only": ["DeepServe/fp8"],
        "quantizations": ["unknown"],
        "max_price": {"prompt": "0.435", "completion": 1},
        "data_collection": "deny",
        "zdr": True,
        "sort": {"by": "price", "partition": "none"},
    }
    exchange = decode(provider=wishes)
    assert exchange.request.provider.only == ("deepserve",)
    assert exchange.request.provider.sort == "price"
    assert exchange.ignored == ("provider.order[]",)


def test_zero_retention_is_promised_only_where_nothing_is_kept() -> None:
    with pytest.raises(UnsupportedFeature, match="keeps cached prefixes"):
        decode(keeps_prompts=True, provider={"zdr": True})
    decode(keeps_prompts=True, provider={"zdr": False})


@pytest.mark.parametrize("wish", [{"max_price": {"prompt": "much"}}, {"max_price": {"prompt": "NaN"}}, {"sort": "x"}])
def test_a_wish_that_cannot_be_read_is_refused(wish: dict[str, Any]) -> None:
    assert status_of(refusal(provider=wish)) == 400


def test_required_parameters_may_not_be_without_effect() -> None:
    decode(provider={"require_parameters": True}, temperature=0.5, usage={"include": True})
    error = refusal(provider={"require_parameters": True}, verbosity="low")
    assert "verbosity" in error.message
    assert status_of(error) == 404


def test_plugins_are_refused_unless_the_answer_does_not_need_them() -> None:
    plugins = [{"id": "web", "enabled": False}, {"id": "response-healing"}]
    assert decode(plugins=plugins).ignored == ("plugins[].response-healing",)
    assert decode(transforms=["middle-out"]).ignored == ("transforms[]",)
    assert decode(transforms=[]).ignored == ()
    error = refusal(plugins=[{"id": "fusion"}])
    assert isinstance(error, UnsupportedFeature)
    assert "fusion" in error.message


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, Thinking()),
        ({"reasoning": {}}, Thinking()),
        ({"reasoning": {"enabled": True}}, Thinking()),
        ({"reasoning": {"enabled": False}}, Thinking(enabled=False)),
        ({"reasoning": {"max_tokens": 100}}, Thinking(budget_tokens=100)),
        ({"reasoning": {"exclude": True}}, Thinking(exclude=True)),
        ({"include_reasoning": False}, Thinking(exclude=True)),
        ({"include_reasoning": True}, Thinking()),
        ({"reasoning_effort": "xhigh"}, Thinking(effort="max")),
        ({"reasoning": {"effort": "high"}, "reasoning_effort": "high"}, Thinking()),
    ],
)
def test_reasoning_in_all_its_forms(fields: dict[str, Any], thinking: Thinking) -> None:
    assert decode(**fields).request.thinking == thinking


@pytest.mark.parametrize("effort", EFFORTS)
def test_every_effort_is_one_that_v4_has(effort: str) -> None:
    thinking = decode(reasoning={"effort": effort}).request.thinking
    assert (thinking.effort if thinking.enabled else "none") == EFFORTS[effort]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"reasoning": {"effort": "huge"}}, 'reasoning.effort: Invalid option: expected one of "max"|"xhigh"|"high"'),
        ({"reasoning": {"effort": "low", "max_tokens": 5}}, "Only one of"),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "cannot have different values"),
        ({"verbosity": "chatty"}, "verbosity: Invalid option"),
    ],
)
def test_reasoning_that_contradicts_itself_is_refused(fields: dict[str, Any], text: str) -> None:
    error = refusal(**fields)
    assert isinstance(error, InvalidField)
    assert text in error.message


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(name: str) -> None:
    error = refusal(**{name: {"any": "thing"}})
    assert isinstance(error, UnsupportedFeature)
    assert error.field == name


def test_what_has_no_effect_is_named_and_usage_is_not() -> None:
    exchange = decode(session_id="s", structured_outputs=True, usage={"include": False}, is_strict=True, stream=True)
    assert set(exchange.ignored) == {"session_id", "x-deepserve-strict"}
    assert decode(stream_options={"include_usage": False}).ignored == ()


def test_a_trace_is_taken_back_under_every_name() -> None:
    details = [
        {"type": "reasoning.text", "text": "I ", "format": "unknown", "index": 0},
        {"type": "reasoning.text", "text": "think", "format": "unknown", "index": 0},
    ]
    for fields in ({"reasoning": "I think"}, {"reasoning_content": "I think"}, {"reasoning_details": details}):
        turn = {"role": "assistant", "content": "yes", **fields}
        messages = [{"role": "user", "content": "a"}, turn, {"role": "user", "content": "b"}]
        assert decode(messages=messages).request.messages[1].reasoning == "I think"
