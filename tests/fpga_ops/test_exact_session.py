"""onnxruntime's quantised products do not saturate with the options that scoring, publishing and the parts take."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from fpga_ops.runtime.onnx_parts import make_session
from fpga_ops.runtime.onnxruntime_import import exact_session_options, import_onnxruntime


def loud() -> onnx.ModelProto:
    """One QDQ matrix product whose pairs of products exceed 16 bits: 64 inputs of 255 by weights of 127."""
    numbers = {"x_scale": 1.0, "w_scale": 1.0, "y_scale": 64 * 255 * 127 / 200}
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in numbers.items()]
    constants += [
        helper.make_tensor("u_zero", TensorProto.UINT8, [], [0]),
        helper.make_tensor("w_zero", TensorProto.INT8, [], [0]),
        helper.make_tensor("w", TensorProto.INT8, [64, 8], [127] * 512),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "u_zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "u_zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"]),
        helper.make_node("MatMul", ["xf", "wf"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "y_scale", "u_zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "y_scale", "u_zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "loud", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_sums_do_not_saturate() -> None:
    model = loud().SerializeToString()
    x = {"x": np.full((1, 64), 255.0, np.float32)}
    onnxruntime = import_onnxruntime()
    scoring = onnxruntime.InferenceSession(model, exact_session_options(), providers=["CPUExecutionProvider"])
    for session in (scoring, make_session(model, "a part")):
        np.testing.assert_allclose(session.run(None, x)[0], 64.0 * 255 * 127, rtol=1e-6)
