"""What `Engine` promises, held by both engines on the same random weights."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from deepserve.core.errors import EngineFailure
from deepserve.engine.interface import CHUNK_TOKENS, Draw, Drawn, Row, RowFault, SequenceId
from deepserve.engine.native.engine import NativeEngine, load_native_engine
from deepserve.engine.native.shared_library import find_library
from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.options import EngineOptions
from deepserve.engine.reference.checkpoint import save_network
from deepserve.engine.reference.engine import ReferenceEngine
from deepserve.engine.reference.network import Network

AnyEngine = ReferenceEngine | NativeEngine
MakeEngine = Callable[..., AnyEngine]

VOCAB_SIZE = 304
MEMORY_BYTES = 1 << 25
GREEDY = Draw(temperature=0)

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 72,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 48,
    "qk_rope_head_dim": 8,
    "q_lora_rank": 32,
    "o_groups": 2,
    "o_lora_rank": 16,
    "sliding_window": 24,
    "compress_ratios": (0, 4, 32, 4),
    "index_n_heads": 16,
    "index_head_dim": 16,
    "index_topk": 13,
    "n_routed_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "num_hash_layers": 1,
    "max_position_embeddings": 4096,
}
CROWDED: dict[str, Any] = {
    "num_hidden_layers": 2,
    "compress_ratios": (2, 2),
    "hidden_size": 16,
    "moe_intermediate_size": 16,
    "max_position_embeddings": 1 << 16,
}
"""Blocks that are large beside slots, so that few tokens fill a small memory."""
CROWDED_BYTES = 1_200_000


def network_of(seed: int, changes: dict[str, Any]) -> Network:
    network = Network(NetworkConfig(**{**SIZES, **changes}))
    generator = torch.Generator().manual_seed(seed)
    network.initialise(generator)
    return network.requires_grad_(False)


@pytest.fixture(scope="module", params=["reference", "native"])
def make_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MakeEngine:
    """A new engine on random weights; the same for the same arguments. `edit` changes the weights first."""
    if request.param == "native" and find_library() is None:
        pytest.skip("this installation has no native core")
    torch.set_num_threads(1)

    def make(
        memory_bytes: int = MEMORY_BYTES, seed: int = 0, edit: Callable[[Network], None] | None = None, **changes: Any
    ) -> AnyEngine:
        network = network_of(seed, changes)
        if edit is not None:
            edit(network)
        if request.param == "reference":
            return ReferenceEngine(network, memory_bytes=memory_bytes)
        folder = tmp_path_factory.mktemp("network")
        save_network(network, folder)
        return load_native_engine(folder, EngineOptions(memory_bytes=memory_bytes))

    return make


@pytest.fixture(scope="module")
def shared(make_engine: MakeEngine) -> AnyEngine:
    return make_engine()


@pytest.fixture
def engine(shared: AnyEngine) -> AnyEngine:
    """Empty; whatever the test before left behind shows up here."""
    assert shared.free_blocks_ratio() == 1.0
    return shared


def some_tokens(length: int, seed: int = 1) -> list[int]:
    return random.Random(seed).choices(range(VOCAB_SIZE), k=length)


def feed(engine: AnyEngine, sequence: SequenceId, tokens: Sequence[int]) -> list[bytes]:
    """Append tokens and return the logits' bytes of each."""
    found: list[bytes] = []
    while tokens:
        size = CHUNK_TOKENS - engine.length(sequence) % CHUNK_TOKENS
        (logits,) = engine.logits([Row(sequence=sequence, tokens=tokens[:size])])
        found += [bytes(row.numpy() if isinstance(row, torch.Tensor) else row) for row in logits]
        tokens = tokens[size:]
    return found


def cold(engine: AnyEngine, tokens: Sequence[int]) -> list[bytes]:
    sequence = engine.create()
    logits = feed(engine, sequence, tokens)
    engine.free(sequence)
    return logits


def best_of(logits: bytes) -> Drawn:
    values = list(memoryview(logits).cast("f"))
    return Drawn(values.index(max(values)))


def test_a_snapshot_outlives_its_sequence_and_is_not_touched_by_others(engine: AnyEngine) -> None:
    tokens = some_tokens(200)
    expected = cold(engine, tokens)
    sequence = engine.create()
    feed(engine, sequence, tokens[:150])
    snapshot = engine.snapshot(sequence)
    assert snapshot.position == 150
    feed(engine, sequence, some_tokens(40, seed=9))
    engine.free(sequence)
    cold(engine, some_tokens(260, seed=10))
    for _ in range(2):
        restored = engine.restore(snapshot)
        assert engine.length(restored) == 150
        assert feed(engine, restored, tokens[150:]) == expected[150:]
        engine.free(restored)
    engine.release(snapshot)


