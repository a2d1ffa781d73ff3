"""Angles of rotary position embedding per position, as V4 uses it; plain Python, rounded like float32 arithmetic."""

from __future__ import annotations

import math
import struct

from deepserve.engine.network_config import NetworkConfig


def rotary_frequencies(config: NetworkConfig, *, compressed: bool) -> list[float]:
    """Angle per position of each pair, float32 values, `qk_rope_head_dim / 2` of them.

    Layers with a compressor use the larger base and YaRN for everything in them; YaRN changes frequencies only,
    there is no attention factor (Peng et al. 2023, section 3.2; DeepSeek-V4 report).
    """
    width = config.qk_rope_head_dim
    base = config.compress_rope_theta if compressed else config.rope_theta
    frequencies = [_f32(1.0 / _f32(base ** _f32(pair / width))) for pair in range(0, width, 2)]
    if not compressed or config.yarn_factor == 1.0:
        return frequencies

    def pair_turning(rotations: float) -> float:
        """Index of the pair that makes this many turns within the original context."""
        turns = config.yarn_original_positions / (rotations * 2 * math.pi)
        return width * math.log(turns) / (2 * math.log(base))

    low = max(math.floor(pair_turning(config.yarn_beta_fast)), 0)
    high = min(math.ceil(pair_turning(config.yarn_beta_slow)), width - 1)
    stretched = []
    for pair, frequency in enumerate(frequencies):
        ramp = _f32((pair - low) / _f32(max(high - low, 0.001)))
        unscaled = _f32(1 - min(max(ramp, 0.0), 1.0))
        slow = _f32(_f32(frequency / config.yarn_factor) * _f32(1 - unscaled))
        stretched.append(_f32(slow + _f32(frequency * unscaled)))
    return stretched


def _f32(value: float) -> float:
    (rounded,) = struct.unpack("f", struct.pack("f", value))
    return float(rounded)
