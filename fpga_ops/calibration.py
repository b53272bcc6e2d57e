"""Temperature and working points of a classifier: what a version's model card says, and scores and cuts by it.

Temperature scaling divides the logits by one number (C. Guo et al., arXiv:1706.04599). It keeps the order of two
classes' scores, so a cut on the unscaled score has its equal on the scaled one; a cut on the other scale would be wrong
without anybody noticing, which is why every working point here carries the temperature of the scores it is for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpga_ops.errors import ModelError
from fpga_ops.ir.network import INTEGER_RULE

CARD_FILE = "model_card.json"
WORKING_POINTS, TEMPERATURE = "working_points", "temperature"
"""Keys of the card."""
SCALING_PARAMETER = "temperature_scaling"
"""Parameter of a served model's configuration: "true" divides the logits of every answer by the card's temperature."""
RAW_PARAMETER = "raw_scores"
"""Parameter of a request that asks for the network's own scores, whatever the configuration: for known answers."""
_SUM_TOLERANCE = 1e-3
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class WorkingPoint:
    """A cut on the score of one class.

    Attributes:
        efficiency: Fraction of the class's jets above the threshold, where the card's sample is representative.
        threshold: A jet is tagged if its score, a float32 of the service, is above it.
        temperature: What the logits of the scores were divided by that the threshold is for; 1 is the network's own.
        label: The class.
    """

    efficiency: float
    threshold: float
    temperature: float = 1.0
    label: str = "top"

    def __post_init__(self) -> None:
        if not (0.0 < self.efficiency < 1.0 and 0.0 < self.threshold < 1.0 and _is_temperature(self.temperature)):
            raise ModelError(
                f"working point {self.efficiency:g}: expected an efficiency and a threshold between 0 and 1 and a "
                f"temperature above 0, came {self.threshold!r} and {self.temperature!r}"
            )

    def at(self, temperature: float) -> WorkingPoint:
        """The same cut on scores of another temperature: the logit of the threshold is divided as theirs are.

        Raises ModelError where the threshold would be so near to 0 or 1 that float32 scores cannot be told apart.
        """
        if temperature == self.temperature:
            return self
        logit = (math.log(self.threshold) - math.log1p(-self.threshold)) * self.temperature / temperature
        # exp does not overflow: the sign is chosen so that its argument is negative.
        small = math.exp(-abs(logit)) / (1.0 + math.exp(-abs(logit)))
        if small < 100 * np.finfo(np.float32).eps:
            raise ModelError(
                f"working point {self.efficiency:g}: at temperature {temperature:g} the threshold is within "
                f"{small:.1g} of 0 or 1, where float32 scores cannot be told apart; cut on the unscaled scores"
            )
        return replace(self, threshold=small if logit < 0 else 1.0 - small, temperature=temperature)

    @property
    def name(self) -> str:
        """The efficiency as cards and metrics write it: `0.3`."""
        return f"{self.efficiency:g}"


@dataclass(frozen=True)
class Calibration:
    """What a card says of its version's scores.

    Attributes:
        model: Name of the model; "" where the card does not say it.
        version: Its version; "" likewise.
        temperature: What the logits are divided by to make scores probabilities; None if it was never fitted.
        points: Working points of the network's own scores (temperature 1), by efficiency as in `WorkingPoint.name`.
    """

    model: str = ""
    version: str = ""
    temperature: float | None = None
    points: Mapping[str, WorkingPoint] = field(default_factory=dict)


def read_calibration(card: Path) -> Calibration:
    """What a `model_card.json` says of temperature and working points; nothing, where there is no card.

    Raises ModelError for a card that cannot be read, or whose numbers make no sense or are another network's.
    """
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Calibration()
    except (OSError, ValueError) as error:
        raise ModelError(f"{card.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{card.name}: expected a JSON object")
    try:
        return _calibration(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{card.name}: {WORKING_POINTS} or {TEMPERATURE} make no sense: {error}") from error


def _calibration(content: dict[str, Any]) -> Calibration:
    points: dict[str, WorkingPoint] = {}
    temperature: float | None = None
    if WORKING_POINTS in content:
        block = content[WORKING_POINTS]
        _check_judged(WORKING_POINTS, block, content)
        for name, entry in block["points"].items():
            point = WorkingPoint(
                float(name),
                float(entry["threshold"]),
                float(block.get("temperature", 1.0)),
                str(block.get("label", "top")),
            )
            points[point.name] = point.at(1.0)
    if TEMPERATURE in content:
        block = content[TEMPERATURE]
        _check_judged(TEMPERATURE, block, content)
        temperature = float(block["value"])
        if not _is_temperature(temperature):
            raise ModelError(f"{CARD_FILE}: temperature: expected a number above 0, came {temperature!r}")
    return Calibration(str(content.get("model", "")), str(content.get("version", "")), temperature, points)


def judged_network(content: Mapping[str, Any]) -> dict[str, Any]:
    """What is noted beside numbers that hold for one network only: its hash, as the card has it, and the rule."""
    return {"network": _hash(content), "rule": INTEGER_RULE}


def _check_judged(what: str, block: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    now = judged_network(content)
    if any(key in block and block[key] != now[key] for key in now):
        raise ModelError(
            f"{CARD_FILE}: {what} were found with another network or rule of integers than this version's; judge it "
            "again: triton-fpga evaluate MODEL --working-point E --temperature-data JETS"
        )


def _hash(content: Mapping[str, Any]) -> str | None:
    files = content.get("files")
    value = files.get("model.onnx") if isinstance(files, Mapping) else None
    return None if value is None else str(value).removeprefix("sha256:")


def _is_temperature(value: float) -> bool:
    return 0.0 < value < math.inf


def scale_probabilities(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Class probabilities `float32[N, K]` with their logits divided by a temperature: p^(1/T), normalised.

    Computed in double precision from all classes, since the logit of a score near 1 is in the others' small ones.
    Raises ModelError for rows that are no probabilities: scaling them would mean nothing.
    """
    given = np.asarray(probabilities, np.float64)
    if given.ndim != 2 or not (np.abs(given.sum(axis=1) - 1.0) <= _SUM_TOLERANCE).all() or (given < 0).any():
        raise ModelError(
            f"{SCALING_PARAMETER}: expected an output of class probabilities [N, K] that sum to 1, came "
            f"{list(given.shape)}" + (f" with a row {given[0].tolist()}" if given.ndim == 2 and len(given) else "")
        )
    logits = np.log(np.maximum(given, _SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
