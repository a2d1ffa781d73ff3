"""Manifold-constrained hyper-connections: how a layer reads from and writes to the parallel residual streams.

Dimension legend: N tokens, S streams (`hc_mult`), d hidden width.
Source: DeepSeek-V4 report, section 2.2; Xie et al., "mHC: Manifold-Constrained Hyper-Connections".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from .config import NetworkConfig


class Mix(NamedTuple):
    """What one sub-block does with the streams of each token."""

    read: Tensor
    """[N, S] weights of the streams in the sub-block's input."""
    write: Tensor
    """[N, S] weights of the sub-block's output in each stream."""
    carry: Tensor
    """[N, S, S] doubly stochastic; stream k keeps carry[j, k] of stream j (the first index is summed over)."""


class _Balance(torch.autograd.Function):
    """Sinkhorn-Knopp on flattened S x S matrices: divide by column sums, then alternate rows and columns.

    A half-round is two operations over all tokens: one product with a 0/1 matrix that puts each line's sum (plus
    eps) at every place of the line, and a division. The gradient of C' = C / s walks back over the kept C' and s.
    """

    @staticmethod
    @override
    def forward(ctx: Any, matrices: Tensor, lines: tuple[Tensor, ...], eps: float) -> Tensor:  # Any: autograd's context
        floor = matrices.new_full((1, matrices.shape[1]), eps)
        kept = []
        for line in lines:
            sums = torch.addmm(floor, matrices, line)
            matrices = matrices / sums
            if ctx.needs_input_grad[0]:
                kept += [matrices, sums]
        ctx.lines = lines
        ctx.save_for_backward(*kept)
        return matrices

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        kept = ctx.saved_tensors
        for line, balanced, sums in zip(reversed(ctx.lines), kept[-2::-2], kept[::-2], strict=True):
            grad = torch.addmm(grad, grad * balanced, line, alpha=-1).div_(sums)
        return grad, None, None


def sinkhorn(matrices: Tensor, *, iterations: int, eps: float) -> Tensor:
    """Make S x S matrices of positive numbers nearly doubly stochastic; the first round has only its column step.

    matrices [N, S * S] -> [N, S, S]
    """
    size = round(matrices.shape[-1] ** 0.5)
    one, eye = matrices.new_ones(size, size), torch.eye(size, dtype=matrices.dtype, device=matrices.device)
    rows, columns = torch.kron(eye, one), torch.kron(one, eye)
    lines = (columns, *((rows, columns) * (iterations - 1)))
    balanced: Tensor = _Balance.apply(matrices, lines, eps)  # type: ignore[no-untyped-call]  # torch: untyped
    return balanced.view(-1, size, size)


class _StreamScores(torch.autograd.Function):
    """Project RMS-normalised rows; the norm is applied after the product, the same number in one pass less."""

    @staticmethod
    @override
    def forward(ctx: Any, rows: Tensor, fn: Tensor, eps: float) -> Tensor:  # Any: autograd's context
        inverse = (torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_() / rows.shape[-1] + eps).rsqrt_()
        scores: Tensor = F.linear(rows, fn) * inverse
        ctx.save_for_backward(rows, fn, inverse, scores)
        return scores

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, fn, inverse, scores = ctx.saved_tensors
        grad = grads[0] * inverse
        along = (grads[0] * scores).sum(-1, keepdim=True) * inverse.square() / rows.shape[-1]
        grad_rows: Tensor = (grad @ fn).addcmul_(rows, along, value=-1)
        return grad_rows, grad.T @ rows, None


def stream_scores(streams: Tensor, fn: Tensor, eps: float) -> Tensor:
    """Project the RMS-normalised, flattened streams [N, S, d] to one number per row of fn; float32."""
    scores: Tensor = _StreamScores.apply(streams.flatten(1).float(), fn, eps)  # type: ignore[no-untyped-call]  # torch: untyped
    return scores


def hyper_mix(streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, config: NetworkConfig) -> Mix:
    """Compute the three mixes of one sub-block from streams [N, S, d]."""
    size = config.hc_mult
    widths = torch.tensor((size, size, size * size), device=scale.device)
    scores = stream_scores(streams, fn, config.rms_norm_eps) * scale.repeat_interleave(widths) + base
    read, write, carry = scores.split((size, size, size * size), -1)
    carry = carry.unflatten(-1, (size, size)).softmax(-1).flatten(-2) + config.hc_eps
    return Mix(
        read.sigmoid() + config.hc_eps,
        2 * write.sigmoid(),
        sinkhorn(carry, iterations=config.hc_sinkhorn_iters, eps=config.hc_eps),
    )


def collapse(streams: Tensor, read: Tensor) -> Tensor:
    """Weighted sum of the streams: [N, S, d], [N, S] -> [N, d]."""
    return torch.bmm(read.to(streams.dtype).unsqueeze(1), streams).squeeze(1)


def expand(streams: Tensor, output: Tensor, mix: Mix) -> Tensor:
    """Write a sub-block's output [N, d] back into the streams [N, S, d]."""
    # One product per token: the new streams are [carry | write] times the old streams with the output below.
    weights = torch.cat((mix.carry.transpose(1, 2), mix.write.unsqueeze(-1)), -1)
    return torch.bmm(weights.to(streams.dtype), torch.cat((streams, output.unsqueeze(1)), 1))


def hyper_head(streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, config: NetworkConfig) -> Tensor:
    """Collapse the streams after the last layer: [N, S, d] -> [N, d]."""
    scores = stream_scores(streams, fn, config.rms_norm_eps)
    return collapse(streams, (scores * scale + base).sigmoid() + config.hc_eps)
