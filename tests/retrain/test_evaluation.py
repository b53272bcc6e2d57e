import json
from pathlib import Path

import numpy as np
import pytest

from retrain.errors import DataError
from retrain.evaluation.judging import Judged, beats, binned_fraction, calibration, confusion, figures, working_cut
from tests.retrain.jets import toy_jets

JETS = toy_jets(400)
RNG = np.random.default_rng(1)
GOOD = np.clip(0.5 + (JETS.is_top - 0.5) * 0.4 + RNG.normal(0, 0.35, 400), 0, 1)
BAD = np.clip(0.5 + (JETS.is_top - 0.5) * 0.02 + RNG.normal(0, 0.15, 400), 0, 1)
JUDGED = Judged(JETS, {"good": GOOD, "bad": BAD})


def test_figures_are_json_and_ordered() -> None:
    numbers = json.loads(json.dumps(figures(JUDGED)))
    assert list(numbers["taggers"]) == ["good", "bad"]
    assert numbers["jets"] == {"top": 200, "qcd": 200}
    assert numbers["taggers"]["good"]["auc"] > numbers["taggers"]["bad"]["auc"]
    assert np.sum(numbers["taggers"]["good"]["confusion"]) == 400
    difference = numbers["taggers"]["good"]["auc"] - numbers["taggers"]["bad"]["auc"]
    assert numbers["comparisons"]["auc_minus_bad"] == pytest.approx(difference)
    assert 0 < numbers["comparisons"]["auc_minus_bad_err"] < difference
    assert numbers["comparisons"]["rejection_50_over_bad"] > 1


def test_confusion_has_the_true_class_in_rows() -> None:
    matrix = confusion(JETS, JETS.is_top.astype(float))
    np.testing.assert_array_equal(matrix, [[200, 0], [0, 200]])
    np.testing.assert_array_equal(confusion(JETS, np.ones(400)), [[0, 200], [0, 200]])


def test_working_cut_keeps_half_of_the_tops() -> None:
    assert np.mean(GOOD[JETS.is_top] > working_cut(JETS, GOOD)) == pytest.approx(0.5, abs=0.01)


def test_empty_bins_are_not_a_number() -> None:
    bins = binned_fraction(np.array([0.1, 0.2]), np.array([True, False]), np.array([0.0, 0.5, 1.0]))
    assert bins.fraction[0] == 0.5
    assert np.isnan(bins.fraction[1])
    perfect = calibration(JETS, JETS.is_top.astype(float))
    assert (perfect.fraction[0], perfect.fraction[-1]) == (0.0, 1.0)


def test_better_by_more_than_the_errors() -> None:
    assert beats(JUDGED, "good", "bad")
    assert not beats(JUDGED, "bad", "good")


def test_scores_of_other_jets_are_refused() -> None:
    with pytest.raises(DataError, match="expected 400"):
        Judged(JETS, {"short": GOOD[:10]})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_plots_are_written(tmp_path: Path) -> None:
    pytest.importorskip("mplhep")
    from retrain.evaluation.plots import save_plots

    paths = save_plots(JUDGED, tmp_path)
    assert {path.name for path in paths} >= {"roc.png", "scores.png", "calibration.png", "confusion.png"}
    assert all(path.stat().st_size > 5000 for path in paths)
