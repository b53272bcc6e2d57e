"""onnxruntime's quantised products, exact on any CPU.

On x86 without VNNI onnxruntime adds two products of uint8 and int8 in 16 bits, which saturate: on AVX2 a tagger's
scores are off by 0.003 and more. Its setting `session.x64quantprecision` makes the weights uint8, of which it sums
exactly at half the speed. But it is an optimisation, so it has no effect where all are off, and it does the same where
the input is int8, for which there is no kernel: such a QLinearConv, QLinearMatMul or QGemm then fails to load. So the
weights of these operators are made uint8 here, where they meet uint8; products of int8 by int8 do not saturate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fpga_ops.runtime.onnxruntime_import import PRODUCTS, import_onnxruntime

OF_INPUT, WEIGHTS, OF_WEIGHTS = 2, 3, 5
"""Positions of the input's zero point, the weights and their zero point among the inputs of such an operator."""


def with_exact_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy in which weights that meet uint8 inputs are uint8."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    moved: dict[str, onnx.TensorProto] = {}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        given = [stored.get(node.input[position]) for position in (OF_INPUT, WEIGHTS, OF_WEIGHTS)]
        kinds = [None if tensor is None else tensor.data_type for tensor in given]
        if kinds != [onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT8]:
            continue
        for position in (WEIGHTS, OF_WEIGHTS):
            name = node.input[position]
            shifted = numpy_helper.to_array(stored[name]).view(np.uint8) ^ np.uint8(128)
            node.input[position] = f"{name}:uint8"
            moved[node.input[position]] = numpy_helper.from_array(shifted, node.input[position])
    changed.graph.initializer.extend(moved.values())
    return changed if moved else model


def exact_session(model: Path | onnx.ModelProto, options: Any | None = None) -> Any:
    """An `InferenceSession` of a quantised file whose products do not saturate, whatever the CPU.

    Args:
        model: A file, or a model in memory.
        options: `SessionOptions` to add to.

    Raises:
        Exception: onnxruntime's own, which share no other base, if it does not take the model.
    """
    onnxruntime = import_onnxruntime()
    options = options or onnxruntime.SessionOptions()
    content = onnx.load(model) if isinstance(model, Path) else model
    if any(node.op_type in PRODUCTS for node in content.graph.node):
        content = with_exact_products(content)
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # else it makes more of them
    else:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
