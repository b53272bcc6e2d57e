"""Exact numbers: what a QDQ file says between DequantizeLinear and QuantizeLinear, in integers of any size.

Scales are float32, so all that a file multiplies and adds is a dyadic number, an integer times a power of two; only the
output's scale and the size of an average divide. Nothing here rounds before QuantizeLinear does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from fpga_ops.ir.network import ExactAffine, ExactSum, Float64Array, Int64Array

Integers = npt.NDArray[np.object_]
"""Python's integers, of any size, in an array."""

_MANTISSA = 53
_SAFE = 1 << 62
NEAR = 2.0**-47
"""Relative distance from an integer within which float64 is not trusted: 64 times its error here."""


def integers(values: Any) -> Integers:
    """Integers as an array of Python's own."""
    return np.array([int(value) for value in np.asarray(values, object).reshape(-1)], object)


@dataclass(frozen=True)
class Dyadics:
    """Exact real numbers `mantissas[c] * 2**exponent`, one per channel."""

    mantissas: Integers
    exponent: int

    @staticmethod
    def of(values: npt.ArrayLike) -> Dyadics:
        """Finite floats as they are, `float[C]`."""
        parts, exponents = np.frexp(np.asarray(values, np.float64).reshape(-1))
        whole = (parts * 2.0**_MANTISSA).astype(np.int64)
        exponents = np.where(whole == 0, 2000, exponents.astype(np.int64) - _MANTISSA)
        least = min(int(exponents.min(initial=2000)), 0)
        shifts = integers(np.where(whole == 0, 0, exponents - least))
        return Dyadics(integers(whole) << shifts, least)

    def __mul__(self, other: Dyadics) -> Dyadics:
        """Products, channel by channel."""
        return Dyadics(self.mantissas * other.mantissas, self.exponent + other.exponent)

    def __add__(self, other: Dyadics) -> Dyadics:
        """Sums, channel by channel."""
        least = min(self.exponent, other.exponent)
        return Dyadics(self.at(least) + other.at(least), least)

    def times(self, factors: npt.ArrayLike) -> Dyadics:
        """Products with integers, one per channel or one for all."""
        return Dyadics(self.mantissas * integers(factors), self.exponent)

    def at(self, exponent: int) -> Integers:
        """Mantissas for a smaller exponent."""
        shifted: Integers = self.mantissas << (self.exponent - exponent)
        return shifted

    def floats(self) -> Float64Array:
        """Nearest float64, for messages."""
        return np.array([float(Fraction(m) * Fraction(2) ** self.exponent) for m in self.mantissas.tolist()])


