"""onnxruntime's quantised products do not saturate in the sessions that scoring, publishing and the parts take."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fpga_ops.runtime.exact_products import exact_session
from fpga_ops.runtime.onnx_parts import make_session


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
    model = loud()
    x = {"x": np.full((1, 64), 255.0, np.float32)}
    for session in (exact_session(model), make_session(model.SerializeToString(), "a part")):
        np.testing.assert_allclose(session.run(None, x)[0], 64.0 * 255 * 127, rtol=1e-6)


OPERATORS = ("QGemm", "QGemm, float result", "QLinearMatMul")


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_operators_of_integers_are_exact(operator: str, kind: type[np.integer]) -> None:
    """Those of int8 inputs have no kernel for the uint8 weights that onnxruntime's setting makes without VNNI."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (64, 8)).astype(np.int8)
    stored = {
        "sx": np.float32(0.02), "zx": kind(3), "w": weights, "sw": np.float32(0.01), "zw": np.int8(0),
        "bias": np.zeros(8, np.int32), "sy": np.float32(8.0), "zy": kind(5),
    }  # fmt: skip
    name, _, floats = operator.partition(",")
    inputs = [
        "x",
        "sx",
        "zx",
        "w",
        "sw",
        "zw",
        *(["bias"] if name == "QGemm" else []),
        *([] if floats else ["sy", "zy"]),
    ]
    node = helper.make_node(name, inputs, ["y"], domain="com.microsoft" if name == "QGemm" else "")
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [node], "operator", [helper.make_tensor_value_info("x", element, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT if floats else element, [4, 8])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in stored.items()],
    )  # fmt: skip
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=9)
    x = rng.integers(np.iinfo(kind).max - 9, np.iinfo(kind).max, (4, 64)).astype(kind)
    exact = (x.astype(int) - 3) @ weights.astype(int) * 0.0002
    bounds = np.iinfo(kind)
    expected = exact if floats else np.clip(np.rint(exact / 8.0) + 5, bounds.min, bounds.max)
    for session in (exact_session(model), make_session(model.SerializeToString(), "a part")):
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5)
