"""Rotary position embedding as V4 uses it: interleaved pairs, on the last dimensions of a vector only.

Dimension legend: R rotated dimensions (`qk_rope_head_dim`), D whole width of a vector.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deepserve.engine.network_config import NetworkConfig


class Rotation(NamedTuple):
    """Angles of some positions, laid out for `rotate`: `[..., R]` each, sine signed (-, +) within a pair."""

    cos: Tensor
    sin: Tensor

    def inverse(self) -> Rotation:
        return Rotation(self.cos, -self.sin)

    def for_heads(self) -> Rotation:
        """Broadcast over a head dimension before the last."""
        return Rotation(self.cos.unsqueeze(-2), self.sin.unsqueeze(-2))


def rotary_frequencies(config: NetworkConfig, *, compressed: bool) -> Tensor:
    """Angle per position of each pair, float32 [R / 2].

    Layers with a compressor use the larger base and YaRN for everything in them; YaRN changes frequencies only,
    there is no attention factor (Peng et al. 2023, section 3.2; DeepSeek-V4 report).
    """
    width = config.qk_rope_head_dim
    base = config.compress_rope_theta if compressed else config.rope_theta
    frequencies = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if not compressed or config.yarn_factor == 1.0:
        return frequencies

    def pair_turning(rotations: float) -> float:
        """Index of the pair that makes this many turns within the original context."""
        turns = config.yarn_original_positions / (rotations * 2 * math.pi)
        return width * math.log(turns) / (2 * math.log(base))

    low = max(math.floor(pair_turning(config.yarn_beta_fast)), 0)
    high = min(math.ceil(pair_turning(config.yarn_beta_slow)), width - 1)
    ramp = (torch.arange(width // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    unscaled = 1 - ramp.clamp(0, 1)
    return frequencies / config.yarn_factor * (1 - unscaled) + frequencies * unscaled


def rotation(positions: Tensor, frequencies: Tensor) -> Rotation:
    """Angles of integer positions [...] -> [..., R]."""
    angles = positions.float().unsqueeze(-1) * frequencies
    cos, sin = angles.cos(), angles.sin()
    return Rotation(torch.stack((cos, cos), -1).flatten(-2), torch.stack((-sin, sin), -1).flatten(-2))


def turns(positions: Tensor, frequencies: Tensor) -> Tensor:
    """The same angles as complex numbers for `rotate_`: [...] -> [..., R / 2]"""
    angles = positions.float().unsqueeze(-1) * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def rotate_(x: Tensor, by: Tensor) -> Tensor:
    """`rotate` in place, in one operation; for inference. x [..., D] float32, by [..., R / 2] from `turns`."""
    pairs = x[..., -2 * by.shape[-1] :].view(*x.shape[:-1], -1, 2)
    torch.view_as_complex(pairs).mul_(by)
    return x


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn each pair (2i, 2i+1) of the last R dimensions of x [..., D]; computed in float32."""
    width = by.cos.shape[-1]
    still, moving = x[..., :-width], x[..., -width:].float()
    swapped = moving.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    turned = moving * by.cos + swapped * by.sin
    return torch.cat((still, turned.to(x.dtype)), -1)
