"""Blocks of an UltraScale+ that yosys counts for the overlay's large parts, and what a geometry makes of them.

Counting needs `pyosys` (`pip install pyosys`); `COUNTED` is what it said (0.70, `synth_xilinx -family xcup`). It does
not place, so there is no clock in it. It makes a 27 x 27-bit product of four blocks, where two are enough.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fpga_ops.errors import DeviceError
from fpga_ops.overlay.geometry import Geometry, ceil_div
from fpga_ops.rtl.model import source_directory


@dataclass(frozen=True)
class Block:
    """One part of the overlay as it is synthesised.

    Attributes:
        top: Module.
        files: What it consists of.
        parameters: Its size.
        primitives: Whether the vendor's DSP block is instantiated (else yosys infers it).
    """

    top: str
    files: tuple[str, ...]
    parameters: Mapping[str, int]
    primitives: bool = False


@dataclass(frozen=True)
class Count:
    """Cells: DSP48E2, 6-input LUTs with shift registers, flip-flops, UltraRAMs."""

    dsp: int
    lut: int
    ff: int
    uram: int


BLOCKS = {
    "products": Block(
        "dot_pair", ("delay.sv", "adder_tree.sv", "dsp48e2_mac.sv", "dot_pair.sv"), {"VEC": 32}, primitives=True
    ),
    "requantiser": Block("requant_lanes", ("overlay_pkg.sv", "requant_lanes.sv"), {"ACC_BITS": 27, "MUL_BITS": 27}),
    "map bank": Block("map_bank", ("map_bank.sv",), {"CW": 32, "NH": 1, "DEPTH": 4096}),
}
"""A pair of lanes for one pixel (64 products a cycle), a requantiser lane, a bank of 4096 words of 32 bytes."""

COUNTED = {
    "products": Count(dsp=32, lut=480, ff=1184, uram=0),
    "requantiser": Count(dsp=4, lut=653, ff=273, uram=0),
    "map bank": Count(dsp=0, lut=0, ff=256, uram=4),
}


def count(block: Block) -> Count:
    """Synthesise a block and count its cells.

    Raises:
        DeviceError: pyosys is missing.
    """
    try:
        from pyosys import libyosys
    except ImportError as error:
        raise DeviceError("counting needs yosys: pip install pyosys") from error
    folder = source_directory()
    design = libyosys.Design()
    define = "-D VENDOR " if block.primitives else ""
    sizes = " ".join(f"-chparam {name} {value}" for name, value in block.parameters.items())
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "stat.json"
        for command in (
            f"read_verilog -sv {define}" + " ".join(str(folder / name) for name in block.files),
            f"hierarchy -top {block.top} {sizes}",
            "synth_xilinx -family xcup -noiopad -flatten",
            f"tee -q -o {report} stat -json",
        ):
            libyosys.run_pass(f"tee -q -o {scratch}/log {command}" if "stat" not in command else command, design)
        cells: dict[str, int] = json.loads(report.read_text())["design"]["num_cells_by_type"]
    lut = sum(n for name, n in cells.items() if name.startswith(("LUT", "SRL")))
    return Count(cells.get("DSP48E2", 0), lut, cells.get("FDRE", 0), cells.get("URAM288", 0))


def scaled(geometry: Geometry, map_words: tuple[int, int]) -> Count:
    """What the three parts of a geometry take, from `COUNTED`; control and queues are not in it."""
    pairs = ceil_div(geometry.lane, 2) * geometry.pix * geometry.vec / 32
    lanes = geometry.cw * geometry.pix
    banks = sum(geometry.pix * ceil_div(words, 4096) for words in map_words) * ceil_div(geometry.vec, 32)
    parts = zip((pairs, lanes, banks), COUNTED.values(), strict=True)
    sums = [(n * c.dsp, n * c.lut, n * c.ff, n * c.uram) for n, c in parts]
    dsp, lut, ff, uram = (round(sum(column)) for column in zip(*sums, strict=True))
    return Count(dsp, lut, ff, uram)
