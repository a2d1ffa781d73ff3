"""Products of the native core, one kernel at a time, against numpy and against each other.

Everything the core rounds is rounded here a second time, from the definitions of the formats: E2M1 and E8M0 of the
OCP Microscaling specification, E4M3 of the OCP FP8 specification, bfloat16. The products of what remains are exact in
float64, so the bounds below are those of float32 sums alone.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from deepserve.engine.native.abi import Array, Dtype, Fault, Format, Status
from deepserve.engine.native.shared_library import find_library, instruction_sets, load_library

pytestmark = pytest.mark.skipif(find_library() is None, reason="this installation has no native core")

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

INPUTS = (1, 31, 32, 33, 64, 96, 130, 512)
OUTPUTS = (1, 24, 63, 64, 65, 200)
ROWS = (1, 2, 3, 5, 6, 7, 8, 13, 16)
MOST_ROWS = 33

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = np.array([(c & 7) * 2.0**-9 if c < 8 else (1 + (c & 7) / 8) * 2.0 ** ((c >> 3) - 7) for c in range(127)])

BF16_ACTIVATIONS = (Format.BF16, Format.FP4_EXACT, Format.FP8, Format.MAPPED_BF16, Format.MAPPED_FP8)
INT8_ACTIVATIONS = (Format.INT8, Format.FP4, Format.MAPPED_FP4)


@dataclass(frozen=True)
class Stored:
    """A matrix as checkpoints store it, and its exact values [outputs, inputs]."""

    dtype: Dtype
    data: NDArray[np.generic]
    values: NDArray[np.float64]
    scale: NDArray[np.generic] | None = None


def isas() -> tuple[str, ...]:
    return instruction_sets(load_library())


def array(dtype: Dtype, data: NDArray[np.generic]) -> Array:
    shape = (ctypes.c_int64 * 3)(*data.shape)
    return Array(dtype=dtype, rank=data.ndim, shape=shape, data=data.ctypes.data, size_bytes=data.nbytes)


def try_multiply(isa: str, format_: Format, weights: Stored, x: Floats) -> tuple[int, Floats, str]:
    x = np.ascontiguousarray(x, np.float32)
    out = np.full((len(x), len(weights.data)), np.nan, np.float32)
    scale = None
    if weights.scale is not None:
        scale = array(Dtype.F8_E8M0 if weights.scale.dtype == np.uint8 else Dtype.F32, weights.scale)
    floats, fault = ctypes.POINTER(ctypes.c_float), Fault()
    status = load_library().ds_test_multiply(
        isa.encode(),
        format_,
        array(weights.dtype, weights.data),
        scale,
        x.ctypes.data_as(floats),
        len(x),
        out.ctypes.data_as(floats),
        fault,
    )
    return status, out, fault.text


def multiply(isa: str, format_: Format, weights: Stored, x: Floats) -> Floats:
    status, out, fault = try_multiply(isa, format_, weights, x)
    assert status == Status.OK, fault
    return out


# Rounding and storing


def round_to_bf16(x: Floats) -> Floats:
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def codes_of(values: NDArray[np.float64], grid: NDArray[np.float64]) -> Bytes:
    """The nearest of the grid's magnitudes, ties to the even code; the sign in the bit above all codes."""
    magnitudes = np.abs(values)
    upper = np.clip(np.searchsorted(grid, magnitudes), 1, len(grid) - 1)
    below, above = magnitudes - grid[upper - 1], grid[upper] - magnitudes
    codes = np.where((below < above) | ((below == above) & (upper % 2 == 1)), upper - 1, upper)
    sign = 8 if len(grid) == 8 else 128
    return np.asarray(codes + sign * np.signbit(values), np.uint8)


