"""Judge quantised taggers and add them to a model repository as its next versions.

Verified first: the integer reference, the device here and onnxruntime must agree, and the figures must not be worse
than those of the version before. With --server, its answers are checked, and the version is withdrawn if they are
wrong.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga publish`."""
    parser.add_argument("files", type=Path, help="folder that `triton-fpga quantise` wrote")
    parser.add_argument("--repository", type=Path, required=True, help="the model repository")
    parser.add_argument("--training", type=Path, required=True, help="training.json that `triton-fpga train` wrote")
    parser.add_argument("--training-data", type=Path, required=True, help="folder of the jets trained on")
    parser.add_argument("--test-data", type=Path, required=True, help="folder of held-out jets")
    parser.add_argument("--jets", type=int, default=None, help="judge on so many of the test jets only")
    parser.add_argument("--server", default=None, metavar="HOST:PORT", help="HTTP address of a server that follows")
    parser.add_argument("--force", action="store_true", help="publish even what is worse than the version before")
    parser.add_argument("--json", action="store_true", help="print the published versions as JSON")


def run(args: argparse.Namespace) -> int:
    """Judge, verify, publish both taggers."""
    import numpy as np
    import onnx

    from retrain.baseline import baseline_scores, train_baseline
    from retrain.card import BASELINE, FLOAT, GOLDEN_JETS, SERVED, data_record, tagger_card
    from retrain.commands.progress import progress_bar
    from retrain.data.files import read_all
    from retrain.errors import PublishError
    from retrain.evaluation import Judged
    from retrain.export import CONTRACTS
    from retrain.features import high_level_features
    from retrain.images import CONSTITUENTS, JetImager, image_settings
    from retrain.jets import shuffled
    from retrain.publish import publish
    from retrain.scoring import onnx_scores

    try:
        training = json.loads(args.training.read_text(encoding="utf-8"))
        quantisation = json.loads((args.files / "quantisation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"cannot read what train and quantise recorded: {error}") from error
    image = image_settings(quantisation["image"])
    known = read_all([args.training_data]).require_both_classes()
    test = shuffled(read_all([args.test_data]), 0).take(slice(0, args.jets)).require_both_classes()
    scores = {}
    for name, file in ((SERVED, "top_tagger"), (FLOAT, "float")):
        with progress_bar(f"scores, {name}", len(test), args.json) as advance:
            scores[name] = onnx_scores(args.files / f"{file}.onnx", test, progress=advance)
    with progress_bar("baseline", len(known) + len(test), args.json) as advance:
        baseline = train_baseline(high_level_features(known, advance), known.is_top)
        scores[BASELINE] = baseline_scores(baseline, high_level_features(test, advance))
    judged = Judged(test, scores)
    golden = test.constituents[:GOLDEN_JETS]
    card = tagger_card(
        judged,
        data_record(args.training_data, len(known)),
        data_record(args.test_data, len(test)),
        training,
        image,
        quantisation["calibration"],
        golden,
    )
    images = np.repeat(JetImager(image)(golden), 3, axis=1)
    published = []
    for model in CONTRACTS:
        network = onnx.load(args.files / f"{model}.onnx")
        golden_input = golden if network.graph.input[0].name == CONSTITUENTS else images
        version = publish(args.repository, model, network, golden_input, card, args.force, args.server)
        published.append({"model": model, "version": version.number, "metrics": card["metrics"]})
        if not args.json:
            print(f"{model} version {version.number} is in {version.folder}")
    if args.json:
        print(json.dumps(published))
    return 0
