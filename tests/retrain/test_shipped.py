"""What the repository ships: the sample of jets and version folders that are what their cards say."""

import os
from pathlib import Path

import numpy as np
import pytest

from fpga_ops.calibration import CARD_FILE, SCALING_PARAMETER, read_calibration
from retrain.data.files import read_jets
from retrain.data.pixelmaps import CELLS, CLASSES, PLANES, VIEWS
from retrain.evaluation.metrics import area_under_curve
from retrain.evaluation.scoring import onnx_scores
from retrain.publishing.versions import GOLDEN_FILE, MODEL_FILE, damaged_files, versions

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = Path(os.environ.get("TRITON_FPGA_MODEL_REPOSITORY", ROOT / "model_repository"))
SAMPLE = ROOT / "training" / "sample" / "jets.root"
MODELS = ("resnet50_top", "top_tagger")
METRICS = ("auc", "auc_float", "auc_baseline", "rejection_30", "rejection_30_float", "rejection_30_baseline")


def newest(model: str):
    return versions(REPOSITORY, model)[-1]


def test_sample_is_small_and_balanced() -> None:
    pytest.importorskip("uproot")
    jets = read_jets(SAMPLE)
    assert SAMPLE.stat().st_size < 3e6
    assert (len(jets), int(jets.is_top.sum())) == (3000, 1500)
    assert np.all((jets.pt > 550) & (jets.pt < 650))


@pytest.mark.parametrize("model", MODELS)
def test_version_is_sound_and_good_enough(model: str) -> None:
    version = newest(model)
    assert damaged_files(version) == []
    metrics = version.card["metrics"]
    for name in METRICS:
        assert metrics[name] > 0
        assert metrics[f"{name}_err"] > 0
    assert metrics["auc"] >= 0.98
    assert version.card["data"]["training"]["seed"] != version.card["data"]["test"]["seed"]
    assert version.card["labels"] == ["qcd", "top"]


def test_both_taggers_hold_the_same_network_and_known_jets() -> None:
    """One integer network; `top_tagger` may have a head of its own behind it, which knows the jet's momenta."""
    answers = [np.load(newest(model).folder / GOLDEN_FILE, allow_pickle=False) for model in MODELS]
    np.testing.assert_array_equal(answers[0]["features"], answers[1]["features"])
    if "head" not in newest("top_tagger").card:
        np.testing.assert_array_equal(answers[0]["probabilities"], answers[1]["probabilities"])
    assert len(answers[0]["features"]) >= 8
    assert answers[0]["features"].dtype == np.uint8
    cards = [newest(model).card for model in MODELS]
    assert cards[0]["golden_jets"] == cards[1]["golden_jets"]


def test_the_tagger_beats_the_baseline_on_the_same_jets() -> None:
    metrics = newest("top_tagger").card["metrics"]
    assert metrics["auc_minus_baseline"] > 5 * metrics["auc_minus_baseline_err"]
    for efficiency in ("30", "50"):
        ratio = f"rejection_{efficiency}_over_baseline"
        assert metrics[ratio] - 2 * metrics[f"{ratio}_err"] > 1.0
    assert newest("top_tagger").card["data"]["test"]["qcd"]["jets"] >= 200_000


def test_quantisation_costs_what_is_allowed() -> None:
    """The float network was scored on the same jets, but when the integers were those of rule 1."""
    card = newest("top_tagger").card
    metrics, then = card["metrics"], card["metrics_by_integer_rule_1"]
    assert then["auc_minus_float"] > -0.0005
    for efficiency in ("30", "50"):
        assert then[f"rejection_{efficiency}_over_float"] > 0.97
        assert metrics[f"rejection_{efficiency}"] > 0.95 * metrics[f"rejection_{efficiency}_float"]


def test_shipped_tagger_tells_the_sample_s_jets_apart() -> None:
    pytest.importorskip("uproot")
    jets = read_jets(SAMPLE).take(slice(0, 300))
    version = newest("top_tagger").folder
    scores = onnx_scores(version / MODEL_FILE, jets)
    assert area_under_curve(jets.is_top, scores) > 0.96
    for efficiency, point in read_calibration(version / CARD_FILE).points.items():
        kept = np.mean(scores[jets.is_top] > point.threshold)
        assert kept == pytest.approx(float(efficiency), abs=4 * np.sqrt(0.25 / jets.is_top.sum()))


@pytest.mark.parametrize("model", MODELS)
def test_cards_hold_cuts_and_a_temperature_of_the_network_beside_them(model: str) -> None:
    """So `tag --working-point 0.3` works from a fresh clone. Nothing is scaled unless a configuration asks for it."""
    version = newest(model)
    found = read_calibration(version.folder / CARD_FILE)
    assert (found.model, found.version) == (model, str(version.number))
    assert {name: point.label for name, point in found.points.items()} == {"0.3": "top", "0.5": "top"}
    assert found.points["0.3"].threshold > found.points["0.5"].threshold > 0.9
    assert 0.8 < found.temperature < 1.2
    assert SCALING_PARAMETER not in (REPOSITORY / model / "config.pbtxt").read_text()
    sample = version.card["working_points"]["sample"]
    assert sample["top"] >= 3000
    for name, point in version.card["working_points"]["points"].items():
        assert point["signal_efficiency"] == pytest.approx(float(name), abs=1 / sample["top"])


def test_shipped_neutrino_network_says_what_it_is() -> None:
    version = newest("resnet50_neutrino")
    assert damaged_files(version) == []
    assert version.card["labels"] == list(CLASSES)
    assert (version.folder.parent / "labels.txt").read_text().split() == list(CLASSES)
    metrics = version.card["metrics"]
    assert set(metrics["recall"]) == set(metrics["recall_err"]) == set(CLASSES)
    assert metrics["accuracy"] > version.card["training"]["frozen_features"]["accuracy"]
    assert abs(metrics["accuracy"] - metrics["accuracy_float"]) < metrics["accuracy_err"]
    assert "no use to an experiment" in version.card["limits"]
    with np.load(version.folder / GOLDEN_FILE, allow_pickle=False) as answers:
        assert answers["input"].shape[1:] == (VIEWS, PLANES, CELLS)
        assert answers["probabilities"].shape == (len(answers["input"]), len(CLASSES))
