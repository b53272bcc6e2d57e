"""A QOperator file with the same meaning, of which onnxruntime's products do not saturate.

On x86 without VNNI onnxruntime adds two products of uint8 and int8 in 16 bits, which saturate. Its setting
`session.x64quantprecision` (`fpga_ops.runtime.onnxruntime_import`) is carried out by an optimisation, so it has no
effect where every optimisation is off, as it must be where tensors are compared. This does here what it does there:
int8 weights become uint8, with their zero point.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

WEIGHTS = {"QLinearConv": (2, 3, 5), "QLinearMatMul": (2, 3, 5), "QGemm": (2, 3, 5)}
"""Positions of the input's zero point, the weights and their zero point among a node's inputs."""


def with_exact_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy in which weights that meet uint8 inputs are uint8."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    moved: dict[str, onnx.TensorProto] = {}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type not in WEIGHTS:
            continue
        of_input, weights, zero = WEIGHTS[node.op_type]
        given = [stored.get(node.input[position]) for position in (of_input, weights, zero)]
        kinds = [None if tensor is None else tensor.data_type for tensor in given]
        if kinds != [onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT8]:
            continue
        for position in (weights, zero):
            name = node.input[position]
            shifted = numpy_helper.to_array(stored[name]).view(np.uint8) ^ np.uint8(128)
            node.input[position] = f"{name}:uint8"
            moved[node.input[position]] = numpy_helper.from_array(shifted, node.input[position])
    changed.graph.initializer.extend(moved.values())
    return changed if moved else model
