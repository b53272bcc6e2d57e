"""Scales without exact constants are moved by units in the last place until there are some."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fpga_ops.errors import ModelError, NoConstantsError
from fpga_ops.importer import import_proto, settle_scales

CHANNELS = 512


def tiny_weights(relu: bool) -> onnx.ModelProto:
    """One quantised convolution whose output's step is about 100,000 steps of its accumulator."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (CHANNELS, 256, 3, 3), dtype=np.int8)
    values = {
        "x_scale": np.float32(0.02),
        "y_scale": np.float32(0.07 if relu else 0.1),
        "zero": np.uint8(0),
        "middle": np.uint8(0 if relu else 128),
        "weights": weights,
        "w_scale": rng.uniform(3.0e-5, 4.5e-5, CHANNELS).astype(np.float32),
        "w_zero": np.zeros(CHANNELS, np.int8),
        "bias": rng.normal(0, 3, CHANNELS).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "x_scale", "zero"], ["x_q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "zero"], ["x"], name="dequantise"),
        helper.make_node("DequantizeLinear", ["weights", "w_scale", "w_zero"], ["w"], name="dequantise_w", axis=0),
        helper.make_node("Conv", ["x", "w", "bias"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu" if relu else "Identity", ["c"], ["r"], name="after"),
        helper.make_node("QuantizeLinear", ["r", "y_scale", "middle"], ["y_q"], name="quantise_y"),
        helper.make_node("DequantizeLinear", ["y_q", "y_scale", "middle"], ["y"], name="dequantise_y"),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 256, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CHANNELS, 8, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def initialisers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("relu", [False, True])
def test_only_scales_without_constants_move(relu: bool) -> None:
    model = tiny_weights(relu)
    with pytest.raises(NoConstantsError, match="settle_scales") as raised:
        import_proto(model)
    error = copy.copy(raised.value)
    assert str(error) == str(raised.value)
    assert "conv" in error.nodes
    assert 0 < len(error.channels) < CHANNELS
    settled = settle_scales(model)
    import_proto(settled)
    before, after = initialisers(model), initialisers(settled)
    moved = before["w_scale"] != after["w_scale"]
    assert set(error.channels) == set(np.flatnonzero(moved))
    np.testing.assert_allclose(after["w_scale"], before["w_scale"], rtol=64 * 2.0**-23)
    assert all((before[name] == after[name]).all() for name in before if name != "w_scale")


def test_a_model_that_is_refused_for_another_reason_is_given_back() -> None:
    model = tiny_weights(relu=True)
    model.graph.node[3].attribute.append(helper.make_attribute("auto_pad", "nonsense"))
    with pytest.raises(ModelError):
        import_proto(model)
    assert settle_scales(model) is model


def test_a_model_with_constants_is_given_back() -> None:
    settled = settle_scales(tiny_weights(relu=False))
    assert settle_scales(settled) is settled
