"""The engine's promises: transformers' numbers from state, and the same bits however the work is cut up."""

from __future__ import annotations

import torch

from deepserve.engine.interface import CHUNK_TOKENS, Row, SequenceId
from deepserve.engine.reference.engine import ReferenceEngine
from tests.engine.reference.oracle import oracle, ours


def rows(engine: ReferenceEngine, sequence: SequenceId, tokens: list[int], most: int = CHUNK_TOKENS) -> list[Row]:
    """Cut tokens into rows of at most this length that cross no border."""
    cut, at = [], engine.length(sequence)
    while tokens:
        size = min(most, CHUNK_TOKENS - at % CHUNK_TOKENS)
        cut.append(Row(sequence=sequence, tokens=tokens[:size]))
        tokens, at = tokens[size:], at + len(tokens[:size])
    return cut


def feed(engine, sequence, tokens, most=128):
    return torch.cat([engine.logits([row])[0] for row in rows(engine, sequence, tokens, most)])


def test_x():
    for ch in (
        {},
        {
            "index_topk": 4,
            "num_attention_heads": 2,
            "head_dim": 48,
            "n_routed_experts": 7,
            "num_experts_per_tok": 3,
            "hidden_size": 72,
        },
        {"sliding_window": 100, "compress_ratios": [32, 4, 0, 4], "qk_rope_head_dim": 4},
        {"index_topk": 10, "sliding_window": 128, "compress_ratios": [0, 4, 16, 4]},
    ):
        model = oracle(**ch)
        engine = ReferenceEngine(ours(model, **ch), memory_bytes=1 << 26)
        tokens = torch.randint(512, (700,), generator=torch.Generator().manual_seed(3)).tolist()
        expected = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
        a = feed(engine, engine.create(), tokens)
        print((a - expected).abs().max())
        for most in (1, 7, 13, 50, 128):
            b = feed(engine, engine.create(), tokens, most)
            print(most, (b - expected).abs().max(), torch.equal(a, b), (a - b).abs().amax(1).nonzero().flatten()[:5])