def affine(
    scale: Dyadics,
    bias: Dyadics,
    divisor: int,
    output: tuple[float, int],
    correction: npt.ArrayLike,
    least: npt.ArrayLike,
    most: npt.ArrayLike,
) -> ExactAffine:
    """The exact rule of `real y = (a - correction) * scale / divisor + bias`, quantised.

    Args:
        scale: Real value of `divisor` accumulator steps, one per channel, > 0.
        bias: Real.
        divisor: Of an average, else 1.
        output: Scale and zero point of the result.
        correction: `int[C]`, what the source's zero point adds to the accumulator over raw bytes.
        least: `int[C]`, the smallest accumulator possible.
        most: `int[C]`, the largest.
    """
    step = Dyadics.of([output[0]])
    shifted = bias.times(divisor) + scale.times(-integers(correction))
    exponent = min(scale.exponent, shifted.exponent, step.exponent)
    factor, offset = scale.at(exponent), shifted.at(exponent)
    whole = int(step.at(exponent)[0]) * divisor
    common = math.gcd(whole, *factor.tolist(), *offset.tolist())
    channels = len(factor)
    return ExactAffine(
        tuple((factor // common).tolist()),
        tuple((offset // common).tolist()),
        whole // common,
        output[1],
        np.broadcast_to(np.asarray(least, np.int64), (channels,)).copy(),
        np.broadcast_to(np.asarray(most, np.int64), (channels,)).copy(),
    )


def exact_sum(first: tuple[float, int], second: tuple[float, int] | None, output: tuple[float, int]) -> ExactSum:
    """The exact rule of an addition; operands and output as (scale, zero point). None: a change of scale."""
    operands = [first] if second is None else [first, second]
    scales = Dyadics.of([scale for scale, _ in (*operands, output)]).mantissas.tolist()
    offset = -sum(scale * zero for scale, (_, zero) in zip(scales, operands, strict=False))
    if second is None:
        scales.insert(1, 0)
    common = math.gcd(*scales)
    return ExactSum(scales[0] // common, scales[1] // common, offset // common, scales[2] // common, output[1])


def affine_value(exact: ExactAffine, channel: int, accumulator: int, low: int, high: int) -> int:
    """One result by the definition itself: the byte that the file says for an accumulator over raw bytes."""
    value = Fraction(accumulator * exact.factor[channel] + exact.offset[channel], exact.divisor)
    return min(max(round(value) + exact.zero_point, low), high)  # Fraction rounds half to even


def sum_value(exact: ExactSum, first: int, second: int, low: int, high: int) -> int:
    """One sum by the definition itself."""
    value = Fraction(first * exact.first + second * exact.second + exact.offset, exact.divisor)
    return min(max(round(value) + exact.zero_point, low), high)


@dataclass(frozen=True)
class Thresholds:
    """A monotone rule as steps of an integer: of all that a device must reproduce, this is all.

    Attributes:
        levels: `int64[K]`, bytes low + 1 to high.
        values: `int64[C, K]`, the least accumulator whose result is at least the level, within `least` and `most + 1`:
            `least` stands for always, `most + 1` for never.
        ties: `bool[C, K]`: the exact value is half-way between two bytes at an accumulator in range, which is the
            threshold itself or, where even is below, the one before.
        near: `bool[C, K]`: the exact threshold is so near to an integer that float64 could be on its wrong side.
    """

    levels: Int64Array
    values: Int64Array
    ties: npt.NDArray[np.bool_]
    near: npt.NDArray[np.bool_]


def ratio(numerator: int, denominator: int) -> float:
    """Correctly rounded quotient; infinite beyond float64."""
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if (numerator > 0) == (denominator > 0) else -math.inf


def thresholds(exact: ExactAffine, low: int, high: int) -> Thresholds:
    """Thresholds of each channel: float64 finds them, integers decide those that it could get wrong."""
    levels = np.arange(low + 1, high + 1, dtype=np.int64)
    steps = np.array([ratio(exact.divisor, factor) for factor in exact.factor])[:, None]
    start = np.array([ratio(o, f) for o, f in zip(exact.offset, exact.factor, strict=True)])[:, None]
    least, most = exact.least[:, None], exact.most[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        x = (levels - exact.zero_point - 0.5) * steps - start
        margin = NEAR * (512 * steps + np.abs(start) + 1)
        near = ~(np.abs(x - np.rint(x)) > margin) & ~(x < least - 1 - margin) & ~(x > most + 1 + margin)
        values = np.nan_to_num(np.clip(np.ceil(x), least, most + 1)).astype(np.int64)
    ties = np.zeros(near.shape, bool)
    for channel in np.flatnonzero(near.any(1)).tolist():
        chosen = np.flatnonzero(near[channel])
        values[channel, chosen], ties[channel, chosen] = _decide(exact, channel, levels[chosen])
    return Thresholds(levels, values, ties, near)


def _decide(exact: ExactAffine, channel: int, levels: Int64Array) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
    """Thresholds of one channel in integers."""
    factor, offset, divisor = exact.factor[channel], exact.offset[channel], exact.divisor
    common = math.gcd(factor, offset, divisor)
    factor, offset, divisor = factor // common, offset // common, divisor // common
    wide = max(1024 * divisor + 2 * abs(offset), 2 * factor) >= _SAFE
    steps: Any = (levels - exact.zero_point).astype(object if wide else np.int64)
    numerator, denominator = (2 * steps - 1) * divisor - 2 * offset, 2 * factor
    floor = -(-numerator // denominator)
    tie = numerator % denominator == 0
    least, most = int(exact.least[channel]), int(exact.most[channel])
    ties = tie & (floor >= least) & (floor <= most)
    return np.clip(floor + (tie & (steps % 2 == 1)), least, most + 1).astype(np.int64), ties.astype(bool)


@dataclass(frozen=True)
class Sums:
    """Every sum of two bytes, by the definition.

    Attributes:
        result: `int64[256, 256]`, or one column for a change of scale.
        halfway: The upper of the two bytes between which the exact value is half-way, if both are in bounds; else -1.
        distance: Of the exact value from there, in steps; 1 where the bounds settle the result.
    """

    result: Int64Array
    halfway: Int64Array
    distance: Float64Array


def sums(exact: ExactSum, low: int, high: int) -> Sums:
    """The table of an addition."""
    every = np.arange(256, dtype=object if exact.largest >= _SAFE >> 2 else np.int64)
    other = every if exact.second else every[:1]
    value = every[:, None] * exact.first + other[None, :] * exact.second + exact.offset
    shifted = 2 * value + exact.divisor
    rest = shifted % (2 * exact.divisor)
    upper = shifted // (2 * exact.divisor)
    tie = (rest == 0).astype(bool)
    nearest = upper - (tie & (upper % 2 == 1).astype(bool)) + exact.zero_point
    result = np.clip(nearest, low, high).astype(np.int64)
    bounded = np.clip(upper + exact.zero_point, low, high + 1).astype(np.int64)
    open_ = (bounded > low) & (bounded <= high)
    gap = np.minimum(rest, 2 * exact.divisor - rest).astype(np.float64) / (2.0 * exact.divisor)
    between = np.where(rest > exact.divisor, bounded + 1, bounded)  # the level whose threshold is nearest
    settled = (between <= low) | (between > high)
    return Sums(result, np.where(tie & open_, bounded, -1), np.where(settled, 1.0, gap))
