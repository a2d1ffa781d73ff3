"""The generator of training conversations."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from random import Random

import pytest
from training.conversations import Conversation, Effort, Split, Turn
from training.mixture import SKILLS, conversation, conversations, evaluation_set, fingerprint, long_conversation
from training.rendering import prompt, transcript
from training.values import Draw, is_held_out

from deepserve.core.events import BlockDelta, BlockOpened, ReasoningBlock, TextBlock, ToolCallBlock
from deepserve.prompt.decoder import Decoder, Piece
from deepserve.prompt.segments import Special, Text


def some(count: int, split: Split = "train", seed: int = 1) -> list[Conversation]:
    return list(itertools.islice(conversations(seed, split), count))


def test_the_same_seed_draws_the_same_conversations() -> None:
    assert some(200) == some(200)
    assert some(50, seed=1) != some(50, seed=2)


def test_the_evaluation_set_is_fixed_and_has_every_skill() -> None:
    chosen = evaluation_set(2)
    assert fingerprint(chosen) == fingerprint(evaluation_set(2))
    assert len(chosen) == 2 * len(SKILLS)
    for k, one in enumerate(chosen):
        assert one.thinking == (k % 2 == 0 and one.infill is None)


DRAWN: dict[str, Callable[[Draw], str]] = {
    "city": Draw.city,
    "name": Draw.name,
    "noun": Draw.noun,
    "word": Draw.word,
    "code": Draw.code,
    "made_up": Draw.made_up,
    "number": lambda draw: str(draw.number(20, 99999)),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_evaluation_never_draws_a_value_that_training_may_draw(kind: str) -> None:
    train, held_out = Draw(Random(1), "train"), Draw(Random(1), "held_out")
    seen = {DRAWN[kind](train).lower() for _ in range(3000)}
    unseen = {DRAWN[kind](held_out).lower() for _ in range(500)}
    assert not seen & unseen
    assert len(unseen) > 10


def test_training_never_draws_a_frame_kept_for_evaluation() -> None:
    frames = [f"Frame number {k} of {{x}}." for k in range(40)]
    kept = {frame for frame in frames if is_held_out(frame)}
    train, held_out = Draw(Random(1), "train"), Draw(Random(1), "held_out")
    assert {train.wording(frames) for _ in range(2000)} == set(frames) - kept
    assert {held_out.wording(frames) for _ in range(2000)} == set(frames)


def test_a_value_is_held_out_in_any_case() -> None:
    draw = Draw(Random(3), "held_out")
    for _ in range(100):
        assert is_held_out(f" {draw.made_up().upper()} ")


@pytest.mark.parametrize("skill", SKILLS)
def test_a_prompt_is_the_beginning_of_its_transcript(skill: str) -> None:
    """What the model is asked at serving time must be, byte for byte, what it was trained on."""
    draw = Draw(Random(5), "train")
    for _ in range(40):
        one = conversation(draw, skill=skill)
        assert transcript(one).text.startswith(prompt(one).text)


def answers(one: Conversation) -> Iterator[Piece]:
    """The last answer of a transcript as the model would stream it."""
    whole = transcript(one)
    first, after = whole.outputs[-1]
    for segment in whole.segments[first : after - 1]:
        match segment:
            case Special(token):
                yield Piece(token, is_special=True)
            case Text(text):
                yield from (Piece(letter) for letter in text)


@pytest.mark.parametrize("skill", SKILLS)
def test_the_products_decoder_reads_back_what_the_model_learns_to_write(skill: str) -> None:
    draw = Draw(Random(6), "train")
    for _ in range(25):
        one = conversation(draw, skill=skill)
        decoder = Decoder(prompt(one).start, marks="special")
        blocks: list[tuple[object, list[str]]] = []
        events = [event for piece in answers(one) for event in decoder.feed(piece)]
        for event in [*events, *decoder.finish()]:
            match event:
                case BlockOpened(block=block):
                    blocks.append((block, []))
                case BlockDelta(text=text):
                    blocks[-1][1].append(text)
        last = one.turns[-1]
        texts = ["".join(parts) for block, parts in blocks if isinstance(block, TextBlock)]
        thoughts = ["".join(parts) for block, parts in blocks if isinstance(block, ReasoningBlock)]
        calls = [(b.name, json.loads("".join(parts))) for b, parts in blocks if isinstance(b, ToolCallBlock)]
        assert texts == ([last.content] if last.content else [])
        assert thoughts == ([last.reasoning] if one.thinking and last.reasoning else [])
        assert calls == [(call.name, dict(call.arguments)) for call in last.calls]
        assert decoder.damage is None


def test_every_call_fits_an_offered_tool() -> None:
    for one in some(1500):
        offered = {tool.name: tool.parameters for tool in one.tools}
        for call in (call for turn in one.turns for call in turn.calls):
            schema = offered[call.name]
            assert set(schema.get("required", ())) <= set(call.arguments)
            assert set(call.arguments) <= set(schema["properties"])
            for key, value in call.arguments.items():
                allowed = schema["properties"][key].get("enum")
                assert allowed is None or value in allowed


def test_offered_tools_have_different_names() -> None:
    for one in some(1500):
        assert len({tool.name for tool in one.tools}) == len(one.tools)


def test_json_answers_are_json_with_the_keys_of_their_schema() -> None:
    draw = Draw(Random(8), "train")
    for _ in range(200):
        one = conversation(draw, skill="schema_json")
        assert one.json_schema is not None
        assert list(json.loads(one.turns[-1].content)) == list(one.json_schema["properties"])


def test_a_long_conversation_is_as_long_as_wanted() -> None:
    for seed in range(6):
        one = long_conversation(Draw(Random(seed), "train"), num_characters=4000)
        assert 3500 < sum(len(turn.content) for turn in one.turns) < 6000


def test_a_skill_knows_the_effort_that_its_conversation_will_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Effort | None] = []

    def listening(draw: Draw) -> Conversation:
        told.append(draw.effort)
        return Conversation(skill="listening", turns=(Turn(role="user"), Turn(role="assistant")))

    monkeypatch.setattr("training.mixture.SKILLS", {"listening": (listening, 1.0)})
    draw = Draw(Random(10), "train")
    for _ in range(100):
        one = conversation(draw, skill="listening")
        assert told[-1] == (one.effort if one.thinking else None)
    assert set(told) == {"low", "high", "max", None}
    assert not conversation(draw, skill="listening", effort=None).thinking
    assert conversation(draw, skill="listening", effort="max").effort == told[-1] == "max"
