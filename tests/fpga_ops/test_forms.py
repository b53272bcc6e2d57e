"""Other forms of quantised ONNX than onnxruntime's QDQ: QOperator, QCDQ, TensorRT's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat

from fpga_ops.errors import ModelError
from fpga_ops.importer import import_model, import_proto
from fpga_ops.importer.onnx_reader import read_model
from fpga_ops.inspection.compare import compare
from fpga_ops.ir.network import Conv
from fpga_ops.ir.requantise import zero_point_correction
from fpga_ops.loading import load
from fpga_ops.signature import interface
from tests.fpga_ops.onnx_models import FloatGraph, quantise, resnet, vgg
from tests.fpga_ops.test_import import hand_made


def images(path: Path, count: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    declared = interface(import_model(path).graph)["inputs"]
    shapes = {name: value["shape"][1:] for name, value in declared.items()}
    return {name: rng.normal(0, 1, (count, *shape)).astype(np.float32) for name, shape in shapes.items()}


def check(path: Path, *, ties: bool = False) -> None:
    """Each tensor agrees with onnxruntime's on the same file, and the CPU's answers with the reference's, to the bit.

    With `ties` many results are half-way between two integers, of which float32 may take either.
    """
    inputs = images(path)
    partition = import_proto(read_model(path), fuse=False)
    rows = compare(partition, inputs)
    for entry in rows:
        assert entry.max <= 1, entry
        elements = 2 * partition.network.tensors[entry.name].size
        assert ties or entry.differ * elements <= 2, entry  # where onnxruntime's float32 ends at a half
    with load(path, "reference") as reference, load(path, "cpu") as device:
        expected, got = reference.features(inputs), device.features(inputs)
        assert expected
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value, err_msg=name)


QOPERATORS = {
    "resnet": (resnet, {}, {}),
    "resnet-per-tensor": (resnet, {"bottleneck": False}, {"per_channel": False}),
    "resnet-s8s8": (resnet, {}, {"signed": True}),
    "resnet-relu6": (resnet, {"relu6": True}, {}),
    "resnext-opset-13": (resnet, {"groups": 4, "opset": 13}, {}),
    "vgg": (vgg, {}, {}),
    "vgg-matmul": (vgg, {"operator": "MatMul"}, {}),
}


@pytest.mark.parametrize("kind", QOPERATORS)
def test_qoperator_files_are_the_same_network(kind: str, tmp_path: Path) -> None:
    build, shape, quantisation = QOPERATORS[kind]
    path = quantise(build(**shape), tmp_path / "m.onnx", form=QuantFormat.QOperator, **quantisation)
    used = {node.op_type for node in onnx.load(path).graph.node}
    assert "QLinearConv" in used
    partition = import_model(path)
    convolutions = [node for node in partition.graph.nodes if node.operator == "QLinearConv"]
    assert {node.name for node in convolutions} <= set(partition.device_nodes)
    assert not partition.before.nodes
    check(path)


def test_the_scores_of_both_forms_agree(tmp_path: Path) -> None:
    """The same network, ranges and weights: integers differ only where a bias is rounded to one step of its product."""
    answers = []
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        path = quantise(resnet(), tmp_path / f"{form}.onnx", form=form)
        with load(path, "cpu") as network:
            (scores,) = network.run(images(path, 8)).values()
        answers.append(scores)
    np.testing.assert_allclose(answers[0], answers[1], atol=0.03 * answers[0].std())


def average_pools() -> onnx.ModelProto:
    g = FloatGraph((3, 20, 20))
    x = g.relu(g.conv("images", 8, 3))
    x = g.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = g.max_pool(g.relu(g.conv(x, 8, 3)), 2, 2, 0)
    return g.model(g.head(x, 4), ["batch", 4])


def test_pools_of_qoperator_files(tmp_path: Path) -> None:
    path = quantise(average_pools(), tmp_path / "m.onnx", form=QuantFormat.QOperator)
    assert "QLinearAveragePool" in {node.op_type for node in onnx.load(path).graph.node}
    check(path)


def test_the_bias_of_a_qoperator_is_exact(tmp_path: Path) -> None:
    """Its step is the product of two float32 scales, which float32 does not hold."""
    path = quantise(resnet(), tmp_path / "m.onnx", form=QuantFormat.QOperator)
    partition = import_proto(read_model(path), fuse=False)
    stored = partition.graph.initializers
    step = next(step for step in partition.network.steps if isinstance(step, Conv))
    node = next(node for node in partition.graph.nodes if node.operator == "QLinearConv")
    x, w, bias = (numpy_helper.to_array(stored[node.inputs[at]]).astype(np.float64) for at in (1, 4, 8))
    product = x * w.reshape(-1)
    assert (product != product.astype(np.float32)).any()
    correction = zero_point_correction(step.weights, partition.network.tensors[step.source].zero_point)
    exact = step.requantise.exact
    for channel, (factor, offset) in enumerate(zip(exact.factor, exact.offset, strict=True)):
        assert offset == factor * (int(bias[channel]) - int(correction[channel]))


def refused(path: Path, operator: str, match: str) -> None:
    with pytest.raises(ModelError, match=match) as error:
        import_model(path)
    assert error.value.operator == operator
    assert error.value.node


def test_dynamically_quantised_files_are_refused(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(vgg(), tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "m.onnx", op_types_to_quantize=["Conv", "MatMul", "Gemm"])
    refused(tmp_path / "m.onnx", "DynamicQuantizeLinear", r"dynamically.*quantize_static")


def test_errors_name_the_operator_of_the_file(tmp_path: Path) -> None:
    model = onnx.load(quantise(resnet(), tmp_path / "m.onnx", form=QuantFormat.QOperator))
    node = next(node for node in model.graph.node if node.op_type == "QLinearConv")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[6])
    scale.CopyFrom(numpy_helper.from_array(np.float32(np.nan), scale.name))
    onnx.save(model, tmp_path / "nan.onnx")
    refused(tmp_path / "nan.onnx", "QLinearConv", "scale nan is not")


def test_channels_last_is_refused(tmp_path: Path) -> None:
    """onnxruntime's own transformations write it; taken for NCHW it would be wrong in silence."""
    model = onnx.load(quantise(average_pools(), tmp_path / "m.onnx", form=QuantFormat.QOperator))
    pool = next(node for node in model.graph.node if node.op_type == "QLinearAveragePool")
    kept = [entry for entry in pool.attribute if entry.name != "channels_last"]
    del pool.attribute[:]
    pool.attribute.extend(kept)
    pool.attribute.append(helper.make_attribute("channels_last", 1))
    onnx.save(model, tmp_path / "last.onnx")
    refused(tmp_path / "last.onnx", "QLinearAveragePool", "channels_last")


