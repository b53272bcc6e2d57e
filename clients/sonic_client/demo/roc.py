"""How well scores separate: ROC curve and the area under it, in numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sonic_client.errors import JetError


def roc_curve(
    is_signal: NDArray[np.bool_], scores: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Background and signal efficiency at every threshold, from none selected to all; equal scores are one step.

    Raises JetError when a class is missing or a score is not finite.
    """
    signal = int(np.count_nonzero(is_signal))
    background = len(is_signal) - signal
    if not signal or not background:
        raise JetError(f"a ROC curve needs both classes; got {signal} signal and {background} background jets")
    if not np.isfinite(scores).all():
        raise JetError("a ROC curve needs finite scores")
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    ordered = scores[order]
    last_of_equals = np.append(ordered[1:] != ordered[:-1], True)
    selected = np.cumsum(is_signal[order])[last_of_equals]
    everything = (np.arange(len(order)) + 1)[last_of_equals]
    return (
        np.concatenate([[0.0], (everything - selected) / background]),
        np.concatenate([[0.0], selected / signal]),
    )


def auc(is_signal: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """Area under the ROC curve: the chance that a signal jet scores above a background jet (ties count half)."""
    background, signal = roc_curve(is_signal, scores)
    return float(np.sum(np.diff(background) * (signal[1:] + signal[:-1]) / 2.0))
