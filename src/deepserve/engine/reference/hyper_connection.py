"""Manifold-constrained hyper-connections: how a layer reads from and writes to the parallel residual streams.

Dimension legend: N tokens, S streams (`hc_mult`), d hidden width.
Source: DeepSeek-V4 report, section 2.2; Xie et al., "mHC: Manifold-Constrained Hyper-Connections".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from deepserve.engine.network_config import NetworkConfig


class Mix(NamedTuple):
    """What one sub-block does with the streams of each token."""

    read: Tensor
    """[N, S] weights of the streams in the sub-block's input."""
    write: Tensor
    """[N, S] weights of the sub-block's output in each stream."""
    carry: Tensor
    """[N, S, S] doubly stochastic; stream k keeps carry[j, k] of stream j (the first index is summed over)."""


class HyperWeights(NamedTuple):
    """Weights of one hyper-connection, prepared for `hyper_mix`."""

    fn: Tensor
    """[S + S + S * S, S * d]: what produces the scores of read, write and carry."""
    base: Tensor
    scale: Tensor
    """One for each score."""


class Lines(NamedTuple):
    """0/1 matrices [S * S + 1, S * S] that put the sum of a row or column, and what follows, at each of its places."""

    rows: Tensor
    columns: Tensor


def hyper_weights(fn: Tensor, base: Tensor, scale: Tensor, streams: int) -> HyperWeights:
    """Repeat the three stored scales [3] for their scores."""
    widths = torch.tensor((streams, streams, streams * streams), device=scale.device)
    return HyperWeights(fn, base, scale.repeat_interleave(widths))


def lines(streams: int, device: torch.device) -> Lines:
    one, eye = torch.ones(streams, streams, device=device), torch.eye(streams, device=device)
    return Lines(F.pad(torch.kron(eye, one), (0, 0, 0, 1), value=1), F.pad(torch.kron(one, eye), (0, 0, 0, 1), value=1))


def balance(matrices: Tensor, steps: Sequence[Tensor], eps: float) -> Tensor:
    """Divide flattened S x S matrices by the sums of their lines, one step after the other; for inference.

    A step is two operations over all tokens: a product with a matrix of `Lines`, and a division. A further column
    that holds eps adds it to every sum.
    """
    width = matrices.shape[1]
    wide = F.pad(matrices, (0, 1), value=eps)
    matrices, sums = wide[:, :width], torch.empty_like(matrices)
    for step in steps:
        torch.mm(wide, step, out=sums)
        matrices.div_(sums)
    return matrices


class _Balance(torch.autograd.Function):
    """`balance` for training. The gradient of C' = C / s is walked back over the kept C' and s."""

    @staticmethod
    @override
    def forward(ctx: Any, matrices: Tensor, steps: Sequence[Tensor], eps: float) -> Tensor:  # Any: autograd's context
        floor = matrices.new_full((1, matrices.shape[1]), eps)
        tape: list[Tensor] = []
        for step in steps:
            sums = torch.addmm(floor, matrices, step)
            matrices = matrices / sums
            tape += (matrices, sums)
        ctx.steps = steps
        ctx.save_for_backward(*tape)
        return matrices

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        tape = ctx.saved_tensors
        for step, balanced, sums in zip(reversed(ctx.steps), tape[-2::-2], tape[::-2], strict=True):
            grad = torch.addmm(grad, grad * balanced, step, alpha=-1).div_(sums)
        return grad, None, None


def sinkhorn(matrices: Tensor, along: Lines, *, iterations: int, eps: float) -> Tensor:
    """Make S x S matrices of positive numbers nearly doubly stochastic; the first round has only its column step.

    matrices [N, S * S] -> [N, S, S]
    """
    width = matrices.shape[-1]
    if matrices.requires_grad:
        rows, columns = along.rows[:width], along.columns[:width]
        steps = (columns, *((rows, columns) * (iterations - 1)))
        balanced: Tensor = _Balance.apply(matrices, steps, eps)  # type: ignore[no-untyped-call]  # torch: untyped
    else:
        balanced = balance(matrices, (along.columns, *((along.rows, along.columns) * (iterations - 1))), eps)
    size = round(width**0.5)
    return balanced.view(-1, size, size)


def inverse_rms(rows: Tensor, eps: float) -> Tensor:
    """[N, width] -> [N, 1]"""
    norm: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return (norm.square_() / rows.shape[-1] + eps).rsqrt_()


class _StreamScores(torch.autograd.Function):
    """Project RMS-normalised rows; the norm is applied after the product, the same number in one pass less."""

    @staticmethod
    @override
    def forward(ctx: Any, rows: Tensor, fn: Tensor, eps: float) -> Tensor:  # Any: autograd's context
        inverse = inverse_rms(rows, eps)
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
    rows = streams.flatten(1).float()
    if rows.requires_grad or fn.requires_grad:
        scores: Tensor = _StreamScores.apply(rows, fn, eps)  # type: ignore[no-untyped-call]  # torch: untyped
        return scores
    plain: Tensor = F.linear(rows, fn) * inverse_rms(rows, eps)
    return plain


def hyper_mix(streams: Tensor, weights: HyperWeights, along: Lines, config: NetworkConfig) -> Mix:
    """Compute the three mixes of one sub-block from streams [N, S, d]."""
    size = config.hc_mult
    scores = torch.addcmul(weights.base, stream_scores(streams, weights.fn, config.rms_norm_eps), weights.scale)
    read, write, carry = torch.split_with_sizes(scores, (size, size, size * size), -1)
    carry = carry.view(-1, size, size).softmax(-1).flatten(-2) + config.hc_eps
    return Mix(
        read.sigmoid() + config.hc_eps,
        2 * write.sigmoid(),
        sinkhorn(carry, along, iterations=config.hc_sinkhorn_iters, eps=config.hc_eps),
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
