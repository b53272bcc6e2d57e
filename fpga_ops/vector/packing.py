"""Weights and requantisation constants in the order that the kernels read them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fpga_ops.ir.network import Requantise

Bytes = npt.NDArray[np.uint8]

PARAMETER_BYTES = 10
"""Per channel: bias, shift and multiplier."""


def accumulator_order(vectors: int, fast: bool) -> npt.NDArray[np.intp]:
    """Channel of (vector, lane) in a panel of 16*vectors channels.

    The AVX-512 packing instructions work within 128-bit lanes; this is the order of accumulators from which they
    leave the bytes sorted.
    """
    vector, element = np.divmod(np.arange(vectors * 16), 16)
    if not fast or vectors == 1:
        return np.arange(vectors * 16)
    lane, place = np.divmod(element, 4)
    order: npt.NDArray[np.intp] = (16 if vectors == 4 else 8) * lane + 4 * vector + place
    return order


def multiplier_order(vectors: int, fast: bool) -> npt.NDArray[np.intp]:
    """Channel of each 16-bit word after accumulators were packed to words."""
    if vectors != 4 or not fast:
        return np.arange(vectors * 16)
    word = np.arange(32)
    lane, half, place = word // 8, (word // 4) % 2, word % 4
    first = 16 * lane + 4 * half + place
    return np.concatenate([first, first + 8])


def pack_weights(matrix: npt.NDArray[np.int8], vectors: int, fast: bool) -> Bytes:
    """`int8[channels, bytes of the window]` to panels (see kernels/vector/conv.cl).

    Args:
        matrix: Channels a multiple of 16*vectors, bytes a multiple of 4.
        vectors: 16-channel vectors of a panel.
        fast: For the dot instruction: 4 bytes of the window beside each other.
    """
    channels, length = matrix.shape
    panel = 16 * vectors
    if not fast:
        taps = matrix.reshape(channels // panel, panel, length).transpose(0, 2, 1)
        return np.ascontiguousarray(taps).view(np.uint8).ravel()
    # four bytes at a time: numpy copies single ones slowly
    fours = np.ascontiguousarray(matrix).reshape(channels // panel, panel, length).view(np.int32)
    ordered = fours[:, accumulator_order(vectors, fast)].transpose(0, 2, 1)
    return np.ascontiguousarray(ordered).view(np.uint8).ravel()


def pack_parameters(rule: Requantise, channels: int, vectors: int, fast: bool) -> Bytes:
    """Per panel: int32 bias, int32 shift, int16 multiplier; channels past the rule's are zero."""

    def column(values: npt.NDArray[np.generic], dtype: type[np.generic], order: npt.NDArray[np.intp]) -> Bytes:
        full = np.zeros(channels, dtype)
        full[: len(values)] = values
        chosen = full.reshape(-1, 16 * vectors)[:, order]
        return np.ascontiguousarray(chosen).view(np.uint8).reshape(len(chosen), -1)

    lanes, words = accumulator_order(vectors, fast), multiplier_order(vectors, fast)
    columns = [
        column(rule.bias, np.int32, lanes),
        column(rule.shift, np.int32, lanes),
        column(rule.multiplier, np.int16, words),
    ]
    return np.concatenate(columns, axis=1).ravel()
