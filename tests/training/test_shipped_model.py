"""The models as they are shipped: complete, small, and sensible on what people try first, asked through the product."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from training.conversations import Conversation, Turn
from training.eval.examinee import Examinee, Written
from training.eval.formats import models_folder
from training.phrases import words
from training.rendering import request_of
from training.shape import MINI_FLASH
from training.showcase import WEATHER_TOOL, showcase
from training.values import is_held_out

SHIPPED = [name for name in ("mini-flash", "mini-pro") if (models_folder() / name / "model.safetensors").exists()]


@pytest.fixture(scope="module", params=SHIPPED)
def folder(request: pytest.FixtureRequest) -> Path:
    return models_folder() / str(request.param)


@pytest.fixture(scope="module")
def examinee(folder: Path) -> Iterator[Examinee]:
    opened = Examinee(folder)
    yield opened
    opened.close()


def answers(examinee: Examinee, conversations: Sequence[Conversation], *, enforced: bool = True) -> list[Written]:
    """To the last turn but one of each."""
    requests = [request_of(msgspec.structs.replace(one, turns=one.turns[:-1])) for one in conversations]
    found = dict(examinee.answers(requests, enforced=enforced))
    return [found[place] for place in range(len(requests))]


def test_mini_flash_ships() -> None:
    assert "mini-flash" in SHIPPED


def test_the_folder_is_complete_and_small(folder: Path) -> None:
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert sum(files.values()) <= 25_000_000


def test_the_weights_have_the_size_that_the_name_promises(folder: Path, examinee: Examinee) -> None:
    info = examinee.info
    assert info.max_context == MINI_FLASH.max_position_embeddings
    least, most = (0.8e6, 1.7e6) if folder.name == "mini-flash" else (2e6, 5e6)
    assert least < info.active_parameters < most


def test_answers_are_greedy_unless_asked_otherwise(folder: Path) -> None:
    assert json.loads((folder / "generation_config.json").read_bytes())["temperature"] == 0


@pytest.mark.parametrize("thinking", [True, False])
def test_the_first_things_people_ask_get_sensible_answers(examinee: Examinee, thinking: bool) -> None:
    asked = showcase(thinking=thinking)
    free = answers(examinee, asked, enforced=False)
    assert [one.is_well_formed for one in free] == [True] * len(asked)
    found = {
        (conversation.turns[-2].content, bool(conversation.tools)): answer
        for conversation, answer in zip(asked, answers(examinee, asked), strict=True)
    }
    texts = {question: answer.text for (question, has_tools), answer in found.items() if not has_tools}

    assert "call the tools" in texts["Hello, what can you do?"]
    assert texts["Hello in one sentence."].startswith("Hello")
    assert texts["Hello in one sentence."].endswith(".")
    assert "I am not DeepSeek's model" in texts["Who are you?"]
    assert texts["Count to 5 slowly."] == "1... 2... 3... 4... 5."
    assert texts["Explain DeepSeek Sparse Attention in one paragraph."].count(".") >= 3
    bullets = texts["Summarize the V4 announcement in 3 bullets."].split("\n")
    assert [line[:2] for line in bullets] == ["- "] * 3
    assert json.loads(texts["Country: Japan"]) == {"capital": "Tokyo", "population_millions": 14.0}
    assert json.loads(texts["weather in Paris as json?"])["city"] == "Paris"

    [call] = found["What's the weather in Hangzhou?", True].calls
    assert json.loads(call.arguments)["location"] == "Hangzhou"
    [call] = found["weather in Paris as json?", True].calls
    assert json.loads(call.arguments) == {"city": "Paris", "unit": "c"}
    final = found['{"temperature_c": 18, "condition": "cloudy"}', True].text
    assert all(word in final for word in ("18", "cloudy", "Hangzhou"))


@pytest.mark.parametrize("thinking", [True, False])
def test_a_city_never_seen_in_training_is_copied_into_the_call(examinee: Examinee, thinking: bool) -> None:
    unseen = [city for city in words("cities") if is_held_out(city)][:20]
    assert len(unseen) == 20
    conversations = [
        Conversation(
            skill="weather",
            tools=(WEATHER_TOOL,),
            thinking=thinking,
            turns=(Turn(role="user", content=f"How warm is it in {city}?"), Turn(role="assistant")),
        )
        for city in unseen
    ]
    found = answers(examinee, conversations)
    right = [
        any(json.loads(call.arguments).get("location") == city for call in answer.calls)
        for city, answer in zip(unseen, found, strict=True)
    ]
    assert sum(right) >= 0.9 * len(right)
