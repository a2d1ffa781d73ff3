"""The dense network against transformers, its gradients, and what training needs of it."""

from __future__ import annotations

import pytest
import torch

from tests.engine.reference.oracle import oracle, ours

LENGTHS = (1, 5, 8, 9, 64, 127, 128, 129, 300)


@pytest.mark.parametrize("changes", [{}, {"sliding_window": 128, "compress_ratios": [0, 4, 16, 4]}])
@torch.inference_mode()
def test_logits_equal_transformers_at_every_length(changes: dict[str, object]) -> None:
    model = oracle(**changes)
    network = ours(model, **changes)
    generator = torch.Generator().manual_seed(1)
    for length in LENGTHS:
        tokens = torch.randint(512, (2, length), generator=generator)
        expected = model(input_ids=tokens, use_cache=False).logits
        assert expected.abs().max() > 0.5
        assert (network(tokens) - expected).abs().max() < 2e-5, length
