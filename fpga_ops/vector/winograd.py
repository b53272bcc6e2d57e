"""Winograd's F(4x4, 3x3) in exact integers: when it may be used, and its weights (kernels/vector/winograd.cl)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fpga_ops.ir.network import Conv
from fpga_ops.ir.requantise import accumulator_bound
from fpga_ops.vector.packing import Bytes

OUTPUT = 4
"""Outputs of a tile, per side."""
FREQUENCIES = 36
SUM_LIMIT = 1 << 25
"""|sum of products| must be below this for the last division to be exact."""
MAX_WEIGHTS = 5 << 20
"""Bytes of transformed weights beyond which reading them costs more than the products saved."""
STREAMED = 64
"""With more source channels a panel's weights leave the caches near the core between tasks, and are fetched ahead."""
LEAST_SIDE = 9
"""Of a map: smaller ones have too few tiles to share what is read of the weights."""
REGISTER_TILES = {16: {1: 6}, 32: {1: 16, 2: 14}}
"""Most tiles of 4x4 outputs in so many registers, by vectors of 16 channels."""
CHANNELS = 32
"""Source channels come in vectors of this many."""
PANEL = 64
PAIRS = (((0, 0), (2, 0)), ((0, 2), (2, 2)), ((0, 1), (2, 1)), ((1, 0), (1, 2)), ((1, 1),))
"""Taps, as (row, column), that lie beside each other where tasks transform weights themselves."""
CACHE_LINE = 64


def suits(step: Conv, in_channels: int, out_channels: int, height: int, width: int) -> bool:
    """Whether a convolution can be done this way, to the same bits.

    Args:
        step: The convolution; its weights bound the sums.
        in_channels: Stored source channels.
        out_channels: Stored output channels.
        height: Of the output map.
        width: Of the output map.
    """
    return (
        step.weights.shape[1:3] == (3, 3)
        and step.strides == (1, 1)
        and step.groups == 1
        and in_channels % CHANNELS == 0
        and out_channels % PANEL == 0
        and min(height, width) >= LEAST_SIDE
        and 2 * FREQUENCIES * in_channels * out_channels <= MAX_WEIGHTS
        and int(accumulator_bound(step.weights).max()) < SUM_LIMIT
    )


def tiles(side: int) -> int:
    """Tiles along a side of the output map."""
    return -(-side // OUTPUT)


def pack(weights: npt.NDArray[np.int8], vectors: int) -> Bytes:
    """`int8[OC, 3, 3, IC]` to `int16[OC / 64][36][4 / vectors][IC / 2][vectors][16][2]`, transformed, as bytes."""
    count, _, _, channels = weights.shape
    panels = np.empty((count // PANEL, FREQUENCIES, 4 // vectors, channels // 2, 16 * vectors), np.int32)
    for number, panel in enumerate(panels):  # one by one: a layer's temporaries would be many times its weights
        taps = weights[number * PANEL : (number + 1) * PANEL].transpose(1, 2, 0, 3).astype(np.int16)
        columns = _transformed(_transformed(taps).swapaxes(0, 1))
        frequencies = np.ascontiguousarray(columns.swapaxes(0, 1))
        pairs = frequencies.reshape(FREQUENCIES, PANEL, channels).view(np.int32)
        ordered = pairs.reshape(FREQUENCIES, 4 // vectors, 16 * vectors, channels // 2)
        panel[...] = ordered.transpose(0, 1, 3, 2)
    return panels.view(np.uint8).ravel()


def _transformed(taps: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """G' (kernels/vector/winograd.cl) along the first axis, of 3, which becomes 6. No library's threads are woken."""
    first, second, third = taps
    even, odd = first + third, first + 4 * third
    return np.stack([6 * first, even + second, even - second, odd + 2 * second, odd - 2 * second, 6 * third])


def pack_taps(weights: npt.NDArray[np.int8]) -> Bytes:
    """`int8[OC, 3, 3, IC]` to `int8[OC / 64][2][IC / 2][2][5][16][2][2]`, for tasks that transform weights."""
    count, _, _, channels = weights.shape
    paired = np.zeros((5, 2, count, channels), np.int8)
    for number, pair in enumerate(PAIRS):
        for member, (y, x) in enumerate(pair):
            paired[number, member] = weights[:, y, x]
    lanes = paired.reshape(5, 2, count // PANEL, 2, 2, 16, channels // 2, 2)
    return np.ascontiguousarray(lanes.transpose(2, 3, 6, 4, 0, 5, 7, 1)).view(np.uint8).ravel()


def scratch_bytes(tiles: int, in_channels: int, *, transforms: bool = False) -> int:
    """Bytes that one worker needs for a task of so many tiles: transformed pixels and products, a line more each.

    Args:
        tiles: Of 4x4 outputs.
        in_channels: Stored source channels.
        transforms: The task transforms its weights itself: it keeps twice four frequencies of them, and the products of
            half a panel.
    """
    products, weights = 4 * PANEL, 0
    if transforms:
        products, weights = products // 2, 2 * 4 * (2 * CHANNELS * in_channels + CACHE_LINE)
    return FREQUENCIES * (tiles * (2 * in_channels + products) + 2 * CACHE_LINE) + weights
