"""RMS normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Divide by the root mean square of the last dimension; statistics in float32, one cast at the end."""
    if not torch.is_grad_enabled() and x.dtype == torch.float32:
        # One operation, but its gradient is slower than that of the five below.
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        normed = normed * weight.float()
    return normed.to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    @override
    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)
