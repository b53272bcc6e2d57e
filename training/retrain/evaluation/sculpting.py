"""How much a cut on the score changes the mass spectrum of the background (mass sculpting)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrain.data.jet_table import Jets
from retrain.evaluation.metrics import Scores

EDGES = np.linspace(0.0, 300.0, 31)  # GeV


def jensen_shannon(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Jensen-Shannon divergence of two histograms in bits: 0 for one shape, 1 for no overlap.

    J. Lin, IEEE Trans. Inf. Theory 37 (1991) 145.
    """
    one, two = first / first.sum(), second / second.sum()
    middle = (one + two) / 2.0

    def relative(p: NDArray[np.float64]) -> float:
        present = p > 0
        return float(np.sum(p[present] * np.log2(p[present] / middle[present])))

    return (relative(one) + relative(two)) / 2.0


def sculpting(jets: Jets, scores: Scores, threshold: float) -> dict[str, float]:
    """The divergence of the QCD mass spectrum above a cut from that of all QCD jets.

    Args:
        jets: Labelled test jets.
        scores: `float64[N]`, the top score of each.
        threshold: Of the working point.

    Returns:
        `jsd`, the divergence in bits; `jsd_random`, its mean for as many QCD jets drawn at random (what the statistics
        of so few jets alone give); `passing`, the number of QCD jets above the cut. `jsd` is nan where none passes.
    """
    mass = jets.mass[~jets.is_top].astype(np.float64)
    passed = scores[~jets.is_top] > threshold
    count = int(passed.sum())
    if count == 0:
        return {"jsd": float("nan"), "jsd_random": float("nan"), "passing": 0}
    everything = np.histogram(mass, EDGES)[0].astype(np.float64)
    rng = np.random.default_rng(0)
    drawn = [np.histogram(rng.choice(mass, count, replace=False), EDGES)[0].astype(np.float64) for _ in range(50)]
    kept = np.histogram(mass[passed], EDGES)[0].astype(np.float64)
    return {
        "jsd": jensen_shannon(kept, everything) if kept.sum() else float("nan"),
        "jsd_random": float(np.mean([jensen_shannon(one, everything) for one in drawn if one.sum()])),
        "passing": count,
    }
