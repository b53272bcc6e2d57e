"""One tagger on several samples of jets: how far its figures move from those on the first, with errors.

The samples hold different jets, so the errors of a shift are those of both samples, in quadrature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from retrain.errors import DataError
from retrain.evaluation.judging import Judged
from retrain.evaluation.metrics import Measured, auc_difference, background_rejection, measured_auc

EFFICIENCIES = (0.3, 0.5)
"""Signal efficiencies at which rejections are compared, as everywhere in this package."""


def difference(value: Measured, other: Measured) -> Measured:
    """`value - other` of independent measurements."""
    return Measured(value.value - other.value, float(np.hypot(value.error, other.error)))


def ratio(value: Measured, other: Measured) -> Measured:
    """`value / other` of independent measurements, with the error to first order."""
    result = value.value / other.value
    return Measured(result, result * float(np.hypot(value.error / value.value, other.error / other.value)))


def shifts(samples: Mapping[str, Judged]) -> dict[str, Any]:
    """For each sample but the first, each tagger's figures there against those on the first sample.

    Args:
        samples: Judged samples by name, the one that the network was made for first; all hold the same taggers.

    Returns:
        `{sample: {tagger: {"auc", "auc_err", "rejection_30", ...}}}`: the difference of the AUC, the ratios of the
        rejections, and for every tagger but the last `auc_minus_<last>`, how much its lead over the last one (the
        baseline, where there is one) changes.

    Raises:
        DataError: The samples hold different taggers.
    """
    first_name, *others = samples
    first = samples[first_name]
    result: dict[str, Any] = {}
    for name in others:
        judged = samples[name]
        if list(judged.scores) != list(first.scores):
            raise DataError(f"{name}: expected scores of {', '.join(first.scores)}, got {', '.join(judged.scores)}")
        result[name] = {tagger: _shift(judged, first, tagger) for tagger in first.scores}
    return result


def _shift(judged: Judged, first: Judged, tagger: str) -> dict[str, float]:
    both = [(each.jets.is_top, each.scores[tagger]) for each in (judged, first)]
    values = {"auc": difference(*(measured_auc(*one) for one in both))}
    for efficiency in EFFICIENCIES:
        rejections = (background_rejection(*one, efficiency) for one in both)
        values[f"rejection_{efficiency * 100:.0f}"] = ratio(*rejections)
    last = list(first.scores)[-1]
    if tagger != last:
        leads = (auc_difference(each.jets.is_top, each.scores[tagger], each.scores[last]) for each in (judged, first))
        values[f"auc_minus_{last}"] = difference(*leads)
    flat: dict[str, float] = {}
    for key, measured in values.items():
        flat |= {key: measured.value, f"{key}_err": measured.error}
    return flat
