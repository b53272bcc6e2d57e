"""Figures of merit of a binary tagger, with statistical errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.errors import DataError

Scores = NDArray[np.float64]
Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """A value and its statistical error (one standard deviation)."""

    value: float
    error: float


@dataclass(frozen=True)
class RocCurve:
    """Signal and background efficiency for every cut on the score, from the tightest to the loosest."""

    signal: NDArray[np.float64]
    background: NDArray[np.float64]
    threshold: NDArray[np.float64]


def _checked(is_signal: Labels, scores: Scores) -> tuple[Labels, Scores]:
    is_signal, scores = np.asarray(is_signal, bool), np.asarray(scores, np.float64)
    if is_signal.shape != scores.shape or scores.ndim != 1:
        raise DataError(f"expected one score a jet, got {scores.shape} scores for {is_signal.shape} jets")
    if not np.isfinite(scores).all():
        raise DataError("scores: contain NaN or infinite values")
    if is_signal.all() or not is_signal.any():
        raise DataError(f"one class only: {int(is_signal.sum())} signal jets of {len(is_signal)}; both are needed")
    return is_signal, scores


def roc_curve(is_signal: Labels, scores: Scores) -> RocCurve:
    """The ROC curve; equal scores are one point of it."""
    is_signal, scores = _checked(is_signal, scores)
    order = np.argsort(-scores, kind="stable")
    ordered, signal = scores[order], is_signal[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    true, false = np.cumsum(signal)[last], np.cumsum(~signal)[last]
    return RocCurve(
        np.append(0.0, true / true[-1]), np.append(0.0, false / false[-1]), np.append(np.inf, ordered[last])
    )


def area_under_curve(is_signal: Labels, scores: Scores) -> float:
    """Area under the ROC curve."""
    curve = roc_curve(is_signal, scores)
    heights = (curve.signal[1:] + curve.signal[:-1]) / 2.0
    return float(np.sum(np.diff(curve.background) * heights))


def measured_auc(is_signal: Labels, scores: Scores) -> Measured:
    """AUC with its error from the placement values (E. R. DeLong et al., Biometrics 44 (1988) 837)."""
    is_signal, scores = _checked(is_signal, scores)
    signal, background = scores[is_signal], scores[~is_signal]
    of_signal = _fraction_below(np.sort(background), signal)
    of_background = 1.0 - _fraction_below(np.sort(signal), background)
    variance = of_signal.var(ddof=1) / len(signal) + of_background.var(ddof=1) / len(background)
    return Measured(float(of_signal.mean()), float(np.sqrt(variance)))


def _fraction_below(ordered: Scores, values: Scores) -> Scores:
    """Of each value, the fraction of `ordered` below it, ties counted half."""
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(below / (2.0 * len(ordered)))


def auc_difference(is_signal: Labels, scores: Scores, others: Scores) -> Measured:
    """AUC of one tagger minus that of another on the same jets, with the error of the difference (DeLong et al.)."""
    is_signal, scores = _checked(is_signal, scores)
    _, others = _checked(is_signal, others)
    of_signal, of_background = _placement_differences(is_signal, scores, others)
    variance = of_signal.var(ddof=1) / len(of_signal) + of_background.var(ddof=1) / len(of_background)
    return Measured(float(of_signal.mean()), float(np.sqrt(variance)))


def _placement_differences(is_signal: Labels, scores: Scores, others: Scores) -> tuple[Scores, Scores]:
    def placements(values: Scores) -> tuple[Scores, Scores]:
        signal, background = values[is_signal], values[~is_signal]
        return _fraction_below(np.sort(background), signal), 1.0 - _fraction_below(np.sort(signal), background)

    (signal, background), (other_signal, other_background) = placements(scores), placements(others)
    return signal - other_signal, background - other_background


def rejection_ratio(
    is_signal: Labels, scores: Scores, others: Scores, signal_efficiency: float, samples: int = 200, seed: int = 0
) -> Measured:
    """Background rejection of one tagger over that of another on the same jets; the error is a bootstrap over jets."""
    is_signal, scores = _checked(is_signal, scores)
    _, others = _checked(is_signal, others)
    signal, background = np.flatnonzero(is_signal), np.flatnonzero(~is_signal)
    rng = np.random.default_rng(seed)

    def logarithm(rows: NDArray[np.int64]) -> float:
        labels = is_signal[rows]
        one, two = (background_rejection(labels, values[rows], signal_efficiency).value for values in (scores, others))
        return float(np.log(one / two))

    drawn = [
        logarithm(np.concatenate([rng.choice(signal, len(signal)), rng.choice(background, len(background))]))
        for _ in range(samples)
    ]
    ratio = float(np.exp(logarithm(np.arange(len(scores)))))
    return Measured(ratio, ratio * float(np.std(drawn)))


def background_rejection(is_signal: Labels, scores: Scores, signal_efficiency: float) -> Measured:
    """1 / background efficiency at a signal efficiency.

    The error is that of the binomial count of background jets passing, and of the signal quantile through the local
    slope of the ROC curve; with no background jet left it is the rejection of one jet.
    """
    is_signal, scores = _checked(is_signal, scores)
    signal, background = np.sort(scores[is_signal])[::-1], scores[~is_signal]

    def passing(efficiency: float) -> float:
        rank = min(max(int(np.ceil(efficiency * len(signal))) - 1, 0), len(signal) - 1)
        return float(np.mean(background >= signal[rank]))

    efficiency = passing(signal_efficiency)
    if efficiency == 0.0:
        return Measured(float(len(background)), float(len(background)))
    binomial = np.sqrt(efficiency * (1.0 - efficiency) / len(background))
    step = np.sqrt(signal_efficiency * (1.0 - signal_efficiency) / len(signal))
    quantile = (passing(signal_efficiency + step) - passing(signal_efficiency - step)) / 2.0
    return Measured(1.0 / efficiency, float(np.hypot(binomial, quantile)) / efficiency**2)


def accuracy(is_signal: Labels, scores: Scores, threshold: float = 0.5) -> Measured:
    """Fraction of jets on the right side of a cut."""
    is_signal, scores = _checked(is_signal, scores)
    value = float(np.mean((scores > threshold) == is_signal))
    return Measured(value, float(np.sqrt(value * (1.0 - value) / len(scores))))


def summary(is_signal: Labels, scores: Scores, suffix: str = "") -> dict[str, float]:
    """`auc`, `accuracy`, `rejection_30` and `rejection_50`, each with `_err`, as a flat dictionary."""
    values = {
        "auc": measured_auc(is_signal, scores),
        "accuracy": accuracy(is_signal, scores),
        "rejection_30": background_rejection(is_signal, scores, 0.3),
        "rejection_50": background_rejection(is_signal, scores, 0.5),
    }
    flat: dict[str, float] = {}
    for name, measured in values.items():
        flat[name + suffix] = measured.value
        flat[f"{name}{suffix}_err"] = measured.error
    return flat


def comparison(is_signal: Labels, scores: Scores, others: Scores, name: str) -> dict[str, float]:
    """One tagger against another, `name`, on the same jets.

    `auc_minus_<name>`, `rejection_30_over_<name>` and `rejection_50_over_<name>`, each with `_err`, the error of the
    difference or ratio.
    """
    values = {
        f"auc_minus_{name}": auc_difference(is_signal, scores, others),
        f"rejection_30_over_{name}": rejection_ratio(is_signal, scores, others, 0.3),
        f"rejection_50_over_{name}": rejection_ratio(is_signal, scores, others, 0.5),
    }
    flat: dict[str, float] = {}
    for key, measured in values.items():
        flat |= {key: measured.value, f"{key}_err": measured.error}
    return flat


def classification(labels: NDArray[np.int64], probabilities: Scores, classes: tuple[str, ...]) -> dict[str, Any]:
    """`accuracy`, `recall` by class, each with `_err` (binomial), and the `confusion` counts [true, predicted]."""
    if probabilities.shape != (len(labels), len(classes)):
        raise DataError(f"expected [{len(labels)}, {len(classes)}] probabilities, got {list(probabilities.shape)}")
    if not np.isfinite(probabilities).all():
        raise DataError("probabilities: contain NaN or infinite values")
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    return confusion_rates(confusion, classes)


def confusion_rates(confusion: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, Any]:
    """What `classification` returns, from the counts [true, predicted]."""
    counts = confusion.sum(axis=1)
    if not counts.all():
        raise DataError(f"no event of class {classes[int(np.argmin(counts))]}; all of {', '.join(classes)} are needed")
    recall = np.diag(confusion) / counts
    error = np.sqrt(recall * (1.0 - recall) / counts)
    accurate = float(np.trace(confusion) / counts.sum())
    return {
        "accuracy": accurate,
        "accuracy_err": float(np.sqrt(accurate * (1.0 - accurate) / counts.sum())),
        "recall": dict(zip(classes, recall.tolist(), strict=True)),
        "recall_err": dict(zip(classes, error.tolist(), strict=True)),
        "confusion": confusion.tolist(),
    }
