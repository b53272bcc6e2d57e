import numpy as np
import pytest

from retrain.errors import DataError
from retrain.metrics import accuracy, area_under_curve, background_rejection, measured_auc, roc_curve, summary


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
