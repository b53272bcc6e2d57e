"""Judging a tagger beside the baseline, on the same jets: figures of merit, distributions and efficiencies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.data.jet_table import Jets
from retrain.errors import DataError
from retrain.evaluation.metrics import Scores, background_rejection, comparison, summary

CALIBRATION_BINS = 20
WORKING_POINT = 0.5  # signal efficiency of the cut whose efficiencies are shown against pT and mass


@dataclass(frozen=True)
class Judged:
    """Scores of several taggers on one set of test jets; keys name the taggers, the served one first."""

    jets: Jets
    scores: dict[str, Scores]

    def __post_init__(self) -> None:
        self.jets.require_both_classes()
        for name, values in self.scores.items():
            if values.shape != (len(self.jets),):
                raise DataError(f"scores of {name}: expected {len(self.jets)}, got {list(values.shape)}")


@dataclass(frozen=True)
class Binned:
    """A binomial fraction per bin; `nan` where a bin is empty."""

    edges: NDArray[np.float64]
    fraction: NDArray[np.float64]
    error: NDArray[np.float64]


def binned_fraction(values: NDArray[Any], passed: NDArray[np.bool_], edges: NDArray[np.float64]) -> Binned:
    """Fraction of entries [N] that passed, with binomial errors, in bins of `values` [N]; `edges` float64[bins + 1]."""
    total = np.histogram(values, edges)[0].astype(float)
    hits = np.histogram(values[passed], edges)[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = hits / total
        error = np.sqrt(fraction * (1.0 - fraction) / total)
    return Binned(edges, fraction, error)


def calibration(jets: Jets, scores: Scores) -> Binned:
    """Fraction of top jets against the score (for the test set's own mixture of classes)."""
    return binned_fraction(scores, jets.is_top, np.linspace(0.0, 1.0, CALIBRATION_BINS + 1))


def confusion(jets: Jets, scores: Scores, threshold: float = 0.5) -> NDArray[np.int64]:
    """int64[true class, predicted class] in the order qcd, top."""
    predicted = (scores > threshold).astype(np.int64)
    return np.histogram2d(jets.labels, predicted, bins=(2, 2), range=((0, 2), (0, 2)))[0].astype(np.int64)


def working_cut(jets: Jets, scores: Scores, signal_efficiency: float = WORKING_POINT) -> float:
    """The score above which a fraction `signal_efficiency` of top jets lies."""
    return float(np.quantile(scores[jets.is_top], 1.0 - signal_efficiency))


def figures(judged: Judged) -> dict[str, Any]:
    """All numbers, ready for JSON: per tagger its summary, confusion matrix and calibration.

    `comparisons` holds the first tagger against each other one, on the same jets (`metrics.comparison`).
    """
    tops = int(judged.jets.is_top.sum())
    result: dict[str, Any] = {"jets": {"top": tops, "qcd": len(judged.jets) - tops}, "taggers": {}}
    for name, scores in judged.scores.items():
        bins = calibration(judged.jets, scores)
        result["taggers"][name] = {
            **summary(judged.jets.is_top, scores),
            "confusion": confusion(judged.jets, scores).tolist(),
            "calibration": {
                "edges": bins.edges.tolist(),
                "top_fraction": [None if np.isnan(value) else value for value in bins.fraction.tolist()],
            },
        }
    first, *others = judged.scores
    result["comparisons"] = {}
    for name in others:
        result["comparisons"] |= comparison(judged.jets.is_top, judged.scores[first], judged.scores[name], name)
    return result


def beats(judged: Judged, challenger: str, champion: str) -> bool:
    """Whether one tagger's rejection at 30% exceeds another's by more than their errors together."""
    ours, theirs = (background_rejection(judged.jets.is_top, judged.scores[n], 0.3) for n in (challenger, champion))
    return ours.value - theirs.value > float(np.hypot(ours.error, theirs.error))


def write_figures(path: Path, numbers: dict[str, Any]) -> None:
    """What `figures` gave as a JSON file."""
    path.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def write_scores(path: Path, judged: Judged) -> None:
    """`is_top` bool[N] and the scores float64[N] of each tagger, in the order of the jets, as one .npz file."""
    np.savez_compressed(path, is_top=judged.jets.is_top, **judged.scores)
