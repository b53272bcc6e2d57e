"""Temperature scaling: one number that makes scores probabilities again (C. Guo et al., arXiv:1706.04599)."""

from __future__ import annotations

import numpy as np

from retrain.evaluation.metrics import Labels, Scores

SMALLEST = 1e-7
"""Scores nearer to 0 or 1 count as this near: the served float32 has no logit there."""


def logits(scores: Scores) -> Scores:
    """log(p / (1 - p)) of scores in [0, 1], float64."""
    bounded = np.clip(np.asarray(scores, np.float64), SMALLEST, 1.0 - SMALLEST)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))


def scaled(scores: Scores, temperature: float) -> Scores:
    """The scores with their logits divided by the temperature; their order stays."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits(scores) / temperature)))


def cross_entropy(is_signal: Labels, scores: Scores) -> float:
    """Mean negative logarithm of the probability given to the true class."""
    signed = np.where(is_signal, logits(scores), -logits(scores))
    return float(np.mean(np.logaddexp(0.0, -signed)))


def fit_temperature(is_signal: Labels, scores: Scores) -> float:
    """The temperature that minimises the cross entropy on these jets, by golden-section search in its logarithm.

    The cross entropy is convex in 1 / T, so there is one minimum; it is sought between 1/20 and 20. Fit it on other
    jets than those it is judged on.
    """
    signed = np.where(is_signal, logits(scores), -logits(scores))

    def loss(log_temperature: float) -> float:
        return float(np.mean(np.logaddexp(0.0, -signed * np.exp(-log_temperature))))

    low, high = -np.log(20.0), np.log(20.0)
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    while high - low > 1e-5:
        one, two = high - golden * (high - low), low + golden * (high - low)
        if loss(one) < loss(two):
            high = two
        else:
            low = one
    return float(np.exp((low + high) / 2.0))


def calibration_error(is_signal: Labels, scores: Scores, bins: int = 15) -> float:
    """Expected calibration error: the mean distance of score and signal fraction over equal bins, weighted by jets."""
    index = np.minimum((np.asarray(scores) * bins).astype(np.int64), bins - 1)
    total = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.bincount(index, scores, bins) - np.bincount(index, is_signal.astype(float), bins))
    return float(gap.sum() / total.sum())
