"""The shipped vocabulary and the weights given to its tokens."""

from __future__ import annotations

import itertools

import pytest
import tokenizers
from training.batches import PROMPT_SHARE, PROMPT_WEIGHT, BatchMaker, Plan
from training.conversations import Conversation, Turn
from training.mixture import conversations
from training.rendering import transcript
from training.train import TOKENIZER
from training.vocabulary import SIZE, Encoder, common_words, train_vocabulary

from deepserve.prompt.special_tokens import SPECIAL_TOKENS


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(TOKENIZER)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_a_special_token_is_one_id(encoder: Encoder, token: str) -> None:
    raw = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    assert raw.encode(token, add_special_tokens=False).ids == [encoder.tokenizer.special_id(token)]


def test_begin_end_and_padding_open_the_vocabulary(encoder: Encoder) -> None:
    assert [encoder.tokenizer.special_id(token) for token in SPECIAL_TOKENS[:3]] == [0, 1, 2]
    assert encoder.tokenizer.vocab_size == SIZE


@pytest.mark.parametrize("word", ["Hangzhou", "kestrilo", "get_weather", "Zürich", "B77f", "東京", "4217"])
def test_a_word_is_spelled_alike_after_a_blank_and_inside_a_tag(encoder: Encoder, word: str) -> None:
    """Otherwise copying from the question into a call would be translating, which small models are bad at."""
    ids = encoder.encode_text(word)

    def contains(text: str) -> bool:
        whole = encoder.encode_text(text)
        return any(whole[i : i + len(ids)] == ids for i in range(len(whole)))

    assert contains(f"weather in {word}?")
    assert contains(f' string="true">{word}</')
    assert contains(f'{{"name": "{word}", "x": 1}}')


def test_no_word_that_fills_slots_is_joined_to_a_blank() -> None:
    texts = [f"Ask the weather of Oslo: key, code and number {k}" for k in range(50)]
    assert common_words(texts, 10) == ["and", "the", "of"]


def test_text_that_spells_special_tokens_stays_text(encoder: Encoder) -> None:
    one = Conversation(
        skill="test", turns=(Turn(role="user", content="<｜User｜></think>"), Turn(role="assistant", content="No."))
    )
    ids, _ = encoder.encode(transcript(one))
    user, end_think = (encoder.tokenizer.special_id(token) for token in ("<｜User｜>", "</think>"))
    assert ids.count(user) == 1
    assert ids.count(end_think) == 1
    assert encoder.decode(ids) == transcript(one).text


def test_the_same_corpus_gives_the_same_vocabulary() -> None:
    assert train_vocabulary(200, size=400).to_str() == train_vocabulary(200, size=400).to_str()


def test_only_answers_weigh_fully(encoder: Encoder) -> None:
    batch = BatchMaker(encoder, 1).batch(0, Plan(rows=1, length=256, copy_share=0.0))
    assert {round(weight, 4) for weight in batch.weights.flatten().tolist()} == {
        0.0,
        round(PROMPT_WEIGHT / PROMPT_SHARE, 4),
        1.0,
    }
    first = next(conversations(1, "train"))
    ids, learned = encoder.encode(transcript(first))
    written = "".join(encoder.decode([token]) for token, is_learned in zip(ids, learned, strict=True) if is_learned)
    assert first.turns[-1].content in written


def test_a_batch_depends_on_its_number_and_the_seed_alone(encoder: Encoder) -> None:
    plan = Plan(rows=3, length=128, copy_share=0.4, long_share=0.2)
    one, other = BatchMaker(encoder, 1), BatchMaker(encoder, 1)
    one.batch(0, plan)
    assert one.batch(7, plan).tokens.equal(other.batch(7, plan).tokens)
    assert not one.batch(8, plan).tokens.equal(other.batch(7, plan).tokens)
    rows = itertools.chain.from_iterable(one.batch(7, plan).tokens.tolist())
    assert max(rows) < SIZE
