"""The compressor: many tokens' vectors pooled into one entry of the long-range history.

Dimension legend: W blocks (entries), m tokens per block (the layer's ratio), D entry width.
Source: DeepSeek-V4 report, sections 2.3.1 and 2.3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from .norm import RMSNorm


def pool(content: Tensor, gate: Tensor) -> Tensor:
    """Mix the slots of each entry; every channel has its own weights over the slots.

    content [..., slots, D], gate [..., slots, D] logits, -inf drops a slot -> [..., D] in float32
    """
    return (content.float() * gate.float().softmax(dim=-2)).sum(dim=-2)


def overlap_slots(blocks: Tensor, before: Tensor) -> Tensor:
    """Arrange overlapping blocks as slots: the first halves of the previous block, the second halves of this one.

    blocks [..., W, m, 2D] consecutive; before [..., m, D] the first halves of the block before them
    -> [..., W, 2m, D]
    """
    first, second = blocks.chunk(2, dim=-1)
    num_blocks = blocks.shape[-3]
    previous = torch.cat((before.unsqueeze(-3), first), dim=-3)[..., :num_blocks, :, :]
    return torch.cat((previous, second), dim=-2)


class Compressor(nn.Module):
    """Weights of one compressor. CSA and its indexer overlap blocks and are twice as wide per token."""

    def __init__(self, hidden_size: int, width: int, ratio: int, *, overlaps: bool, eps: float) -> None:
        super().__init__()
        per_token = 2 * width if overlaps else width
        self.ratio = ratio
        self.width = width
        self.overlaps = overlaps
        self.wkv = nn.Linear(hidden_size, per_token, bias=False)
        self.wgate = nn.Linear(hidden_size, per_token, bias=False)
        self.ape = nn.Parameter(torch.zeros(ratio, per_token))
        self.norm = RMSNorm(width, eps)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Entries of a whole sequence from its start, not yet rotated: [B, T, d] -> [B, T // m, D]."""
        num_entries = x.shape[1] // self.ratio
        used = x[:, : num_entries * self.ratio]
        content = self.wkv(used).unflatten(1, (num_entries, self.ratio))
        gate = self.wgate(used).unflatten(1, (num_entries, self.ratio)) + self.ape
        if self.overlaps:
            absent = (x.shape[0], self.ratio, self.width)
            content = overlap_slots(content, content.new_zeros(absent))
            gate = overlap_slots(gate, gate.new_full(absent, float("-inf")))
        pooled: Tensor = self.norm(pool(content, gate).to(x.dtype))
        return pooled
