"""Recognise the usual end of a classifier, which `fpga_ops/ir/classifier_head.py` does without onnxruntime."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from fpga_ops.importer.partition import Part
from fpga_ops.ir.classifier_head import Float64Array, Head, exponential
from fpga_ops.ir.network import IntegerNetwork

MOST_WEIGHTS = 1 << 14
"""Of a Gemm done here; a larger one is faster in onnxruntime."""
LEAST_EXPONENT = -600.0
"""float64 holds exponentials down to -708."""


def recognise(part: Part, network: IntegerNetwork) -> Head | None:
    """The head that a part stands for; None if it holds anything else, which onnxruntime then runs."""
    if part.model is None or len(part.inputs) != 1 or len(part.outputs) != 1 or part.inputs[0] not in network.outputs:
        return None
    nodes = list(part.model.graph.node)
    constants = {tensor.name: tensor for tensor in part.model.graph.initializer}
    source = part.inputs[0]
    values = _dequantised(nodes[0], constants, signed=source in network.signed) if nodes else None
    if values is None or nodes[0].input[0] != source:
        return None
    tensor = network.tensors[source]
    flat = False
    rank = 2 if tensor.flat else 4
    weights = bias = None
    softmax = False
    for before, node in itertools.pairwise(nodes):
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        if (
            list(node.input[:1]) != [before.output[0]]  # a Constant has no input
            or len(before.output) != 1
            or softmax
            or node.domain not in ("", "ai.onnx")
        ):
            return None
        if node.op_type == "Flatten" and attributes.get("axis", 1) == 1:
            flat, rank = True, 2
        elif node.op_type == "Gemm" and rank == 2 and weights is None:
            found = _gemm(node, attributes, constants)
            if found is None:
                return None
            weights, bias = found
        elif node.op_type == "Softmax" and attributes.get("axis", -1) in (-1, rank - 1) and rank == 2:
            softmax = True
        elif node.op_type != "Identity":
            return None
    if nodes[-1].output[0] != part.outputs[0] or not _fits_float32(values, weights, bias):
        return None
    exponents = values.astype(np.float64) - values.max().astype(np.float64)
    # no power vanishes, so no sum of them does
    powers = exponential(exponents) if softmax and weights is None and exponents.min() > LEAST_EXPONENT else None
    shape: tuple[int, ...] = (tensor.channels,) if tensor.flat else (tensor.channels, tensor.height, tensor.width)
    if weights is not None:
        shape = (len(weights),)
    elif flat:
        shape = (tensor.size,)
    return Head(source, part.outputs[0], shape, values, flat, powers, weights, bias, softmax)


def _dequantised(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], *, signed: bool
) -> npt.NDArray[np.float32] | None:
    """What each byte stands for, by a DequantizeLinear with one scale."""
    if node.op_type != "DequantizeLinear" or any(name not in constants for name in node.input[1:]):
        return None
    stored = [numpy_helper.to_array(constants[name]) for name in node.input[1:]]
    if any(value.size != 1 for value in stored) or not stored or stored[0].dtype != np.float32:
        return None
    zero = int(stored[1].reshape(())) if len(stored) > 1 else 0
    integers = np.arange(256) - zero - (128 if signed else 0)  # int8 tensors are kept shifted by 128
    with np.errstate(over="ignore"):
        return np.asarray(integers.astype(np.float32) * stored[0].reshape(()), np.float32)


def _fits_float32(values: npt.NDArray[np.float32], weights: Float64Array | None, bias: Float64Array | None) -> bool:
    """Whether no number on the way can be infinite or NaN; what onnxruntime makes of those is its own."""
    most = np.abs(values).max().astype(np.float64)
    if weights is not None:
        with np.errstate(invalid="ignore"):
            most = (np.abs(weights).sum(1) * most + (0.0 if bias is None else np.abs(bias))).max(initial=0.0)
    return bool(most <= np.finfo(np.float32).max)


def _gemm(
    node: onnx.NodeProto, attributes: Mapping[str, object], constants: Mapping[str, onnx.TensorProto]
) -> tuple[Float64Array, Float64Array | None] | None:
    plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0
    if (
        len(node.input) < 2
        or not plain
        or attributes.get("transA", 0)
        or node.input[1] not in constants
        or any(name not in constants for name in node.input[1:] if name)
    ):
        return None
    stored = [numpy_helper.to_array(constants[name]) for name in node.input[1:] if name]
    if any(value.dtype != np.float32 for value in stored) or stored[0].ndim != 2 or stored[0].size > MOST_WEIGHTS:
        return None
    weights = stored[0] if attributes.get("transB", 0) else stored[0].T
    bias = None
    if len(stored) > 1:
        if stored[1].shape not in ((), (1,), (len(weights),), (1, len(weights))):
            return None
        bias = np.broadcast_to(stored[1].reshape(-1), (len(weights),)).astype(np.float64)
    return np.ascontiguousarray(weights, np.float64), bias
