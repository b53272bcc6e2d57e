"""What yosys counts is what the table says, and beside the estimate of a board."""

from __future__ import annotations

import pytest

from fpga_ops.overlay import boards
from fpga_ops.overlay.model.resources import estimate
from fpga_ops.rtl import resources


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", resources.BLOCKS)
def test_counts_are_those_of_the_table(name: str) -> None:
    assert resources.count(resources.BLOCKS[name]) == resources.COUNTED[name]


def test_counted_parts_are_beside_the_estimate_of_a_board() -> None:
    """The array's DSP blocks are the same; the requantiser's are twice the two that a 27 x 27-bit product needs."""
    board = boards.load("u250")
    words = (12000, 9000)
    whole, parts = estimate(board.geometry, words, board), resources.scaled(board.geometry, words)
    lanes = board.geometry.cw * board.geometry.pix
    assert parts.dsp == whole.array_dsp + 4 * lanes
    assert parts.uram <= whole.used["uram"]
    assert parts.lut < whole.used["lut"] < 4 * parts.lut
