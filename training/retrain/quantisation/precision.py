"""What each step from floating point to the device costs: the five rows of J. Duarte et al., arXiv:1904.08986, table 1.

There, fine-tuning means training on after quantisation; `triton-fpga train --rounding` does that, and its weights are a
row of their own. The service needs neither: bias correction moves integers without training.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from retrain.data.examples import as_examples
from retrain.data.images import ImageSettings
from retrain.data.jet_table import Jets
from retrain.errors import DataError
from retrain.evaluation.metrics import Scores, auc_difference, rejection_ratio, summary
from retrain.evaluation.scoring import engine_features, engine_scores, onnx_scores
from retrain.quantisation.export import with_constituents
from retrain.quantisation.quantise import Calibration, quantised_network, save_onnx

if TYPE_CHECKING:
    import torch

ROWS = (
    "floating point",
    "quantised",
    "quantised, biases corrected",
    "on the device",
    "on the device, head refitted",
)
TUNED = "quantised, fine-tuned"
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Amounts:
    """Events for calibration, and for the refit of the head."""

    calibration: int = 128
    head: int = 20_000


def five_rows(
    network: torch.nn.Module,
    training: Jets,
    test: Jets,
    image: ImageSettings,
    bar: Bar,
    calibration: Calibration = "percentile",
    amounts: Amounts | None = None,
    tuned: torch.nn.Module | None = None,
) -> dict[str, Scores]:
    """Top scores of the test jets by row; the row `TUNED` is that of a network trained on with rounding, if given.

    Raises:
        DataError: The training jets are too few, or those for calibration or for the head lack a class.
    """
    import numpy as np

    from retrain.network.head import HeadSettings, fit_head, head_probabilities

    amounts = amounts or Amounts()
    if len(training) <= amounts.calibration:
        raise DataError(
            f"{len(training)} training jets: more than the {amounts.calibration} for calibration are needed"
        )
    few = as_examples(training.take(slice(0, amounts.calibration)).require_both_classes(), image)
    known = training.take(slice(amounts.calibration, amounts.calibration + amounts.head)).require_both_classes()
    made = quantised_network(network, few, image.size // image.reduce, calibration)
    scores = {}
    for row, model in zip(ROWS, made, strict=False):
        with bar(row, len(test)) as advance:
            scores[row] = onnx_scores(with_constituents(model, image), test, progress=advance)
    if tuned is not None:
        model = quantised_network(tuned, few, image.size // image.reduce, calibration).corrected
        with bar(TUNED, len(test)) as advance:
            scores[TUNED] = onnx_scores(with_constituents(model, image), test, progress=advance)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(with_constituents(made.corrected, image), file)
        with bar(ROWS[3], len(test)) as advance:
            scores[ROWS[3]] = engine_scores(file, test, progress=advance)
        with bar("features for the head", len(known) + len(test)) as advance:
            own, new = (engine_features(file, jets.constituents, progress=advance) for jets in (known, test))
    head = fit_head(own, known.labels, 2, HeadSettings())
    scores[ROWS[4]] = np.asarray(head_probabilities(head, new)[:, 1])
    return scores


def precision_table(test: Jets, scores: dict[str, Scores]) -> list[dict[str, Any]]:
    """By row the figures of merit, and beside them the change against floating point on the same jets, with errors."""
    first = next(iter(scores))
    rows = []
    for name, values in scores.items():
        row: dict[str, Any] = {"row": name, **summary(test.is_top, values)}
        if name != first:
            difference = auc_difference(test.is_top, values, scores[first])
            ratio = rejection_ratio(test.is_top, values, scores[first], 0.3)
            row |= {"auc_change": difference.value, "auc_change_err": difference.error}
            row |= {"rejection_30_ratio": ratio.value, "rejection_30_ratio_err": ratio.error}
        rows.append(row)
    return rows
