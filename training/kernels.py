"""The small operations of training as compiled functions with gradients; see `kernels.c`.

Compiled on first use with the C compiler of the machine (`CC`, or `cc`), which takes a second, and kept in the user's
cache folder. `are_available()` is false without one; training then takes the plain network.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

_SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = ("-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-fPIC")


class Turning(NamedTuple):
    """Angles of the rotary turn at positions 0, 1, ...: [length, pairs] each."""

    cosines: Tensor
    sines: Tensor

    @property
    def length(self) -> int:
        return self.cosines.shape[0]

    @property
    def pairs(self) -> int:
        return self.cosines.shape[1]


def turning(positions: Tensor, frequencies: Tensor) -> Turning:
    """Angles of integer positions [length]."""
    angles = positions.float().unsqueeze(-1) * frequencies
    return Turning(angles.cos(), angles.sin())


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def _processor() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    return "".join(
        line for line in info.read_text().split("\n\n")[0].splitlines() if line.startswith(("flags", "model"))
    )


@functools.cache
def _library() -> ctypes.CDLL | None:
    compiler = _compiler()
    if compiler is None:
        return None
    key = hashlib.sha256(f"{_SOURCE.read_text()}{_FLAGS}{compiler}{_processor()}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deepserve"
    library = cache / f"training-kernels-{key}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            compiled, linked = Path(folder, "kernels.o"), Path(folder, "kernels.so")
            commands = (
                (compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(compiled)),
                # Linked without -ffast-math, which would change how the whole process rounds tiny numbers.
                (compiler, "-shared", str(compiled), "-o", str(linked)),
            )
            for command in commands:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    return None
            linked.replace(library)
    loaded = ctypes.CDLL(str(library))
    loaded.cross_entropy.restype = ctypes.c_double
    return loaded


def are_available() -> bool:
    """Whether the kernels are, or could be, compiled."""
    return _library() is not None


def _call(name: str, *arguments: Tensor | int | float | None) -> Any:  # Any: a C function's result
    """Call a kernel: tensors as pointers, whole numbers as int64, others as float."""
    given: list[object] = []
    for argument in arguments:
        match argument:
            case Tensor():
                assert argument.is_contiguous()
                given.append(ctypes.c_void_p(argument.data_ptr()))
            case None:
                given.append(ctypes.c_void_p())
            case int():
                given.append(ctypes.c_int64(argument))
            case _:
                given.append(ctypes.c_float(argument))
    return getattr(_library(), name)(*given)


class _Read(torch.autograd.Function):
    """A sub-block's input and its mixes, from the streams."""

    @staticmethod
    @override
    def forward(
        ctx: Any,
        streams: Tensor,
        fn: Tensor,
        base: Tensor,
        scale: Tensor,
        weight: Tensor,
        steps: int,
        hyper_eps: float,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        # Any: autograd's context
        num, _, d = streams.shape
        rows = streams.flatten(1)
        inverses = streams.new_empty(num, 1)
        _call("inverse_rms", rows, inverses, num, rows.shape[1], eps)
        projected = (rows @ fn.T).mul_(inverses)
        scores = torch.addcmul(base, projected, scale)
        mixes = torch.empty_like(scores)
        _call("mix_forward", scores, mixes, num, steps, hyper_eps)
        collapsed = streams.new_empty(num, d)
        _call("collapse_forward", streams, mixes, collapsed, num, d)
        out, out_inverses = torch.empty_like(collapsed), streams.new_empty(num)
        _call(
            "norm_turn_forward", collapsed, weight, None, None, out, out_inverses, num, d, 0, 1, 1, 1.0, 1.0, float(eps)
        )
        ctx.save_for_backward(streams, fn, scale, weight, inverses, projected, scores, mixes, collapsed, out_inverses)
        ctx.steps, ctx.hyper_eps = steps, hyper_eps
        return out, mixes

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        streams, fn, scale, weight, inverses, projected, scores, mixes, collapsed, out_inverses = ctx.saved_tensors
        num, _, d = streams.shape
        grad_collapsed, grad_mixes = (
            grads[0].clone(memory_format=torch.contiguous_format),
            grads[1].contiguous().clone(),
        )
        grad_weight = torch.zeros_like(weight)
        _call(
            "norm_turn_backward", collapsed, weight, None, None, grad_collapsed, out_inverses, grad_weight,
            num, d, 0, 1, 1, 1.0, 1.0,
        )  # fmt: skip
        grad_streams = torch.empty_like(streams)
        _call("collapse_backward", streams, mixes, grad_collapsed, grad_streams, grad_mixes, num, d)
        _call("mix_backward", scores, grad_mixes, num, ctx.steps, ctx.hyper_eps)
        grad_projected = grad_mixes * scale
        rows = streams.flatten(1)
        along = (grad_projected * projected).sum(-1, keepdim=True) * inverses.square() / rows.shape[1]
        grad_raw = grad_projected.mul_(inverses)
        grad_rows = grad_streams.view_as(rows)
        grad_rows.addmm_(grad_raw, fn).addcmul_(rows, along, value=-1)
        return (
            grad_streams,
            grad_raw.T @ rows,
            grad_mixes.sum(0),
            (grad_mixes * projected).sum(0),
            grad_weight,
            None,
            None,
            None,
        )


def read(
    streams: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    weight: Tensor,
    *,
    steps: int,
    hyper_eps: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """streams [N, 4, d] -> the normalised input of a sub-block [N, d] and its mixes [N, 24] for `write`."""
    out, mixes = _Read.apply(streams, fn, base, scale, weight, steps, hyper_eps, eps)  # type: ignore[no-untyped-call]
    return out, mixes


class _Write(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, streams: Tensor, out: Tensor, mixes: Tensor) -> Tensor:
        out = out.contiguous()
        made = torch.empty_like(streams)
        _call("expand_forward", streams, out, mixes, made, len(out), out.shape[1])
        ctx.save_for_backward(streams, out, mixes)
        return made

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        streams, out, mixes = ctx.saved_tensors
        grad_streams, grad_out, grad_mixes = (torch.empty_like(one) for one in (streams, out, mixes))
        _call(
            "expand_backward", streams, out, mixes, grads[0].contiguous(), grad_streams, grad_out, grad_mixes,
            len(out), out.shape[1],
        )  # fmt: skip
        return grad_streams, grad_out, grad_mixes


def write(streams: Tensor, out: Tensor, mixes: Tensor) -> Tensor:
    """The streams [N, 4, d] after a sub-block that gave out [N, d]."""
    made: Tensor = _Write.apply(streams, out, mixes)  # type: ignore[no-untyped-call]
    return made


class _NormTurn(torch.autograd.Function):
    @staticmethod
    @override
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor | None,
        angles: Turning | None,
        heads: int,
        factor: float,
        eps: float | None,
        sign: float,
    ) -> Tensor:
        rows = rows.contiguous()
        width = rows.shape[-1]
        num = rows.numel() // width
        out = torch.empty_like(rows)
        inverses = None if eps is None else rows.new_empty(num)
        ctx.layout = (
            num, width, *((angles.pairs, heads, angles.length) if angles else (0, 1, 1)), factor, sign
        )  # fmt: skip
        ctx.angles = angles
        cosines, sines = (angles.cosines, angles.sines) if angles else (None, None)
        _call("norm_turn_forward", rows, weight, cosines, sines, out, inverses, *ctx.layout, float(eps or 0))
        ctx.save_for_backward(rows if eps is not None or weight is not None else None, weight, inverses)
        return out

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, inverses = ctx.saved_tensors
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        grad_weight = None if weight is None else torch.zeros_like(weight)
        cosines, sines = (ctx.angles.cosines, ctx.angles.sines) if ctx.angles else (None, None)
        _call(
            "norm_turn_backward", grad if rows is None else rows, weight, cosines, sines, grad, inverses, grad_weight,
            *ctx.layout,
        )  # fmt: skip
        return grad, grad_weight, None, None, None, None, None


def norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm of the last dimension."""
    out: Tensor = _NormTurn.apply(rows, weight, None, 1, 1.0, eps, 1.0)  # type: ignore[no-untyped-call]
    return out


def norm_turn(
    rows: Tensor, weight: Tensor | None, angles: Turning, eps: float, *, heads: int = 1, factor: float = 1.0
) -> Tensor:
    """RMS norm, then the rotary turn: rows [B, T, W] or [B, T, heads, W]."""
    out: Tensor = _NormTurn.apply(rows, weight, angles, heads, factor, eps, 1.0)  # type: ignore[no-untyped-call]
    return out


def turn(rows: Tensor, angles: Turning, *, heads: int = 1, back: bool = False) -> Tensor:
    """The rotary turn alone, or the turn back."""
    sign = -1.0 if back else 1.0
    out: Tensor = _NormTurn.apply(rows, None, angles, heads, 1.0, None, sign)  # type: ignore[no-untyped-call]
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    @override
    def forward(
        ctx: Any, queries: Tensor, slots: Tensor, ranges: Tensor, chosen: Tensor | None, sink: Tensor, first_entry: int
    ) -> tuple[Tensor, Tensor]:
        groups, heads, num, width = queries.shape
        # Where products are rounded to bfloat16 anyway, the whole attention is: half the memory, twice the speed.
        is_half = torch.get_float32_matmul_precision() == "medium"
        dtype = torch.bfloat16 if is_half else torch.float32
        flat = queries.reshape(groups, heads * num, width).to(dtype)
        slots = slots.to(dtype)
        weights = torch.bmm(flat, slots.mT)
        num_slots = weights.shape[-1]
        entries = 0 if chosen is None else chosen.shape[-1]
        _call(
            "softmax_forward", weights, ranges, chosen, sink, groups, heads, num, num_slots, first_entry, entries,
            int(is_half),
        )  # fmt: skip
        ctx.save_for_backward(flat, slots, weights, ranges)
        ctx.heads = heads
        ctx.mark_non_differentiable(weights)
        ctx.set_materialize_grads(False)
        return torch.bmm(weights, slots).view(groups, heads, num, width).float(), weights

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, slots, weights, ranges = ctx.saved_tensors
        groups, rows, width = flat.shape
        heads = ctx.heads
        grad = grads[0].reshape(flat.shape).to(flat.dtype)
        grad_scores = torch.bmm(grad, slots.mT)
        grad_sink = torch.zeros(heads)
        _call(
            "softmax_backward", weights, grad_scores, ranges, grad_sink, groups, heads, rows // heads, slots.shape[1],
            int(flat.dtype == torch.bfloat16),
        )  # fmt: skip
        grad_slots = torch.bmm(weights.mT, grad).float() + torch.bmm(grad_scores.mT, flat).float()
        grad_queries = torch.bmm(grad_scores, slots).float().view(groups, heads, -1, width)
        return grad_queries, grad_slots, None, None, grad_sink, None


def attend(
    queries: Tensor, slots: Tensor, ranges: Tensor, chosen: Tensor | None, sink: Tensor, first_entry: int
) -> tuple[Tensor, Tensor]:
    """Attention from scaled queries [G, H, Q, W] to slots [G, S, W], the last one zero for the sink.

    ranges [G, Q, 4] int32: the two half-open ranges of slots a query may read; chosen [G, Q, E] uint8 narrows the
    second, which starts at slot first_entry at the earliest. -> outputs [G, H, Q, W], weights [G, H * Q, S]
    """
    outputs, weights = _Attend.apply(queries, slots, ranges, chosen, sink, first_entry)  # type: ignore[no-untyped-call]
    return outputs, weights


def choose(scores: Tensor, ranges: Tensor, top_k: int) -> Tensor:
    """Mark the best entries of each token among those in its range, ties to the lower index.

    scores [..., E], ranges [..., 2] -> uint8 [..., E]; a token with fewer readable entries than top_k gets all.
    """
    chosen = torch.empty(scores.shape, dtype=torch.uint8)
    num_entries = scores.shape[-1]
    _call("choose", scores, ranges.contiguous(), chosen, scores.numel() // num_entries, num_entries, top_k)
    return chosen


class _Experts(torch.autograd.Function):
    @staticmethod
    @override
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, experts: Tensor, counts: list[int], limit: float
    ) -> Tensor:
        num, per_token = experts.shape
        order = experts.flatten().argsort(stable=True)
        places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        rows = x.index_select(0, order // per_token)
        factors = weights.flatten().index_select(0, order)
        both, hidden = x.new_empty(len(order), w13.shape[1]), x.new_empty(len(order), w2.shape[2])
        for part, made, matrix in zip(rows.split(counts), both.split(counts), w13, strict=True):
            torch.mm(part, matrix.T, out=made)
        _call("swiglu_forward", both, factors, hidden, len(order), hidden.shape[1], limit)
        outputs = torch.empty_like(rows)
        for part, made, matrix in zip(hidden.split(counts), outputs.split(counts), w2, strict=True):
            torch.mm(part, matrix.T, out=made)
        out = torch.zeros_like(x)
        _call("add_rows", outputs, places, out, num, per_token, x.shape[1])
        ctx.save_for_backward(rows, factors, both, hidden, w13, w2, order, places)
        ctx.counts, ctx.limit, ctx.shape = counts, limit, experts.shape
        return out

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, factors, both, hidden, w13, w2, order, places = ctx.saved_tensors
        num, per_token = ctx.shape
        counts = ctx.counts
        grad_rows = grads[0].index_select(0, order // per_token)
        grad_hidden, grad_w13, grad_w2 = torch.empty_like(hidden), torch.empty_like(w13), torch.empty_like(w2)
        for part, seen, made, matrix, grad in zip(
            grad_rows.split(counts), hidden.split(counts), grad_hidden.split(counts), w2, grad_w2, strict=True
        ):
            torch.mm(part, matrix, out=made)
            torch.mm(part.T, seen, out=grad)
        grad_factors = torch.empty_like(factors)
        grad_both = both.clone()
        _call("swiglu_backward", grad_both, factors, grad_hidden, grad_factors, len(order), hidden.shape[1], ctx.limit)
        for part, seen, made, matrix, grad in zip(
            grad_both.split(counts), rows.split(counts), grad_rows.split(counts), w13, grad_w13, strict=True
        ):
            torch.mm(part, matrix, out=made)
            torch.mm(part.T, seen, out=grad)
        grad_x = rows.new_zeros(num, rows.shape[1])
        _call("add_rows", grad_rows, places, grad_x, num, per_token, rows.shape[1])
        grad_weights = grad_factors.index_select(0, places).view(ctx.shape)
        return grad_x, grad_weights, grad_w13, grad_w2, None, None, None


def experts(
    x: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, chosen: Tensor, counts: list[int], limit: float
) -> Tensor:
    """Sum of each token's experts: x [N, d], weights and chosen [N, K] -> [N, d]"""
    out: Tensor = _Experts.apply(x, weights, w13, w2, chosen, counts, limit)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, both: Tensor, limit: float) -> Tensor:
        num, width = both.shape[0], both.shape[1] // 2
        out = both.new_empty(num, width)
        _call("swiglu_forward", both, None, out, num, width, limit)
        ctx.save_for_backward(both)
        ctx.limit = limit
        return out

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = ctx.saved_tensors[0].clone()
        _call("swiglu_backward", grad, None, grads[0].contiguous(), None, len(grad), grad.shape[1] // 2, ctx.limit)
        return grad, None


def swiglu(both: Tensor, limit: float) -> Tensor:
    """both [N, 2I], gate first -> [N, I]"""
    out: Tensor = _SwiGLU.apply(both, limit)  # type: ignore[no-untyped-call]
    return out


_HEAD_ROWS = 512
"""Rows of logits held at once; they stay in the processor's cache."""


class _HeadLoss(torch.autograd.Function):
    """Vocabulary head and cross-entropy, both gradients made on the way forward; logits are never all in memory."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        grad_x, grad_head, loss = torch.empty_like(x), torch.zeros_like(head), 0.0
        for first in range(0, len(x), _HEAD_ROWS):
            part = slice(first, first + _HEAD_ROWS)
            logits = x[part] @ head.T
            loss += _call("cross_entropy", logits, targets[part], weights[part], *logits.shape)
            torch.mm(logits, head, out=grad_x[part])
            grad_head.addmm_(logits.T, x[part])
        ctx.save_for_backward(grad_x, grad_head)
        return x.new_tensor(loss)

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x, grad_head = ctx.saved_tensors
        return grad_x * grads[0], grad_head * grads[0], None, None


def head_loss(x: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the losses of predicting targets [N] from x [N, d] through head [V, d]."""
    loss: Tensor = _HeadLoss.apply(x, head, targets, weights)  # type: ignore[no-untyped-call]
    return loss
