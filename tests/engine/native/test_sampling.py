"""The core draws what `reference/sampling.py` draws: both follow `Draw`, from the same logits to the same token.

The logits come from a network whose head has many rows, some of them equal to the last bit. Whether two draws agree is
decided by float64 sums in different orders, so they could differ once in some 10^12 draws.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepserve.config import WeightFormats
from deepserve.engine.interface import Draw, Drawn, Row, RowFault, SequenceId
from deepserve.engine.native.engine import NativeEngine, load_native_engine
from deepserve.engine.native.shared_library import instruction_sets, load_library
from deepserve.engine.options import EngineOptions
from deepserve.engine.reference.sampling import draw_token
from tests.engine.native.networks import NARROW, config_of, random_network, save

VOCAB_SIZE = 5003
FP32 = WeightFormats(dense="fp32", experts="fp32", head="fp32")
TINY = {**NARROW, "vocab_size": VOCAB_SIZE, "num_hidden_layers": 1, "compress_ratios": (0,), "num_hash_layers": 0}


class Source:
    """Logits of one engine, and draws from them as often as wanted."""

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self._start: SequenceId = engine.create()

    def logits(self, token: int) -> NDArray[np.float32]:
        """The logits after this token at the start of a sequence."""
        sequence = self.engine.fork(self._start)
        ((logits,),) = self.engine.logits([Row(sequence=sequence, tokens=[token])])
        self.engine.free(sequence)
        return np.array(logits)

    def draw(self, token: int, *draws: Draw) -> list[Drawn | RowFault | None]:
        """One step with a row for each draw from the logits after this token."""
        sequences = [self.engine.fork(self._start) for _ in draws]
        rows = [
            Row(sequence=sequence, tokens=[token], draw=draw) for sequence, draw in zip(sequences, draws, strict=True)
        ]
        drawn = self.engine.step(rows)
        for sequence in sequences:
            self.engine.free(sequence)
        return drawn


def source_of(folder: Path, *, head_scale: float, isa: Any = None) -> Source:  # Any: a name known to be one
    network = random_network(config_of(TINY), seed=3)
    with torch.no_grad():
        network.head.weight.mul_(head_scale)
        # Ties: whole families of equal logits, far apart and side by side.
        network.head.weight[1000:1040] = network.head.weight[7]
        network.head.weight[4000:4003] = network.head.weight[11]
        network.head.weight[2500:2900] = 0.0
    save(network, folder, "fp32")
    return Source(load_native_engine(folder, EngineOptions(memory_bytes=1 << 26, weights=FP32, isa=isa)))


@pytest.fixture(scope="module", params=[0.05, 0.5, 2.0, 20.0], ids=lambda scale: f"logits times {scale}")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source_of(tmp_path_factory.mktemp("head"), head_scale=request.param)


def random_draw(chance: random.Random) -> Draw:
    def sometimes(value: Any, otherwise: Any, share: float = 0.4) -> Any:  # Any: a field of any type
        return value if chance.random() < share else otherwise

    def some(most: int) -> list[int]:
        return chance.sample(range(VOCAB_SIZE), chance.randint(0, most))

    mask = bytearray(chance.randbytes((VOCAB_SIZE + 7) // 8)) if chance.random() < 0.5 else bytearray(626)
    for token in some(20):
        mask[token >> 3] |= 1 << (token & 7)
    return Draw(
        temperature=chance.choice([0.0, 0.2, 0.7, 1.0, 1.0, 1.5, 2.0, 1e-3, 100.0]),
        top_p=sometimes(chance.choice([0.99, 0.9, 0.5, 0.1, 1e-6, chance.random() + 1e-9]), 1.0),
        top_k=sometimes(chance.choice([1, 2, 5, 40, 400, 4000, 10_000]), 0),
        min_p=sometimes(chance.choice([0.001, 0.05, 0.5, 1.0, chance.random()]), 0.0, 0.3),
        repetition_penalty=sometimes(chance.choice([0.5, 1.1, 1.3, 2.0]), 1.0),
        frequency_penalty=sometimes(chance.uniform(-2, 2), 0.0),
        presence_penalty=sometimes(chance.uniform(-2, 2), 0.0),
        logit_bias=sometimes({token: chance.choice([-100.0, 100.0, chance.uniform(-5, 5)]) for token in some(30)}, {}),
        seed=chance.getrandbits(64),
        position=chance.choice([0, 1, 7, chance.getrandbits(20), chance.getrandbits(63)]),
        num_top_logprobs=sometimes(chance.choice([0, 1, 5, 20]), None),
        prompt_tokens=frozenset(some(300)),
        output_counts={token: chance.choice([1, 1, 2, 30]) for token in some(300)},
        allowed=sometimes(bytes(mask), None, 0.3),
    )


def assert_same(found: Drawn | RowFault | None, expected: Drawn | RowFault, draw: Draw) -> None:
    if isinstance(expected, RowFault):
        assert found == expected, draw
        return
    assert isinstance(found, Drawn), draw
    assert found.token == expected.token, draw
    if expected.logprob is None:
        assert found == expected
        return
    assert found.logprob == pytest.approx(expected.logprob, abs=1e-9), draw
    assert [token for token, _ in found.top] == [token for token, _ in expected.top], draw
    assert [value for _, value in found.top] == pytest.approx([value for _, value in expected.top], abs=1e-9), draw


def test_random_draws_are_the_references(source: Source) -> None:
    chance = random.Random(11)
    num_faults = 0
    for token in range(25):
        logits = source.logits(token)
        draws = [random_draw(chance) for _ in range(30)]
        for draw, found in zip(draws, source.draw(token, *draws), strict=True):
            expected = draw_token(logits, draw)
            assert_same(found, expected, draw)
            num_faults += isinstance(expected, RowFault)
    assert num_faults < 250


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 3},
        {"top_k": 41},
        {"top_p": 0.5},
        {"min_p": 1.0},
        {"top_k": 40, "top_p": 0.3, "min_p": 0.9},
        {"top_k": 100, "min_p": 1.0, "temperature": 1e-6},
        {"temperature": 1e9},
        {"temperature": 0.0, "num_top_logprobs": 20},
        {"num_top_logprobs": 20, "top_k": 20},
    ],
)
def test_ties_are_ranked_by_token(source: Source, fields: Mapping[str, Any]) -> None:
    """Forty-one tokens share the best logit, and each of their places is drawn."""
    bias = dict.fromkeys((7, *range(1000, 1040)), 50.0)
    draws = [Draw(seed=seed, logit_bias=bias, **fields) for seed in range(60)]
    logits = source.logits(1)
    for draw, found in zip(draws, source.draw(1, *draws), strict=True):
        assert_same(found, draw_token(logits, draw), draw)


def test_biases_of_minus_infinity_forbid(source: Source) -> None:
    logits = source.logits(2)
    best = int(logits.argmax())
    others = {token: -math.inf for token in range(VOCAB_SIZE) if token not in (best, 5)}
    for seed in range(20):
        draw = Draw(seed=seed, logit_bias=others, num_top_logprobs=20, temperature=100.0)
        (found,) = source.draw(2, draw)
        assert_same(found, draw_token(logits, draw), draw)
        assert isinstance(found, Drawn)
        assert {token for token, _ in found.top} == {best, 5}
    every = dict.fromkeys(range(VOCAB_SIZE), -math.inf)
    assert source.draw(2, Draw(logit_bias=every), Draw(allowed=bytes(626))) == [
        RowFault("no token is allowed here"),
        RowFault("no token is allowed here"),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {3: math.nan}},
        {"logit_bias": {3: math.inf}},
        {"repetition_penalty": 5e-324, "prompt_tokens": frozenset(range(50))},
        {"repetition_penalty": 1e-320, "presence_penalty": 1e308, "output_counts": {3: 1}, "num_top_logprobs": 5},
        {"frequency_penalty": -1e308, "output_counts": {3: 100}, "temperature": 0.0},
        {"frequency_penalty": 1e308, "output_counts": {3: 100, 4: 100}},
    ],
)
def test_numbers_that_overflow_are_faults_or_draws_but_never_disorder(
    source: Source, fields: Mapping[str, Any]
) -> None:
    """A score that was no number had no place in the ranking: sorting it is undefined. Both engines say the same."""
    logits = source.logits(3)
    with np.errstate(all="ignore"):
        for seed in range(5):
            draw = Draw(seed=seed, **fields)
            (found,) = source.draw(3, draw)
            assert_same(found, draw_token(logits, draw), draw)


def test_positions_and_seeds_count_modulo_two_to_the_64(source: Source) -> None:
    draws = [Draw(seed=seed, position=at) for seed in (-1, (1 << 64) - 1, 1 << 70) for at in (0, (1 << 64) + 5, -3)]
    logits = source.logits(4)
    for draw, found in zip(draws, source.draw(4, *draws), strict=True):
        assert_same(found, draw_token(logits, draw), draw)


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.5}, {"temperature": 2.0, "top_k": 30}, {"top_p": 0.7}, {"min_p": 0.1, "top_p": 0.95}],
)
def test_shares_follow_the_softmax(source: Source, fields: Mapping[str, Any]) -> None:
    """Chi-square over the tokens that may be drawn, rare ones put together; by fixed seeds, so it cannot flicker."""
    logits = source.logits(6).astype(np.float64)
    draw = Draw(**fields)
    weights = np.exp((logits - logits.max()) / draw.temperature)
    order = np.argsort(-logits, kind="stable")
    kept = order[: draw.top_k] if draw.top_k else order
    mass = weights[kept].cumsum()
    kept = kept[: int(np.searchsorted(mass, draw.top_p * mass[-1])) + 1]
    kept = kept[weights[kept] >= draw.min_p * weights.max()]
    shares = weights[kept] / weights[kept].sum()
    number = 3000
    counts: Counter[int] = Counter()
    for first in range(0, number, 60):
        drawn = source.draw(6, *(Draw(seed=seed, position=seed % 3, **fields) for seed in range(first, first + 60)))
        counts.update(each.token for each in drawn if isinstance(each, Drawn))
    assert counts.total() == number
    assert counts.keys() <= set(kept.tolist())
    # Groups of tokens by rank, each expected at least eight times.
    statistic, degrees, expected, found = 0.0, -1, 0.0, 0
    for token, share in zip(kept.tolist(), shares, strict=True):
        expected += number * share
        found += counts[token]
        if expected >= 8:
            statistic += (found - expected) ** 2 / expected
            degrees, expected, found = degrees + 1, 0.0, 0
    # Beyond this in one of 10,000 fair cases: Wilson and Hilferty's approximation.
    limit = max(1, degrees) * (1 - 2 / (9 * max(1, degrees)) + 3.72 * math.sqrt(2 / (9 * max(1, degrees)))) ** 3
    assert statistic < limit


def test_every_instruction_set_draws_the_same(tmp_path: Path) -> None:
    chance = random.Random(12)
    draws = [random_draw(chance) for _ in range(60)]
    seen = [source_of(tmp_path, head_scale=0.5, isa=isa).draw(1, *draws) for isa in instruction_sets(load_library())]
    for other in seen[1:]:
        for found, expected, draw in zip(other, seen[0], draws, strict=True):
            assert expected is not None
            assert_same(found, expected, draw)
