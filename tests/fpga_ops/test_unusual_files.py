"""Legal and unusual files: each is taken with onnxruntime's integers, or refused by operator, node and reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fpga_ops.errors import ModelError
from fpga_ops.importer import import_model, import_proto
from fpga_ops.importer.onnx_reader import read_model
from fpga_ops.inspection.compare import compare
from fpga_ops.loading import load
from tests.fpga_ops.onnx_models import run_onnxruntime
from tests.fpga_ops.test_import import hand_made

Change = Callable[[dict[str, Any], list[onnx.NodeProto]], None]
WEIGHTS = np.random.default_rng(1).integers(-100, 101, (4, 3, 3, 3)).astype(np.int8)
X = {"x": np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)}


def stored(**new: Any) -> Change:
    return lambda constants, nodes: constants.update(new)


def conv(**attributes: Any) -> Change:
    def change(constants: dict[str, Any], nodes: list[onnx.NodeProto]) -> None:
        nodes[3].attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())

    return change


def depthwise(constants: dict[str, Any], nodes: list[onnx.NodeProto]) -> None:
    """Three channels, each by itself."""
    constants |= {name: constants[name][:3] for name in ("sw", "zw", "b")} | {"w": WEIGHTS[:3, :1]}
    conv(group=3)(constants, nodes)


def as_nodes(constants: dict[str, Any], nodes: list[onnx.NodeProto]) -> None:
    """All that is stored as Constant nodes."""
    for name in list(constants):
        tensor = numpy_helper.from_array(np.asarray(constants.pop(name)), name)
        nodes.insert(0, helper.make_node("Constant", [], [name], f"constant_{name}", value=tensor))


def float_weights(zero: np.ndarray) -> Change:
    """Quantised by a node of the file, each weight half-way between two integers: float32 decides."""

    def change(constants: dict[str, Any], nodes: list[onnx.NodeProto]) -> None:
        constants |= {"w": (WEIGHTS + np.float32(0.5)) * np.float32(0.01), "zw": zero}
        nodes.insert(2, helper.make_node("QuantizeLinear", ["w", "sw", "zw"], ["wq"], "qw", axis=0))
        nodes[3].input[0] = "wq"

    return change


def qlinear(scale: Any = 0.01, zero: Any = 0, **more: Any) -> Change:
    """The same convolution as a QLinearConv."""

    def change(constants: dict[str, Any], nodes: list[onnx.NodeProto]) -> None:
        constants |= {"w": WEIGHTS, "sw": np.asarray(scale, np.float32), "zw": np.asarray(zero, np.int8)}
        constants |= {"b": np.array([10, -2000, 30000, 0], np.int32)}
        inputs = ["xq", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"]
        nodes[1:5] = [helper.make_node("QLinearConv", inputs, ["yq"], "conv", **more)]

    return change


def behind(operator: str, **attributes: Any) -> Change:
    """A quantised pool behind the convolution."""

    def change(constants: dict[str, Any], nodes: list[onnx.NodeProto]) -> None:
        nodes[-1].output[0] = "real"
        nodes += [
            helper.make_node(operator, ["real"], ["pooled"], "pool", **attributes),
            helper.make_node("QuantizeLinear", ["pooled", "sy", "zy"], ["pq"], "qp"),
            helper.make_node("DequantizeLinear", ["pq", "sy", "zy"], ["y"], "dp"),
        ]

    return change


PER_CHANNEL = [0.01, 0.02, 0.001, 0.5]
TAKEN: dict[str, tuple[int, Change]] = {
    "zero points per channel": (6, stored(w=WEIGHTS, zw=np.array([1, -2, 0, 27], np.int8))),
    "uint8 weights": (6, stored(w=WEIGHTS.view(np.uint8) ^ 128, zw=np.array([128, 127, 129, 120], np.uint8))),
    "scales of one element": (6, stored(sx=np.float32([0.02]), sw=np.float32([0.01]), zw=np.int8(0))),
    "mixed signs": (6, stored(zy=np.int8(-10))),
    "zero points at the ends": (6, stored(zx=np.uint8(255), zy=np.uint8(0))),
    "pads that differ": (7, conv(pads=[0, 1, 2, 0])),
    "strides, dilations": (2, conv(strides=[3, 2], dilations=[2, 1], pads=[1, 0, 2, 0])),
    "groups": (6, depthwise),
    "auto_pad up": (4, conv(auto_pad="SAME_UPPER", strides=[2, 2])),
    "auto_pad down": (4, conv(auto_pad="SAME_LOWER", strides=[2, 2])),
    "huge scales": (6, stored(sx=np.float32(1e-20), sw=np.full(4, 1e20, np.float32))),
    "one of many magnitudes": (6, stored(sw=np.float32([1e-30, 1e-10, 0.01, 1]))),
    "huge biases": (6, stored(b=np.float32([1e38, -1e38, 1, 0]))),
    "Constant nodes": (6, as_nodes),
    "ties of weights": (6, float_weights(np.zeros(4, np.int8))),
    "ties of weights, zero points": (6, float_weights(np.array([1, -2, 3, 0], np.int8))),
    "QLinearConv, one zero point": (6, qlinear(PER_CHANNEL)),
    "QLinearConv, many zero points": (6, qlinear(PER_CHANNEL, np.array([1, -3, 0, 20], np.int8))),
    "QLinearConv, auto_pad": (4, qlinear(auto_pad="SAME_LOWER", strides=[2, 2])),
    "MaxPool, pads that differ": (5, behind("MaxPool", kernel_shape=[2, 3], pads=[0, 1, 0, 1])),
    "AveragePool, auto_pad": (
        6, behind("AveragePool", kernel_shape=[3, 3], auto_pad="SAME_UPPER", count_include_pad=1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("opset", [13, 21])
def test_taken(kind: str, opset: int, tmp_path: Path) -> None:
    size, change = TAKEN[kind]
    channels = 3 if kind == "groups" else 4
    apart = stored(sy=np.float32(0.0317))  # with 0.03 many sums end near to a half, where float32 is not exact

    def changed(constants: dict[str, Any], nodes: list[onnx.NodeProto]) -> None:
        apart(constants, nodes)
        change(constants, nodes)

    _, _, path = hand_made(tmp_path, change=changed, size=size, opset=opset)
    rows = compare(import_proto(read_model(path), fuse=False), X)
    for entry in rows:
        assert entry.max <= 1, entry
        assert entry.differ * 2 * channels * size**2 <= 1.01, entry
    with load(path, "reference") as reference, load(path, "cpu") as device:
        for name, value in reference.features(X).items():
            np.testing.assert_array_equal(device.features(X)[name], value)


REFUSED: dict[str, tuple[Change, str, str, str]] = {
    "weights of another type than their zero point": (
        stored(zw=np.zeros(4, np.uint8)), "dw", "DequantizeLinear", "integers are int8, their zero point is uint8"
    ),
    "uint8 weights beyond int8": (
        stored(w=WEIGHTS.view(np.uint8), zw=np.zeros(4, np.uint8)), "conv", "Conv", "not symmetric"
    ),
    "one bias for all": (stored(b=np.float32([0.1])), "conv", "Conv", "one for each of 4 channels, got 1"),
    "auto_pad and pads": (
        conv(auto_pad="SAME_UPPER", pads=[1, 1, 1, 1]), "conv", "Conv", "only one of them may be"
    ),
    "results beyond 32 bits": (stored(sy=np.float32(1e-20)), "conv", "Conv", "output channel 0.*could overflow"),
    "16-bit weights": (
        stored(w=WEIGHTS.astype(np.int16), zw=np.zeros(4, np.int16)), "dw", "DequantizeLinear", "integers are int16"
    ),
    "float16 scales": (stored(sx=np.float16(0.02)), "qx", "QuantizeLinear", "scale is float16"),
    "a scale of zero": (stored(sw=np.float32([0.01, 0, 0.01, 0.01])), "dw", "DequantizeLinear", "scale 0.0 is not"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str, tmp_path: Path) -> None:
    change, node, operator, reason = REFUSED[kind]
    with pytest.raises(ModelError, match=reason) as error:
        hand_made(tmp_path, change=change, opset=21)
    assert (error.value.node, error.value.operator) == (node, operator)


def test_what_is_left_is_computed_as_the_file_says(tmp_path: Path) -> None:
    """onnxruntime's fused AveragePool is off by 6 steps where ceil_mode takes windows in the padding."""
    change = behind("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, count_include_pad=1)
    partition, _, path = hand_made(tmp_path, change=change, size=3)
    assert "pool" in partition.after.nodes
    with load(path, "cpu") as network:
        np.testing.assert_array_equal(network.run(X)["y"], run_onnxruntime(path, X)["y"])


def test_external_data(tmp_path: Path) -> None:
    _, model, path = hand_made(tmp_path)
    whole = import_model(path).network
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    (step,), (expected,) = import_model(tmp_path / "m.onnx").network.steps, whole.steps
    np.testing.assert_array_equal(step.weights, expected.weights)
