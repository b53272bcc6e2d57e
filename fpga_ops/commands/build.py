"""Build the overlay's bitstream for a board with the vendor's compiler (hours; untested without one)."""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", nargs="+", help="quantised ONNX files that the map memories must hold")
    parser.add_argument("--board", required=True, help="arria10, stratix10, agilex7 (a file in fpga_ops/boards)")
    parser.add_argument("--report", action="store_true", help="stop after the compiler's report stage (minutes)")
    parser.add_argument(
        "--output", type=Path, help="folder of bitstreams, instead of $FPGA_OPS_BITSTREAMS or the cache"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0."""
    from rich.console import Console
    from rich.table import Table

    from fpga_ops.commands.tables import read_network
    from fpga_ops.overlay import boards
    from fpga_ops.overlay.build import aoc, bitstream
    from fpga_ops.overlay.model.resources import estimate
    from fpga_ops.overlay.plan import plan

    console = Console()
    board = boards.load(args.board)
    words = [plan(read_network(path), board.geometry, board.images).map_words for path in args.model]
    geometry = aoc.with_map_words(board.geometry, words)
    estimated = estimate(geometry, geometry.map_words or (0, 0), board)
    estimated.demand_fit(board)
    directory = args.output or bitstream.directory()
    path, report = aoc.build(geometry, board, directory, report_only=args.report, say=console.print)
    table = Table("", "model", "compiler", "of", box=None)
    shell = {"alm": board.reserved_alm, "dsp": board.reserved_dsp, "m20k": board.reserved_m20k}
    for name, ours, theirs, total in (
        ("alm", estimated.alm, report.alm, board.alms),
        ("dsp", estimated.dsp, report.dsp, board.dsp_blocks),
        ("m20k", estimated.m20k, report.m20k, board.m20k),
    ):
        table.add_row(name.upper(), f"{ours + shell[name] * total:.0f}", str(theirs or "-"), str(total))
    table.add_row("MHz", f"{board.clock_mhz:g} (assumed)", str(report.clock_mhz or "-"), "")
    console.print(table)
    if path is not None:
        console.print(f"{path} (key {bitstream.key(geometry)})")
    return 0
