"""Weights and requantisation constants in the order that the kernels read them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fpga_ops.ir.network import Requantise
from fpga_ops.runtime.memory import aligned
from fpga_ops.vector.layout import ALIGNMENT, round_up

Bytes = npt.NDArray[np.uint8]

PARAMETER_BYTES = 16
"""Per channel: slope and intercept."""


def pack_weights(matrix: npt.NDArray[np.int8], vectors: int, step: int) -> Bytes:
    """`int8[channels, bytes of the window]` to panels (see kernels/vector/conv.cl).

    Args:
        matrix: Channels a multiple of 16*vectors, bytes a multiple of 4.
        vectors: 16-channel vectors of a panel.
        step: Bytes of the window beside each other: 4; 2, which are then words; or 1, which is then a float32.
    """
    channels, length = matrix.shape
    panel = 16 * vectors
    # (numpy copies single bytes slowly)
    stored = {4: np.int8, 2: np.int16, 1: np.float32}[step]
    words = np.ascontiguousarray(matrix, stored).view(np.int32)
    ordered = words.reshape(channels // panel, panel, length // step).transpose(0, 2, 1)
    return np.ascontiguousarray(ordered).view(np.uint8).ravel()


NEVER = 2 * 255
"""A limit that no two bytes pass."""


def limits(matrix: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
    """How large two neighbouring bytes may be together for the sum of their products to fit 16 bits in all channels.

    With weights of one sign and of sizes `a >= b`, the worst that bytes of the sum `255 + s` give is `255 a + s b`.
    Where signs differ, 255 times the larger weight fits.

    Args:
        matrix: `int8[channels, bytes of the window]`, an even number of bytes.

    Returns:
        `int16[bytes / 2]`, from 255 to `NEVER`.
    """
    pairs = matrix.reshape(len(matrix), -1, 2).astype(np.int32)
    sizes = np.abs(pairs)
    larger, smaller = sizes.max(2), np.where(pairs.prod(2) > 0, sizes.min(2), 0)
    beyond = (32767 - 255 * larger) // np.maximum(smaller, 1)
    channels = np.where(smaller > 0, np.minimum(255 + beyond, NEVER), NEVER)
    allowed: npt.NDArray[np.int16] = channels.min(0).astype(np.int16)
    return allowed


def limits_of_four(matrix: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
    """How large four bytes, two of a step and two of the next, may be together for their products' sum to fit 16 bits.

    The sum is at most that of the bytes, times the largest of their weights.

    Args:
        matrix: `int8[channels, bytes of the window]`, a multiple of 8 bytes.

    Returns:
        `int16[bytes / 2]`, where each step's two pairs have the limits that they share with the other step's.
    """
    largest = np.abs(matrix.astype(np.int16)).max(0).reshape(-1, 2, 2, 2).max(axis=(1, 3))
    allowed = np.minimum(32767 // np.maximum(largest, 1), 2 * NEVER).astype(np.int16)
    return np.repeat(allowed[:, None], 2, axis=1).ravel()


def limit_bytes(window: int) -> int:
    """Bytes of each sort of limits in front of a layer's weights, by bytes of the window."""
    return round_up(window, 64)


def pack_checked(matrix: npt.NDArray[np.int8], vectors: int) -> Bytes:
    """As `pack_weights` by steps of 4 bytes, with `limits` and `limits_of_four` in front, all as uint8[bytes]."""
    front = np.zeros((2, limit_bytes(matrix.shape[1])), np.uint8)
    for row, found in zip(front, (limits(matrix), limits_of_four(matrix)), strict=True):
        row[: matrix.shape[1]] = found.view(np.uint8)
    return np.concatenate([front.ravel(), pack_weights(matrix, vectors, 4)])


def pack_fixed(
    constants: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]], channels: int, vectors: int
) -> Bytes:
    """Per panel: multipliers, shifts, and of each 16 channels the offsets of even ones, then of odd ones.

    Args:
        constants: Of `endings.fixed_point`; channels past them are zero.
        channels: Stored.
        vectors: 16-channel vectors of a panel.
    """
    used = len(constants[0])
    multiplier, shift = np.zeros((2, channels), np.int32)
    offset = np.zeros(channels, np.int64)
    multiplier[:used], shift[:used], offset[:used] = constants
    sides = offset.reshape(-1, 8, 2).swapaxes(1, 2)
    parts = [part.reshape(-1, 16 * vectors).view(np.uint8) for part in (multiplier, shift, np.ascontiguousarray(sides))]
    packed: Bytes = np.concatenate(parts, axis=1).ravel()
    return packed


def pack_parameters(rule: Requantise, channels: int, vectors: int) -> Bytes:
    """Per panel: float64 slopes, float64 intercepts; channels past the rule's are zero."""
    full = np.zeros((2, channels), np.float64)
    full[0, : len(rule.slope)], full[1, : len(rule.slope)] = rule.slope, rule.intercept
    panels = full.reshape(2, -1, 16 * vectors).transpose(1, 0, 2)
    return np.ascontiguousarray(panels).view(np.uint8).ravel()


PACKERS = 4
"""Threads that pack weights."""


@dataclass
class Constants:
    """Collects bytes to be packed, each piece aligned."""

    size: int = 0
    pieces: list[tuple[int, Callable[[], Bytes]]] = field(default_factory=list)

    def put(self, size: int, make: Callable[[], Bytes]) -> int:
        """A place for what `make` will give, of this many bytes; its offset."""
        offset, self.size = self.size, self.size + round_up(size, ALIGNMENT)
        self.pieces.append((offset, make))
        return offset

    def joined(self) -> Bytes:
        """All pieces made and in their places."""
        result = aligned(self.size + 4096)  # what prefetching may touch

        def fill(piece: tuple[int, Callable[[], Bytes]]) -> None:
            content = piece[1]()
            result[piece[0] : piece[0] + content.size] = content

        with ThreadPoolExecutor(PACKERS) as pool:  # numpy copies without holding up other threads
            list(pool.map(fill, self.pieces))
        return result
