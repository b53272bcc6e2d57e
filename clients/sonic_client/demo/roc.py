"""How well scores separate, by scikit-learn: ROC curve and the area under it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sonic_client.errors import JetError


def roc_curve(
    is_signal: NDArray[np.bool_], scores: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Background and signal efficiency at every threshold, from none selected to all; equal scores are one step.

    Of bool[N] and float32[N]; both are float64[thresholds].

    Raises JetError when a class is missing or a score is not finite.
    """
    from sklearn import metrics

    signal = int(np.count_nonzero(is_signal))
    background = len(is_signal) - signal
    if not signal or not background:
        raise JetError(f"a ROC curve needs both classes; got {signal} signal and {background} background jets")
    if not np.isfinite(scores).all():
        raise JetError("a ROC curve needs finite scores")
    false_positives, true_positives, _ = metrics.roc_curve(is_signal, scores, drop_intermediate=False)
    return false_positives, true_positives


def auc(is_signal: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """Area under the ROC curve of bool[N] and float32[N]: the chance that a signal jet scores above a background jet.

    Ties count half. Raises JetError as `roc_curve` does.
    """
    from sklearn import metrics

    return float(metrics.auc(*roc_curve(is_signal, scores)))
