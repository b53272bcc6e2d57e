"""The compile-time shape of the overlay: what a bitstream fixes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd, log2
from typing import Literal, TypeAlias, get_args

from fpga_ops.errors import DeviceError

Arithmetic: TypeAlias = Literal["int8", "int8-pairs"]

STACK_COLS = 64
"""Groups of pixels in the line memory of `stacked_rows`."""


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below a / b."""
    return -(-a // b)


@dataclass(frozen=True)
class Geometry:
    """Sizes of the multiplier array and of the memories around it.

    Attributes:
        vec: Input channels reduced in a cycle.
        lane: Output channels in a cycle, at least `vec`.
        pix: Pixels of one output row in a cycle; odd, so that strides 1 and 2 meet no bank twice.
        wb: Weight bytes that external memory can deliver in a cycle (64 for a 512-bit port).
        lag: Iterations from a pixel group's last send to its first result: the latency of array and requantiser.
        weight_tiles: Tiles (lane x vec bytes) in each of the two weight buffers.
        weight_depth: Words of wb bytes that the reader may be ahead of those buffers: fetched while the array has
            work that needs few weights, spent where a layer (a fully connected one) needs more than memory delivers.
        map_words: Depth of each of the two feature-map memories, in words of vec x pix bytes; None: as needed.
        resident_words: Words of wb bytes of weights that stay on the chip once they are loaded. The OpenCL kernels have
            none: their memories do not outlive a launch.
        resident_blocks: Blocks of 16 lane bytes of requantisation constants that stay there.
        accumulator_bits: Of a sum of products, signed: 27 is what a multiplier of a DSP block takes. A network whose
            sums could be larger is refused.
        multiplier_bits: Of the requantiser's and the addition's multipliers, unsigned. 27 in a block are enough for
            nearly all channels; the few that need more are why the bits above are made in logic.
        arithmetic: "int8"; "int8-pairs", two products in one 18x19 multiplier, the same bits.
        array_clock: Of the multipliers, in clocks of everything else: at 2 a block makes twice the products a cycle, so
            `vec` may be twice as large. Modelled alone; no source here has two clocks.
        joined_rows: Rows of a map follow each other without padding, pixel y * width + x in bank mod `pix`, and groups
            of `pix` pixels run over the rows' ends where no stride forbids it. The RTL alone does it.
        stacked_rows: A pixel of an input's map may hold several rows of its window, as many as `vec` has room for,
            where a row of the map is no longer than `STACK_COLS` groups. The RTL alone does it.
    """

    vec: int = 32
    lane: int = 64
    pix: int = 7
    wb: int = 64
    lag: int = 192
    weight_tiles: int = 512
    weight_depth: int = 256
    map_words: tuple[int, int] | None = None
    resident_words: int = 0
    resident_blocks: int = 0
    accumulator_bits: int = 32
    multiplier_bits: int = 31
    arithmetic: Arithmetic = "int8"
    array_clock: int = 1
    joined_rows: bool = False
    stacked_rows: bool = False

    def __post_init__(self) -> None:
        problem = ""
        sizes = (self.vec, self.lane, self.pix, self.wb, self.weight_tiles, self.weight_depth)
        if min(sizes) < 1 or min(self.lag, self.resident_words, self.resident_blocks) < 0:
            problem = "all sizes must be positive"
        elif self.lane < self.vec:
            problem = f"lane ({self.lane}) must be at least vec ({self.vec}): pooling uses the lanes as channels"
        elif self.nh & (self.nh - 1):
            problem = f"vec / gcd(vec, lane) = {self.nh} must be a power of two"
        elif self.pix > 15:
            problem = f"pix ({self.pix}) is beyond 15, the banks that the kernels can have"
        elif self.pix % 2 == 0:
            problem = f"pix ({self.pix}) must be odd, or strides of 2 would meet a bank twice"
        elif (self.lane * self.vec) % self.wb:
            problem = f"a weight tile ({self.lane * self.vec} bytes) must be a whole number of {self.wb}-byte words"
        elif self.arithmetic == "int8-pairs" and self.lane % 2:
            problem = "pairs of products need an even number of lanes"
        elif not (16 <= self.accumulator_bits <= 32 and 16 <= self.multiplier_bits <= 31):
            problem = "accumulators have 16 to 32 bits, multipliers 16 to 31"
        elif self.array_clock not in (1, 2):
            problem = "the array runs at the clock of the rest or at twice that"
        elif self.stacked_rows and self.nh > 1:
            problem = "rows are stacked within a stored word: lane must be a multiple of vec"
        elif self.arithmetic not in get_args(Arithmetic):
            problem = f"arithmetic '{self.arithmetic}' is none of {', '.join(get_args(Arithmetic))}"
        if problem:
            raise DeviceError(f"overlay geometry {self.vec}x{self.lane}x{self.pix}: {problem}")

    @property
    def cw(self) -> int:
        """Channels in a stored word."""
        return gcd(self.vec, self.lane)

    @property
    def nh(self) -> int:
        """Stored words that make a vector of `vec` channels."""
        return self.vec // self.cw

    @property
    def result_words(self) -> int:
        """Stored words that a pixel group of a convolution yields."""
        return self.lane // self.cw

    @property
    def tile_words(self) -> int:
        """External-memory words in a weight tile."""
        return self.lane * self.vec // self.wb

    @property
    def latency(self) -> int:
        """Cycles from a vector's send to its result's arrival, a cycle for each level of logic: what `lag` must exceed.

        Channel (4), array: product (4), its correction (2), adder tree (log2 vec), accumulator (1); channel (4),
        requantiser: columns (log2 pix), product (5), offset (2), shift (3), bounds (3); channel (4).
        """
        return 4 + 4 + 2 + ceil(log2(self.vec)) + 1 + 4 + ceil(log2(self.pix)) + 5 + 2 + 3 + 3 + 4

    def stored_rows(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(rows, pixels of a row) as a map of shape (height, width, channels) is stored: joined rows are one."""
        return (1, shape[0] * shape[1]) if self.joined_rows else (shape[0], shape[1])

    @property
    def macs(self) -> int:
        """Multiply-accumulates in a cycle."""
        return self.vec * self.lane * self.pix

    @property
    def map_word_bytes(self) -> int:
        """Bytes in one word of a feature-map memory, all banks."""
        return self.vec * self.pix

    @property
    def stored_bytes(self) -> int:
        """Bytes that such a word takes in external memory: a power of two, which is read and written whole."""
        return max(64, 1 << (self.map_word_bytes - 1).bit_length())

    @property
    def packed_bytes(self) -> int:
        """Bytes that CW channels of PIX pixels take there, in words of 64 bytes."""
        return ceil_div(self.cw * self.pix, 64) * 64

    @property
    def name(self) -> str:
        """For example `32x64x7-int8`."""
        return f"{self.vec}x{self.lane}x{self.pix}-{self.arithmetic}"

    def depths(self) -> dict[str, int]:
        """Channel depths of the hardware (see overlay.cl for what each covers)."""
        return {
            "DESCRIPTOR_DEPTH": 2,
            "BYTES_DEPTH": 64,
            "IMAGE_DEPTH": 16,
            "PARAM_DEPTH": 2,
            "WEIGHT_DEPTH": self.weight_depth,
            "ACT_DEPTH": 16,
            "ACC_DEPTH": 2,
            "RESULT_DEPTH": self.lag + 2 * self.result_words,
            "STORE_DEPTH": 16,
            "TRIPS_DEPTH": 64,
        }
