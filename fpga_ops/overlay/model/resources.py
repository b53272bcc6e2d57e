"""What a geometry takes of a device: DSP blocks, memories, logic. Estimates until the compiler has reported.

Logic is counted in ALMs; an AMD LUT of six inputs does about half of one. Constants and where they come from:

- Intel's blocks: two int8 products in one 18x19 multiplier cost 7 ALMs a product at best (Langhammer et al.,
  "Extracting INT8 multipliers from INT18 multipliers", FPL 2019); 10 are counted for the mixed signs here. An Agilex
  block makes four.
- AMD's DSP48E2 makes two products that share the activation; four of them sum exactly in the 18 bits between, so one
  correction serves a chain of four. Its DSP58 makes three products and their sum.
- An adder tree costs about half an ALM for each bit of each addition; what a block adds by itself is free.
- A requantiser lane: an unsigned 27x27 product (one Intel block in that mode, two of AMD's 27x18), 15 ALMs for each
  bit of the multiplier above (the few channels that no 27 bits round exactly), an addition of 64 bits (32 ALMs), a
  shift by 0 to 61 that narrows to 27 and 11 bits (125), the test for a tie (85), the bounds (28).
- An addition lane: an 8x27 product in a block, the other in logic (115 ALMs; AMD: in the next block of the cascade),
  4 for each bit above, the sums (40), a shift (75), tie and bounds (30).
- Channels that are too shallow for a memory: 20 bits in 10 ALMs up to a depth of 32, registers (4 an ALM) up to 2.
- Addresses are sums; what is multiplied once a layer (24 products of 16 to 32 bits) is counted as a block each.
"""

from __future__ import annotations

from dataclasses import dataclass

from fpga_ops.overlay.boards import Board
from fpga_ops.overlay.errors import DoesNotFitError
from fpga_ops.overlay.geometry import STACK_COLS, Geometry, ceil_div

PAIR_ALMS = 10
ADDER_ALMS = 10
REQUANTISER_ALMS = 270
ADDITION_ALMS = 145
SOFT_PRODUCT_ALMS = 115
BLOCK_BITS = 27
WIDER_ALMS = 15 + 4
CONTROL_ALMS = 20_000
LAYER_MULTIPLIERS = 24
LUTS_PER_ALM = 2


@dataclass(frozen=True)
class Family:
    """How a family of devices makes products and memories.

    Attributes:
        products: int8 products that a DSP block makes.
        pairs: Products that it makes with the correction in logic ("int8-pairs"); the same where there is no such way.
        lane_blocks: DSP blocks of a requantiser lane with its addition.
        soft_products: Products of an addition lane that are made in logic.
        adds: Share of a product's addition that is left to logic.
        logic, deep, wide: Kinds of block: logic, memory for maps and resident weights, memory for the rest.
        names: What to call the kinds in an error.
    """

    products: int
    pairs: int
    lane_blocks: int
    soft_products: int
    adds: float
    logic: str
    deep: str
    wide: str
    names: tuple[tuple[str, str], ...]


_INTEL = (("dsp", "DSP blocks"), ("m20k", "M20K memories"), ("alm", "ALMs"))
_AMD = (("dsp", "DSP blocks"), ("uram", "UltraRAMs"), ("bram", "block RAMs"), ("lut", "LUTs"))
FAMILIES = {
    "stratix": Family(2, 4, 2, 1, 0.5, "alm", "m20k", "m20k", _INTEL),
    "agilex": Family(4, 4, 2, 1, 0.25, "alm", "m20k", "m20k", _INTEL),
    "ultrascale": Family(2, 2, 4, 0, 0.25, "lut", "uram", "bram", _AMD),
    "versal": Family(3, 3, 4, 0, 0.34, "lut", "uram", "bram", _AMD),
}

_MODES = {
    "m20k": ((40, 512), (20, 1024), (10, 2048)),
    "bram": ((72, 512), (36, 1024), (18, 2048), (9, 4096)),
    "uram": ((72, 4096),),
}


@dataclass(frozen=True)
class Resources:
    """Blocks of a device, the card's shell not included.

    Attributes:
        used: By kind.
        array_dsp, requantiser_dsp: What the DSP blocks are for.
    """

    used: dict[str, int]
    array_dsp: int
    requantiser_dsp: int

    def shares(self, board: Board) -> dict[str, float]:
        """Used share of each kind, the shell included."""
        return {kind: n / board.supplies[kind].total + board.supplies[kind].reserved for kind, n in self.used.items()}

    def fits(self, board: Board) -> bool:
        """Whether all shares are within what still closes timing."""
        return all(n <= board.supplies[kind].usable for kind, n in self.used.items())

    def demand_fit(self, board: Board) -> None:
        """Raise DoesNotFitError, with the numbers, for the first kind that is beyond the board."""
        for kind, name in FAMILIES[board.family].names:
            if self.used[kind] > board.supplies[kind].usable:
                raise DoesNotFitError(f"{name} of {board.title}", self.used[kind], board.supplies[kind].usable)


