"""From quantised files to published versions: judged, described, verified, served."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from retrain.data.files import read_all, read_all_maps
from retrain.data.images import CONSTITUENTS, JetImager, image_settings
from retrain.data.jet_table import shuffled
from retrain.errors import PublishError
from retrain.evaluation.baseline import baseline_scores, train_baseline
from retrain.evaluation.judging import Judged
from retrain.evaluation.scoring import check_map_network, check_tagger, map_probabilities, onnx_scores
from retrain.evaluation.substructure import high_level_features
from retrain.publishing.card import (
    BASELINE,
    FLOAT,
    GOLDEN_JETS,
    SERVED,
    data_record,
    neutrino_card,
    neutrino_metrics,
    tagger_card,
)
from retrain.publishing.publish import publish, require_not_worse
from retrain.publishing.versions import Version
from retrain.quantisation.export import CONTRACTS
from retrain.quantisation.quantise import NEUTRINO_MODEL
from retrain.quantisation.refit import TAGGER

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Candidate:
    """What may be published: the folder that `quantise` wrote, and where its network and its judgement come from.

    `files` holds the ONNX files and quantisation.json; `training` is training.json; `training_data` and `test_data`
    are folders of events; `events` limits the test events.
    """

    files: Path
    training: Path
    training_data: Path
    test_data: Path
    events: int | None = None

    def records(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What training and quantisation wrote down.

        Raises:
            PublishError: It cannot be read, or what a model card needs is missing.
        """
        try:
            training = json.loads(self.training.read_text(encoding="utf-8"))
            quantisation = json.loads((self.files / "quantisation.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PublishError(f"cannot read what train and quantise recorded: {error}") from error
        needed = {"calibration", "size" if quantisation.get("task") == "neutrinos" else "image"}
        missing = sorted(needed - quantisation.keys())
        if missing:
            raise PublishError(f"{self.files / 'quantisation.json'}: '{missing[0]}' is missing; run quantise again")
        return training, quantisation


def judge_taggers(candidate: Candidate, bar: Bar) -> Judged:
    """Scores of the quantised and the float network and of the baseline on the test jets."""
    files = {SERVED: candidate.files / "top_tagger.onnx", FLOAT: candidate.files / "float.onnx"}
    for file in files.values():
        check_tagger(file, on_device=False)
    known = read_all([candidate.training_data]).require_both_classes()
    test = shuffled(read_all([candidate.test_data]), 0).take(slice(0, candidate.events)).require_both_classes()
    scores = {}
    for name, file in files.items():
        with bar(f"scores, {name}", len(test)) as advance:
            scores[name] = onnx_scores(file, test, progress=advance)
    with bar("baseline", len(known) + len(test)) as advance:
        baseline = train_baseline(high_level_features(known, advance), known.is_top)
        scores[BASELINE] = baseline_scores(baseline, high_level_features(test, advance))
    return Judged(test, scores)


def publish_taggers(
    candidate: Candidate, judged: Judged, repository: Path, server: str | None = None, force: bool = False
) -> list[Version]:
    """Add `top_tagger` and `resnet50_top` to a repository as their next versions; see `publish.publish`.

    With a refitted head (`quantisation.refit`), which is `top_tagger`'s alone, `resnet50_top` gets no new version.
    Where one of the two is worse than what is served, neither is published.
    """
    training, quantisation = candidate.records()
    image = image_settings(quantisation["image"])
    golden = judged.jets.constituents[:GOLDEN_JETS]
    card = tagger_card(
        judged,
        data_record(candidate.training_data, int(training.get("training_examples", 0))),
        data_record(candidate.test_data, len(judged.jets)),
        training,
        image,
        quantisation["calibration"],
        golden,
    )
    if "head" in quantisation:
        card["head"] = quantisation["head"]
    images = np.repeat(JetImager(image)(golden), 3, axis=1)
    models = (TAGGER,) if "head" in quantisation else tuple(CONTRACTS)
    for model in models if not force else ():
        require_not_worse(repository, model, card)
    published = []
    for model in models:
        network = onnx.load(candidate.files / f"{model}.onnx")
        golden_input = golden if network.graph.input[0].name == CONSTITUENTS else images
        published.append(publish(repository, model, network, golden_input, card, force, server))
    return published


def publish_neutrino(
    candidate: Candidate, repository: Path, bar: Bar, server: str | None = None, force: bool = False
) -> Version:
    """Judge `resnet50_neutrino` and add it to a repository as its next version; see `publish.publish`."""
    training, quantisation = candidate.records()
    files = {name: candidate.files / f"{name}.onnx" for name in (NEUTRINO_MODEL, FLOAT)}
    for file in files.values():
        check_map_network(file)
    maps = shuffled(read_all_maps([candidate.test_data]), 0).take(slice(0, candidate.events))
    maps.require_all_classes()
    scores = {}
    for name, file in files.items():
        with bar(f"scores, {name}", len(maps)) as advance:
            scores[name] = map_probabilities(file, maps, advance)
    card = neutrino_card(
        neutrino_metrics(maps.label, scores[NEUTRINO_MODEL], scores[FLOAT]),
        data_record(candidate.training_data, int(training.get("training_examples", 0)), "maps"),
        data_record(candidate.test_data, len(maps), "maps"),
        training,
        int(quantisation["size"]),
        quantisation["calibration"],
    )
    golden = maps.charge[:GOLDEN_JETS].astype(np.float32)
    network = onnx.load(files[NEUTRINO_MODEL])
    return publish(repository, NEUTRINO_MODEL, network, golden, card, force, server)
