"""Training with the experts as they ship, in FP4, so that exporting them changes little.

Gradients are taken where the rounded weights are, and move the weights that are not (the straight-through estimator).
Source: DeepSeek-V4 report, on training with FP4 experts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from deepserve.engine.reference.experts import Experts
from deepserve.engine.reference.network import Network
from deepserve.engine.reference.quantisation import dequantise_fp4, fp4_scales, quantise_fp4


def rounded(weights: Tensor) -> Tensor:
    """What is left of stacked experts' matrices [X, outputs, inputs] after they were stored in FP4."""
    rows = weights.flatten(0, 1)
    scales = fp4_scales(rows).view(torch.float8_e8m0fnu)
    return dequantise_fp4(quantise_fp4(rows).view(torch.int8), scales).view_as(weights)


@contextlib.contextmanager
def rounded_experts(network: Network) -> Iterator[None]:
    """Round the routed experts of all layers, and put them back at the end."""
    matrices = [
        matrix.data for module in network.modules() if isinstance(module, Experts) for matrix in (module.w13, module.w2)
    ]
    kept = [matrix.clone() for matrix in matrices]
    for matrix in matrices:
        matrix.copy_(rounded(matrix))
    try:
        yield
    finally:
        for matrix, exact in zip(matrices, kept, strict=True):
            matrix.copy_(exact)
