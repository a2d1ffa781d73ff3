"""The reference engine: transformers' numbers from state, and the same bits however the work is cut up.

What every engine promises beyond is in `tests/engine/test_engine_contract.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from deepserve.core.errors import EngineFailure
from deepserve.engine.interface import CHUNK_TOKENS, Draw, Drawn, Row, SequenceId
from deepserve.engine.reference.engine import ReferenceEngine, best_entries
from tests.engine.reference.oracle import TINY, oracle, ours

MEMORY = 1 << 25
SHAPES: dict[str, dict[str, Any]] = {
    "the minimal one": {},
    "selecting, all layer kinds, short HCA": {
        "index_topk": 10,
        "sliding_window": 128,
        "compress_ratios": [0, 4, 16, 4],
    },
    "odd sizes": {
        "index_topk": 4,
        "num_attention_heads": 2,
        "head_dim": 48,
        "n_routed_experts": 7,
        "num_experts_per_tok": 3,
        "hidden_size": 72,
        "sliding_window": 100,
        "compress_ratios": [32, 4, 0, 4],
    },
}


def engine_of(**changes: Any) -> ReferenceEngine:
    return ReferenceEngine(ours(oracle(**changes), **changes), memory_bytes=MEMORY)


@pytest.fixture(scope="module")
def engine() -> Iterator[ReferenceEngine]:
    """A shared engine whose every branch is on; whatever a test leaves behind would show up here."""
    shared = engine_of(**SHAPES["selecting, all layer kinds, short HCA"])
    yield shared
    assert shared.free_blocks_ratio() == 1.0


def some_tokens(length: int, seed: int = 1) -> list[int]:
    return random.Random(seed).choices(range(TINY["vocab_size"]), k=length)


def cut(engine: ReferenceEngine, sequence: SequenceId, tokens: list[int], most: int = CHUNK_TOKENS) -> Iterator[Row]:
    """Rows of at most this many tokens that cross no border; take each only after the one before was computed."""
    while tokens:
        size = min(most, CHUNK_TOKENS - engine.length(sequence) % CHUNK_TOKENS)
        yield Row(sequence=sequence, tokens=tokens[:size])
        tokens = tokens[size:]


def feed(engine: ReferenceEngine, sequence: SequenceId, tokens: list[int], most: int = CHUNK_TOKENS) -> Tensor:
    """Append tokens in rows of this size and return the logits of each, [len(tokens), V]."""
    return torch.cat([engine.logits([row])[0] for row in cut(engine, sequence, tokens, most)])


def cold(engine: ReferenceEngine, tokens: list[int], most: int = CHUNK_TOKENS) -> Tensor:
    sequence = engine.create()
    logits = feed(engine, sequence, tokens, most)
    engine.free(sequence)
    return logits


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_prefill_and_decode_equal_transformers_and_each_other_bit_for_bit(shape: str) -> None:
    changes = SHAPES[shape]
    model = oracle(**changes)
    engine = ReferenceEngine(ours(model, **changes), memory_bytes=MEMORY)
    tokens = some_tokens(420)
    expected = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    whole = cold(engine, tokens)
    assert expected.abs().max() > 0.5
    assert (whole - expected).abs().max() < 1e-4
    for most in (1, 7, 50):
        assert torch.equal(cold(engine, tokens, most), whole), most


@torch.inference_mode()
def test_an_untied_indexer_chooses_what_transformers_chooses() -> None:
    """Greedy continuations are equal as long as they are not decided by equal index scores."""
    changes = SHAPES["selecting, all layer kinds, short HCA"]
    model = oracle(**changes)
    engine = ReferenceEngine(ours(model, **changes), memory_bytes=MEMORY)
    tokens = some_tokens(150)
    sequence = engine.create()
    *rows, last = list(cut_at_once(sequence, tokens))
    for row in rows:
        assert engine.step([row]) == [None]
    drawn = engine.step([Row(sequence=sequence, tokens=last.tokens, draw=Draw(temperature=0))])[0]
    num_compared = 0
    for _ in range(40):
        assert isinstance(drawn, Drawn)
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
        best = logits.topk(2).values
        if best[0] - best[1] > 1e-4:
            assert drawn.token == int(logits.argmax())
            num_compared += 1
        tokens.append(drawn.token)
        drawn = engine.step([Row(sequence=sequence, tokens=[drawn.token], draw=Draw(temperature=0))])[0]
    assert num_compared > 30


def cut_at_once(sequence: SequenceId, tokens: list[int]) -> Iterator[Row]:
    """Rows of a sequence that starts empty."""
    for first in range(0, len(tokens), CHUNK_TOKENS):
        yield Row(sequence=sequence, tokens=tokens[first : first + CHUNK_TOKENS])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_has_the_same_bits_alone_and_in_any_batch(shape: str) -> None:
    engine = engine_of(**SHAPES[shape])
    chance = random.Random(5)
    texts = [some_tokens(length, seed=length) for length in (5, 90, 128, 129, 200, 260, 300, 410)]
    alone = [cold(engine, text) for text in texts]
    sequences = [engine.create() for _ in texts]
    seen: list[list[Tensor]] = [[] for _ in texts]
    done = [0] * len(texts)
    while any(at < len(text) for at, text in zip(done, texts, strict=True)):
        rows, owners = [], []
        for owner in chance.sample(range(len(texts)), chance.randint(1, len(texts))):
            text, at = texts[owner], done[owner]
            if at == len(text):
                continue
            most = min(len(text) - at, CHUNK_TOKENS - at % CHUNK_TOKENS)
            size = min(most, chance.choice([1, 1, 1, 2, 3, 17, 128]))
            rows.append(Row(sequence=sequences[owner], tokens=text[at : at + size]))
            owners.append(owner)
            done[owner] += size
        for owner, logits in zip(owners, engine.logits(rows) if rows else [], strict=True):
            seen[owner].append(logits)
    for parts, expected in zip(seen, alone, strict=True):
        assert torch.equal(torch.cat(parts), expected)


@pytest.mark.parametrize("changes", [{"compress_ratios": [0, 4, 128, 4]}, {"compress_ratios": [0, 4, 16, 4]}])
def test_a_snapshot_continues_bit_for_bit_at_every_position(changes: dict[str, Any]) -> None:
    """Restored at 0 to 300, each continues as the original did: one token, then a chunk to a border."""
    engine = engine_of(index_topk=10, **changes)
    tokens = some_tokens(330)
    expected = cold(engine, tokens)
    sequence = engine.create()
    for position in range(301):
        snapshot = engine.snapshot(sequence)
        assert snapshot.position == engine.length(sequence) == position
        restored = engine.restore(snapshot)
        engine.release(snapshot)
        more = feed(engine, restored, tokens[position : position + 1])
        more = torch.cat((more, feed(engine, restored, tokens[position + 1 : position + 9])))
        assert torch.equal(more, expected[position : position + 9]), position
        engine.free(restored)
        engine.step([Row(sequence=sequence, tokens=tokens[position : position + 1])])
    engine.free(sequence)
    assert engine.free_blocks_ratio() == 1.0


def test_the_state_grows_as_the_paper_says() -> None:
    engine = engine_of(compress_ratios=[0, 4, 128, 4])
    sizes = []
    for length in (0, 1024):
        sequence = engine.create()
        for row in cut_at_once(sequence, some_tokens(length)):
            engine.step([row])
        sizes.append(engine.snapshot(sequence).size_bytes)
    head, index = TINY["head_dim"], TINY["index_head_dim"]
    formula = (2 * (head + index) / 4 + head / 128) * 4
    assert (sizes[1] - sizes[0]) / 1024 == formula == engine.info.state_bytes_per_token


def test_a_step_that_raises_can_be_repeated(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer fails when all others have run; the same rows sent again give the same bits."""
    tokens = some_tokens(180)
    expected = cold(engine, tokens)
    sequence = engine.create()
    feed(engine, sequence, tokens[:131])
    computed = engine._experts
    calls = iter(range(100))

    def failing(weights: Any, x: Tensor, plan: Any) -> Tensor:
        if next(calls) == TINY["num_hidden_layers"] - 1:
            raise RuntimeError("injected")
        return computed(weights, x, plan)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_experts", failing)
        with pytest.raises(EngineFailure, match="injected"):
            engine.step([Row(sequence=sequence, tokens=tokens[131:170])])
    assert engine.length(sequence) == 131
    assert torch.equal(feed(engine, sequence, tokens[131:]), expected[131:])
    engine.free(sequence)


def test_best_entries_rank_by_score_then_by_place() -> None:
    nan, low = float("nan"), float("-inf")
    scores = torch.tensor(
        [
            [0.0, 3.0, 0.0, 1.0, 0.0, 2.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [1.0, 2.0, low, low, low, low],
            [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
            [nan, nan, nan, nan, nan, nan],
        ]
    )
    best = best_entries(scores, 4)
    assert best[:4].tolist() == [[0, 1, 3, 5], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert len(set(best[4].tolist())) == 4
