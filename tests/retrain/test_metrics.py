import numpy as np
import pytest

from retrain.data.pixelmaps import CLASSES
from retrain.errors import DataError
from retrain.evaluation.metrics import (
    accuracy,
    area_under_curve,
    auc_difference,
    background_rejection,
    classification,
    confusion_rates,
    measured_auc,
    rejection_ratio,
    roc_curve,
    summary,
)
from retrain.evaluation.original import NEUTRINO_CONFUSION, accuracy_in_mixture


def gaussian_scores(count: int, seed: int, shift: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_signal = np.arange(2 * count) < count
    return is_signal, rng.normal(0.0, 1.0, 2 * count) + shift * is_signal


def test_auc_is_that_of_two_gaussians() -> None:
    is_signal, scores = gaussian_scores(100_000, 1)
    assert area_under_curve(is_signal, scores) == pytest.approx(0.92135, abs=0.002)  # Phi(2 / sqrt 2)


def test_both_ways_to_the_auc_agree_with_ties() -> None:
    is_signal, scores = gaussian_scores(2000, 2)
    rounded = np.round(scores, 1)
    assert measured_auc(is_signal, rounded).value == pytest.approx(area_under_curve(is_signal, rounded), abs=1e-12)


def test_errors_are_the_spread_of_repeated_experiments() -> None:
    values = {"auc": [], "rejection_30": [], "accuracy": []}
    errors = {name: [] for name in values}
    for seed in range(200):
        result = summary(*gaussian_scores(2000, seed, shift=1.5))
        for name in values:
            values[name].append(result[name])
            errors[name].append(result[f"{name}_err"])
    for name in values:
        assert np.mean(errors[name]) == pytest.approx(np.std(values[name]), rel=0.25)


def test_rejection_without_a_background_jet_left_is_one_jet_s_worth() -> None:
    is_signal = np.array([True, True, False, False, False])
    rejection = background_rejection(is_signal, np.array([0.9, 0.8, 0.1, 0.2, 0.3]), 0.5)
    assert rejection.value == 3.0
    assert rejection.error == 3.0


def test_accuracy_and_roc_of_a_perfect_tagger() -> None:
    is_signal = np.array([True, False, True, False])
    scores = np.array([1.0, 0.0, 0.9, 0.1])
    assert accuracy(is_signal, scores).value == 1.0
    curve = roc_curve(is_signal, scores)
    assert curve.signal[0] == curve.background[0] == 0.0
    assert curve.signal[-1] == curve.background[-1] == 1.0
    assert area_under_curve(is_signal, scores) == 1.0


@pytest.mark.parametrize(
    ("is_signal", "scores", "message"),
    [
        ([True, True], [0.1, 0.2], "one class only"),
        ([True, False], [0.1, np.nan], "NaN"),
        ([True, False], [0.1], "one score a jet"),
    ],
)
def test_unusable_scores_are_refused(is_signal: list[bool], scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        summary(np.array(is_signal), np.array(scores))


def test_differences_on_the_same_jets_have_smaller_errors() -> None:
    is_signal, scores = gaussian_scores(2000, 3)
    noisy = scores + np.random.default_rng(4).normal(0.0, 0.2, len(scores))
    difference = auc_difference(is_signal, scores, noisy)
    alone = measured_auc(is_signal, scores), measured_auc(is_signal, noisy)
    assert difference.value == pytest.approx(alone[0].value - alone[1].value, abs=1e-12)
    assert 0 < difference.error < 0.5 * alone[0].error
    assert auc_difference(is_signal, scores, scores).error == 0.0
    ratio = rejection_ratio(is_signal, scores, scores, 0.5, samples=20)
    assert (ratio.value, ratio.error) == (1.0, 0.0)
    assert 0.0 < rejection_ratio(is_signal, scores, noisy, 0.5, samples=20).error < 0.5


def test_paired_error_is_the_spread_of_repeated_experiments() -> None:
    values, errors = [], []
    for seed in range(150):
        is_signal, scores = gaussian_scores(500, seed)
        noisy = scores + np.random.default_rng(1000 + seed).normal(0.0, 0.5, len(scores))
        difference = auc_difference(is_signal, scores, noisy)
        values.append(difference.value)
        errors.append(difference.error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)


def test_recall_and_confusion_by_class() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    scores = np.eye(3)[[0, 1, 1, 1, 2, 0]]
    result = classification(labels, scores, ("a", "b", "c"))
    assert result["recall"] == {"a": 0.5, "b": 1.0, "c": 0.5}
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    with pytest.raises(DataError, match="no event of class c"):
        classification(labels[:4], scores[:4], ("a", "b", "c"))
    with pytest.raises(DataError, match="NaN"):
        classification(labels, np.full((6, 3), np.nan), ("a", "b", "c"))
    with pytest.raises(DataError, match="probabilities"):
        classification(labels, scores[:, :2], ("a", "b", "c"))


def test_the_original_s_counts_give_its_published_figures() -> None:
    larger = confusion_rates(NEUTRINO_CONFUSION[200_000], CLASSES)
    assert larger["accuracy"] == pytest.approx(0.71108)
    published = [0.76603695, 0.69943136, 0.20524412, 0.74720869, 0.83018868]
    assert list(larger["recall"].values()) == pytest.approx(published)
    assert confusion_rates(NEUTRINO_CONFUSION[10_000], CLASSES)["accuracy"] == pytest.approx(0.62)


def test_accuracy_in_another_s_mixture() -> None:
    counts = np.array([[8, 2], [30, 70]])
    assert accuracy_in_mixture(counts, counts) == pytest.approx(78 / 110)
    assert accuracy_in_mixture(counts, np.array([[5, 0], [0, 5]])) == pytest.approx(0.75)
