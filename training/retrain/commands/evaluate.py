"""Judge taggers on held-out jets beside the gradient-boosted baseline: numbers, plots and a table.

The first model is the one whose distributions are plotted. The baseline (mass, N-subjettiness, multiplicity) is
trained on --baseline-data, which must not hold the test jets. Samples with another detector or generator are judged
beside the test jets with --sample, and the table says how far the figures move. The temperature is fitted on
--temperature-data.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpga_ops.commands.arguments import count, seed, share

if TYPE_CHECKING:
    from retrain.data.jet_table import Jets
    from retrain.evaluation.judging import Judged

BASELINE = "baseline"
OWN = "data"
"""What the jets of --data are called beside the samples."""
COLUMNS = (("auc", 4), ("accuracy", 4), ("rejection_30", 0), ("rejection_50", 0))


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga evaluate`."""
    parser.add_argument("models", type=Path, nargs="+", help="ONNX taggers, the one of interest first")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="test jets: files or folders")
    parser.add_argument("--baseline-data", type=Path, nargs="+", default=None, help="jets to train the baseline on")
    parser.add_argument(
        "--sample", type=_sample, action="append", default=[], metavar="NAME=PATH",
        help="further jets, such as those of another detector, judged beside --data; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--working-point", type=share, action="append", default=[], metavar="E",
        help="signal efficiency whose cut on the first model's score goes into its model card, such as 0.3",
    )  # fmt: skip
    parser.add_argument(
        "--temperature-data",
        type=Path,
        nargs="+",
        default=None,
        help="jets on which the scores' temperature is fitted; of a version, it goes into the model card",
    )
    parser.add_argument(
        "--device", default=None, help="score on this device, as the service does (default: onnxruntime)"
    )
    parser.add_argument("--jets", type=count, default=None, help="use only so many test jets, shuffled")
    parser.add_argument("--seed", type=seed, default=0, help="of the shuffle and the baseline (default %(default)s)")
    parser.add_argument("--output", type=Path, default=None, help="folder for evaluation.json, scores.npz and plots")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Score, judge, plot."""
    from retrain.commands.progress import progress_bar
    from retrain.data.files import read_all
    from retrain.data.jet_table import shuffled
    from retrain.errors import DataError
    from retrain.evaluation.judging import Judged, figures, write_figures, write_scores
    from retrain.evaluation.samples import shifts
    from retrain.evaluation.scoring import check_tagger

    models = _named(args.models)
    names = [OWN, *(name for name, _ in args.sample)]
    if len(set(names)) != len(names):
        raise DataError(f"samples need different names, and '{OWN}' is that of --data; got {', '.join(names[1:])}")
    _check_card(args)
    for path in models.values():
        check_tagger(path, on_device=args.device is not None)
    known = read_all(args.baseline_data).require_both_classes() if args.baseline_data else None
    sets = {OWN: read_all(args.data), **{name: read_all([path]) for name, path in args.sample}}
    sets = {
        name: shuffled(jets, args.seed).take(slice(0, args.jets)).require_both_classes() for name, jets in sets.items()
    }
    calibrating = read_all(args.temperature_data) if args.temperature_data else None
    if calibrating is not None:
        calibrating = shuffled(calibrating, args.seed).take(slice(0, args.jets)).require_both_classes()
    scores = {name: _scores(models, jets, name, args) for name, jets in sets.items()}
    if known is not None:
        from retrain.evaluation.baseline import baseline_scores, train_baseline
        from retrain.evaluation.substructure import high_level_features

        total = len(known) + sum(map(len, sets.values()))
        with progress_bar("baseline features", total, args.json) as advance:
            baseline = train_baseline(high_level_features(known, advance), known.is_top, args.seed)
            for name, jets in sets.items():
                scores[name][BASELINE] = baseline_scores(baseline, high_level_features(jets, advance))
    samples = {name: Judged(jets, scores[name]) for name, jets in sets.items()}
    judged = samples[OWN]
    numbers = figures(judged)
    if args.sample:
        numbers["samples"] = {name: figures(samples[name]) for name in names[1:]}
        numbers["shifts"] = shifts(samples)
    if calibrating is not None:
        numbers["temperature"] = _temperature(models, judged, calibrating, args)
    if args.working_point:
        numbers["working_points"] = _working_points(judged, args)
    if args.output is not None:
        from retrain.evaluation.plots import save_plots

        save_plots(judged, args.output, numbers.get("temperature", {}).get("value"))
        write_figures(args.output / "evaluation.json", numbers)
        write_scores(args.output / "scores.npz", judged)
        for name in names[1:]:
            write_scores(args.output / f"scores-{name}.npz", samples[name])
    if args.json:
        print(json.dumps(numbers))
    else:
        _print_tables(numbers)
    return 0


def _sample(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not re.fullmatch(r"[\w.-]+", name):
        raise argparse.ArgumentTypeError(
            f"expected NAME=PATH with a name of letters, digits, '.', '_' and '-', came {text!r}"
        )
    return name, Path(path)


def _card(args: argparse.Namespace) -> Path:
    path: Path = args.models[0].parent / "model_card.json"
    return path


def _check_card(args: argparse.Namespace) -> None:
    """Said before the first jet is scored."""
    from retrain.errors import DataError

    if args.working_point and not _card(args).is_file():
        raise DataError(f"--working-point writes into the model card of a version; there is no {_card(args)}")


def _scores(models: dict[str, Path], jets: Jets, sample: str, args: argparse.Namespace) -> dict[str, Any]:
    from retrain.commands.progress import progress_bar
    from retrain.evaluation.scoring import engine_scores, onnx_scores

    scores = {}
    for name, path in models.items():
        with progress_bar(f"{name}, {sample}", len(jets), args.json) as advance:
            if args.device is None:
                scores[name] = onnx_scores(path, jets, progress=advance)
            else:
                scores[name] = engine_scores(path, jets, args.device, progress=advance)
    return scores


def _temperature(models: dict[str, Path], judged: Judged, jets: Jets, args: argparse.Namespace) -> dict[str, float]:
    """The first model's temperature, fitted on other jets, and what it does on the test jets."""
    from retrain.evaluation import temperature
    from retrain.evaluation.working_points import write_temperature

    first = next(iter(models))
    known = _scores({first: models[first]}, jets, "temperature", args)[first]
    value = temperature.fit_temperature(jets.is_top, known)
    result = {"value": value, "jets": len(jets)}
    for name, scores in (("before", judged.scores[first]), ("after", temperature.scaled(judged.scores[first], value))):
        result[f"cross_entropy_{name}"] = temperature.cross_entropy(judged.jets.is_top, scores)
        result[f"calibration_error_{name}"] = temperature.calibration_error(judged.jets.is_top, scores)
    if _card(args).is_file():
        write_temperature(_card(args), {**result, "files": [path.name for path in args.temperature_data]})
    return result


