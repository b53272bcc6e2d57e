"""The rules of the integer network with constants that are proven, and the quantisation of float inputs.

`exact.py` says what a rule means, `fixed_point.py` searches and proves the constants;
docs/explanation/integer-network.md has the derivation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import ModelError
from fpga_ops.ir.exact import exact_sum
from fpga_ops.ir.fixed_point import affine_constants, sum_constants
from fpga_ops.ir.network import (
    AddRule,
    ExactAffine,
    ExactSum,
    Float32Array,
    Int8Array,
    Int64Array,
    Requantise,
    UInt8Array,
)

ACCUMULATOR_LIMIT = 2**31
"""Accumulators are int32."""


def quantise(values: npt.NDArray[np.float32], scale: float, zero_point: int) -> UInt8Array:
    """`clip(round_half_even(values / scale) + zero_point, 0, 255)`, exactly.

    The division is in float64, and that decides every value right: a quotient of two float32 numbers that is not
    k + 1/2 (|k| < 512) is at least 2^-26 away from it, for `|2 x - (2 k + 1) s|` is then a whole number of units of the
    last place of the smaller operand; float64 is wrong by at most 2^-44 there. A tie itself is held exactly.

    Args:
        values: Finite float32 of any shape.
        scale: Real value of one step, a normal float32 > 0.
        zero_point: The uint8 that stands for zero.
    """
    steps = np.rint(values.astype(np.float64) / np.float64(scale))
    quantised: UInt8Array = np.clip(steps + zero_point, 0, 255).astype(np.uint8)
    return quantised


def dequantise(values: UInt8Array, scale: float, zero_point: int) -> Float32Array:
    """`(values - zero_point) * scale` in float32, as ONNX DequantizeLinear."""
    return (values.astype(np.int32) - zero_point).astype(np.float32) * np.float32(scale)


def requantise(exact: ExactAffine, low: int = 0, high: int = 255) -> Requantise:
    """A requantisation with constants that are proven equal to the exact rule.

    Args:
        exact: The rule; `exact.affine` makes one from scales.
        low: Lower bound of the output, in uint8.
        high: Upper bound of the output, in uint8.

    Raises:
        ModelError: A scale is not positive, an accumulator could leave int32, or there are no constants.
    """
    for channel, factor in enumerate(exact.factor):
        if factor <= 0:
            raise ModelError(f"output channel {channel}: a scale must be positive and finite")
    worst = max(int(exact.most.max(initial=0)), -int(exact.least.min(initial=0)) - 1)
    if worst >= ACCUMULATOR_LIMIT:
        raise ModelError(f"the 32-bit accumulator could overflow: {worst:.6g} is beyond {ACCUMULATOR_LIMIT:.6g}")
    found = affine_constants(exact, low, high)
    return Requantise(
        exact, found.multiplier.astype(np.int32), found.offset, found.shift.astype(np.uint8), found.mask,
        found.increment, found.slope, found.intercept, found.coarse, low, high,
    )  # fmt: skip


def accumulator_range(weights: Int8Array) -> tuple[Int64Array, Int64Array]:
    """Least and largest sum(x * w) of each output channel over uint8 x: two of `int64[OC]`."""
    flat = weights.reshape(len(weights), -1)
    positive = 255 * _row_sums(flat * (flat > 0))
    return 255 * _row_sums(flat) - positive, positive


def accumulator_bound(weights: Int8Array) -> Int64Array:
    """Largest possible |sum(x * w)| of each output channel over uint8 x: `int64[OC]`."""
    least, most = accumulator_range(weights)
    bound: Int64Array = np.maximum(-least, most)
    return bound


def _row_sums(flat: Int8Array) -> npt.NDArray[np.int64]:
    """Sums along the rows; in 32 bits, which is three times as fast, where these must hold them."""
    kind = np.int32 if flat.shape[1] < 1 << 24 else np.int64
    sums: npt.NDArray[np.int64] = flat.sum(1, dtype=kind).astype(np.int64)
    return sums


def zero_point_correction(weights: Int8Array, zero_point: int) -> npt.NDArray[np.int64]:
    """What a source's zero point adds to the accumulator over raw bytes: `int64[OC]`."""
    correction: npt.NDArray[np.int64] = zero_point * _row_sums(weights.reshape(len(weights), -1))
    return correction


def add_rule(
    first: tuple[float, int],
    second: tuple[float, int] | None,
    output: tuple[float, int],
    low: int = 0,
    high: int = 255,
) -> AddRule:
    """An addition with constants that are proven equal to the exact rule for every pair of bytes.

    Args:
        first: Scale and zero point of the first operand.
        second: Of the second; None for a change of scale, zero point or bounds of the first.
        output: Of the result.
        low: Lower bound of the output, in uint8.
        high: Upper bound of the output, in uint8.

    Raises:
        ModelError: A scale is not positive and finite, or so large that there are no constants.
    """
    scales = [entry[0] for entry in (first, second, output) if entry is not None]
    if not all(np.isfinite(scale) and scale > 0 for scale in scales):
        raise ModelError(f"scales of an addition must be positive and finite, got {scales}")
    return _with_constants(exact_sum(first, second, output), low, high)


def swapped(rule: AddRule) -> AddRule:
    """The same sum with its operands in the other order."""
    exact = rule.exact
    other = ExactSum(exact.second, exact.first, exact.offset, exact.divisor, exact.zero_point)
    return _with_constants(other, rule.low, rule.high)


def _with_constants(exact: ExactSum, low: int, high: int) -> AddRule:
    found = sum_constants(exact, low, high)
    return AddRule(exact, **vars(found), low=low, high=high)
