"""What a geometry takes of a device: DSP blocks, M20K memories, ALMs. Estimates until the compiler has reported.

Constants and where they come from:
- two int8 products in one 18x19 multiplier cost 7 ALMs a product at best (Langhammer et al., "Extracting INT8
  multipliers from INT18 multipliers", FPL 2019); 10 are counted for the mixed signs here;
- a 5x6-bit product in logic: two rows that add pairs of partial products (3.5 ALMs each), a last ternary
  row of 11 bits (6 ALMs) and the sign: 15 ALMs counted;
- an adder tree costs about half an ALM for each bit of each addition.
"""

from __future__ import annotations

from dataclasses import dataclass

from fpga_ops.overlay.boards import Board
from fpga_ops.overlay.errors import DoesNotFitError
from fpga_ops.overlay.geometry import Geometry, ceil_div

PAIR_ALMS = 10
SOFT_PRODUCT_ALMS = 15
ADDER_ALMS = 10
REQUANTISER_ALMS = 150
CONTROL_ALMS = 20_000
ADDRESS_MULTIPLIERS = 24


@dataclass(frozen=True)
class Resources:
    """Blocks of a device, the card's shell not included."""

    dsp: int
    m20k: int
    alm: int
    array_dsp: int
    requantiser_dsp: int
    soft_products: int

    def shares(self, board: Board) -> dict[str, float]:
        """Used share of each kind, the shell included."""
        return {
            "dsp": self.dsp / board.dsp_blocks + board.reserved_dsp,
            "m20k": self.m20k / board.m20k + board.reserved_m20k,
            "alm": self.alm / board.alms + board.reserved_alm,
        }

    def fits(self, board: Board) -> bool:
        """Whether all shares are within what still closes timing."""
        share = self.shares(board)
        return share["dsp"] <= board.fill_dsp and share["m20k"] <= board.fill_m20k and share["alm"] <= board.fill_alm

    def demand_fit(self, board: Board) -> None:
        """Raise DoesNotFitError, with the numbers, for the first kind that is beyond the board."""
        rows = (
            ("DSP blocks", self.dsp, board.dsp_blocks, board.fill_dsp - board.reserved_dsp),
            ("M20K memories", self.m20k, board.m20k, board.fill_m20k - board.reserved_m20k),
            ("ALMs", self.alm, board.alms, board.fill_alm - board.reserved_alm),
        )
        for name, needed, total, share in rows:
            if needed > total * share:
                raise DoesNotFitError(f"{name} of {board.title}", needed, int(total * share))


def memory_blocks(width_bits: int, depth: int) -> int:
    """M20K blocks of a simple dual-port memory: 512 x 40, 1024 x 20 or 2048 x 10, whichever takes fewest."""
    modes = ((40, 512), (20, 1024), (10, 2048))
    return min(ceil_div(width_bits, width) * ceil_div(max(depth, 1), rows) for width, rows in modes)


def map_capacity(board: Board) -> int:
    """Bytes of feature maps that a board's geometry leaves room for, weight buffers and channels taken off."""
    geometry = board.geometry
    room = int(board.m20k * (board.fill_m20k - board.reserved_m20k)) - estimate(geometry, (0, 0), board).m20k
    depth = 512
    blocks = geometry.pix * geometry.nh * memory_blocks(geometry.cw * 8, depth)
    return max(0, room // blocks) * depth * geometry.map_word_bytes


def estimate(geometry: Geometry, map_words: tuple[int, int], board: Board) -> Resources:
    """Resources of a geometry whose two map memories are `map_words` deep."""
    g = geometry
    words = g.cw * g.pix  # results requantised in a cycle: three multipliers each, one product and two for the addition
    multipliers = 3 * words + ADDRESS_MULTIPLIERS
    requantiser_dsp = ceil_div(multipliers, 2)
    soft = 0
    if g.arithmetic == "bfp":  # pairs of 5x6 products need no correction; what the DSP blocks cannot take is logic
        room = int(board.dsp_blocks * (board.fill_dsp - board.reserved_dsp)) - requantiser_dsp
        per_dsp = 2 * max(board.products_per_dsp, 2)
        array_dsp = max(0, min(room, ceil_div(g.macs, per_dsp)))
        soft = max(0, g.macs - array_dsp * per_dsp)
        product_alms = soft * SOFT_PRODUCT_ALMS
        adder_alms = g.macs * ADDER_ALMS * 6 // 10  # 11-bit products
        align_alms = g.vec * g.pix * 12 + g.lane * g.pix * 24  # mantissas in, block sums to one scale out
    else:
        native = board.products_per_dsp
        per_dsp = max(native, 4) if g.arithmetic == "int8-pairs" else native
        array_dsp = ceil_div(g.macs, per_dsp)
        extracted = g.arithmetic == "int8-pairs" and native < 4
        product_alms = g.macs * PAIR_ALMS if extracted else 0
        adder_alms = g.macs * ADDER_ALMS if extracted else g.macs * ADDER_ALMS // native  # a block adds its products
        align_alms = 0
    alm = (
        product_alms
        + adder_alms
        + align_alms
        + g.lane * g.pix * 16  # accumulators
        + 3 * g.pix * g.vec * 8  # crossbar from banks to pixels
        + words * REQUANTISER_ALMS
        + CONTROL_ALMS
    )
    maps = sum(g.pix * g.nh * memory_blocks(g.cw * 8, depth) for depth in map_words if depth)
    buffers = memory_blocks(g.lane * g.vec * 8, 2 * g.weight_tiles)
    depth = g.depths()
    channels = (
        memory_blocks(words * 8, depth["RESULT_DEPTH"])
        + memory_blocks(g.wb * 8, depth["WEIGHT_DEPTH"])
        + 2 * memory_blocks(g.lane * 64, 512)  # burst and parameter buffers of the readers
    )
    return Resources(array_dsp + requantiser_dsp, maps + buffers + channels, alm, array_dsp, requantiser_dsp, soft)