def test_forks_go_their_own_ways(engine: AnyEngine) -> None:
    start, left, right = some_tokens(137), some_tokens(50, seed=2), some_tokens(50, seed=3)
    sequence = engine.create()
    feed(engine, sequence, start)
    fork = engine.fork(sequence)
    assert feed(engine, sequence, left) == cold(engine, start + left)[137:]
    assert feed(engine, fork, right) == cold(engine, start + right)[137:]
    engine.free(sequence)
    engine.free(fork)


def test_complete_blocks_are_shared_and_partial_ones_copied_when_written(make_engine: MakeEngine) -> None:
    engine = make_engine(CROWDED_BYTES * 2, **CROWDED)
    num_blocks = engine.info.capacity_tokens // CHUNK_TOKENS

    def num_used() -> int:
        return round((1 - share_of_blocks(engine)) * num_blocks)

    sequence = engine.create()
    feed(engine, sequence, some_tokens(2 * CHUNK_TOKENS + 5))
    assert num_used() == 3
    forks = [engine.fork(sequence) for _ in range(3)]
    snapshot = engine.snapshot(sequence)
    assert num_used() == 3
    feed(engine, forks[0], [1])
    assert num_used() == 4
    feed(engine, sequence, [1])
    assert num_used() == 5
    for held in (*forks, sequence):
        engine.free(held)
    assert num_used() == 3
    engine.release(snapshot)
    assert num_used() == 0


