"""Judge taggers on held-out jets beside the gradient-boosted baseline: numbers, plots and a table.

The first model is the one whose distributions are plotted. The baseline (mass, N-subjettiness, multiplicity) is
trained on --baseline-data, which must not hold the test jets.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

BASELINE = "baseline"


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga evaluate`."""
    parser.add_argument("models", type=Path, nargs="+", help="ONNX taggers, the one of interest first")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="test jets: files or folders")
    parser.add_argument("--baseline-data", type=Path, nargs="+", default=None, help="jets to train the baseline on")
    parser.add_argument(
        "--device", default=None, help="score on this device, as the service does (default: onnxruntime)"
    )
    parser.add_argument("--jets", type=int, default=None, help="use only so many test jets, shuffled")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle and the baseline (default %(default)s)")
    parser.add_argument("--output", type=Path, default=None, help="folder for evaluation.json, scores.npz and plots")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Score, judge, plot."""
    from retrain.commands.progress import progress_bar
    from retrain.data.files import read_all
    from retrain.data.jet_table import shuffled
    from retrain.evaluation.judging import Judged, figures, write_figures, write_scores
    from retrain.evaluation.scoring import engine_scores, onnx_scores

    jets = shuffled(read_all(args.data), args.seed).take(slice(0, args.jets)).require_both_classes()
    scores = {}
    for name, path in _named(args.models).items():
        with progress_bar(name, len(jets), args.json) as advance:
            if args.device is None:
                scores[name] = onnx_scores(path, jets, progress=advance)
            else:
                scores[name] = engine_scores(path, jets, args.device, progress=advance)
    if args.baseline_data:
        from retrain.evaluation.baseline import baseline_scores, train_baseline
        from retrain.evaluation.substructure import high_level_features

        known = read_all(args.baseline_data).require_both_classes()
        with progress_bar("baseline features", len(known) + len(jets), args.json) as advance:
            baseline = train_baseline(high_level_features(known, advance), known.is_top, args.seed)
            scores[BASELINE] = baseline_scores(baseline, high_level_features(jets, advance))
    judged = Judged(jets, scores)
    numbers = figures(judged)
    if args.output is not None:
        from retrain.evaluation.plots import save_plots

        save_plots(judged, args.output)
        write_figures(args.output / "evaluation.json", numbers)
        write_scores(args.output / "scores.npz", judged)
    if args.json:
        print(json.dumps(numbers))
    else:
        _print_table(numbers)
    return 0


def _named(files: list[Path]) -> dict[str, Path]:
    """Files by what tables and plots call them: a version in a model repository by model and number."""
    from retrain.errors import DataError
    from retrain.publishing.versions import MODEL_FILE

    named: dict[str, Path] = {}
    for path in files:
        parts = path.resolve().parts
        name = f"{parts[-3]}-{parts[-2]}" if path.name == MODEL_FILE and len(parts) > 2 else path.stem
        if name in named or name == BASELINE:
            raise DataError(f"{path}: a second model called {name}; give each file its own name")
        named[name] = path
    return named


def _print_table(numbers: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{numbers['jets']['top']} top and {numbers['jets']['qcd']} QCD jets, none used in training")
    for heading in ("tagger", "AUC", "accuracy", "rejection at 30%", "rejection at 50%"):
        table.add_column(heading)
    for name, values in numbers["taggers"].items():
        table.add_row(
            name,
            *(
                f"{values[key]:.{digits}f} ± {values[f'{key}_err']:.{digits}f}"
                for key, digits in (("auc", 4), ("accuracy", 4), ("rejection_30", 0), ("rejection_50", 0))
            ),
        )
    Console().print(table)
    first, *others = numbers["taggers"]
    compared = numbers["comparisons"]
    for name in others:
        gain, ratio = f"auc_minus_{name}", f"rejection_30_over_{name}"
        print(
            f"{first} against {name}, on the same jets: AUC {compared[gain]:+.5f} ± {compared[gain + '_err']:.5f}, "
            f"rejection at 30% x {compared[ratio]:.2f} ± {compared[ratio + '_err']:.2f}"
        )
