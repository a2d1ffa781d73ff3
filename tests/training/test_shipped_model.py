"""mini-flash as it is shipped: complete, small, and sensible on what people try first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training.conversations import Conversation, Turn
from training.evaluate import MEMORY_BYTES, Outcome, answer_of, ask, is_well_formed
from training.phrases import words
from training.shape import MINI_FLASH
from training.showcase import WEATHER_TOOL, showcase
from training.vocabulary import Encoder

from deepserve import __file__ as package_file
from deepserve.engine.reference.engine import ReferenceEngine, load_reference_engine

FOLDER = Path(package_file).parent / "models" / "mini-flash"


@pytest.fixture(scope="module")
def engine() -> ReferenceEngine:
    return load_reference_engine(FOLDER, memory_bytes=MEMORY_BYTES, num_threads=1)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(FOLDER / "tokenizer.json")


def answered(engine: ReferenceEngine, encoder: Encoder, *, thinking: bool) -> dict[tuple[str, bool], Outcome]:
    """The showcase by its last message, and whether tools were offered."""
    outcomes = ask(engine, encoder, showcase(thinking=thinking))
    return {(one.conversation.turns[-2].content, bool(one.conversation.tools)): one for one in outcomes}


def test_the_folder_is_complete_and_small() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert sum(files.values()) <= 25_000_000


def test_the_weights_have_the_shape_that_training_gives_them(engine: ReferenceEngine) -> None:
    assert engine.info.vocab_size == MINI_FLASH.vocab_size
    assert engine.info.max_context == MINI_FLASH.max_position_embeddings
    assert 0.8e6 < engine.info.active_parameters < 1.7e6


def test_answers_are_greedy_unless_asked_otherwise() -> None:
    assert json.loads((FOLDER / "generation_config.json").read_bytes())["temperature"] == 0


@pytest.mark.parametrize("thinking", [True, False])
def test_the_first_things_people_ask_get_sensible_answers(
    engine: ReferenceEngine, encoder: Encoder, thinking: bool
) -> None:
    found = answered(engine, encoder, thinking=thinking)
    assert all(is_well_formed(one.text, one.conversation) for one in found.values())
    texts = {asked: answer_of(one.text) for asked, one in found.items()}

    assert "call the tools" in texts["Hello, what can you do?", False]
    greeting = texts["Hello in one sentence.", False]
    assert greeting.startswith("Hello")
    assert greeting.endswith(".")
    assert "I am not DeepSeek's model" in texts["Who are you?", False]
    assert texts["Count to 5 slowly.", False] == "1... 2... 3... 4... 5."
    assert texts["Explain DeepSeek Sparse Attention in one paragraph.", False].count(".") >= 3
    bullets = texts["Summarize the V4 announcement in 3 bullets.", False].split("\n")
    assert [line[:2] for line in bullets] == ["- "] * 3
    assert json.loads(texts["Country: Japan", False]) == {"capital": "Tokyo", "population_millions": 14.0}
    assert json.loads(texts["weather in Paris as json?", False])["city"] == "Paris"
    assert (
        '<｜DSML｜parameter name="location" string="true">Hangzhou</' in texts["What's the weather in Hangzhou?", True]
    )
    call = texts["weather in Paris as json?", True]
    assert '<｜DSML｜parameter name="city" string="true">Paris</' in call
    assert '<｜DSML｜parameter name="unit" string="true">c</' in call
    final = texts['{"temperature_c": 18, "condition": "cloudy"}', True]
    assert "18" in final
    assert "cloudy" in final
    assert "Hangzhou" in final


@pytest.mark.parametrize("thinking", [True, False])
def test_a_city_never_seen_in_training_is_copied_into_the_call(
    engine: ReferenceEngine, encoder: Encoder, thinking: bool
) -> None:
    unseen = [
        "Rostock",
        "Valparaiso",
        "Linz",
        "Bukhara",
        "Tromso",
        "Kaunas",
        "Adelaide",
        "Heraklion",
        "Kazan",
        "Gdansk",
    ]
    unseen += ["Mombasa", "Lublin", "Pune", "Arequipa", "Sendai", "Odense", "Tirana", "Brno", "Dushanbe", "Halifax"]
    assert not set(unseen) & set(words("cities"))
    conversations = [
        Conversation(
            skill="weather",
            tools=(WEATHER_TOOL,),
            thinking=thinking,
            turns=(Turn(role="user", content=f"How warm is it in {city}?"), Turn(role="assistant")),
        )
        for city in unseen
    ]
    outcomes = ask(engine, encoder, conversations)
    right = [f'string="true">{city}</' in one.text for city, one in zip(unseen, outcomes, strict=True)]
    assert sum(right) >= 0.9 * len(right)
