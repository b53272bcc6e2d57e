"""Block floating point: the narrower arithmetic of the overlay's "bfp" array, in plain numpy integers.

VEC input channels of one pixel share an exponent; each activation keeps 5 bits, each weight a sign and 5 bits
(Brainwave's 1s5e5m shares an exponent in the same way). Products are 5 x 6 bits, a block's sum is shifted by the two
exponents and accumulated exactly in int32; requantisation is that of the integer network.

    activations:  e = 0..3, the smallest with max(x) < 32 * 2^e;   m = min((x + 2^e / 2) >> e, 31)
    weights:      e = 0..3, the smallest that needs no clipping;   m = round half to even(w / 2^e), |m| <= 31
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fpga_ops.ir import reference
from fpga_ops.ir.network import Conv, Int8Array, IntegerNetwork, UInt8Array, sources
from fpga_ops.overlay.geometry import ceil_div
from fpga_ops.overlay.lower import Fold, folded_conv

MANTISSA_MAX = 31


def weight_blocks(blocks: Int8Array) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Mantissas `[..., VEC]` and exponents `[..., 1]` of `int8[..., VEC]` weights."""
    exponent = np.zeros((*blocks.shape[:-1], 1), np.int16)
    for e in (0, 1, 2):
        top = np.abs(np.rint(blocks / 2.0**e)).max(axis=-1, keepdims=True)
        exponent = np.where(top > MANTISSA_MAX, e + 1, exponent).astype(np.int16)
    mantissa = np.rint(blocks / np.exp2(exponent.astype(np.float64))).astype(np.int16)
    return mantissa, exponent


def round_blocks(blocks: Int8Array) -> npt.NDArray[np.int16]:
    """The values that the array multiplies with: mantissa times 2^exponent."""
    mantissa, exponent = weight_blocks(blocks)
    return (mantissa << exponent).astype(np.int16)


def encode(blocks: Int8Array) -> Int8Array:
    """A byte per weight: the block's exponent in the two high bits, the mantissa's six bits below."""
    mantissa, exponent = weight_blocks(blocks)
    return ((exponent << 6) | (mantissa & 63)).astype(np.uint8).view(np.int8)


def round_activations(x: UInt8Array, vec: int) -> npt.NDArray[np.int16]:
    """`uint8[..., C]` to mantissa times 2^exponent, blocks of `vec` channels from channel 0 on."""
    channels = x.shape[-1]
    padded = np.zeros((*x.shape[:-1], ceil_div(channels, vec) * vec), np.int16)
    padded[..., :channels] = x
    blocks = padded.reshape(*x.shape[:-1], -1, vec)
    top = blocks.max(axis=-1, keepdims=True)
    exponent = (top >= 32).astype(np.int16) + (top >= 64) + (top >= 128)
    mantissa = np.minimum((blocks + ((1 << exponent) >> 1)) >> exponent, MANTISSA_MAX)
    rounded: npt.NDArray[np.int16] = (mantissa << exponent).reshape(padded.shape)[..., :channels].astype(np.int16)
    return rounded


def _rounded_weights(step: Conv, vec: int) -> npt.NDArray[np.int16]:
    """Weights after rounding, `int16[OC, KH, KW, IC / groups]`, in blocks that start at multiples of `vec`.

    Zeros beside the channels of a group do not change an exponent, so each group's channels are placed at their
    absolute positions and cut out again.
    """
    outputs, kernel_h, kernel_w, inputs = step.weights.shape
    result = np.empty(step.weights.shape, np.int16)
    per_group = outputs // step.groups
    for group in range(step.groups):
        offset = group * inputs % vec
        chosen = slice(group * per_group, (group + 1) * per_group)
        padded = np.zeros((per_group, kernel_h, kernel_w, ceil_div(offset + inputs, vec) * vec), np.int8)
        padded[..., offset : offset + inputs] = step.weights[chosen]
        blocks = round_blocks(padded.reshape(per_group, kernel_h, kernel_w, -1, vec)).reshape(padded.shape)
        result[chosen] = blocks[..., offset : offset + inputs]
    return result


def convolution(
    x: UInt8Array,
    step: Conv,
    zero_point: int,
    vec: int,
    residual: UInt8Array | None = None,
    fold: Fold | None = None,
) -> UInt8Array:
    """One convolution as the "bfp" array computes it; see `reference.convolution`.

    With a fold the blocks run over the window, as the host lays it out.
    """
    if fold is not None:
        x, step = fold.apply(x), folded_conv(step, fold)
    weights = _rounded_weights(step, vec)
    top, left, bottom, right = step.pads
    # A padding pixel is a block of zero points alone, whatever the other pixels hold.
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=zero_point)
    accumulator = _accumulate(round_activations(padded, vec), step, weights)
    kept = step.weights.reshape(len(weights), -1).astype(np.int64).sum(1)
    lost = kept - weights.reshape(len(weights), -1).sum(1, dtype=np.int64)
    y = reference.requantise(accumulator + zero_point * lost, step.requantise)
    if step.add is None or residual is None:
        return y
    return reference.add(y, residual, step.add)


def _accumulate(rounded: npt.NDArray[np.int16], step: Conv, weights: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    """Sums of products, exact: every partial sum is an integer below 2^24 * 2^29, within float64."""
    outputs, kernel_h, kernel_w, inputs = weights.shape
    view = np.lib.stride_tricks.sliding_window_view(rounded, (kernel_h, kernel_w), axis=(1, 2))  # type: ignore[call-overload]
    view = view[:, :: step.strides[0], :: step.strides[1]]
    n, height, width = view.shape[:3]
    per_group = outputs // step.groups
    result = np.empty((n, height, width, outputs), np.int64)
    for group in range(step.groups):
        columns = view[:, :, :, group * inputs : (group + 1) * inputs].transpose(0, 1, 2, 4, 5, 3)
        matrix = columns.reshape(n * height * width, -1).astype(np.float64)
        chosen = slice(group * per_group, (group + 1) * per_group)
        product = matrix @ weights[chosen].reshape(per_group, -1).T.astype(np.float64)
        result[..., chosen] = np.rint(product).reshape(n, height, width, per_group)
    return result


def run_integers(
    network: IntegerNetwork,
    inputs: Mapping[str, UInt8Array],
    vec: int,
    folds: Mapping[str, Fold] | None = None,
) -> dict[str, UInt8Array]:
    """All tensors of a network under block floating point; as `reference.run_integers` otherwise.

    Args:
        network: The integer network.
        inputs: Quantised inputs, `uint8[N, H, W, C]`.
        vec: Channels in a block.
        folds: Inputs that are laid out as im2col (`Plan.lowered.folds`).
    """
    values: dict[str, UInt8Array] = {name: inputs[name] for name in network.inputs}
    for step in network.steps:
        if isinstance(step, Conv):
            operands = [values[name] for name in sources(step)]
            zero_point = network.tensors[step.source].zero_point
            residual = operands[1] if step.residual is not None else None
            fold = (folds or {}).get(step.source)
            values[step.output] = convolution(operands[0], step, zero_point, vec, residual, fold)
        else:
            values[step.output] = reference.apply(network, step, values)
    return values
