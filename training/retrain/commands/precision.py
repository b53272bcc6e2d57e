"""Show what quantisation and the device cost: the five rows of arXiv:1904.08986 on our own jets.

Floating point, quantised, quantised with corrected biases, on the best device here, and on it with the head refitted on
its features. Changes are against floating point on the same jets, so that the errors the jets share cancel.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fpga_ops.commands.arguments import count, seed

if TYPE_CHECKING:
    import torch


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga precision`."""
    parser.add_argument("weights", type=Path, help="a checkpoint, for example stage-112.pt")
    parser.add_argument("--training-data", type=Path, nargs="+", required=True, help="jets to calibrate and refit on")
    parser.add_argument("--test-data", type=Path, nargs="+", required=True, help="held-out jets")
    parser.add_argument("--tuned", type=Path, default=None, help="a checkpoint of `train --rounding`: a row of its own")
    parser.add_argument("--architecture", default="resnet50", help="that was trained (default %(default)s)")
    parser.add_argument("--size", type=count, default=224, help="pixels along an edge (default %(default)s)")
    parser.add_argument(
        "--reduce", type=count, default=2, help="the network sees sums over so many squared (%(default)s)"
    )
    parser.add_argument("--calibration", choices=("minmax", "percentile", "entropy"), default="percentile",
                        help="how the ranges of activations are chosen")  # fmt: skip
    parser.add_argument("--jets", type=count, default=4000, help="test jets (default %(default)s)")
    parser.add_argument("--head-jets", type=count, default=20_000, help="jets for the head (default %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of the shuffles (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(args: argparse.Namespace) -> int:
    """Quantise, score, refit, compare."""
    from functools import partial

    from retrain.commands.progress import progress_bar
    from retrain.data.files import read_all
    from retrain.data.images import ImageSettings
    from retrain.data.jet_table import shuffled
    from retrain.network.resnet import build_network, load_checkpoint
    from retrain.quantisation.precision import Amounts, five_rows, precision_table

    def network(checkpoint: Path) -> torch.nn.Module:
        built = build_network(args.architecture)
        load_checkpoint(built, checkpoint)
        return built

    image = ImageSettings(args.size, reduce=args.reduce)
    trained = network(args.weights)
    tuned = network(args.tuned) if args.tuned else None
    training = shuffled(read_all(args.training_data), args.seed).require_both_classes()
    test = shuffled(read_all(args.test_data), args.seed).take(slice(0, args.jets)).require_both_classes()
    amounts = Amounts(head=args.head_jets)
    bar = partial(progress_bar, quiet=args.json)
    scores = five_rows(trained, training, test, image, bar, args.calibration, amounts, tuned)
    rows = precision_table(test, scores)
    if args.json:
        print(json.dumps(rows))
        return 0
    from rich.table import Table

    from fpga_ops.runtime.terminal import console as make_console

    table = Table(title=f"{len(test)} held-out jets; changes against floating point on the same jets")
    for heading in ("", "accuracy", "AUC", "rejection at 30%", "change of AUC", "ratio of rejections"):
        table.add_column(heading)
    for row in rows:
        changes = ("", "")
        if "auc_change" in row:
            changes = (
                f"{row['auc_change']:+.5f} ± {row['auc_change_err']:.5f}",
                f"{row['rejection_30_ratio']:.3f} ± {row['rejection_30_ratio_err']:.3f}",
            )
        table.add_row(
            row["row"],
            f"{row['accuracy']:.4f}",
            f"{row['auc']:.4f} ± {row['auc_err']:.4f}",
            f"{row['rejection_30']:.0f} ± {row['rejection_30_err']:.0f}",
            *changes,
        )
    make_console().print(table)
    return 0
