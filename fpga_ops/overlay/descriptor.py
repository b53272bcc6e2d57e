"""The layer descriptor: 64 little-endian int32 words, the last a checksum. Same order as layer_t in overlay.h."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fpga_ops.overlay.errors import DoesNotFitError

WORDS = 64

FIELDS = (
    "op", "groups", "images", "rows", "cols", "outputs", "taps_y", "taps_x", "stride_y", "stride_x", "pad_y",
    "pad_x", "pad_value", "tap_step", "in_mem", "in_base", "in_step", "in_h", "in_w", "in_cols", "in_vecs",
    "red_vecs", "group_vecs", "acts", "period", "lag", "trips", "array_trips", "out_mem", "out_base",
    "out_step", "out_vecs", "out_words", "add", "skip_base", "skip_step", "w_base", "w_words", "parts",
    "part_acts", "last_acts", "part_words", "last_words", "next_words", "par_base", "increment", "low", "high",
    "add_first", "add_second", "add_offset_low", "add_offset_high", "add_shift", "add_tie", "add_increment",
    "add_low", "add_high",
    "row_bytes", "byte_step", "byte_taps", "byte_pad", "load_words", "load_size",
)  # fmt: skip

_RTL = {"lag": "in_pitch", "trips": "out_pitch", "array_trips": "wrap", "in_cols": "stack"}
RTL_FIELDS = tuple(_RTL.get(name, name) for name in FIELDS)
"""The same words for the RTL. It has no use for the iterations of the OpenCL loops; in their place: pixels from a row
of the source to the next, of the result to the next, and the width at which a group of pixels goes on in the next row
(0: nowhere). And for the columns of the source: how many rows of the image a pixel of it holds."""


class Op(IntEnum):
    """What a descriptor asks for; the values of the enum in overlay.h."""

    END = 0
    LOAD = 1
    CONV = 2
    MAX = 3
    SUM = 4
    STORE = 5


@dataclass
class Descriptor:
    """One layer for the kernels, and what people and the cycle model want to know about it.

    Attributes:
        values: The fields; absent ones are 0.
        name: ONNX node (or "load", "store", "copy") for reports.
        tensor: The tensor that is loaded, made or stored.
        macs: Multiply-accumulates that the network asks for, all images together.
    """

    values: dict[str, int]
    name: str = ""
    tensor: str = ""
    macs: int = 0
    labels: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> int:
        return self.values.get(name, 0)

    @property
    def op(self) -> Op:
        """The operation."""
        return Op(self["op"])


def checksum(words: npt.NDArray[np.uint32]) -> int:
    """What `fetch` computes over words 0..62: rotate left by 5, add. A change in any one word changes the result."""
    total = 1
    for word in words.tolist():
        total = (((total << 5 | total >> 27) & 0xFFFFFFFF) + word) & 0xFFFFFFFF
    return total


def encode(descriptors: list[Descriptor], fields: tuple[str, ...] = FIELDS) -> npt.NDArray[np.int32]:
    """`int32[layers, 64]` with checksums; `fields` is `FIELDS` or `RTL_FIELDS`.

    Raises:
        DoesNotFitError: A field is beyond 32 bits.
    """
    table = np.zeros((len(descriptors), WORDS), np.int32)
    for row, descriptor in zip(table, descriptors, strict=True):
        unknown = descriptor.values.keys() - {*FIELDS, *RTL_FIELDS}
        if unknown:
            raise KeyError(f"no such descriptor fields: {sorted(unknown)}")
        for at, name in enumerate(fields):
            value = descriptor[name]
            if not -(2**31) <= value < 2**31:
                raise DoesNotFitError(f"descriptor field {name}", value, 2**31 - 1, descriptor.name)
            row[at] = value
        row.view(np.uint32)[-1] = checksum(row[:-1].view(np.uint32))
    return table


def verify(table: npt.NDArray[np.int32]) -> int:
    """Index of the first row whose checksum is wrong, or -1: what `fetch` checks on the device."""
    for index, row in enumerate(table):
        if int(row.view(np.uint32)[-1]) != checksum(np.ascontiguousarray(row[:-1]).view(np.uint32)):
            return index
    return -1
