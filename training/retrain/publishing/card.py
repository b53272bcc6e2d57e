"""What a model card says of a network: where it comes from, and what it reaches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.data.images import ImageSettings
from retrain.data.jet_table import LABELS
from retrain.data.pixelmaps import CELLS, CLASSES, PLANES, VIEWS
from retrain.data.production import SETTINGS_FILE
from retrain.errors import PublishError
from retrain.evaluation.judging import Judged
from retrain.evaluation.metrics import classification, comparison, summary
from retrain.publishing.versions import git_revision

QUANTISATION = "QDQ, uint8 activations, int8 weights per output channel, float head"
SERVED, FLOAT, BASELINE = "served", "float", "baseline"
GOLDEN_JETS = 8


def tagger_metrics(judged: Judged) -> dict[str, float]:
    """`auc`, `accuracy`, `rejection_30`, `rejection_50` of the served tagger, and with `_float` and `_baseline`.

    The served one is also compared with the others on the same jets (`retrain.evaluation.metrics.comparison`).
    """
    is_top, served = judged.jets.is_top, judged.scores[SERVED]
    metrics = summary(is_top, served)
    for name, scores in judged.scores.items():
        if name != SERVED:
            metrics |= summary(is_top, scores, f"_{name}") | comparison(is_top, served, scores, name)
    return {name: round(value, 6) for name, value in metrics.items()}


def data_record(folder: Path, events: int, unit: str = "jets") -> dict[str, Any]:
    """Seed and settings of a folder of events that `triton-fpga data` made."""
    path = folder / SETTINGS_FILE
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        record = {"source": folder.name}
    except ValueError as error:
        raise PublishError(f"{path}: not readable ({error})") from error
    return {unit: events, **record}


def tagger_card(
    judged: Judged,
    training_data: Mapping[str, Any],
    test_data: Mapping[str, Any],
    training: Mapping[str, Any],
    image: ImageSettings,
    calibration: str,
    golden_constituents: NDArray[np.float32],
) -> dict[str, Any]:
    """The card of a tagger, but for what `write_version` adds."""
    digest = hashlib.sha256(np.ascontiguousarray(golden_constituents).tobytes()).hexdigest()
    return {
        **_origin(training_data, test_data, "Pythia 8, detector stand-in (retrain.data.detector), FastJet"),
        "labels": list(LABELS),
        "task": "hadronic top against QCD jets, anti-kT R = 0.8, 550 < pT < 650 GeV, |eta| < 2",
        "image": {**asdict(image), "transform": "sqrt"},
        "training": dict(training),
        "quantisation": {"form": QUANTISATION, "calibration": calibration},
        "metrics": tagger_metrics(judged),
        "golden_jets": f"sha256:{digest}",
    }


def neutrino_metrics(
    labels: NDArray[np.int64], served: NDArray[np.float64], plain: NDArray[np.float64]
) -> dict[str, Any]:
    """`accuracy` and `recall` by class of the served network, and with `_float`."""
    metrics = classification(labels, served, CLASSES)
    for name, value in classification(labels, plain, CLASSES).items():
        metrics[f"{name.removesuffix('_err')}_float" + ("_err" if name.endswith("_err") else "")] = value
    return metrics


def neutrino_card(
    metrics: Mapping[str, Any],
    training_data: Mapping[str, Any],
    test_data: Mapping[str, Any],
    training: Mapping[str, Any],
    size: int,
    calibration: str,
) -> dict[str, Any]:
    """The card of a network for pixel maps, but for what `write_version` adds."""
    return {
        **_origin(training_data, test_data, "parametric stand-in (retrain.data.neutrinos): not GENIE, not Geant4"),
        "labels": list(CLASSES),
        "task": "kind of a neutrino interaction, or a cosmic muon, from two views of 100 planes of 80 cells",
        "image": {"rows": size, "columns": VIEWS * CELLS * size // PLANES, "transform": "square root of charge / 255"},
        "training": dict(training),
        "quantisation": {"form": QUANTISATION, "calibration": calibration},
        "metrics": dict(metrics),
    }


def _origin(training_data: Mapping[str, Any], test_data: Mapping[str, Any], generator: str) -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": git_revision(),
        "data": {"generator": generator, "training": dict(training_data), "test": dict(test_data)},
    }
