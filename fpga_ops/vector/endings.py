"""Endings cheaper than float64 (kernels/vector/endings.cl), where they give the same bits: which rules have one.

A register holds half as many float64 as sums, so their way to a byte costs as much as a hundred products. Fixed-point
constants are proven when a network is imported, so a requantisation takes them as they are; constants of a sum in
float32 are searched here and tried on all pairs of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fpga_ops.ir import exact
from fpga_ops.ir.fixed_point import NO_TIE
from fpga_ops.ir.network import AddRule, Requantise

HALF = 32
"""Bits of a product that are left aside first."""
NEAR = 0.02
"""Steps from a tie within which constants are tried first."""
FINENESS = (24, 20, 18, 16, 15, 14, 13)
"""By how small a part, 2^-n, a constant is moved: scales in a simple ratio have sums so near to ties that float32
cannot tell, but all of them on the same side, so that a constant a little off tells them."""
SPREAD = 16
"""Exponents that the constants of a sum may differ by: then float64 adds them without rounding."""
LARGEST = 12
"""Exponent of a constant, at most: then a sum is below 2^22, where float32 has integers to round to."""

_MAGIC = np.float32(1.5 * 2**23)


def fixed_point(rule: Requantise) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]] | None:
    """Multiplier, shift beyond `HALF` and offset of each channel: `(a * multiplier + offset) >> (HALF + shift)`.

    None where ties or bounds want more than that, or a multiplier would leave 31 bits.
    """
    if (rule.mask != NO_TIE).any() or (rule.increment, rule.low, rule.high) != (0, 0, 255):
        return None
    shift = rule.shift.astype(np.int64)
    up = np.maximum(HALF - shift, 0)  # the value is below 2^30 steps, so offset and product stay below 2^62
    multiplier = rule.multiplier.astype(np.int64) << np.where(rule.multiplier == 0, 0, up)
    if multiplier.max(initial=0) >= 1 << 31:
        return None
    beyond, offset = np.maximum(shift - HALF, 0), rule.offset << up
    return multiplier.astype(np.int32), beyond.astype(np.int32), offset.astype(np.int64)


def float_sum(rule: AddRule) -> tuple[float, float, float] | None:
    """Slopes and intercept for which float32 gives each sum: `round_half_even(fma(y, a, fma(r, b, c)))`, in 0 to 255.

    None where none was found, or bounds want more.
    """
    if (rule.low, rule.high) != (0, 255):
        return None
    table = exact.sums(rule.exact, rule.low, rule.high)
    if table.result.shape[1] == 1:
        return None
    near = np.nonzero(table.distance < NEAR)
    y, r = np.indices(table.result.shape)
    for constants in _candidates(rule.slope, rule.residual_slope, rule.intercept + rule.increment):
        if _holds(constants, near[0], near[1], table.result[near]) and _holds(constants, y, r, table.result):
            return constants
    return None


def _candidates(first: float, second: float, intercept: float) -> Iterator[tuple[float, float, float]]:
    """Constants that float32 holds, those nearest to the exact ones first."""
    signs = (0, 1, -1)
    for fineness in FINENESS:
        part = math.ldexp(1.0, -fineness)
        for one, two in ((one, two) for one in signs for two in signs):
            moved = first * part * one, second * part * two
            for centre in dict.fromkeys((0.0, -128 * moved[0], -128 * moved[1], -128 * sum(moved))):  # about a zero
                for three in signs:
                    values = (first + moved[0], second + moved[1], intercept + centre + three * part)
                    rounded = [float(np.float32(value)) for value in values]
                    yield rounded[0], rounded[1], rounded[2]


def _holds(
    constants: tuple[float, float, float],
    y: npt.NDArray[np.intp],
    r: npt.NDArray[np.intp],
    result: npt.NDArray[np.int64],
) -> bool:
    """Whether float32 gives these results. Float64 adds such numbers exactly: each line rounds once, as `fma` does."""
    exponents = [math.frexp(value)[1] for value in constants if value]
    if max(exponents) - min(exponents) > SPREAD or max(exponents) > LARGEST:
        return False
    inner = (r * constants[1] + constants[2]).astype(np.float32)
    value = (y * constants[0] + inner).astype(np.float32)
    rounded = (value.astype(np.float64) + float(_MAGIC)).astype(np.float32).astype(np.int64) - int(_MAGIC)
    return bool((np.clip(rounded, 0, 255) == result).all())
