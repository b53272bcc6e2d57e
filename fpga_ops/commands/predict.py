"""Predict a model's latency and throughput on an FPGA board, layer by layer, and what is served of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fpga_ops.overlay.boards import Board
    from fpga_ops.overlay.model.cycles import Prediction


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="quantised ONNX file")
    parser.add_argument("--board", required=True, help="a file in fpga_ops/boards: stratix10, u250, ...")
    parser.add_argument("--clock", type=float, help="kernel clock in MHz, instead of the board's assumed range")
    parser.add_argument("--images", type=int, help="images interleaved in a run, instead of the board's")
    parser.add_argument("--plot", type=Path, help="write a roofline plot to this file (.png, .pdf, .svg)")
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="count cycles by simulating the RTL (minutes), instead of modelling them",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Returns 0."""
    from fpga_ops.commands.tables import geometry_table, prediction_table, read_network, resources_table
    from fpga_ops.errors import InputError
    from fpga_ops.overlay import boards
    from fpga_ops.overlay.model.cycles import predict
    from fpga_ops.overlay.model.host import host_ms
    from fpga_ops.overlay.model.resources import estimate
    from fpga_ops.overlay.plan import plan
    from fpga_ops.rtl.resources import scaled

    if (args.clock is not None and not args.clock > 0) or (args.images is not None and args.images < 1):
        raise InputError(f"--clock and --images must be positive, got {args.clock} and {args.images}")
    board = boards.load(args.board)
    network = read_network(args.model)
    planned = plan(network, board.geometry, args.images or board.images)
    clocks = (args.clock, args.clock) if args.clock else board.clock_range_mhz
    slow, prediction = (predict(planned, board, clock) for clock in clocks)
    alone = plan(network, board.geometry, 1)  # the service gives the device one image at a time
    host = host_ms(network, alone)
    lone = [predict(alone, board, clock) for clock in clocks]
    if args.simulate:
        from fpga_ops.rtl.prediction import simulated

        counted: dict[tuple[float, int], Prediction] = {}
        for p in (slow, prediction, *lone):  # the lone image's are often the same
            key = p.clock_mhz, p.plan.images
            counted[key] = counted.get(key) or simulated(p, network, board)
        slow, prediction, *lone = (counted[p.clock_mhz, p.plan.images] for p in (slow, prediction, *lone))
    served = [p.served_per_s(host) for p in lone]
    resources = estimate(board.geometry, planned.map_words, board)
    resources.demand_fit(board)
    parts = asdict(scaled(board.geometry, planned.map_words)) if board.family == "ultrascale" else None
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
            "board": board.name, **prediction_table(prediction), "clock_mhz": list(clocks),
            "inferences_per_s_range": [round(p.inferences_per_s, 1) for p in (slow, prediction)],
            "served_per_s": round(served[1], 1), "served_per_s_range": [round(rate, 1) for rate in served],
            "host_ms": round(host, 4), "cycles_from": "simulated" if args.simulate else "modelled",
            "geometry": geometry_table(board.geometry), "resources": resources_table(resources, board),
            "resources_counted": parts, "modelled": not args.simulate, "layers": layers,
        }  # fmt: skip
        print(json.dumps(table, indent=1))
        return 0
    source = "Modelled, not measured."
    if args.simulate:
        source = "Cycles simulated; host measured; clock, transfer, launch and blocks modelled."
    _print(slow, prediction, host, served, board, resources_table(resources, board), source)
    if parts is not None:
        counts = ", ".join(f"{kind.upper()} {number}" for kind, number in parts.items())
        print(f"counted by yosys, array, requantiser and map banks alone: {counts}")
    return 0


def _print(
    slow: Prediction,
    prediction: Prediction,
    host: float,
    served: list[float],
    board: Board,
    resources: dict[str, dict[str, float]],
    source: str,
) -> None:
    from rich.table import Table

    from fpga_ops.runtime.terminal import console as make_console

    console = make_console()
    images = prediction.plan.images
    console.print(
        f"[bold]{board.title}[/bold], overlay {board.geometry.name}, {slow.clock_mhz:g} to {prediction.clock_mhz:g} "
        f"MHz (assumed), {images} image{'s' if images > 1 else ''} interleaved. {source}"
    )
    rates, latencies = (
        f"{low:{form}} to {high:{form}}"
        for low, high, form in (
            (slow.inferences_per_s, prediction.inferences_per_s, ".0f"),
            (slow.latency_ms, prediction.latency_ms, ".2f"),
        )
    )
    console.print(
        f"engine {rates} inferences/s, latency {latencies} ms, multipliers {prediction.mac_utilisation:.0%} busy, "
        f"bound by {prediction.bound_by}; served, one image a request: {served[0]:.0f} to {served[1]:.0f}/s"
    )
    console.print(
        f"host {host:.3f} ms an image (measured here), transfer {prediction.transfer_ms:.3f} ms, launch "
        f"{prediction.launch_ms:.3f} ms, device {prediction.device_ms:.3f} ms a run"
    )
    blocks = (
        f"{name.upper()} {block['used']:,.0f} of {block['of']:,.0f} ({block['share_with_shell']:.0%})"
        for name, block in resources.items()
    )
    console.print(", ".join(blocks))
    table = Table("layer", "op", "cycles", "busy", "bound by", "shape", "results", "ddr", "fill", box=None)
    for x in prediction.layers:
        # the causes are modelled, and of simulated cycles may be a little more than all
        shares = (min(part / x.cycles, 1.0) for part in (x.shape, x.results, x.ddr, x.fill))
        numbers = (f"{share:.0%}" if share else "" for share in shares)
        table.add_row(x.name, x.op, f"{x.cycles:.0f}", f"{x.utilisation:.0%}", x.bound_by, *numbers)
    console.print(table)