def values_of(codes: Bytes, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    sign = 8 if len(grid) == 8 else 128
    return np.asarray(np.where(codes & sign, -1.0, 1.0) * grid[codes & (sign - 1)], np.float64)


def exponents_for(amax: NDArray[np.float64], largest: float) -> NDArray[np.int64]:
    """The smallest power of two that E8M0 has and that brings amax down to the largest representable magnitude."""
    exponents = np.ceil(np.log2(np.where(amax > 0, amax, largest) / largest)).astype(np.int64)
    exponents -= amax <= largest * 2.0 ** (exponents - 1)  # a logarithm may be rounded up
    assert (amax <= largest * 2.0**exponents).all()
    return np.maximum(exponents, -127)


def in_groups(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """[rows, inputs] -> [rows, groups, size], zeros behind the last."""
    return np.pad(values, ((0, 0), (0, -values.shape[1] % size))).reshape(len(values), -1, size)


def round_in_groups(values: NDArray[np.float64], size: int, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    groups = in_groups(values, size)
    powers = 2.0 ** exponents_for(np.abs(groups).max(2), grid[-1])[:, :, None]
    rounded = values_of(codes_of(groups / powers, grid), grid) * powers
    return rounded.reshape(len(values), -1)[:, : values.shape[1]]


def round_to_fp4(values: Floats) -> NDArray[np.float64]:
    return round_in_groups(values.astype(np.float64), 32, E2M1)


def round_to_fp8(values: Floats) -> NDArray[np.float64]:
    """One scale per 128 x 128 values."""
    rounded = np.empty(values.shape)
    for row in range(0, values.shape[0], 128):
        for column in range(0, values.shape[1], 128):
            block = values[row : row + 128, column : column + 128].astype(np.float64)
            rounded[row : row + 128, column : column + 128] = round_in_groups(
                block.reshape(1, -1), block.size, E4M3
            ).reshape(block.shape)
    return rounded


def round_to_int8(values: Floats) -> tuple[NDArray[np.float64], Floats]:
    """-> integers [rows, groups, 64] and scales [rows, groups]."""
    groups = in_groups(values.astype(np.float64), 64).astype(np.float32)
    amax = np.abs(groups).max(2)
    factors = np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=amax > 0)
    return np.rint(groups * factors[:, :, None]).astype(np.float64), amax / np.float32(127)


def as_int8(values: Floats) -> NDArray[np.float64]:
    integers, scales = round_to_int8(values)
    return (integers * scales[:, :, None]).reshape(len(values), -1)[:, : values.shape[1]]


def plain(values: Floats) -> Stored:
    return Stored(Dtype.F32, values, values.astype(np.float64))


def stored_bf16(values: Floats) -> Stored:
    rounded = round_to_bf16(values)
    return Stored(Dtype.BF16, (rounded.view(np.uint32) >> 16).astype(np.uint16), rounded.astype(np.float64))


def stored_fp4(codes: Bytes, scales: Bytes) -> Stored:
    powers = np.repeat(2.0 ** (scales.astype(np.float64) - 127), 32, 1)[:, : codes.shape[1]]
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
    return Stored(Dtype.FP4, packed, values_of(codes, E2M1) * powers, scales)


def stored_fp8(codes: Bytes, scales: Bytes | Floats) -> Stored:
    powers = 2.0 ** (scales.astype(np.float64) - 127) if scales.dtype == np.uint8 else scales.astype(np.float64)
    powers = np.repeat(np.repeat(powers, 128, 0), 128, 1)[: codes.shape[0], : codes.shape[1]]
    return Stored(Dtype.F8_E4M3, codes, values_of(codes, E4M3) * powers, scales)


def random_weights(format_: Format, outputs: int, inputs: int) -> Iterator[Stored]:
    """The format's own codes, as they would come from a checkpoint, and floats where the core rounds them itself."""
    generator = np.random.default_rng([format_, outputs, inputs])
    floats = generator.standard_normal((outputs, inputs)).astype(np.float32)
    if not format_.name.startswith("MAPPED"):
        yield plain(floats)
    if format_ in (Format.BF16, Format.MAPPED_BF16):
        yield stored_bf16(floats)
    if format_ in (Format.FP4, Format.FP4_EXACT, Format.MAPPED_FP4) and inputs % 2 == 0:
        codes = generator.integers(0, 16, (outputs, inputs)).astype(np.uint8)
        yield stored_fp4(codes, generator.integers(120, 130, (outputs, -(-inputs // 32))).astype(np.uint8))
    if format_ in (Format.FP8, Format.MAPPED_FP8):
        codes = codes_of(generator.standard_normal((outputs, inputs)) * 50, E4M3)
        scales = generator.integers(120, 130, (-(-outputs // 128), -(-inputs // 128))).astype(np.uint8)
        yield stored_fp8(codes, scales)


def kept(format_: Format, weights: Stored) -> NDArray[np.float64]:
    """What the format keeps of the weights."""
    floats = weights.values.astype(np.float32)
    match format_:
        case Format.BF16:
            return round_to_bf16(floats).astype(np.float64)
        case Format.INT8:
            return as_int8(floats)
        case Format.FP4 | Format.FP4_EXACT if weights.dtype != Dtype.FP4:
            return round_to_fp4(floats)
        case Format.FP8 if weights.dtype != Dtype.F8_E4M3:
            return round_to_fp8(floats)
        case _:
            return weights.values


def read(format_: Format, x: Floats) -> NDArray[np.float64]:
    """What the format reads of the activations."""
    if format_ in BF16_ACTIVATIONS:
        return round_to_bf16(x).astype(np.float64)
    if format_ in INT8_ACTIVATIONS:
        return as_int8(x)
    return x.astype(np.float64)


def same_bits(a: Floats, b: Floats) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


# Products


@pytest.mark.parametrize("format_", Format, ids=lambda f: f.name)
def test_products_are_exact_but_for_float32_sums_on_every_instruction_set(format_: Format) -> None:
    for inputs in INPUTS:
        x = np.random.default_rng(inputs).standard_normal((MOST_ROWS, inputs)).astype(np.float32)
        for outputs in OUTPUTS:
            for weights in random_weights(format_, outputs, inputs):
                w, a = kept(format_, weights), read(format_, x)
                first = multiply(isas()[0], format_, weights, x)
                bound = (inputs + 4) * 2.0**-24 * (np.abs(a) @ np.abs(w).T)
                assert (np.abs(first - a @ w.T) <= bound).all(), (inputs, outputs, weights.dtype)
                for isa in isas()[1:]:
                    assert same_bits(multiply(isa, format_, weights, x), first), (isa, inputs, outputs)


@pytest.mark.parametrize("format_", Format, ids=lambda f: f.name)
def test_a_row_has_the_same_bits_among_any_number_of_rows(format_: Format) -> None:
    for inputs in INPUTS:
        x = np.random.default_rng(inputs).standard_normal((MOST_ROWS, inputs)).astype(np.float32)
        for weights in random_weights(format_, 65, inputs):
            for isa in isas():
                together = multiply(isa, format_, weights, x)
                for rows in ROWS:
                    assert same_bits(multiply(isa, format_, weights, x[:rows]), together[:rows]), (isa, inputs, rows)
                assert same_bits(multiply(isa, format_, weights, x[-1:]), together[-1:]), (isa, inputs)


@pytest.mark.parametrize("format_", Format, ids=lambda f: f.name)
def test_very_long_inputs_are_summed_in_one_order(format_: Format) -> None:
    """Mapped FP4 takes up long outputs in stretches; the second one begins at input 8192."""
    inputs = 16_384 + 96
    x = np.random.default_rng(1).standard_normal((5, inputs)).astype(np.float32)
    for weights in random_weights(format_, 3, inputs):
        w, a = kept(format_, weights), read(format_, x)
        together = multiply(isas()[0], format_, weights, x)
        assert (np.abs(together - a @ w.T) <= inputs * 2.0**-24 * (np.abs(a) @ np.abs(w).T)).all()
        for isa in isas():
            assert same_bits(multiply(isa, format_, weights, x), together), isa
            assert same_bits(multiply(isa, format_, weights, x[4:]), together[4:]), isa


@pytest.mark.parametrize("format_", Format, ids=lambda f: f.name)
def test_an_output_does_not_depend_on_its_place_among_the_outputs(format_: Format) -> None:
    generator = np.random.default_rng(2)
    x = generator.standard_normal((3, 96)).astype(np.float32)
    for weights in random_weights(format_, 100, 96):
        if weights.dtype == Dtype.F8_E4M3 or format_ == Format.FP8:
            continue  # neighbouring outputs share scales
        order = generator.permutation(100)
        scale = None if weights.scale is None else np.ascontiguousarray(weights.scale[order])
        moved = Stored(weights.dtype, np.ascontiguousarray(weights.data[order]), weights.values[order], scale)
        for isa in isas():
            assert same_bits(multiply(isa, format_, moved, x), multiply(isa, format_, weights, x)[:, order])


@pytest.mark.parametrize("format_", Format, ids=lambda f: f.name)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_an_activation_that_is_not_finite_shows_in_its_row_and_only_there(format_: Format, poison: float) -> None:
    for weights in random_weights(format_, 70, 130):
        x = np.random.default_rng(3).standard_normal((8, 130)).astype(np.float32)
        healthy = multiply(isas()[0], format_, weights, x)
        x[5, 77] = poison
        for isa in isas():
            out = multiply(isa, format_, weights, x)
            # Infinity times a weight of exactly 0 is not a number, too.
            assert not np.isfinite(out[5]).any(), isa
            assert same_bits(np.delete(out, 5, 0), np.delete(healthy, 5, 0)), isa


# Exact values: activations of a single 1 (for int8 forms 127, which they keep exactly) read weights out.


@pytest.mark.parametrize("format_", [Format.FP8, Format.MAPPED_FP8, Format.F32], ids=lambda f: f.name)
def test_every_e4m3_code_is_exact_under_every_scale(format_: Format) -> None:
    codes = np.array([c for c in range(256) if c & 127 != 127], np.uint8).reshape(-1, 1)
    for scale in range(255):
        weights = stored_fp8(codes, np.full((2, 1), scale, np.uint8))
        with np.errstate(over="ignore"):  # the largest scales leave float32's range
            expected = weights.values.T.astype(np.float32)
        for isa in isas():
            assert np.array_equal(multiply(isa, format_, weights, np.ones((1, 1), np.float32)), expected), (isa, scale)


@pytest.mark.parametrize("format_", [Format.FP4, Format.FP4_EXACT, Format.MAPPED_FP4, Format.F32], ids=lambda f: f.name)
def test_every_e2m1_code_is_exact_in_every_place_under_every_scale(format_: Format) -> None:
    one = 127 if format_ in INT8_ACTIVATIONS else 1
    codes = np.repeat(np.arange(16, dtype=np.uint8)[:, None], 32, 1)
    x = one * np.eye(32, dtype=np.float32)
    # 6 * 2^126 is infinite as a float32 weight, and then not a number times the other activations.
    for scale in range(253 if format_ == Format.F32 else 255):
        weights = stored_fp4(codes, np.full((16, 1), scale, np.uint8))
        with np.errstate(over="ignore"):
            expected = (one * weights.values.T).astype(np.float32)
        for isa in isas():
            assert np.array_equal(multiply(isa, format_, weights, x), expected), (isa, scale)


def test_float_scales_of_fp8_are_kept_as_they_are() -> None:
    generator = np.random.default_rng(4)
    scales = generator.uniform(1e-4, 3, (2, 3)).astype(np.float32)
    weights = stored_fp8(codes_of(generator.standard_normal((200, 300)) * 50, E4M3), scales)
    for isa in isas():
        out = multiply(isa, Format.FP8, weights, np.eye(300, dtype=np.float32))
        assert np.array_equal(out, weights.values.T.astype(np.float32)), isa


def test_half_and_double_precision_are_read_exactly() -> None:
    halves = np.arange(65536, dtype=np.uint16)
    halves = halves[halves & 0x7C00 != 0x7C00].reshape(-1, 1)
    doubles = np.array([[1 / 3], [-1e-40], [3e38], [0.0], [2.0**-149]])
    for data, dtype in ((halves.view(np.float16), Dtype.F16), (doubles, Dtype.F64)):
        out = multiply(
            isas()[-1], Format.F32, Stored(dtype, data, data.astype(np.float64)), np.ones((1, 1), np.float32)
        )
        assert np.array_equal(out, data.T.astype(np.float32))


# Rounding


def hard_to_round(grid: NDArray[np.float64], count: int, inputs: int) -> Floats:
    """Numbers of the grid, exact ties between them, both neighbours of each tie, all zeros, and plain random ones."""
    ties = ((grid[1:] + grid[:-1]) / 2).astype(np.float32)
    interesting = np.concatenate(
        [grid.astype(np.float32), ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9))]
    )
    generator = np.random.default_rng(count)
    x = generator.choice(interesting, (count, inputs)) * generator.choice(
        np.array([-1, 1], np.float32), (count, inputs)
    )
    x[:, ::32] = grid[-1]  # so that the scale is 1
    x *= 2.0 ** generator.integers(-20, 20, (count, 1)).astype(np.float32)
    x[count // 2 :] = generator.standard_normal((count - count // 2, inputs))
    x[-1] = 0
    x[-2] = np.float32(1e-42)
    return np.asarray(x, np.float32)


@pytest.mark.parametrize("format_", [Format.FP4_EXACT, Format.FP4], ids=lambda f: f.name)
def test_weights_become_fp4_by_rounding_to_nearest_and_ties_to_even(format_: Format) -> None:
    values = hard_to_round(E2M1, 150, 100)
    one = 127 if format_ in INT8_ACTIVATIONS else 1
    out = multiply(isas()[0], format_, plain(values), one * np.eye(100, dtype=np.float32))
    assert np.array_equal(out.T, (one * round_to_fp4(values)).astype(np.float32))


def test_weights_become_fp8_by_rounding_to_nearest_and_ties_to_even() -> None:
    values = hard_to_round(E4M3, 140, 256)
    blocks = [values[:128], values[128:]]
    # One power of two per block would hide the small ones: look at some rows by themselves, too.
    for some in (values, *blocks, values[:1], values[7:8], values[-2:-1]):
        out = multiply(isas()[0], Format.FP8, plain(some), np.eye(256, dtype=np.float32))
        assert np.array_equal(out.T, round_to_fp8(some).astype(np.float32))


def test_weights_become_int8_with_a_scale_per_64_inputs() -> None:
    values = np.random.default_rng(5).standard_normal((70, 130)).astype(np.float32)
    values[3] = 0
    integers, scales = round_to_int8(values)
    assert np.abs(integers).max() == 127
    out = multiply(isas()[0], Format.INT8, plain(values), 127 * np.eye(130, dtype=np.float32))
    expected = (127 * integers * scales[:, :, None].astype(np.float64)).reshape(70, -1)[:, :130]
    assert np.array_equal(out.T, expected.astype(np.float32))


@pytest.mark.parametrize("format_", BF16_ACTIVATIONS, ids=lambda f: f.name)
def test_activations_become_bf16_by_rounding_to_nearest_and_ties_to_even(format_: Format) -> None:
    bits = np.random.default_rng(6).integers(0x20000000, 0x5F000000, (40, 160)).astype(np.uint32)
    bits[:20] = (bits[:20] & 0xFFFF0000) | 0x8000  # ties
    x = bits.view(np.float32)
    weights = {
        Format.FP8: stored_fp8(codes_of(np.eye(160), E4M3), np.full((2, 2), 127, np.uint8)),
        Format.MAPPED_FP8: stored_fp8(codes_of(np.eye(160), E4M3), np.full((2, 2), 127, np.uint8)),
    }.get(format_, stored_bf16(np.eye(160, dtype=np.float32)))
    for isa in isas():
        assert same_bits(multiply(isa, format_, weights, x), round_to_bf16(x)), isa


@pytest.mark.parametrize("format_", INT8_ACTIVATIONS, ids=lambda f: f.name)
def test_activations_become_int8_with_a_scale_per_64_inputs(format_: Format) -> None:
    x = np.random.default_rng(7).standard_normal((40, 160)).astype(np.float32)
    x[1] = 0
    x[2] *= np.float32(1e30)
    x[3] *= np.float32(1e-30)
    integers, scales = round_to_int8(x)
    one = codes_of(np.eye(160), E2M1)
    weights = (
        plain(np.eye(160, dtype=np.float32))
        if format_ == Format.INT8
        else stored_fp4(one, np.full((160, 5), 127, np.uint8))
    )
    # Where the weights are int8 too, their 1 is 127 times the float nearest to 1 / 127.
    weight, scale = (127, np.float32(1) / np.float32(127)) if format_ == Format.INT8 else (1, np.float32(1))
    expected = (weight * integers * (scales * scale)[:, :, None].astype(np.float64)).reshape(40, -1)[:, :160]
    for isa in isas():
        assert np.array_equal(multiply(isa, format_, weights, x), expected.astype(np.float32)), isa


# What must be refused, and what must not be touched


@pytest.mark.parametrize(
    "weights",
    [
        Stored(Dtype.F32, np.array([[1, np.nan]], np.float32), np.zeros((1, 2))),
        Stored(Dtype.F32, np.array([[1, -np.inf]], np.float32), np.zeros((1, 2))),
        Stored(Dtype.F64, np.array([[1, 1e39]]), np.zeros((1, 2))),
        Stored(Dtype.F16, np.array([[1, np.inf]], np.float16), np.zeros((1, 2))),
        Stored(Dtype.BF16, np.array([[0, 0x7F80]], np.uint16), np.zeros((1, 2))),
        Stored(Dtype.F8_E4M3, np.array([[0, 0x7F]], np.uint8), np.zeros((1, 2)), np.array([[127]], np.uint8)),
        Stored(Dtype.F8_E4M3, np.array([[0, 0xFF]], np.uint8), np.zeros((1, 2)), np.array([[127]], np.uint8)),
        Stored(Dtype.F8_E4M3, np.array([[0, 0]], np.uint8), np.zeros((1, 2)), np.array([[255]], np.uint8)),
        Stored(Dtype.F8_E4M3, np.array([[0, 0]], np.uint8), np.zeros((1, 2)), np.array([[np.nan]], np.float32)),
        Stored(Dtype.FP4, np.zeros((9, 16), np.uint8), np.zeros((9, 32)), np.array([[127]] * 8 + [[255]], np.uint8)),
    ],
    ids=lambda w: w.dtype.name,
)
def test_weights_that_are_no_numbers_are_refused(weights: Stored) -> None:
    x = np.ones((1, weights.values.shape[1]), np.float32)
    status, _, fault = try_multiply(isas()[0], Format.F32, weights, x)
    assert status == Status.CHECKPOINT
    assert "not finite" in fault


OVERRUN = """
    import ctypes, mmap, sys
    import numpy as np
    from deepserve.engine.native.abi import Array, Dtype, Fault, Format
    from deepserve.engine.native.shared_library import instruction_sets, load_library

    def at_the_end_of_memory(values):
        pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
        start = mmap.PAGESIZE - values.nbytes
        np.frombuffer(pages, np.uint8, values.nbytes, start)[:] = values.view(np.uint8).reshape(-1)
        kept.append(pages)
        return address + start

    kept, library, floats = [], load_library(), ctypes.POINTER(ctypes.c_float)
    for format_, dtype, item, group in (
        (Format.MAPPED_BF16, Dtype.BF16, np.uint16, None),
        (Format.MAPPED_FP8, Dtype.F8_E4M3, np.uint8, 128),
        (Format.MAPPED_FP4, Dtype.FP4, np.uint8, 32),
    ):
        for inputs in (2, 32, 34, 62, 96, 130, 160, 510):
            per_byte = 2 if dtype == Dtype.FP4 else 1
            data = np.zeros((3, inputs // per_byte), item)
            scales = np.full((1 if group == 128 else 3, -(-inputs // (group or 1))), 127, np.uint8)
            shape = ctypes.c_int64 * 3
            weights = Array(dtype, 2, shape(*data.shape), at_the_end_of_memory(data), data.nbytes)
            scale = Array(Dtype.F8_E8M0, 2, shape(*scales.shape), at_the_end_of_memory(scales), scales.nbytes)
            x, out = np.ones((5, inputs), np.float32), np.ones((5, 3), np.float32)
            for isa in instruction_sets(library):
                fault = Fault()
                assert library.ds_test_multiply(isa.encode(), format_, weights, scale if group else None,
                    x.ctypes.data_as(floats), 5, out.ctypes.data_as(floats), fault) == 0, fault.text
                assert not out.any()
    print("nothing else was read")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_nothing_is_read_behind_the_end_of_mapped_weights() -> None:
    """A mapped checkpoint may end with its file; reading on would end the process."""
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(OVERRUN)], capture_output=True, text=True, check=False)
    assert run.stdout == "nothing else was read\n", (run.returncode, run.stderr)