BOUNDS = {
    "input": ("xq", np.uint8(90), np.uint8(160)),
    "output": ("yq", np.uint8(92), np.uint8(107)),
    "one bound": ("yq", np.uint8(97), None),
}


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("signed", [False, True])
def test_clipped_integers_are_clipped(kind: str, signed: bool, tmp_path: Path) -> None:
    """QCDQ: a Clip between QuantizeLinear and DequantizeLinear narrows 8 bits, here to bounds that most values meet."""
    tensor, *stored = BOUNDS[kind]

    def change(constants: dict[str, object], nodes: list[onnx.NodeProto]) -> None:
        names = [""] * 2
        for position, bound in enumerate(stored):
            if bound is not None:
                names[position] = f"bound{position}"
                constants[names[position]] = np.int8(int(bound) - 128) if signed else bound
        if signed:
            constants |= {"zx": np.int8(-8), "zy": np.int8(-28)}
        at = next(index for index, node in enumerate(nodes) if tensor in node.input)
        nodes[at].input[0] = "clipped"
        nodes.insert(at, helper.make_node("Clip", [tensor, *names], ["clipped"], "narrow"))

    partition, _, path = hand_made(tmp_path, change=change)
    x = {"x": np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)}
    rows = {entry.name: entry for entry in compare(import_proto(read_model(path), fuse=False), x)}
    assert rows["clipped"].differ * 288 <= 1
    assert max(entry.max for entry in rows.values()) <= 1
    if tensor == "yq":  # bounds of the convolution itself
        (step,) = partition.network.steps
        assert (step.requantise.low, step.requantise.high) == (int(stored[0]), 255 if stored[1] is None else 107)
    with load(path, "reference") as reference, load(path, "cpu") as device:
        (expected,), (got,) = reference.run(x).values(), device.run(x).values()
        np.testing.assert_array_equal(got, expected)


def test_integers_may_be_read_before_they_are_clipped(tmp_path: Path) -> None:
    """Then both tensors are there: the clipped one, and the other."""

    def change(constants: dict[str, object], nodes: list[onnx.NodeProto]) -> None:
        constants |= {"least": np.uint8(95), "most": np.uint8(101)}
        nodes[-1].output[0] = "whole"
        nodes += [
            helper.make_node("Clip", ["yq", "least", "most"], ["cq"], "narrow"),
            helper.make_node("DequantizeLinear", ["cq", "sy", "zy"], ["part"], "dc"),
            helper.make_node("Add", ["whole", "part"], ["y"], "sum"),
        ]

    partition, _, _ = hand_made(tmp_path, change=change)
    assert set(partition.network.outputs) == {"yq", "cq"}
    inputs = {"x": np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)}
    assert max(entry.max for entry in compare(partition, inputs)) <= 1


