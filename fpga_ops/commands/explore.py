"""Search the overlay's geometries for a board and report the Pareto front (modelled)."""

from __future__ import annotations

import argparse
import json


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="quantised ONNX file")
    parser.add_argument("--board", required=True, help="a file in fpga_ops/boards: stratix10, u250, ...")
    parser.add_argument("--clock", type=float, nargs="+", default=[], help="kernel clocks in MHz to consider")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 4], help="interleaved images to consider")
    parser.add_argument(
        "--arithmetic", nargs="+", choices=("int8", "int8-pairs"), default=["int8", "int8-pairs"],
        help="multiplier arrays to consider (the bits are the same)",
    )  # fmt: skip
    parser.add_argument(
        "--weight-tiles", type=int, nargs="+", default=[], help="sizes of the weight buffers to consider, in tiles"
    )
    parser.add_argument(
        "--weight-depth", type=int, nargs="+", default=[256, 4096],
        help="words that the reader of weights may be ahead to consider",
    )  # fmt: skip
    parser.add_argument("--top", type=int, default=15, help="rows to print")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Returns 1 if nothing fits."""
    from fpga_ops.commands.tables import geometry_table, prediction_table, read_network, resources_table
    from fpga_ops.errors import InputError
    from fpga_ops.overlay import boards
    from fpga_ops.overlay.model.explore import Space, explore, pareto

    if min([*args.clock, *args.images, *args.weight_tiles, *args.weight_depth, args.top]) <= 0:
        raise InputError("--clock, --images, --weight-tiles, --weight-depth and --top must be positive")
    board = boards.load(args.board)
    space = Space(
        images=tuple(args.images), clocks_mhz=tuple(args.clock), arithmetic=tuple(args.arithmetic),
        weight_tiles=tuple(args.weight_tiles), weight_depth=tuple(args.weight_depth),
    )  # fmt: skip
    found = explore(read_network(args.model), board, space)
    front = pareto(found)
    if args.json:
        rows = [
            {
                **prediction_table(c.prediction), "geometry": geometry_table(c.geometry),
                "resources": resources_table(c.resources, board),
            }
            for c in front[: args.top]
        ]  # fmt: skip
        print(json.dumps({"board": board.name, "fitting": len(found), "modelled": True, "pareto": rows}, indent=1))
        return 0 if front else 1
    from rich.table import Table

    from fpga_ops.runtime.terminal import console as make_console

    console = make_console()
    console.print(
        f"[bold]{board.title}[/bold]: {len(found)} geometries fit, {len(front)} on the Pareto front. Modelled."
    )
    table = Table(
        "geometry",
        "ahead",
        "images",
        "MHz",
        "inf/s",
        "ms",
        "busy",
        *(kind.upper() for kind in board.supplies),
        "bound by",
        box=None,
    )
    for c in front[: args.top]:
        share, p = c.resources.shares(board), c.prediction
        table.add_row(
            c.geometry.name, str(c.geometry.weight_depth), str(c.images), f"{p.clock_mhz:g}",
            f"{p.inferences_per_s:.0f}", f"{p.latency_ms:.2f}", f"{p.mac_utilisation:.0%}",
            *(f"{share[k]:.0%}" for k in board.supplies), p.bound_by,
        )  # fmt: skip
    console.print(table)
    return 0 if front else 1