def share_of_blocks(engine: AnyEngine) -> float:
    """Of free ones; the public ratio is that of slots where it is smaller."""
    if isinstance(engine, NativeEngine):
        info = engine.core_info()
        return float(info.free_blocks / info.num_blocks)
    pool = engine._pool
    return len(pool._free_blocks) / (engine.info.capacity_tokens // CHUNK_TOKENS)


def test_snapshots_grow_by_what_the_info_says(engine: AnyEngine) -> None:
    sizes = []
    for length in (0, 1024):
        sequence = engine.create()
        feed(engine, sequence, some_tokens(length))
        snapshot = engine.snapshot(sequence)
        sizes.append(snapshot.size_bytes)
        engine.release(snapshot)
        engine.free(sequence)
    assert sizes[0] == engine.info.state_bytes_fixed
    assert (sizes[1] - sizes[0]) / 1024 == engine.info.state_bytes_per_token


def test_a_full_memory_refuses_the_step_and_changes_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine(CROWDED_BYTES, **CROWDED)
    capacity = engine.info.capacity_tokens
    tokens = some_tokens(capacity)
    sequence = engine.create()
    for first in range(0, capacity, CHUNK_TOKENS):
        engine.step([Row(sequence=sequence, tokens=tokens[first : first + CHUNK_TOKENS])])
    assert engine.free_blocks_ratio() == 0
    other = engine.create()
    for _ in range(2):
        with pytest.raises(EngineFailure, match="state memory is full"):
            engine.step([Row(sequence=other, tokens=[1])])
    assert (engine.length(sequence), engine.length(other)) == (capacity, 0)
    engine.free(sequence)
    expected = cold(engine, tokens[:5])
    assert feed(engine, other, tokens[:5]) == expected
    engine.free(other)
    held = [engine.create() for _ in range(engine.info.capacity_states)]
    assert engine.free_blocks_ratio() == 0
    with pytest.raises(EngineFailure, match="slots"):
        engine.create()
    with pytest.raises(EngineFailure, match="slots"):
        engine.snapshot(held[0])
    with pytest.raises(EngineFailure, match="slots"):
        engine.fork(held[0])
    for each in held:
        engine.free(each)
    assert engine.free_blocks_ratio() == 1.0


def test_a_step_is_all_or_nothing(make_engine: MakeEngine) -> None:
    """One free block and two rows that need one: neither advances, each can be sent by itself."""
    engine = make_engine(CROWDED_BYTES, **CROWDED)
    num_blocks = engine.info.capacity_tokens // CHUNK_TOKENS
    large, first, second = (engine.create() for _ in range(3))
    tokens = some_tokens(num_blocks * CHUNK_TOKENS)
    feed(engine, large, tokens[: (num_blocks - 1) * CHUNK_TOKENS - 3])
    rows = [Row(sequence=large, tokens=[1, 2]), *(Row(sequence=each, tokens=tokens[:7]) for each in (first, second))]
    with pytest.raises(EngineFailure, match="1 blocks free, 2 needed"):
        engine.step(rows)
    assert [engine.length(each) for each in (large, first, second)] == [(num_blocks - 1) * CHUNK_TOKENS - 3, 0, 0]
    assert engine.step(rows[:2]) == [None, None]
    with pytest.raises(EngineFailure, match="0 blocks free, 1 needed"):
        engine.step(rows[2:])
    assert engine.length(second) == 0
    found = feed(engine, first, tokens[7:20])
    engine.free(large)
    assert feed(engine, second, tokens[:20])[7:] == found
    engine.free(first)
    engine.free(second)
    assert engine.free_blocks_ratio() == 1.0


def test_a_row_that_is_not_finite_leaves_its_neighbours_alone(make_engine: MakeEngine) -> None:
    def overflow(network: Network) -> None:
        with torch.no_grad():
            network.embed.weight[7] = 3e38

    engine = make_engine(edit=overflow)
    text = [token for token in some_tokens(180) if token != 7]
    expected = cold(engine, text)
    healthy, ill = engine.create(), engine.create()
    for at in range(len(text) - 1):
        engine.step([Row(sequence=healthy, tokens=[text[at]]), Row(sequence=ill, tokens=[7 if at == 50 else text[at]])])
    rows = [Row(sequence=ill, tokens=[7], draw=GREEDY), Row(sequence=healthy, tokens=[text[-1]], draw=GREEDY)]
    fault, drawn = engine.step(rows)
    assert fault == RowFault("the model's logits are not finite")
    assert drawn == best_of(expected[-1])
    engine.free(ill)
    reused = engine.create()
    assert feed(engine, reused, text) == expected
    engine.free(reused)
    engine.free(healthy)


def test_a_mask_that_allows_nothing_is_a_fault_of_its_row(engine: AnyEngine) -> None:
    tokens = some_tokens(9)
    sequences = [engine.create() for _ in range(3)]
    nothing, something = bytes(38), bytes([0b100, *bytes(37)])
    draws = [Draw(allowed=nothing), Draw(allowed=something), GREEDY]
    rows = [Row(sequence=each, tokens=tokens, draw=draw) for each, draw in zip(sequences, draws, strict=True)]
    expected = best_of(cold(engine, tokens)[-1])
    assert engine.step(rows) == [RowFault("no token is allowed here"), Drawn(2), expected]
    for each in sequences:
        engine.free(each)


def test_a_mask_can_be_computed_during_the_step(engine: AnyEngine) -> None:
    """What its computation raises, a library's panic too, is a fault of its row."""

    def raising(error: BaseException) -> bytes:
        raise error

    class Panic(BaseException):
        pass

    tokens = some_tokens(9)
    something = bytes([0b100, *bytes(37)])
    draws = [
        Draw(allowed=lambda: something),
        Draw(allowed=lambda: raising(KeyError("grammar"))),
        Draw(allowed=lambda: raising(Panic())),
        Draw(allowed=lambda: something[:37]),
        Draw(allowed=lambda: bytes(38)),
        Draw(allowed=something),
        GREEDY,
    ]
    sequences = [engine.create() for _ in draws]
    rows = [Row(sequence=each, tokens=tokens, draw=draw) for each, draw in zip(sequences, draws, strict=True)]
    expected = best_of(cold(engine, tokens)[-1])
    no_mask, nothing = RowFault("the answer's constraint could not be computed"), RowFault("no token is allowed here")
    assert engine.step(rows) == [Drawn(2), no_mask, no_mask, no_mask, nothing, Drawn(2), expected]
    for each in sequences:
        engine.free(each)


def test_a_draw_that_goes_on_from_step_to_step_draws_what_new_ones_would(engine: AnyEngine) -> None:
    """Also where rows change places, masks come and go, and penalties count what was written."""
    chance = random.Random(3)
    masks = [bytes(chance.randrange(1, 256) for _ in range(38)) for _ in range(3)]
    fields: list[dict[str, Any]] = [  # Any: the fields of a draw
        {"seed": 1},
        {"seed": 2, "temperature": 0.7, "num_top_logprobs": 2},
        {"seed": 3, "presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"seed": 4, "logit_bias": {5: 4.0, 9: 3.0}, "top_p": 0.9},
    ]
    counts: list[dict[int, int]] = [{} for _ in fields]
    kept = [Draw(**each, output_counts=count) for each, count in zip(fields, counts, strict=True)]
    first, second = ([engine.create() for _ in fields] for _ in range(2))
    tokens = [[number + 1] for number in range(len(fields))]
    order = list(range(len(fields)))
    for position in range(24):
        if position % 3 == 2:
            order = chance.sample(range(len(fields)), chance.randint(1, len(fields)))
        anew: list[Draw] = []
        for number in order:
            mask = chance.choice(masks)
            allowed = chance.choice([None, masks[0], mask, lambda mask=mask: mask])
            kept[number].position, kept[number].allowed = position, allowed
            anew.append(Draw(**fields[number], position=position, allowed=allowed, output_counts=counts[number].copy()))
        found = engine.step([Row(sequence=first[number], tokens=tokens[number], draw=kept[number]) for number in order])
        assert found == engine.step(
            [
                Row(sequence=second[number], tokens=tokens[number], draw=draw)
                for number, draw in zip(order, anew, strict=True)
            ]
        )
        for number, drawn in zip(order, found, strict=True):
            assert isinstance(drawn, Drawn)
            tokens[number] = [drawn.token] * (2 if position % 5 == 0 else 1)
            counts[number][drawn.token] = counts[number].get(drawn.token, 0) + 1
    for each in (*first, *second):
        engine.free(each)


def test_answers_stand_beside_their_rows(engine: AnyEngine) -> None:
    texts = [some_tokens(20, seed=seed) for seed in range(4)]
    expected = [best_of(cold(engine, text)[-1]) for text in texts]
    sequences = [engine.create() for _ in texts]
    wanted = [True, False, True, False]
    rows = [
        Row(sequence=sequence, tokens=text, draw=GREEDY if is_wanted else None)
        for sequence, text, is_wanted in zip(sequences, texts, wanted, strict=True)
    ]
    assert engine.step(rows) == [expected[0], None, expected[2], None]
    assert [engine.length(each) for each in sequences] == [20] * 4
    assert engine.step([]) == []
    for each in sequences:
        engine.free(each)


def test_many_rows_fit_one_step(make_engine: MakeEngine) -> None:
    engine = make_engine(1 << 27)
    texts = [some_tokens(3, seed=seed) for seed in range(70)]
    sequences = [engine.create() for _ in texts]
    rows = [Row(sequence=each, tokens=text, draw=GREEDY) for each, text in zip(sequences, texts, strict=True)]
    found = engine.step(rows)
    assert [found[at] for at in (0, 33, 69)] == [best_of(cold(engine, texts[at])[-1]) for at in (0, 33, 69)]


def test_broken_contracts_are_value_errors_and_change_nothing(engine: AnyEngine) -> None:
    sequence, bystander = engine.create(), engine.create()
    tokens = some_tokens(130)
    feed(engine, sequence, tokens[:100])
    for wrong in ([], [1] * 29, [1] * 129, [VOCAB_SIZE], [-1], [1 << 40]):
        with pytest.raises(ValueError, match="token"):
            engine.step([Row(sequence=bystander, tokens=[1]), Row(sequence=sequence, tokens=wrong)])
    with pytest.raises(ValueError, match="twice"):
        engine.step([Row(sequence=sequence, tokens=[1]), Row(sequence=sequence, tokens=[2])])
    for draw in (
        Draw(logit_bias={VOCAB_SIZE: 1.0}),
        Draw(logit_bias={1 << 40: 1.0}),
        Draw(output_counts={-1: 1}, presence_penalty=1.0),
        Draw(prompt_tokens=frozenset({VOCAB_SIZE}), repetition_penalty=1.5),
        Draw(allowed=b"\xff"),
    ):
        with pytest.raises(ValueError, match="draw"):
            engine.step([Row(sequence=sequence, tokens=[1], draw=draw)])
    assert (engine.length(sequence), engine.length(bystander)) == (100, 0)
    assert feed(engine, sequence, tokens[100:]) == cold(engine, tokens)[100:]
    engine.free(sequence)
    engine.free(bystander)


def test_what_is_gone_is_not_found(engine: AnyEngine, make_engine: MakeEngine) -> None:
    sequence = engine.create()
    snapshot = engine.snapshot(sequence)
    engine.release(snapshot)
    for use in (engine.restore, engine.release, engine.dump):
        with pytest.raises(ValueError, match="not a snapshot"):
            use(snapshot)
    other = make_engine()
    with pytest.raises(ValueError, match="not a snapshot"):
        other.restore(other_snapshot(engine, sequence))
    engine.free(sequence)
    for use_sequence in (engine.free, engine.fork, engine.snapshot, engine.length):
        with pytest.raises(ValueError, match="no sequence"):
            use_sequence(sequence)
    with pytest.raises(ValueError, match="no sequence"):
        engine.step([Row(sequence=sequence, tokens=[1])])


def other_snapshot(engine: AnyEngine, sequence: SequenceId) -> Any:  # Any: each engine takes its own kind
    snapshot = engine.snapshot(sequence)
    engine.release(snapshot)
    return snapshot


def test_the_context_limit_holds(make_engine: MakeEngine) -> None:
    engine = make_engine(max_position_embeddings=130)
    sequence = engine.create()
    engine.step([Row(sequence=sequence, tokens=some_tokens(128))])
    with pytest.raises(ValueError, match="context"):
        engine.step([Row(sequence=sequence, tokens=[1, 2, 3])])
    assert engine.step([Row(sequence=sequence, tokens=[1, 2])]) == [None]
    with pytest.raises(ValueError, match="context"):
        engine.step([Row(sequence=sequence, tokens=[1])])


def test_a_dumped_state_continues_in_another_engine(engine: AnyEngine, make_engine: MakeEngine) -> None:
    other = make_engine()
    tokens = some_tokens(180)
    expected = cold(engine, tokens)
    sequence = engine.create()
    feed(engine, sequence, tokens[:150])
    snapshot = engine.snapshot(sequence)
    loaded = other.load(engine.dump(snapshot))
    assert (loaded.position, loaded.size_bytes) == (150, snapshot.size_bytes)
    assert feed(other, other.restore(loaded), tokens[150:]) == expected[150:]
    with pytest.raises(ValueError, match=r"state|blob"):
        other.load(engine.dump(snapshot)[:-1])
    engine.release(snapshot)
    engine.free(sequence)


def test_equal_weights_have_equal_fingerprints(make_engine: MakeEngine) -> None:
    prints = [make_engine(seed=seed).info.fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_the_info_describes_the_network(engine: AnyEngine) -> None:
    info = engine.info
    assert (info.vocab_size, info.max_context) == (VOCAB_SIZE, 4096)
    total = sum(tensor.numel() for tensor in network_of(0, {}).named_tensors().values() if tensor.is_floating_point())
    assert info.total_parameters == total
    assert 0 < info.active_parameters < total
    assert info.capacity_states > 4
    assert info.capacity_tokens % CHUNK_TOKENS == 0


def test_both_engines_count_alike(tmp_path: Path) -> None:
    """The same network: what is said of it does not depend on who runs it."""
    if find_library() is None:
        pytest.skip("this installation has no native core")
    network = network_of(0, {})
    save_network(network, tmp_path)
    native = load_native_engine(tmp_path, EngineOptions(memory_bytes=MEMORY_BYTES)).info
    reference = ReferenceEngine(network, memory_bytes=MEMORY_BYTES).info
    assert native.total_parameters == reference.total_parameters
    # One of them rounds each expert's share, the other their sum.
    assert math.isclose(native.active_parameters, reference.active_parameters, rel_tol=1e-3)


def test_greedy_texts_agree_until_rounding_decides(tmp_path: Path) -> None:
    """Both engines in float32, from one prompt: equal tokens wherever the best two logits are apart."""
    if find_library() is None:
        pytest.skip("this installation has no native core")
    network = network_of(0, {})
    save_network(network, tmp_path, matrices=torch.float32)
    engines: list[AnyEngine] = [
        ReferenceEngine(network, memory_bytes=MEMORY_BYTES),
        load_native_engine(tmp_path, EngineOptions(memory_bytes=MEMORY_BYTES)),
    ]
    draw = Draw(temperature=0, num_top_logprobs=2)
    sequences = [engine.create() for engine in engines]
    tokens = some_tokens(100)
    num_compared = 0
    for _ in range(60):
        answers = [
            engine.step([Row(sequence=sequence, tokens=tokens, draw=draw)])[0]
            for engine, sequence in zip(engines, sequences, strict=True)
        ]
        mine, theirs = answers
        assert isinstance(mine, Drawn)
        assert isinstance(theirs, Drawn)
        assert mine.logprob is not None
        if mine.top[0][1] - mine.top[1][1] > 1e-4:
            assert theirs.token == mine.token
            assert math.isclose(theirs.logprob or 0, mine.logprob, abs_tol=1e-4)
            num_compared += 1
        tokens = [mine.token]
        if engines[0].length(sequences[0]) % CHUNK_TOKENS == 0:
            break
    assert num_compared > 20
