"""Shifts between samples, working points, temperature and mass sculpting, against values known by construction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fpga_ops.calibration import Calibration, WorkingPoint, read_calibration
from fpga_ops.errors import ModelError
from retrain.data.files import read_jets
from retrain.data.jet_table import labelled_jets
from retrain.errors import DataError
from retrain.evaluation.judging import Judged
from retrain.evaluation.metrics import measured_auc
from retrain.evaluation.samples import shifts
from retrain.evaluation.sculpting import jensen_shannon, sculpting
from retrain.evaluation.temperature import calibration_error, cross_entropy, fit_temperature, scaled
from retrain.evaluation.working_points import working_point, write_temperature, write_working_points
from tests.retrain.jets import toy_jets

JETS = toy_jets(4000)


def scores(separation: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0.0, 1.0, len(JETS))
    return 1.0 / (1.0 + np.exp(-(separation * np.where(JETS.is_top, 1.0, -1.0) + noise)))


def test_a_shift_is_the_difference_with_both_errors() -> None:
    own = Judged(JETS, {"tagger": scores(1.5, 1), "baseline": scores(1.0, 2)})
    other = Judged(JETS, {"tagger": scores(1.2, 3), "baseline": scores(1.0, 4)})
    shift = shifts({"data": own, "delphes": other})["delphes"]
    here, there = (measured_auc(each.jets.is_top, each.scores["tagger"]) for each in (own, other))
    assert shift["tagger"]["auc"] == pytest.approx(there.value - here.value)
    assert shift["tagger"]["auc_err"] == pytest.approx(np.hypot(here.error, there.error))
    assert shift["tagger"]["auc"] < -5 * shift["tagger"]["auc_err"]
    assert abs(shift["baseline"]["auc"]) < 4 * shift["baseline"]["auc_err"]
    assert shift["tagger"]["rejection_50"] < 0.7
    assert shift["tagger"]["auc_minus_baseline"] == pytest.approx(shift["tagger"]["auc"] - shift["baseline"]["auc"])
    assert "auc_minus_baseline" not in shift["baseline"]


def test_samples_of_other_taggers_are_refused() -> None:
    own, other = Judged(JETS, {"tagger": scores(1, 1)}), Judged(JETS, {"another": scores(1, 1)})
    with pytest.raises(DataError, match="expected scores of tagger, got another"):
        shifts({"data": own, "delphes": other})


def test_a_working_point_keeps_what_it_says(tmp_path: Path) -> None:
    values = scores(1.5, 1)
    point = working_point(JETS, values, 0.3)
    assert point["signal_efficiency"] == pytest.approx(0.3, abs=1e-3)
    passing = int((values[~JETS.is_top] > point["threshold"]).sum())
    assert point["mistag_rate"] == passing / int((~JETS.is_top).sum())
    assert point["rejection"] == pytest.approx(1 / point["mistag_rate"], rel=0.2)
    card = tmp_path / "model_card.json"
    card.write_text(json.dumps({"model": "top_tagger"}))
    write_working_points(card, {0.5: working_point(JETS, values, 0.5), 0.3: point}, {"jets": len(JETS)})
    content = json.loads(card.read_text())
    assert content["model"] == "top_tagger"
    assert list(content["working_points"]["points"]) == ["0.3", "0.5"]
    assert content["working_points"]["points"]["0.3"]["threshold"] == point["threshold"]
    assert [path.name for path in tmp_path.iterdir()] == ["model_card.json"]


def test_what_is_written_is_read_by_the_service_and_holds_for_one_network(tmp_path: Path) -> None:
    card = tmp_path / "model_card.json"
    content = {"model": "top_tagger", "version": 3, "files": {"model.onnx": "sha256:aa"}}
    card.write_text(json.dumps(content))
    point = working_point(JETS, scores(1.5, 1), 0.3)
    write_working_points(card, {0.3: {**point, "mass_sculpting": {"jsd": float("nan")}}}, {"jets": len(JETS)})
    assert "NaN" not in card.read_text(), "which is no JSON"
    write_temperature(card, {"value": 1.5, "jets": 7})
    found = read_calibration(card)
    assert (found.model, found.version, found.temperature) == ("top_tagger", "3", 1.5)
    assert found.points == {"0.3": WorkingPoint(0.3, point["threshold"], 1.0, "top")}
    card.write_text(json.dumps(json.loads(card.read_text()) | {"files": {"model.onnx": "sha256:bb"}}))
    with pytest.raises(ModelError, match="another network or rule of integers"):
        read_calibration(card)
    assert read_calibration(tmp_path / "no_card.json") == Calibration()


@pytest.mark.parametrize("efficiency", [0.0, 1.0, 30.0, float("nan")])
def test_an_efficiency_outside_is_refused(efficiency: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        working_point(JETS, scores(1, 1), efficiency)


def test_a_card_that_is_not_there_or_not_json_is_refused_and_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        write_working_points(tmp_path / "model_card.json", {}, {})
    (tmp_path / "model_card.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        write_working_points(tmp_path / "model_card.json", {}, {})
    assert (tmp_path / "model_card.json").read_text() == "{"


@pytest.mark.parametrize("wrong", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(wrong: float) -> None:
    """Of equal classes of unit width at +-1 the true logit is twice the value; `wrong` times that needs `wrong`."""
    rng = np.random.default_rng(0)
    is_top = np.arange(200_000) % 2 == 0
    logit = 2.0 * (np.where(is_top, 1.0, -1.0) + rng.normal(size=len(is_top)))
    right, given = 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-wrong * logit))
    found = fit_temperature(is_top, given)
    assert found == pytest.approx(wrong, rel=0.01)
    told = np.abs(wrong * logit) < 14  # beyond, a score has no logit any more
    np.testing.assert_allclose(scaled(given, wrong)[told], right[told], atol=1e-6)
    assert cross_entropy(is_top, scaled(given, found)) <= cross_entropy(is_top, given)
    assert calibration_error(is_top, right) < 0.005
    if wrong != 1.0:
        assert calibration_error(is_top, given) > 0.02
    assert (np.diff(scaled(np.sort(given), 3.0)) >= 0).all(), "the order stays"


def test_divergence_of_equal_and_of_apart_histograms() -> None:
    one, two = np.array([1.0, 3.0, 0.0]), np.array([0.0, 0.0, 2.0])
    assert jensen_shannon(one, 7 * one) == pytest.approx(0.0, abs=1e-12)
    assert jensen_shannon(one, two) == pytest.approx(1.0)
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(0.3112781, abs=1e-6)


def test_a_score_that_is_the_mass_sculpts_and_a_random_one_does_not() -> None:
    by_mass = sculpting(JETS, JETS.mass.astype(float), float(np.quantile(JETS.mass[~JETS.is_top], 0.9)))
    at_random = sculpting(JETS, np.random.default_rng(2).random(len(JETS)), 0.9)
    assert by_mass["jsd"] > 3 * by_mass["jsd_random"]
    assert at_random["jsd"] < 2 * at_random["jsd_random"]
    assert np.isnan(sculpting(JETS, np.zeros(len(JETS)), 0.5)["jsd"])


def test_arrays_are_read_with_the_kinematics_of_the_sums(tmp_path: Path) -> None:
    np.savez(tmp_path / "jets.npz", constituents=JETS.constituents[:50], is_top=JETS.is_top[:50])
    jets = read_jets(tmp_path / "jets.npz")
    np.testing.assert_array_equal(jets.constituents, JETS.constituents[:50])
    energy, px, py, pz = jets.constituents[0].sum(axis=0, dtype=np.float64)
    assert jets.pt[0] == pytest.approx(np.hypot(px, py), rel=1e-6)
    assert jets.mass[0] == pytest.approx(np.sqrt(max(energy**2 - px**2 - py**2 - pz**2, 0)), rel=1e-4, abs=1e-3)
    np.savez(tmp_path / "none.npz", other=np.zeros(3))
    with pytest.raises(DataError, match="expected arrays 'constituents'"):
        read_jets(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="expected arrays 'constituents'"):
        read_jets(tmp_path / "text.npz")
    with pytest.raises(DataError, match="expected \\[N, 200, 4\\]"):
        labelled_jets(np.zeros((3, 4), np.float32), np.zeros(3, bool))
