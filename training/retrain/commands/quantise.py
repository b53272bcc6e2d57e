"""Turn trained weights into the two 8-bit ONNX files that are served.

Writes top_tagger.onnx (constituents in) and resnet50_top.onnx (images in), and float.onnx, the same network before
quantisation with constituents in, for comparison.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga quantise`."""
    parser.add_argument("weights", type=Path, help="a checkpoint, for example stage-224.pt")
    parser.add_argument("data", type=Path, nargs="+", help="training jets, to calibrate on")
    parser.add_argument("--output", type=Path, required=True, help="folder for the ONNX files")
    parser.add_argument("--architecture", default="resnet50", help="that was trained (default %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="pixels along an edge (default %(default)s)")
    parser.add_argument(
        "--reduce", type=int, default=1, help="the network sees sums over so many pixels squared (default %(default)s)"
    )
    parser.add_argument("--half-width", type=float, default=0.8, help="of the window (default %(default)s)")
    parser.add_argument("--calibration", choices=("minmax", "percentile", "entropy"), default="percentile")
    parser.add_argument("--calibration-jets", type=int, default=128, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="which jets calibrate (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    """Export, calibrate, write."""
    from retrain.data.files import read_all
    from retrain.export import CONTRACTS
    from retrain.images import ImageSettings
    from retrain.jets import shuffled
    from retrain.network import build_network, load_checkpoint
    from retrain.quantise import quantised_taggers, save_onnx

    network = build_network(args.architecture)
    load_checkpoint(network, args.weights)
    jets = shuffled(read_all(args.data), args.seed).take(slice(0, args.calibration_jets)).require_both_classes()
    image = ImageSettings(args.size, args.half_width, reduce=args.reduce)
    files = quantised_taggers(network, jets, image, args.calibration)
    args.output.mkdir(parents=True, exist_ok=True)
    written = {name: args.output / f"{name}.onnx" for name in (*CONTRACTS, "float")}
    for name, path in written.items():
        save_onnx(files[name], path)
    record = {
        "weights": args.weights.name,
        "calibration": args.calibration,
        "calibration_jets": len(jets),
        "image": asdict(image),
    }
    (args.output / "quantisation.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps({name: str(path) for name, path in written.items()}))
    else:
        for path in written.values():
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0
