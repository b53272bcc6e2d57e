"""What the original got for neutrinos, to stand beside what this package gets.

Counts from the notebooks of one of its authors (github.com/tsaris/aml-real-time-ai, `nova_simple.ipynb` and
`nova_larger_simple.ipynb` in notebooks/resnet50): a new head behind the quantised ResNet50 as it was, simulated events
of NOvA, a quarter of them kept for the test. The publication is J. Duarte et al., arXiv:1904.08986.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# By the number of events: counts [true, predicted], in the order of `retrain.data.pixelmaps.CLASSES`.
NEUTRINO_CONFUSION: dict[int, NDArray[np.int64]] = {
    10_000: np.array(
        [
            [502, 18, 24, 179, 0],
            [99, 382, 6, 159, 0],
            [63, 23, 22, 45, 0],
            [139, 22, 29, 589, 0],
            [5, 64, 0, 75, 55],
        ]
    ),
    200_000: np.array(
        [
            [11070, 421, 335, 2597, 28],
            [1363, 8610, 126, 1919, 292],
            [1088, 403, 681, 1143, 3],
            [2862, 610, 544, 12113, 82],
            [40, 266, 0, 324, 3080],
        ]
    ),
}


def accuracy_in_mixture(confusion: NDArray[np.int64], mixture: NDArray[np.int64]) -> float:
    """The accuracy of `confusion` [true, predicted] if its classes were as frequent as in the rows of `mixture`.

    Accuracies of tests with other shares of the classes are only comparable so.
    """
    recall = np.diag(confusion) / confusion.sum(axis=1)
    return float(np.average(recall, weights=mixture.sum(axis=1)))
