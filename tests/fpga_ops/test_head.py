"""The head in numpy gives what onnxruntime gives, for every batch the same, and leaves other graphs alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fpga_ops.importer.classifier_head import recognise
from fpga_ops.importer.partition import Part
from fpga_ops.ir import classifier_head
from fpga_ops.ir.network import IntegerNetwork, Tensor
from fpga_ops.runtime import onnx_parts

CHANNELS = 64


def part(
    nodes: Sequence[onnx.NodeProto], *, flat: bool = False, signed: bool = False, scale: object = np.float32(0.07)
) -> tuple[Part, IntegerNetwork]:
    """A part that reads tensor `q` and ends at `y`."""
    rng = np.random.default_rng(0)
    weights = {
        "scale": np.asarray(scale), "zero": np.asarray(-3, np.int8) if signed else np.asarray(120, np.uint8),
        "w": rng.normal(0, 0.5, (5, CHANNELS)).astype(np.float32), "b": rng.normal(0, 1, 5).astype(np.float32),
        "wide": rng.normal(0, 1, (400, CHANNELS)).astype(np.float32),
    }  # fmt: skip
    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    shape = ["batch", CHANNELS] if flat else ["batch", CHANNELS, 1, 1]
    graph = helper.make_graph(
        list(nodes),
        "head",
        [helper.make_tensor_value_info("q", kind, shape)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    tensor = Tensor("q", 1, 1, CHANNELS, 0.07, 120, flat)
    network = IntegerNetwork((), ("q",), {"q": tensor}, (), frozenset({"q"} if signed else ()))
    return Part(model, ("q",), ("y",), tuple(node.name for node in nodes)), network


def dequantise(output: str, source: str = "q") -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", [source, "scale", "zero"], [output])


CLASSIFIER = [
    dequantise("x"),
    helper.make_node("Flatten", ["x"], ["f"]),
    helper.make_node("Gemm", ["f", "w", "b"], ["g"], transB=1),
    helper.make_node("Softmax", ["g"], ["y"], axis=1),
]


def both(made: tuple[Part, IntegerNetwork], stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = recognise(*made)
    assert found is not None
    signed = bool(made[1].signed)
    session = onnx_parts.make_session(made[0].model.SerializeToString(), "the head")
    feeds = {"q": (stored ^ np.uint8(128)).view(np.int8) if signed else stored}
    return found.run({"q": stored})["y"], onnx_parts.run_session(session, ["y"], feeds)[0]


def bytes_of(count: int, flat: bool) -> np.ndarray:
    shape = (count, CHANNELS) if flat else (count, CHANNELS, 1, 1)
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("nodes", "flat"),
    [
        pytest.param(CLASSIFIER, False, id="classifier"),
        pytest.param([dequantise("x"), helper.make_node("Softmax", ["x"], ["y"], axis=-1)], True, id="softmax"),
        pytest.param([dequantise("x"), helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], True, id="no-bias"),
    ],
)
def test_as_onnxruntime(nodes: list[onnx.NodeProto], flat: bool, signed: bool) -> None:
    ours, theirs = both(part(nodes, flat=flat, signed=signed), bytes_of(7, flat))
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_dequantised_values_are_the_very_same(flat: bool, signed: bool) -> None:
    every = np.resize(np.arange(256, dtype=np.uint8), (4, CHANNELS) if flat else (4, CHANNELS, 1, 1))
    ours, theirs = both(part([dequantise("y")], flat=flat, signed=signed), every)
    np.testing.assert_array_equal(ours, theirs)


def test_the_rules_of_sums_and_exponentials() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 7, 8, 9, 1000):
        values = rng.normal(0, 1, (2, 3, count))
        lanes = [np.zeros((2, 3)) for _ in range(8)]
        for n in range(count):
            lanes[n % 8] = lanes[n % 8] + values[..., n]
        halves = [lanes[n] + lanes[n + 4] for n in range(4)]
        expected = (halves[0] + halves[2]) + (halves[1] + halves[3])
        np.testing.assert_array_equal(classifier_head.ordered_sum(values), expected)
    x = np.concatenate([-rng.exponential(50, 1000), [0.0, -1e-300, -699.9, -1e9]])
    x = x[(x > -700) | (x < -800)]
    np.testing.assert_allclose(classifier_head.exponential(x), np.exp(np.maximum(x, -700)), rtol=4e-16)
    assert classifier_head.exponential(np.zeros(1))[0] == 1


def test_an_answer_does_not_depend_on_its_batch() -> None:
    found = recognise(*part(CLASSIFIER))
    assert found is not None
    stored = bytes_of(9, False)
    together = found.run({"q": stored})["y"]
    for number in range(9):
        np.testing.assert_array_equal(found.run({"q": stored[number : number + 1]})["y"][0], together[number])
    np.testing.assert_allclose(together.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(part([dequantise("x"), helper.make_node("Sigmoid", ["x"], ["y"])]), id="operator"),
        pytest.param(part([dequantise("x"), helper.make_node("Softmax", ["x"], ["y"], axis=1)]), id="axis"),
        pytest.param(part([dequantise("x"), helper.make_node("Gemm", ["x", "w"], ["y"], transB=1, alpha=2.0)],
                          flat=True), id="alpha"),
        pytest.param(part([dequantise("x"), helper.make_node("Gemm", ["x", "wide"], ["y"], transB=1)], flat=True),
                     id="large"),
        pytest.param(part([dequantise("x"), helper.make_node("Gemm", ["w", "x"], ["y"], transB=1)], flat=True),
                     id="operands"),
        pytest.param(part([dequantise("x"), dequantise("y")], flat=True), id="not-a-chain"),
        pytest.param(part([dequantise("y")], scale=np.full(CHANNELS, 0.1, np.float32)), id="scale-per-channel"),
        pytest.param(part([dequantise("y")], scale=np.float32(3e36)), id="infinite"),
        pytest.param(part([dequantise("x"), helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], flat=True,
                          scale=np.float32(1e36)), id="sums-beyond-float32"),
    ],
)  # fmt: skip
def test_other_graphs_are_left_to_onnxruntime(made: tuple[Part, IntegerNetwork]) -> None:
    assert recognise(*made) is None
