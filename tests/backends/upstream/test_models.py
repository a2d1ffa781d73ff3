"""What an upstream says of its models when the server starts, and what is claimed where it says nothing."""

from __future__ import annotations

import asyncio
import json

import pytest

from deepserve.core.provider import ServedModel
from tests.backends.upstream.setup import KEY, upstream
from tests.outgoing.receiver import Receiver, Respond, answer, silent


def _models(said: bytes | Respond) -> tuple[ServedModel, ...]:
    async def ask() -> tuple[ServedModel, ...]:
        async with Receiver(said) as receiver, upstream(receiver.host, learns_models=True) as backend:
            assert backend.is_ready()
            assert receiver.received[0].target == "/v1/models"
            assert receiver.received[0].headers["authorization"] == f"Bearer {KEY}"
            return backend.models()

    return asyncio.run(ask())


def _listing(**members: object) -> bytes:
    return answer(200, body=json.dumps({"data": [{"id": "deepseek-v4-flash", **members}]}).encode())


@pytest.mark.parametrize("name", ["context_window", "max_model_len", "context_length"])
def test_the_size_of_a_context_is_learned_under_every_name_that_servers_give_it(name: str) -> None:
    sizes = {model.id: model.context_tokens for model in _models(_listing(**{name: 163_840}))}
    assert sizes == {"deepseek-v4-pro": 65_536, "deepseek-v4-flash": 163_840}


def test_another_deepserve_says_who_answers_there() -> None:
    named = {"provider": "deepserve", "model": "mini-flash", "fingerprint": "fp"}
    flash = _models(_listing(context_window=10, max_output_tokens=5, served_by=named))[1]
    assert flash.served_by.label == "deepserve/mini-flash"
    assert (flash.context_tokens, flash.max_output_tokens) == (10, 5)


@pytest.mark.parametrize(
    "said",
    [
        answer(404),
        answer(200, body=b"<html>"),
        answer(200, body=b'{"data":[{"id":7}]}'),
        _listing(context_window=-1),
        b"",
    ],
)
def test_an_upstream_that_does_not_say_is_started_with_all_the_same(said: bytes) -> None:
    assert [model.context_tokens for model in _models(said)] == [65_536, 65_536]


def test_an_upstream_that_says_nothing_does_not_hold_the_start_up() -> None:
    async def ask() -> bool:
        async with silent() as address, upstream(address, learns_models=True) as backend:
            return backend.is_ready()

    assert asyncio.run(ask())


def test_a_name_that_the_upstream_does_not_list_is_told_to_the_operator(caplog: pytest.LogCaptureFixture) -> None:
    _models(_listing())
    assert "lists no model deepseek-v4-pro" in caplog.text
