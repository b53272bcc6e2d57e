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
        step: Bytes of the window beside each other: 4, or 1, which is then a float32.
    """
    channels, length = matrix.shape
    panel = 16 * vectors
    # (numpy copies single bytes slowly)
    words = np.ascontiguousarray(matrix).view(np.int32) if step == 4 else matrix.astype(np.float32)
    ordered = words.reshape(channels // panel, panel, length // step).transpose(0, 2, 1)
    return np.ascontiguousarray(ordered).view(np.uint8).ravel()


PAIR_LIMIT = 128
"""255 times weights of one sign with this sum fits 16 bits."""


@dataclass(frozen=True)
class Steps:
    """The steps of each panel's window (four bytes each), by how their products must be summed.

    Attributes:
        narrow: `bool[panels, steps]`: no sum of two products with bytes can leave 16 bits.
        wide: `bool[panels, steps]`: one could. Steps whose weights are all 0 are neither.
    """

    narrow: npt.NDArray[np.bool_]
    wide: npt.NDArray[np.bool_]

    @property
    def list_bytes(self) -> int:
        """Of the list in front of a panel's weights."""
        return list_bytes(4 * self.narrow.shape[1])

    def panel_bytes(self, vectors: int) -> int:
        """From one panel's weights to the next's, by vectors of 16 channels."""
        sizes = 64 * self.narrow.sum(1) + 128 * self.wide.sum(1)
        return self.list_bytes + vectors * int(sizes.max(initial=0))


def list_bytes(window: int) -> int:
    """Bytes of the list in front of a panel's weights, by bytes of the window."""
    return round_up(4 * (2 + window // 4), 64)


def classify(matrix: npt.NDArray[np.int8], vectors: int) -> Steps:
    """Prove of each step of each panel whether 16 bits hold its sums. Arguments as of `pack_weights`."""
    channels, length = matrix.shape
    panel = 16 * vectors
    pairs = matrix.reshape(channels, length // 2, 2).astype(np.int16)
    positive, negative = np.maximum(pairs, 0).sum(2), -np.minimum(pairs, 0).sum(2)
    most = np.maximum(positive, negative).reshape(channels // panel, panel, length // 4, 2).max((1, 3))
    return Steps((most > 0) & (most <= PAIR_LIMIT), most > PAIR_LIMIT)


def pack_listed(matrix: npt.NDArray[np.int8], vectors: int, steps: Steps, places: npt.NDArray[np.int32]) -> Bytes:
    """As `pack_weights`, with the steps of each panel listed by class: see kernels/vector/conv.cl.

    Args:
        matrix: As of `pack_weights`.
        vectors: As there.
        steps: Of `classify`.
        places: `int32[steps]`, where in the source each step's bytes are.
    """
    channels, length = matrix.shape
    panel = 16 * vectors
    grouped = matrix.reshape(channels // panel, panel, length // 4, 4).transpose(0, 2, 1, 3)
    window = np.arange(0, length, 4)
    result = np.zeros((len(grouped), steps.panel_bytes(vectors)), np.uint8)
    for row, taps, narrow, wide in zip(result, grouped, steps.narrow, steps.wide, strict=True):
        header = row[: steps.list_bytes].view(np.int32)
        listed = np.concatenate([[narrow.sum(), wide.sum()], places[narrow], window[wide]])
        header[: len(listed)] = listed
        first = np.ascontiguousarray(taps[narrow]).view(np.uint8).ravel()
        words = taps[wide].astype(np.int16)
        second = np.stack([words[..., :2], words[..., 2:]], 1).view(np.uint8).ravel()
        row[steps.list_bytes : steps.list_bytes + len(first) + len(second)] = np.concatenate([first, second])
    return result.ravel()


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
