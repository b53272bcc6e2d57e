"""Fixed-point constants from real scales, and the quantisation of float inputs.

Notation: `S[c] = s_in * s_w[c] / s_out` is the real factor from an accumulator to an output step. All functions are
pure; the derivation and the error bounds are in docs/explanation/integer-network.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import ModelError
from fpga_ops.ir.network import AddRule, Float32Array, Int8Array, Requantise, UInt8Array

FRACTION_BITS = 4
"""Fractional bits kept between the multiplication and the last shift."""
ADD_FRACTION_BITS = 7
"""Most fractional bits of an addition; as many are used as 16 bits hold, 6 for scales alike."""

_INT32_MAX = 2**31 - 1


def input_multiplier(scale: float) -> np.float32:
    """The float32 with which inputs are multiplied: 1 / scale, rounded once."""
    return np.float32(1.0) / np.float32(scale)


def quantise(values: npt.NDArray[np.float32], scale: float, zero_point: int) -> UInt8Array:
    """`clip(round_half_even(values * float32(1/scale)) + zero_point, 0, 255)`, each operation in IEEE float32.

    Args:
        values: Finite float32 of any shape.
        scale: Real value of one step, > 0.
        zero_point: The uint8 that stands for zero.
    """
    with np.errstate(over="ignore"):  # infinity saturates as any large value does
        scaled = np.rint(values.astype(np.float32, copy=False) * input_multiplier(scale))
    # Bounds that float32 holds exactly; the zero point is added as an integer, so no rounding follows the first.
    shifted = np.clip(scaled, -1024.0, 1024.0).astype(np.int32) + np.int32(zero_point)
    quantised: UInt8Array = np.clip(shifted, 0, 255).astype(np.uint8)
    return quantised


def dequantise(values: UInt8Array, scale: float, zero_point: int) -> Float32Array:
    """`(values - zero_point) * scale` in float32, as ONNX DequantizeLinear."""
    return (values.astype(np.int32) - zero_point).astype(np.float32) * np.float32(scale)


def requantise(
    scale: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
    zero_point: int,
    correction: npt.NDArray[np.int64],
    low: int = 0,
    high: int = 255,
    accumulator_bound: npt.NDArray[np.int64] | None = None,
) -> Requantise:
    """Constants of `Requantise` for `real y = a' * scale[c] + bias[c]`, y in output steps from the zero point.

    `a' = a - correction[c]` is the accumulator over zero-based activations, `a` the one over raw bytes.

    Args:
        scale: `float64[C]`, S[c] > 0.
        bias: `float64[C]`, the layer's bias in output steps.
        zero_point: The output's.
        correction: `int64[C]`, zero point of the source times the channel's sum of weights.
        low: Lower bound of the output, in uint8.
        high: Upper bound of the output, in uint8.
        accumulator_bound: `int64[C]`, the largest |a| possible; the int32 range is proven with it.

    Raises:
        ModelError: A scale is not positive and finite or out of range, or int32 could overflow.
    """
    scale = np.asarray(scale, np.float64)
    bias = np.asarray(bias, np.float64)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError(f"scales must be positive and finite, got {scale.min()} to {scale.max()}")
    if not np.isfinite(bias).all():
        raise ModelError("bias must be finite")
    if accumulator_bound is not None:  # a channel without weights is its bias, whatever its scale: take a harmless one
        scale = np.where(np.asarray(accumulator_bound) == 0, 2.0**-10, scale)
    # scale = m / 2^16 / 2^4 * 2^(pre - shift) with 2^14 <= m < 2^15
    exponent = np.floor(np.log2(scale)).astype(np.int64)
    shift = 14 - 16 - FRACTION_BITS - exponent
    multiplier = np.rint(scale * np.exp2(shift + 16.0 + FRACTION_BITS)).astype(np.int64)
    over = multiplier > 32767
    multiplier[over], shift[over] = 16384, shift[over] - 1
    pre_shift = int(max(0, -shift.min()))
    shift = shift + pre_shift
    if pre_shift > 15:
        raise ModelError(f"scale {scale.max():.3g} of an accumulator step is too large: the limit is 2^10")
    # A scale so small that even the largest accumulator rounds to nothing: the channel is its bias. Shifting by
    # 31 leaves -1 or 0, so the multiplier is kept and the bias is made with the shift that is applied.
    clipped = np.minimum(shift, 31)
    effective = multiplier * np.exp2(-16.0 - FRACTION_BITS + pre_shift - clipped.astype(np.float64))
    constant = (bias + zero_point + 0.5) / effective
    half = np.where(clipped > 0, np.exp2(clipped - 1.0 - pre_shift), 0.0)
    total = np.rint(constant + half) - np.asarray(correction, np.float64)
    total = _exact_background(total, bias + zero_point, correction, multiplier, clipped, pre_shift)
    bound = np.zeros(len(scale)) if accumulator_bound is None else np.asarray(accumulator_bound, np.float64)
    limit = _INT32_MAX / 2.0**pre_shift
    # A bias that would leave int32 belongs to a channel whose output is constant at a bound; bring it back as far as
    # that stays so: |total| - bound beyond what saturates t anyway.
    saturated = np.exp2(15.0 + clipped - pre_shift) + bound
    total = np.clip(total, -np.maximum(saturated, 1.0), np.maximum(saturated, 1.0))
    worst = float((np.abs(total) + bound).max(initial=0.0))
    if worst >= limit:
        raise ModelError(f"the 32-bit accumulator could overflow: {worst:.4g} is beyond {limit:.4g}")
    return Requantise(
        bias=total.astype(np.int32),
        multiplier=multiplier.astype(np.int16),
        shift=clipped.astype(np.uint8),
        pre_shift=pre_shift,
        low=low,
        high=high,
    )


def _exact_background(
    total: npt.NDArray[np.float64],
    wanted: npt.NDArray[np.float64],
    correction: npt.NDArray[np.int64],
    multiplier: npt.NDArray[np.int64],
    shift: npt.NDArray[np.int64],
    pre_shift: int,
) -> npt.NDArray[np.float64]:
    """Move biases by at most half a step of t so that where the input is zero the output is rounded exactly.

    Most pixels of a jet image are empty: there a channel that falls on the wrong side of a half would be off by one
    over the whole map.
    """

    def background(bias: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        accumulator = np.clip(bias + correction, -(2.0**46), 2.0**46).astype(np.int64)
        t = np.clip((accumulator << pre_shift) >> shift, -(2**15), 2**15 - 1)
        result: npt.NDArray[np.int64] = (t * multiplier) >> (16 + FRACTION_BITS)
        return result

    gap = np.rint(wanted) - background(total)
    moved = total + np.sign(gap) * np.ceil(np.exp2(shift - 1.0 - pre_shift))
    better = (gap != 0) & (background(moved) == np.rint(wanted))
    return np.where(better, moved, total)


def accumulator_bound(weights: Int8Array) -> npt.NDArray[np.int64]:
    """Largest possible |sum(x * w)| per output channel over uint8 x: `int64[OC]`."""
    flat = weights.reshape(len(weights), -1)
    positive = _row_sums(flat * (flat > 0))
    bound: npt.NDArray[np.int64] = 255 * np.maximum(positive, positive - _row_sums(flat))
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
    second: tuple[float, int],
    output: tuple[float, int],
    low: int = 0,
    high: int = 255,
) -> AddRule:
    """Constants of `AddRule` for operands and output given as (scale, zero point).

    Raises:
        ModelError: An operand's scale is more than about 60 times the output's.
    """
    ratios = [operand[0] / output[0] for operand in (first, second)]
    if not all(np.isfinite(r) and r > 0 for r in ratios):
        raise ModelError(f"scales of an addition must be positive and finite: {first[0]}, {second[0]} -> {output[0]}")
    every_byte = np.arange(256, dtype=np.int64)
    for bits in range(ADD_FRACTION_BITS, 0, -1):
        multipliers = [round(r * 2.0 ** (8 + bits)) for r in ratios]
        constant = output[1] + 0.5 - sum(r * operand[1] for r, operand in zip(ratios, (first, second), strict=True))
        lost = sum(float(((every_byte * m) & 255).mean()) / 256 for m in multipliers)  # what the two floors take
        offset = round(constant * 2.0**bits + lost)
        top = sum((255 * m) >> 8 for m in multipliers)
        if max(multipliers) < 2**16 and offset >= -(2**15) and top < 2**15 and top + max(offset, 0) < 2**15:
            return AddRule(multipliers[0], multipliers[1], offset, bits, low, high)
    raise ModelError(
        f"addition: scales {first[0]:.4g} and {second[0]:.4g} are too large for the output's {output[0]:.4g}"
    )
