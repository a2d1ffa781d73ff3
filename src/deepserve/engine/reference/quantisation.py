"""FP8 and FP4 matrices as the published checkpoints store them: their exact values, and rounding to them.

FP8: E4M3 values, a scale for every 128 x 128 block. FP4: two E2M1 values to a byte along the inputs, the low half
first, a scale for every 32 inputs of an output. A scale is a power of two (E8M0), chosen here so that nothing is
clipped; values are rounded to nearest, ties to even.

Source: OCP Microscaling Formats (MX) v1.0, section 5; OFP8 specification; the DeepSeek-V4 checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deepserve.engine.inventory import FP4_GROUP, FP8_BLOCK

_FP4_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FP4_SIGN = 8
_LARGEST_FP4, _LARGEST_FP8 = _FP4_MAGNITUDES[-1], 448.0
_EXPONENT_BIAS = 127


def dequantise_fp8(values: Tensor, scale: Tensor) -> Tensor:
    """values [outputs, inputs] float8_e4m3fn, scale [blocks, blocks] of any float type -> float32, exact for E8M0"""
    outputs, inputs = values.shape
    wide = scale.float().repeat_interleave(FP8_BLOCK, 0)[:outputs].repeat_interleave(FP8_BLOCK, 1)[:, :inputs]
    return values.float() * wide


def dequantise_fp4(packed: Tensor, scale: Tensor) -> Tensor:
    """packed [outputs, inputs / 2] int8, scale [outputs, inputs / 32] float8_e8m0fnu -> float32, exact"""
    table = torch.tensor([*_FP4_MAGNITUDES, *(-magnitude for magnitude in _FP4_MAGNITUDES)])
    codes = packed.view(torch.uint8)
    pairs = torch.stack((codes & 0x0F, codes >> 4), -1).flatten(1)
    return table[pairs.int()] * scale.float().repeat_interleave(FP4_GROUP, 1)


def fp8_scales(matrix: Tensor) -> Tensor:
    """Scales of a finite float32 matrix: E8M0 bytes, one for every block."""
    outputs, inputs = matrix.shape
    padded = F.pad(matrix.abs(), (0, -inputs % FP8_BLOCK, 0, -outputs % FP8_BLOCK))
    blocks = padded.unflatten(1, (-1, FP8_BLOCK)).unflatten(0, (-1, FP8_BLOCK))
    return _scale_bytes(blocks.amax((1, 3)), _LARGEST_FP8)


def fp4_scales(matrix: Tensor) -> Tensor:
    """Scales of a finite float32 matrix whose inputs fill groups: E8M0 bytes, one for every group."""
    return _scale_bytes(matrix.abs().unflatten(1, (-1, FP4_GROUP)).amax(2), _LARGEST_FP4)


def quantise_fp8(matrix: Tensor) -> Tensor:
    """Finite float32 -> float8_e4m3fn, to be multiplied by `fp8_scales`."""
    outputs, inputs = matrix.shape
    exponents = _exponents(fp8_scales(matrix))
    wide = exponents.repeat_interleave(FP8_BLOCK, 0)[:outputs].repeat_interleave(FP8_BLOCK, 1)[:, :inputs]
    return torch.ldexp(matrix, -wide).to(torch.float8_e4m3fn)


def quantise_fp4(matrix: Tensor) -> Tensor:
    """Finite float32 whose inputs fill groups -> packed bytes, to be multiplied by `fp4_scales`."""
    shifted = torch.ldexp(matrix, -_exponents(fp4_scales(matrix)).repeat_interleave(FP4_GROUP, 1))
    magnitudes = shifted.abs()
    codes = torch.zeros_like(matrix, dtype=torch.uint8)
    for lower in range(len(_FP4_MAGNITUDES) - 1):
        middle = (_FP4_MAGNITUDES[lower] + _FP4_MAGNITUDES[lower + 1]) / 2
        # A tie goes to the even code of the two.
        codes += magnitudes >= middle if lower % 2 else magnitudes > middle
    codes += _FP4_SIGN * shifted.signbit()
    return codes[:, ::2] | codes[:, 1::2] << 4


def _scale_bytes(largest: Tensor, limit: float) -> Tensor:
    """The smallest power of two that keeps |x| / scale within the limit, as E8M0: 2^ceil(log2(|x| / limit)).

    Computed with exponents and mantissas, because a rounded logarithm would sometimes be off by one. Zeros get 1.
    """
    mantissa, exponent = torch.frexp(largest)
    limit_mantissa, limit_exponent = torch.frexp(torch.tensor(limit))
    exponent = exponent - limit_exponent + (mantissa > limit_mantissa)
    exponent = exponent.clamp(-_EXPONENT_BIAS, _EXPONENT_BIAS).masked_fill(largest == 0, 0)
    return (exponent + _EXPONENT_BIAS).to(torch.uint8)


def _exponents(scale_bytes: Tensor) -> Tensor:
    return scale_bytes.int() - _EXPONENT_BIAS
