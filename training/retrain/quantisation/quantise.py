"""Static post-training quantisation with onnxruntime: QDQ, uint8 activations, int8 weights per output channel."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from fpga_ops.importer import settle_scales
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from retrain.data.examples import Examples, JetExamples, as_examples
from retrain.data.images import ImageSettings
from retrain.data.jet_table import Jets
from retrain.data.pixelmaps import PixelMaps
from retrain.errors import DataError
from retrain.quantisation.bias_correction import correct_biases
from retrain.quantisation.export import CONTRACTS, export_network, with_constituents, with_pixel_maps

if TYPE_CHECKING:
    import torch

quantization = import_onnxruntime("onnxruntime.quantization")

CALIBRATION_BATCH = 16
BATCHES_IN_MEMORY = 1
BIAS_EXAMPLES = 16
NEUTRINO_MODEL = "resnet50_neutrino"
Calibration = Literal["minmax", "percentile", "entropy"]
WeightBits = Literal[7, 8]
METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "percentile": quantization.CalibrationMethod.Percentile,
    "entropy": quantization.CalibrationMethod.Entropy,
}
STACK_OPERATORS = ["Conv", "Relu", "Clip", "Add", "MaxPool", "AveragePool", "GlobalAveragePool"]


def _float_range(limits: tuple[float, float]) -> dict[str, NDArray[np.float32]]:
    return {name: np.array(limit, np.float32) for name, limit in zip(("rmin", "rmax"), limits, strict=True)}


class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
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
    weight_bits: WeightBits = 8,
) -> onnx.ModelProto:
    """The QDQ form of a float network.

    The classifying head stays float unless `quantise_head`, so that scores are not stepped. `input_range` fixes the
    range of the network's input; else calibration finds it like all others. Weights of 7 bits (-64 to 64) are what
    CPUs without VNNI multiply fastest. Every device has constants for the scales (`settle_scales`).

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
        extra["TensorQuantOverrides"] = {
            name: [{"quant_type": quantization.QuantType.QUInt8, **_float_range(input_range)}]
        }
    operators = [*STACK_OPERATORS, "Gemm"] if quantise_head else STACK_OPERATORS
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        target = Path(folder) / "quantised.onnx"
        quantization.quantize_static(
            work,
            target,
            _Batches(name, batches),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=weight_bits == 7,
            nodes_to_exclude=[] if quantise_head else _head(work),
            calibrate_method=METHODS[calibration],
            extra_options=extra,
        )
        return settle_scales(onnx.load(target))


def _head(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes behind the global average pooling: the classifier, which stays float."""
    reached = {output for node in model.graph.node if node.op_type == "GlobalAveragePool" for output in node.output}
    names = []
    for node in model.graph.node:  # in topological order
        if reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
    return names


class QuantisedNetwork(NamedTuple):
    """A trained network, all from `network_input` to `probabilities`: as it was, in QDQ form, and corrected.

    Biases of the last make up for the rounding of weights, and all devices have constants for its scales.
    """

    plain: onnx.ModelProto
    rounded: onnx.ModelProto
    corrected: onnx.ModelProto


def quantised_network(
    network: torch.nn.Module,
    examples: Examples,
    size: int,
    calibration: Calibration = "percentile",
    weight_bits: WeightBits = 8,
) -> QuantisedNetwork:
    """Quantise a trained network, with ranges from the examples and biases corrected on the first of them."""
    if len(examples) == 0:
        raise DataError("calibration: expected at least one event")
    batches = [
        examples.take(slice(first, first + CALIBRATION_BATCH)).inputs(size)
        for first in range(0, len(examples), CALIBRATION_BATCH)
    ]
    _, planes, height, width = batches[0].shape
    plain = export_network(network, planes, height, width)
    # The square root of a fraction fills [0, 1] exactly: the input needs no calibration.
    rounded = quantise(plain, batches, calibration, input_range=(0.0, 1.0), weight_bits=weight_bits)
    corrected = correct_biases(rounded, plain, np.concatenate(batches)[:BIAS_EXAMPLES])
    return QuantisedNetwork(plain, rounded, settle_scales(corrected))


def quantised_taggers(
    network: torch.nn.Module,
    jets: Jets,
    image: ImageSettings,
    calibration: Calibration = "percentile",
    weight_bits: WeightBits = 8,
) -> dict[str, onnx.ModelProto]:
    """The served files of a trained network by model name, and `float`, the unquantised one with constituents in."""
    size = image.size // image.reduce
    made = quantised_network(network, as_examples(jets, image), size, calibration, weight_bits)
    files = {name: attach(made.corrected, image) for name, attach in CONTRACTS.items()}
    files["float"] = with_constituents(made.plain, image)
    return files


def quantised_neutrino(
    network: torch.nn.Module,
    maps: PixelMaps,
    size: int,
    calibration: Calibration = "percentile",
    weight_bits: WeightBits = 8,
) -> dict[str, onnx.ModelProto]:
    """The served file of a network for pixel maps, and `float`, the unquantised one."""
    made = quantised_network(network, maps, size, calibration, weight_bits)
    return {NEUTRINO_MODEL: with_pixel_maps(made.corrected, size), "float": with_pixel_maps(made.plain, size)}


def write_quantised(
    folder: Path,
    network: torch.nn.Module,
    data: Examples,
    *,
    image: ImageSettings | None = None,
    size: int = 50,
    calibration: Calibration = "percentile",
    events: int = 128,
    weights: str = "",
    weight_bits: WeightBits = 8,
) -> list[Path]:
    """Quantise with the first `events` of the training data and write the served files, float.onnx and the record.

    `image` is for jets, `size` for pixel maps.
    """
    few = data.take(slice(0, events)).require_all_classes()
    record: dict[str, Any] = {"weights": weights, "calibration": calibration, "calibration_events": len(few)}
    record |= {"weight_bits": weight_bits}
    if isinstance(few, PixelMaps):
        files = quantised_neutrino(network, few, size, calibration, weight_bits)
        record |= {"task": "neutrinos", "size": size}
    elif isinstance(few, JetExamples):
        image = image or few.image
        files = quantised_taggers(network, few.jets, image, calibration, weight_bits)
        record |= {"task": "jets", "image": asdict(image)}
    else:
        raise DataError(f"expected jets or pixel maps, got {type(few).__name__}")
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.onnx" for name in files]
    for path, model in zip(written, files.values(), strict=True):
        save_onnx(model, path)
    (folder / "quantisation.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return written


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        onnx.save(model, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
