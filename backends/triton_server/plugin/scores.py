"""What is done to a network's scores before they are answered, and what is told of it."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fpga_ops.calibration import CARD_FILE, RAW_PARAMETER, Calibration, read_calibration, scale_probabilities
from fpga_ops.errors import ModelError

Arrays = Mapping[str, npt.NDArray[Any]]
PROBABILITIES = "probabilities"


class Scores:
    """Temperature scaling of one version, off unless its model's configuration asks for it; and its working points.

    Args:
        version: Folder of the version, whose model card holds temperature and working points.
        outputs: The model's outputs, of which one holds the class probabilities.
        scaling: Whether the logits are divided by the card's temperature.
        known: Known answers of the network, to see before the first request that they are probabilities.

    Raises:
        ModelError: Scaling is asked for and the card has no temperature, or no output holds probabilities; or the card
            makes no sense.
    """

    def __init__(self, version: Path, outputs: Sequence[str], scaling: bool, known: Arrays | None = None) -> None:
        self._output = PROBABILITIES if PROBABILITIES in outputs else outputs[0]
        self._calibration = _read(version, scaling)
        self.temperature = 1.0
        """What the logits of the answers are divided by."""
        if not scaling:
            return
        if self._calibration.temperature is None:
            raise ModelError(
                f"temperature_scaling: {CARD_FILE} holds no temperature; fit one: triton-fpga evaluate "
                f"{version.name}/model.onnx --data JETS --temperature-data OTHER_JETS"
            )
        if len(outputs) > 1 and self._output != PROBABILITIES:
            raise ModelError(f"temperature_scaling: expected one output, or one called {PROBABILITIES}")
        self.temperature = self._calibration.temperature
        if known is not None and self._output in known:
            scale_probabilities(known[self._output], self.temperature)

    def served(self, outputs: Arrays, request: Any) -> Arrays:
        """A request's outputs as they are answered: scaled, unless the request asks for the network's own scores."""
        if self.temperature == 1.0 or _asks_raw(request):
            return outputs
        return {**outputs, self._output: scale_probabilities(outputs[self._output], self.temperature)}

    def provenance(self) -> dict[str, str]:
        """`temperature`, where scores are scaled."""
        return {} if self.temperature == 1.0 else {"temperature": repr(self.temperature)}

    def working_points(self) -> list[dict[str, str]]:
        """Labels of the gauge fpga_working_point: each cut on the scores as they are answered.

        A cut that float32 scores of this temperature could not tell from 0 or 1 is not offered.
        """
        told = []
        for point in self._calibration.points.values():
            with suppress(ModelError):
                at = point.at(self.temperature)
                told.append({
                    "efficiency": at.name, "threshold": repr(at.threshold), "temperature": repr(at.temperature),
                    "label": at.label,
                })  # fmt: skip
        return told


def _read(version: Path, scaling: bool) -> Calibration:
    """A card that makes no sense stops a model that scales; others serve without working points."""
    try:
        return read_calibration(version / CARD_FILE)
    except ModelError:
        if scaling:
            raise
        return Calibration()


def _asks_raw(request: Any) -> bool:
    try:
        parameters = json.loads(request.parameters() or "{}")
    except (AttributeError, ValueError):  # a stub without them
        return False
    return bool(parameters.get(RAW_PARAMETER, False))
