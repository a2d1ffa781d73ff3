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


def test_sizes_are_learned_later_where_the_upstream_was_down_at_the_start() -> None:
    """It is asked again until it says them, and the fleet hears of it; one that has no list is asked once."""

    async def learn(*answers: bytes) -> tuple[list[int], int]:
        turns = asyncio.Semaphore(0)

        async def sleep(_: float) -> None:
            await turns.acquire()

        async with Receiver(*answers) as receiver, upstream(receiver.host, learns_models=True, relearns=sleep) as fleet:
            before = fleet.models()[1].context_tokens
            for number in range(2, len(answers) + 1):
                turns.release()
                async with asyncio.timeout(5):
                    while len(receiver.received) < number:  # noqa: ASYNC110 - over a real socket
                        await asyncio.sleep(0.001)
            async with asyncio.timeout(5):
                while answers[-1] != _REFUSED and not fleet.members[0].has_news():  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.001)
            fleet.look_again()
            return [before, fleet.models()[1].context_tokens], len(receiver.received)

    good = _listing(context_window=163_840)
    assert asyncio.run(learn(answer(503), b"", good)) == ([65_536, 163_840], 3)
    assert asyncio.run(learn(_REFUSED)) == ([65_536, 65_536], 1)


_REFUSED = answer(404)
