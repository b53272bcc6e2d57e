"""Turn trained weights into the 8-bit ONNX files that are served.

Writes top_tagger.onnx (constituents in) and resnet50_top.onnx (images in), or resnet50_neutrino.onnx (pixel maps in),
and float.onnx, the same network before quantisation, for comparison.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fpga_ops.commands.arguments import count, positive, seed


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga quantise`."""
    parser.add_argument("weights", type=Path, help="a checkpoint, for example stage-224.pt")
    parser.add_argument("data", type=Path, nargs="+", help="training events, to calibrate on")
    parser.add_argument("--task", choices=("jets", "neutrinos"), default="jets", help="default %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="folder for the ONNX files")
    parser.add_argument("--architecture", default="resnet50", help="that was trained (default %(default)s)")
    parser.add_argument("--size", type=count, default=None, help="pixels along an edge (224), or rows of a map (50)")
    parser.add_argument(
        "--reduce",
        type=count,
        default=1,
        help="the network sees sums over so many pixels squared (default %(default)s)",
    )
    parser.add_argument("--half-width", type=positive, default=0.8, help="of the window (default %(default)s)")
    parser.add_argument("--calibration", choices=("minmax", "percentile", "entropy"), default="percentile",
                        help="how the ranges of activations are chosen")  # fmt: skip
    parser.add_argument(
        "--calibration-events",
        "--calibration-jets",
        dest="calibration_events",
        type=count,
        default=128,
        help="default %(default)s",
    )
    parser.add_argument(
        "--weight-bits",
        type=int,
        choices=(7, 8),
        default=8,
        help="7 is faster on CPUs without VNNI (default %(default)s)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="which events calibrate (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    """Export, calibrate, write."""
    from retrain.data.images import ImageSettings
    from retrain.network.resnet import build_network, load_checkpoint
    from retrain.publishing.tasks import TASKS
    from retrain.quantisation.quantise import write_quantised

    data = TASKS[args.task].read(args.data, args.seed)
    network = build_network(args.architecture, len(data.classes))
    load_checkpoint(network, args.weights)
    written = write_quantised(
        args.output,
        network,
        data,
        image=ImageSettings(args.size or 224, args.half_width, reduce=args.reduce) if args.task == "jets" else None,
        size=args.size or 50,
        calibration=args.calibration,
        events=args.calibration_events,
        weights=args.weights.name,
        weight_bits=args.weight_bits,
    )
    if args.json:
        print(json.dumps({path.stem: str(path) for path in written}))
    else:
        for path in written:
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0