def for_tensorrt(path: Path, residual: bool) -> Path:
    """int8 and symmetric throughout, no zero points; without `residual` a sum keeps one operand in float, as its
    quantiser leaves it."""
    model = onnx.load(quantise(resnet(), path, signed=True, weights_folded=False))
    zeros = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8}
    made = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[2] in zeros:
            del node.input[2]
            if node.op_type == "QuantizeLinear":
                node.attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    model.opset_import[0].version = 21
    model.ir_version = 10
    if not residual:
        add = next(node for node in model.graph.node if node.op_type == "Add")
        add.input[0] = made[made[add.input[0]].input[0]].input[0]
    onnx.save(model, path)
    return path


def test_files_for_tensorrt(tmp_path: Path) -> None:
    path = for_tensorrt(tmp_path / "m.onnx", residual=True)
    assert {tensor.zero_point for tensor in import_model(path).network.tensors.values()} == {128}
    check(path)


def test_a_sum_with_a_float_operand_is_refused(tmp_path: Path) -> None:
    path = for_tensorrt(tmp_path / "m.onnx", residual=False)
    refused(path, "Add", r"not quantised, as in files made for TensorRT.*missing behind node 'node_conv")


def test_a_relu_before_an_average_is_a_bound(tmp_path: Path) -> None:
    """DequantizeLinear, Relu, GlobalAveragePool with nothing quantised in between, as in QOperator files with int8."""
    path = quantise(resnet(), tmp_path / "m.onnx", form=QuantFormat.QOperator, signed=True)
    partition = import_model(path)
    assert not {"Relu", "GlobalAveragePool"} & {
        node.operator for node in partition.graph.nodes if node.name in partition.after.nodes
    }
    check(path)


@pytest.mark.parametrize("size", [20, 21])
def test_averages_of_resnet_d(size: int, tmp_path: Path) -> None:
    """Its shortcuts average 2x2 with ceil_mode, which matters to odd sizes alone."""
    g = FloatGraph((3, size, size))
    x = g.relu(g.conv("images", 8, 3))
    x = g.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    path = quantise(g.model(g.head(g.relu(g.conv(x, 8, 3)), 4), ["batch", 4]), tmp_path / "m.onnx")
    if size % 2:
        refused(path, "AveragePool", r"reach out of the 21x21 map")
    else:
        check(path, ties=True)  # the mean of four integers


SHAPES = {
    "-1": ([-1, 8], 1, True),
    "-1 columns": ([0, -1], 0, True),
    "zero rows": ([0, 8], 1, False),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_reshapes_of_torch(kind: str, tmp_path: Path) -> None:
    """torch's exporter writes Reshape with allowzero=1: without a zero in the shape it is what it was."""
    shape, allowzero, flattens = SHAPES[kind]
    g = FloatGraph((3, 12, 12), opset=18)
    x = g.relu(g.conv("images", 8, 3))
    x = g.node("GlobalAveragePool", [x])
    x = g.node("Reshape", [x, g.constant(np.array(shape), "shape")], allowzero=0)
    model = onnx.load(quantise(g.model(g.dense(x, 8, 4), ["batch", 4]), tmp_path / "m.onnx"))
    reshape = next(node for node in model.graph.node if node.op_type == "Reshape")
    del reshape.attribute[:]
    reshape.attribute.append(helper.make_attribute("allowzero", allowzero))
    onnx.save(model, tmp_path / "m.onnx")
    if flattens:
        assert reshape.name in import_model(tmp_path / "m.onnx").device_nodes
        check(tmp_path / "m.onnx")
    else:
        refused(tmp_path / "m.onnx", "Reshape", r"only a change to \[N, C")


def inception() -> onnx.ModelProto:
    """Three branches of different ranges side by side, one of them the input; then a dense block of two."""
    g = FloatGraph((3, 12, 12))
    x = g.relu(g.conv("images", 8, 3))
    wide = g.conv(x, 5, 3, gain=3.0)
    x = g.node("Concat", [g.relu(g.conv(x, 8)), wide, x], 21, axis=1)
    y = g.relu(g.conv(x, 4, 3))
    x = g.node("Concat", [x, y], 25, axis=1)
    return g.model(g.head(g.relu(g.conv(x, 8, 3, 2)), 4), ["batch", 4])


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("signed", [False, True])
def test_tensors_side_by_side(form: QuantFormat, signed: bool, tmp_path: Path) -> None:
    """Concat along the channels, by steps that every device has, with one rounding for each operand."""
    path = quantise(inception(), tmp_path / "m.onnx", form=form, signed=signed)
    assert {"Concat", "QLinearConcat"} & {node.op_type for node in onnx.load(path).graph.node}
    plain = import_proto(read_model(path), fuse=False)
    rows = {entry.name: entry for entry in compare(plain, images(path))}
    joined = [node.outputs[0] for node in plain.graph.nodes if node.operator == "QLinearConcat"]
    joined += [name for name in plain.network.tensors if name.startswith("concat") and ":" not in name]
    assert joined
    for name in joined:
        assert rows[name].max == 0, rows[name]
    check(path)