def _working_points(judged: Judged, args: argparse.Namespace) -> dict[str, Any]:
    from retrain.evaluation.sculpting import sculpting
    from retrain.evaluation.working_points import working_point, write_working_points

    scores = next(iter(judged.scores.values()))
    points: dict[float, dict[str, Any]] = {}
    for efficiency in args.working_point:
        point = working_point(judged.jets, scores, efficiency)
        points[efficiency] = {**point, "mass_sculpting": sculpting(judged.jets, scores, point["threshold"])}
    sample = {"jets": len(judged.jets), "files": [path.name for path in args.data]}
    write_working_points(_card(args), points, sample)
    return {f"{efficiency:g}": point for efficiency, point in points.items()}


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


def _print_tables(numbers: dict[str, Any]) -> None:
    from rich.table import Table

    from fpga_ops.runtime.terminal import console as make_console

    console = make_console()
    for sample, values in {OWN: numbers, **numbers.get("samples", {})}.items():
        jets = values["jets"]
        title = f"{jets['top']} top and {jets['qcd']} QCD jets" + ("" if sample == OWN else f", {sample}")
        table = Table("tagger", "AUC", "accuracy", "rejection at 30%", "rejection at 50%", title=title)
        for name, figure in values["taggers"].items():
            table.add_row(name, *(_pm(figure, key, digits) for key, digits in COLUMNS))
        console.print(table)
    if "shifts" in numbers:
        table = Table("sample", "tagger", "AUC", "rejection at 30%", "at 50%", "AUC minus the last's", title="Shift")
        for sample, taggers in numbers["shifts"].items():
            for name, shift in taggers.items():
                lead = next((key for key in shift if key.startswith("auc_minus_") and not key.endswith("_err")), None)
                ratios = (f"x {_pm(shift, key, 2)}" for key in ("rejection_30", "rejection_50"))
                table.add_row(
                    sample, name, _pm(shift, "auc", 4, "+"), *ratios, _pm(shift, lead, 4, "+") if lead else ""
                )
        console.print(table)
    first, *others = numbers["taggers"]
    compared = numbers["comparisons"]
    for name in others:
        gain, ratio = f"auc_minus_{name}", f"rejection_30_over_{name}"
        print(
            f"{first} against {name}, on the same jets: AUC {_pm(compared, gain, 5, '+')}, "
            f"rejection at 30% x {_pm(compared, ratio, 2)}"
        )
    if "temperature" in numbers:
        found = numbers["temperature"]
        print(
            f"temperature of {first}: {found['value']:.3f}; calibration error {found['calibration_error_before']:.4f} "
            f"before, {found['calibration_error_after']:.4f} after"
        )
    for efficiency, point in numbers.get("working_points", {}).items():
        sculpted = point["mass_sculpting"]
        print(
            f"working point {efficiency}: score above {point['threshold']:.6f}, "
            f"mistag rate {_pm(point, 'mistag_rate', 5)}, "
            f"mass sculpting {sculpted['jsd']:.3f} bits (at random {sculpted['jsd_random']:.3f})"
        )


def _pm(values: dict[str, float], key: str, digits: int, sign: str = "") -> str:
    return f"{values[key]:{sign}.{digits}f} ± {values[f'{key}_err']:.{digits}f}"
