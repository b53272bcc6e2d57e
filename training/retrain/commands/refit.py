"""Add a small head to top_tagger: of the network's logits on the device, and the jet's mass, pT and multiplicity.

Works on the folder that `triton-fpga quantise` wrote; top_tagger.onnx and float.onnx get the new head. The integer
network, and resnet50_top.onnx, which sees images alone, stay as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fpga_ops.commands.arguments import count, seed


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga refit`."""
    parser.add_argument("files", type=Path, help="folder that `triton-fpga quantise` wrote")
    parser.add_argument("data", type=Path, nargs="+", help="training jets: files or folders")
    parser.add_argument("--jets", type=count, default=None, help="use only so many, shuffled")
    parser.add_argument(
        "--hidden", type=count, nargs="*", default=[64, 64], help="widths of its hidden layers (default %(default)s)"
    )
    parser.add_argument("--epochs", type=count, default=15, help="passes over the jets (default %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of weights and order (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print what was recorded as JSON")


def run(args: argparse.Namespace) -> int:
    """Ask the device for features, fit, write."""
    from retrain.commands.progress import progress_bar
    from retrain.data.files import read_all
    from retrain.data.jet_table import shuffled
    from retrain.network.head import HeadSettings
    from retrain.quantisation.refit import refit_tagger

    jets = shuffled(read_all(args.data), args.seed).take(slice(0, args.jets)).require_both_classes()
    settings = HeadSettings(tuple(args.hidden), 0.0, args.epochs, 512, 3e-3, 1e-3, args.seed)
    with progress_bar("logits", len(jets), args.json) as advance:
        record = refit_tagger(args.files, jets, settings, advance)
    if args.json:
        print(json.dumps(record))
    else:
        print(f"{args.files}: refitted on {len(jets)} jets, with {', '.join(record['head']['globals'])}")
    return 0