def memory_blocks(width_bits: int, depth: int, kind: str = "m20k") -> int:
    """Blocks of a simple dual-port memory, in the mode that takes fewest."""
    return min(ceil_div(width_bits, width) * ceil_div(max(depth, 1), rows) for width, rows in _MODES[kind])


def map_capacity(board: Board) -> int:
    """Bytes of feature maps that a board's geometry leaves room for, weights and channels taken off."""
    geometry, kind = board.geometry, FAMILIES[board.family].deep
    room = board.supplies[kind].usable - estimate(geometry, (0, 0), board).used[kind]
    depth = _MODES[kind][0][1]
    blocks = geometry.pix * geometry.nh * memory_blocks(geometry.cw * 8, depth, kind)
    return max(0, room // blocks) * depth * geometry.map_word_bytes


def _channel_alms(bits: int, depth: int) -> int:
    return ceil_div(bits * depth, 4) if depth <= 2 else ceil_div(bits, 20) * 10 * ceil_div(depth, 32)


def estimate(geometry: Geometry, map_words: tuple[int, int], board: Board) -> Resources:
    """Resources of a geometry whose two map memories are `map_words` deep."""
    g, family = geometry, FAMILIES[board.family]
    lanes = g.cw * g.pix  # results requantised, and added to, in a cycle
    pairs = g.arithmetic == "int8-pairs" and family.pairs > family.products
    per_block = family.pairs if pairs else family.products
    array_dsp = ceil_div(g.macs, per_block * g.array_clock)
    requantiser_dsp = family.lane_blocks * lanes + LAYER_MULTIPLIERS
    depth = g.depths()
    word, vector = lanes * 8, g.map_word_bytes * 8
    alm = (
        (g.macs * (PAIR_ALMS + ADDER_ALMS) if pairs else int(g.macs * ADDER_ALMS * family.adds))
        + g.lane * g.pix * g.accumulator_bits // 2  # accumulators
        + 4 * vector  # two crossbars, from banks to pixels (3 ALMs a bit of PIX to 1) and of addresses
        + lanes * (REQUANTISER_ALMS + ADDITION_ALMS + family.soft_products * SOFT_PRODUCT_ALMS)
        + lanes * (g.multiplier_bits - BLOCK_BITS) * WIDER_ALMS
        + 4 * word  # windows of raw images: one of nine distances (2.5 ALMs a bit), padding
        + 7 * 8 * (128 + (g.pix - 1) * 8 + g.vec)  # the bytes they are cut from: a barrel shifter, nine shifts
        + (_channel_alms(word, STACK_COLS) + 3 * word if g.stacked_rows else 0)  # a line of them, and their distance
        + _channel_alms(vector, depth["ACT_DEPTH"])
        + _channel_alms(vector, depth["STORE_DEPTH"])
        + _channel_alms(word, depth["IMAGE_DEPTH"])
        + _channel_alms(g.lane * g.pix * g.accumulator_bits, depth["ACC_DEPTH"])
        + _channel_alms(g.lane * 128, depth["PARAM_DEPTH"])
        + CONTROL_ALMS
    )  # fmt: skip
    used = {kind: 0 for kind, _ in family.names}
    used["dsp"] = array_dsp + requantiser_dsp
    used[family.logic] = alm * (LUTS_PER_ALM if family.logic == "lut" else 1)
    used[family.deep] += sum(g.pix * g.nh * memory_blocks(g.cw * 8, n, family.deep) for n in map_words if n)
    if g.resident_words:
        used[family.deep] += memory_blocks(g.wb * 8, g.resident_words, family.deep)
    if g.resident_blocks:
        used[family.deep] += memory_blocks(512, g.resident_blocks * ceil_div(16 * g.lane, 64), family.deep)
    used[family.wide] += (
        memory_blocks(g.lane * g.vec * 8, 2 * g.weight_tiles, family.wide)
        + memory_blocks(word, depth["RESULT_DEPTH"], family.wide)
        + memory_blocks(g.wb * 8, depth["WEIGHT_DEPTH"], family.wide)
        + memory_blocks(g.lane * 128, 512, family.wide)  # buffers of the readers
        + memory_blocks(512, depth["BYTES_DEPTH"], family.wide)
    )
    return Resources(used, array_dsp, requantiser_dsp)
