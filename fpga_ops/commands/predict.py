"""Predict a model's latency and throughput on an FPGA board, layer by layer (modelled, not measured)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fpga_ops.overlay.boards import Board
    from fpga_ops.overlay.model.cycles import Prediction


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="quantised ONNX file")
    parser.add_argument("--board", required=True, help="arria10, stratix10, agilex7 (a file in fpga_ops/boards)")
    parser.add_argument("--clock", type=float, help="kernel clock in MHz, instead of the board's assumption")
    parser.add_argument("--images", type=int, help="images interleaved in a run, instead of the board's")
    parser.add_argument("--plot", type=Path, help="write a roofline plot to this file (.png, .pdf, .svg)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Returns 0."""
    from fpga_ops.commands.tables import geometry_table, prediction_table, read_network, resources_table
    from fpga_ops.errors import InputError
    from fpga_ops.overlay import boards
    from fpga_ops.overlay.model.cycles import predict
    from fpga_ops.overlay.model.resources import estimate
    from fpga_ops.overlay.plan import plan

    if (args.clock is not None and not args.clock > 0) or (args.images is not None and args.images < 1):
        raise InputError(f"--clock and --images must be positive, got {args.clock} and {args.images}")
    board = boards.load(args.board)
    planned = plan(read_network(args.model), board.geometry, args.images or board.images)
    prediction = predict(planned, board, args.clock)
    resources = estimate(board.geometry, planned.map_words, board)
    resources.demand_fit(board)
    if args.plot is not None:
        from fpga_ops.overlay.model.roofline import roofline

        roofline(prediction, board, args.plot)
    if args.json:
        layers = [
            {
                "name": x.name, "tensor": x.tensor, "op": x.op, "cycles": round(x.cycles), "macs": x.macs,
                "mac_utilisation": round(x.utilisation, 4), "bound_by": x.bound_by, "ddr_bytes": x.bytes,
            }
            for x in prediction.layers
        ]  # fmt: skip
        table = {
            "board": board.name, **prediction_table(prediction), "geometry": geometry_table(board.geometry),
            "resources": resources_table(resources, board), "modelled": True, "layers": layers,
        }  # fmt: skip
        print(json.dumps(table, indent=1))
        return 0
    _print(prediction, board, resources_table(resources, board))
    return 0


def _print(prediction: Prediction, board: Board, resources: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    images = prediction.plan.images
    console.print(
        f"[bold]{board.title}[/bold], overlay {board.geometry.name}, {prediction.clock_mhz:g} MHz (assumed), "
        f"{images} image{'s' if images > 1 else ''} interleaved. Modelled, not measured."
    )
    console.print(
        f"latency {prediction.latency_ms:.2f} ms, {prediction.inferences_per_s:.0f} inferences/s "
        f"({prediction.serial_inferences_per_s:.0f} if transfers do not overlap with kernels), multipliers "
        f"{prediction.mac_utilisation:.0%} busy, bound by {prediction.bound_by}"
    )
    blocks = (f"{k.upper()} {v['used']:g} of {v['of']:g} ({v['share_with_shell']:.0%})" for k, v in resources.items())
    console.print(", ".join(blocks))
    table = Table("layer", "op", "cycles", "busy", "bound by", "shape", "results", "ddr", "fill", box=None)
    for x in prediction.layers:
        numbers = (f"{part / x.cycles:.0%}" if part else "" for part in (x.shape, x.results, x.ddr, x.fill))
        table.add_row(x.name, x.op, f"{x.cycles:.0f}", f"{x.utilisation:.0%}", x.bound_by, *numbers)
    console.print(table)
