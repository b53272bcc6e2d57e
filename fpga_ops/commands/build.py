"""Build the overlay's bitstream for a board with the vendor's compiler (hours; untested without one)."""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", nargs="+", help="quantised ONNX files that the map memories must hold")
    parser.add_argument("--board", required=True, help="a file in fpga_ops/boards: stratix10, u250, ...")
    parser.add_argument("--report", action="store_true", help="stop after the compiler's report stage (minutes)")
    parser.add_argument(
        "--output", type=Path, help="folder of bitstreams, instead of $FPGA_OPS_BITSTREAMS or the cache"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0."""
    from rich.console import Console
    from rich.table import Table

    from fpga_ops.commands.tables import read_network
    from fpga_ops.errors import InputError
    from fpga_ops.overlay import boards
    from fpga_ops.overlay.build import aoc, bitstream
    from fpga_ops.overlay.model.resources import estimate
    from fpga_ops.overlay.plan import plan

    console = Console()
    board = boards.load(args.board)
    if not board.aoc_board:
        raise InputError(
            f"{board.title} takes no OpenCL kernels: its tools build the overlay from RTL. `build` is for boards of "
            "Intel's OpenCL compiler; `predict` and `explore` are for all"
        )
    words = [plan(read_network(path), board.geometry, board.images).map_words for path in args.model]
    geometry = aoc.with_map_words(board.geometry, words)
    estimated = estimate(geometry, geometry.map_words or (0, 0), board)
    estimated.demand_fit(board)
    directory = args.output or bitstream.directory()
    path, report = aoc.build(geometry, board, directory, report_only=args.report, say=console.print)
    table = Table("", "model", "compiler", "of", box=None)
    for kind, ours in estimated.used.items():
        supply, theirs = board.supplies[kind], getattr(report, kind)
        table.add_row(
            kind.upper(), f"{ours + supply.reserved * supply.total:.0f}", str(theirs or "-"), str(supply.total)
        )
    table.add_row("MHz", f"{board.clock_mhz:g} (assumed)", str(report.clock_mhz or "-"), "")
    console.print(table)
    if path is not None:
        console.print(f"{path} (key {bitstream.key(geometry)})")
    return 0
