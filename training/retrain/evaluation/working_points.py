"""What an evaluation puts into a version's model card: cuts that keep a fraction of top jets, and a temperature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fpga_ops.calibration import TEMPERATURE, WORKING_POINTS, judged_network
from retrain.data.jet_table import LABELS, Jets
from retrain.errors import DataError
from retrain.evaluation.judging import working_cut
from retrain.evaluation.metrics import Scores, background_rejection


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

    Their thresholds are on the network's own scores: a service that scales them converts the thresholds as well.

    Args:
        card: The card of the version that was judged.
        points: What `working_point` gave, by signal efficiency.
        sample: What the points were found on, such as `{"jets": 27000, "files": [...]}`.

    Raises:
        DataError: There is no card, or it is not JSON.
    """
    ordered = {f"{efficiency:g}": point for efficiency, point in sorted(points.items())}
    _write(card, WORKING_POINTS, {"label": LABELS[1], "temperature": 1.0, "sample": sample, "points": ordered})


def write_temperature(card: Path, found: Mapping[str, Any]) -> None:
    """Put a fitted temperature (`value`, and what it does) into a version's `model_card.json`, replaced whole.

    Nothing is scaled by it unless the model's configuration says `temperature_scaling`.

    Raises:
        DataError: There is no card, or it is not JSON.
    """
    _write(card, TEMPERATURE, dict(found))


def _write(card: Path, key: str, block: dict[str, Any]) -> None:
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{card}: no such file; {key} belong to a version in a model repository") from None
    except ValueError as error:
        raise DataError(f"{card}: not JSON ({error})") from error
    content[key] = {**judged_network(content), **_finite(block)}
    temporary = card.with_name(f".{card.name}.new")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(card)
    finally:
        temporary.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinities, as of few jets: JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
