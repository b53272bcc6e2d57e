"""The forms of quantised ONNX files: as onnxruntime's quantiser writes them, or made from its QDQ files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from triton_fpga_bench.networks.pytorch import INPUT


def quantise(plain: Path, path: Path, form: str, batches: Sequence[npt.NDArray[np.float32]]) -> None:
    """Quantise a float file statically, weights per output channel, ranges from a few batches of images."""
    quantization = import_onnxruntime("onnxruntime.quantization")
    logging.disable(logging.WARNING)  # its advice

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        """Batch by batch."""

        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    signed, change = FORMS[form]
    kinds = quantization.QuantType
    quantization.quantize_static(
        plain,
        path,
        Reader(),
        quant_format=quantization.QuantFormat["QOperator" if form == "QOperator" else "QDQ"],
        per_channel=True,
        activation_type=kinds.QInt8 if signed else kinds.QUInt8,
        weight_type=kinds.QInt8,
        extra_options={"ActivationSymmetric": form == "TensorRT", "AddQDQPairToWeight": change is not None},
    )
    if change is not None:
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)


def _stored(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def clip_integers(model: onnx.ModelProto) -> None:
    """QCDQ: Clip behind each QuantizeLinear, of weights to -127 and 127, of others to 2 and 250."""
    stored = _stored(model)
    nodes = []
    bounds = {"weights": (np.int8(-127), np.int8(127)), "others": (np.uint8(2), np.uint8(250))}
    for what, pair in bounds.items():
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(bound), f"{what}:{which}")
            for which, bound in zip(("least", "most"), pair, strict=True)
        )
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "QuantizeLinear":
            what = "weights" if node.input[0] in stored else "others"
            result, node.output[0] = node.output[0], f"{node.output[0]}:whole"
            nodes.append(
                helper.make_node(
                    "Clip", [node.output[0], f"{what}:least", f"{what}:most"], [result], f"{node.name}:clip"
                )
            )
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def leave_zero_points_out(model: onnx.ModelProto) -> None:
    """As for TensorRT: int8 and symmetric, no zero points, so the type is said by `output_dtype` of opset 21."""
    integers = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[2] in integers:
            del node.input[2]
            if node.op_type == "QuantizeLinear":
                node.attribute.append(helper.make_attribute("output_dtype", onnx.TensorProto.INT8))
    next(entry for entry in model.opset_import if not entry.domain).version = 21
    model.ir_version = max(model.ir_version, 10)


def round_scales(model: onnx.ModelProto) -> None:
    """Every scale becomes the next power of two; the integers of biases follow, those of weights are made anew."""
    stored = _stored(model)
    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    changed = {name: (2.0 ** np.ceil(np.log2(stored[name]))).astype(np.float32) for name in scales}
    for node in model.graph.node:
        integers = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if integers is not None and integers.dtype == np.int32:
            ratio = stored[node.input[1]].astype(np.float64) / changed[node.input[1]]
            changed[node.input[0]] = np.rint(integers * ratio).astype(np.int32)
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))


FORMS: dict[str, tuple[bool, Callable[[onnx.ModelProto], None] | None]] = {
    "QDQ": (False, None),
    "QDQ, int8": (True, None),
    "QOperator": (False, None),
    "QCDQ": (False, clip_integers),
    "TensorRT": (True, leave_zero_points_out),
    "powers of two": (False, round_scales),
}
"""Whether activations are int8, and what is done to onnxruntime's file, in which weights are then float with a
QuantizeLinear."""
