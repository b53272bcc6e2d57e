"""Working points: the cuts on the score that keep a given fraction of top jets, kept in a version's model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrain.data.jet_table import Jets
from retrain.errors import DataError
from retrain.evaluation.judging import working_cut
from retrain.evaluation.metrics import Scores, background_rejection

CARD_KEY = "working_points"


def working_point(jets: Jets, scores: Scores, signal_efficiency: float) -> dict[str, float]:
    """The cut for a signal efficiency, and what it does to these jets.

    Args:
        jets: Labelled test jets.
        scores: `float64[N]`, the top score of each.
        signal_efficiency: Fraction of top jets above the cut, between 0 and 1.

    Returns:
        `threshold` (a jet is tagged if its score is above it), the `signal_efficiency` and `mistag_rate` seen with it,
        their binomial errors `..._err`, and the `rejection` with `rejection_err`.

    Raises:
        DataError: The efficiency is not between 0 and 1.
    """
    if not 0.0 < signal_efficiency < 1.0:
        raise DataError(f"working point {signal_efficiency}: expected a signal efficiency between 0 and 1, such as 0.3")
    threshold = working_cut(jets, scores, signal_efficiency)
    result = {"threshold": threshold}
    for name, chosen in (("signal_efficiency", jets.is_top), ("mistag_rate", ~jets.is_top)):
        fraction = float(np.mean(scores[chosen] > threshold))
        result |= {name: fraction, f"{name}_err": float(np.sqrt(fraction * (1.0 - fraction) / chosen.sum()))}
    rejection = background_rejection(jets.is_top, scores, signal_efficiency)
    return {**result, "rejection": rejection.value, "rejection_err": rejection.error}


def write_working_points(card: Path, points: Mapping[float, Mapping[str, Any]], sample: dict[str, Any]) -> None:
    """Put working points into a version's `model_card.json`; the file is replaced whole.

    Args:
        card: The card of the version that was judged.
        points: What `working_point` gave, by signal efficiency.
        sample: What the points were found on, such as `{"jets": 27000, "files": [...]}`.

    Raises:
        DataError: There is no card, or it is not JSON.
    """
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{card}: no such file; working points belong to a version in a model repository") from None
    except ValueError as error:
        raise DataError(f"{card}: not JSON ({error})") from error
    content[CARD_KEY] = {
        "sample": sample,
        "points": {f"{efficiency:g}": point for efficiency, point in sorted(points.items())},
    }
    temporary = card.with_name(f".{card.name}.new")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(card)
    finally:
        temporary.unlink(missing_ok=True)
