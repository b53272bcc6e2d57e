"""Weights and requantisation constants in the order that the kernels read them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fpga_ops.ir.network import Requantise

Bytes = npt.NDArray[np.uint8]

PARAMETER_BYTES = 16
"""Per channel: slope and intercept."""


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
    """Per panel: float64 slopes, float64 intercepts; channels past the rule's are zero."""
    order = accumulator_order(vectors, fast)
    full = np.zeros((2, channels), np.float64)
    full[0, : len(rule.slope)], full[1, : len(rule.slope)] = rule.slope, rule.intercept
    panels = full.reshape(2, -1, 16 * vectors)[:, :, order].transpose(1, 0, 2)
    return np.ascontiguousarray(panels).view(np.uint8).ravel()
