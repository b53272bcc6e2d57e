"""The tagger that an image network has to beat: gradient boosting on mass, N-subjettiness and multiplicity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.errors import DataError

TREES, LEARNING_RATE = 400, 0.06


def train_baseline(features: NDArray[np.float64], is_top: NDArray[np.bool_], seed: int = 0) -> Any:
    """A fitted `HistGradientBoostingClassifier`, stopped early on a tenth of the jets.

    Args:
        features: float64[N, features], as `high_level_features` makes them.
        is_top: bool[N].
        seed: Of the split and the fit.

    Raises:
        DataError: A class is missing.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    if len(features) == 0 or is_top.all() or not is_top.any():
        raise DataError(f"baseline: expected jets of both classes, got {int(is_top.sum())} top of {len(is_top)}")
    classifier = HistGradientBoostingClassifier(
        max_iter=TREES, learning_rate=LEARNING_RATE, early_stopping=True, random_state=seed
    )
    return classifier.fit(features, is_top)


def baseline_scores(classifier: Any, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Top scores float64[N]."""
    return np.asarray(classifier.predict_proba(features)[:, 1], np.float64)
