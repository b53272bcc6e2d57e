"""Static post-training quantisation with onnxruntime: QDQ, uint8 activations, int8 weights per output channel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from retrain.bias_correction import correct_biases
from retrain.errors import DataError
from retrain.export import CONTRACTS, export_network, with_constituents
from retrain.images import ImageSettings, JetImager
from retrain.jets import Jets

if TYPE_CHECKING:
    import torch

CALIBRATION_BATCH = 16
BATCHES_IN_MEMORY = 1
BIAS_JETS = 16
Calibration = Literal["minmax", "percentile", "entropy"]
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
STACK_OPERATORS = ["Conv", "Relu", "Clip", "Add", "MaxPool", "AveragePool", "GlobalAveragePool"]


def _float_range(limits: tuple[float, float]) -> dict[str, NDArray[np.float32]]:
    return {name: np.array(limit, np.float32) for name, limit in zip(("rmin", "rmax"), limits, strict=True)}


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Batches for the calibration, in portions: onnxruntime keeps all activations of one portion in memory."""

    def __init__(self, name: str, batches: Sequence[NDArray[np.float32]]) -> None:
        self._name, self._batches = name, batches
        self._rest = iter(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give the batches of one portion next."""
        self._rest = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        """The next batch as a feed, None at the end of the portion."""
        batch = next(self._rest, None)
        return None if batch is None else {self._name: batch}


def quantise(
    model: onnx.ModelProto,
    batches: Iterable[NDArray[np.float32]],
    calibration: Calibration = "minmax",
    percentile: float = 99.99,
    quantise_head: bool = False,
    input_range: tuple[float, float] | None = None,
) -> onnx.ModelProto:
    """The QDQ form of a float network.

    The classifying head stays float unless `quantise_head`, so that scores are not stepped. `input_range` fixes the
    range of the network's input; else calibration finds it like all others.

    Raises:
        DataError: No calibration batch.
    """
    batches = list(batches)
    if not batches:
        raise DataError("calibration: expected at least one batch of images")
    work = onnx.ModelProto()
    work.CopyFrom(model)  # the quantiser moves the weights of what it is given to a temporary file
    name = model.graph.input[0].name
    extra: dict[str, Any] = {
        "ActivationSymmetric": False,
        "WeightSymmetric": True,
        "CalibPercentile": percentile,
        "CalibTensorRangeSymmetric": False,
        "ForceQuantizeNoInputCheck": True,
        "CalibStridedMinMax": BATCHES_IN_MEMORY,  # for all methods, in spite of its name
    }
    if input_range is not None:
        extra["TensorQuantOverrides"] = {name: [{"quant_type": QuantType.QUInt8, **_float_range(input_range)}]}
    operators = [*STACK_OPERATORS, "Gemm"] if quantise_head else STACK_OPERATORS
    with TemporaryDirectory() as folder:
        target = Path(folder) / "quantised.onnx"
        quantize_static(
            work,
            target,
            _Batches(name, batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[calibration],
            extra_options=extra,
        )
        return onnx.load(target)


def quantised_taggers(
    network: torch.nn.Module, jets: Jets, image: ImageSettings, calibration: Calibration = "percentile"
) -> dict[str, onnx.ModelProto]:
    """The served files of a trained network by model name, and `float`, the unquantised one with constituents in."""
    exported = export_network(network, planes=1, size=image.size // image.reduce)
    imager = JetImager(image, transformed=True)
    batches = [
        imager(jets.constituents[first : first + CALIBRATION_BATCH]) for first in range(0, len(jets), CALIBRATION_BATCH)
    ]
    # The square root of a fraction fills [0, 1] exactly: the input needs no calibration.
    quantised = quantise(exported, batches, calibration, input_range=(0.0, 1.0))
    quantised = correct_biases(quantised, exported, np.concatenate(batches)[:BIAS_JETS])
    files = {name: attach(quantised, image) for name, attach in CONTRACTS.items()}
    files["float"] = with_constituents(exported, image)
    return files


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        onnx.save(model, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
