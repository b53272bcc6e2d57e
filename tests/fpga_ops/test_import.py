"""Files of onnxruntime's quantiser become integer networks that agree with onnxruntime within one step per tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fpga_ops.errors import ModelError
from fpga_ops.importer import import_model, import_proto
from fpga_ops.importer.onnx_reader import read_model
from fpga_ops.importer.steps import is_rescale
from fpga_ops.inspection.compare import compare, onnxruntime_integers, run_unoptimised
from fpga_ops.ir import reference
from fpga_ops.ir.network import Add, Conv, GlobalAveragePool, MaxPool
from fpga_ops.loading import load, make
from fpga_ops.signature import interface
from tests.fpga_ops import onnx_models
from tests.fpga_ops.onnx_models import FloatGraph, quantise, resnet, vgg

MODELS = {
    "resnet": (resnet, {}, {}),
    "resnet-basic-per-tensor": (resnet, {"bottleneck": False}, {"per_channel": False}),
    "resnet-s8s8": (resnet, {}, {"signed": True}),
    "resnet-s8s8-asymmetric": (resnet, {}, {"signed": True, "symmetric": False}),
    "resnet-u8-symmetric": (resnet, {}, {"symmetric": True}),
    "resnext": (resnet, {"groups": 4}, {}),
    "resnet-batch-norm": (resnet, {"norm": True}, {}),
    "resnet-batch-norm-s8s8": (resnet, {"norm": True}, {"signed": True}),
    "resnet-relu6": (resnet, {"relu6": True}, {}),
    "resnet-relu6-s8s8": (resnet, {"relu6": True}, {"signed": True}),
    "resnet-softmax": (resnet, {"softmax": True}, {}),
    "resnet-one-plane": (resnet, {"image": (1, 40, 24)}, {}),
    "resnet-opset-13": (resnet, {"opset": 13}, {}),
    "resnet-opset-20": (resnet, {"opset": 20}, {}),
    "resnet-float-weights": (resnet, {}, {"weights_folded": False}),
    "resnet-kept-relu": (resnet, {}, {"QDQKeepRemovableActivations": True}),
    "vgg": (vgg, {}, {}),
    "vgg-batch-norm-matmul": (vgg, {"norm": True, "operator": "MatMul"}, {}),
    "vgg-s8s8": (vgg, {}, {"signed": True}),
}


@pytest.fixture(scope="module", params=MODELS)
def file(request, tmp_path_factory):
    build, shape, quantisation = MODELS[request.param]
    return quantise(build(**shape), tmp_path_factory.mktemp("models") / "model.onnx", **quantisation)


def images(partition, count=2, seed=0):
    rng = np.random.default_rng(seed)
    declared = interface(partition.graph)["inputs"]
    shapes = {name: value["shape"][1:] for name, value in declared.items()}
    return {name: rng.normal(0, 1, (count, *shape)).astype(np.float32) for name, shape in shapes.items()}


def test_each_tensor_agrees_with_onnxruntime(file):
    partition = import_proto(read_model(file), fuse=False)
    rows = compare(partition, images(partition))
    for entry in rows:
        assert entry.max <= 1, entry
        elements = 2 * partition.network.tensors[entry.name].size
        assert entry.differ * elements <= 2, entry  # where onnxruntime's float32 sum ends at a half
        assert entry.free <= 4, entry
    assert np.mean([entry.differ for entry in rows]) < 1e-4


def test_outputs_agree_with_onnxruntime(file):
    with load(file, "reference") as network:
        inputs = images(import_model(file), 4)
        ours, theirs = network.run(inputs), onnx_models.run_onnxruntime(file, inputs)
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape
        assert ours[name].dtype == expected.dtype
        assert np.abs(ours[name] - expected).max() <= 0.05 * max(expected.std(), 1 / 255)


def test_passes_change_no_bit(file):
    model = read_model(file)
    plain, fused = import_proto(model, fuse=False).network, import_proto(model).network
    rng = np.random.default_rng(1)
    quantised = {name: rng.integers(0, 256, (2, *plain.tensors[name].shape)).astype(np.uint8) for name in plain.inputs}
    one, other = reference.run_integers(plain, quantised), reference.run_integers(fused, quantised)
    assert len(fused.steps) <= len(plain.steps)
    for name, value in other.items():
        np.testing.assert_array_equal(value, one[name], err_msg=name)


def test_every_tensor_is_of_the_file(file):
    network = import_model(file).network
    made = {name for node in onnx.load(file).graph.node for name in node.output}
    assert {name.removesuffix(":maximum") for name in network.tensors} <= made


def test_residuals_are_fused(tmp_path):
    network = import_model(quantise(resnet(blocks=(2, 2)), tmp_path / "m.onnx")).network
    assert [type(step) for step in network.steps].count(Add) == 0
    fused = [step for step in network.steps if isinstance(step, Conv) and step.residual is not None]
    assert len(fused) == 4
    # In a block with a projection the last 1x1 of the long path takes the addition, not the projection.
    assert all(step.strides == (1, 1) and step.weights.shape[1:3] == (1, 1) for step in fused)


def test_symmetric_relu_becomes_bounds(tmp_path):
    network = import_model(quantise(resnet(), tmp_path / "m.onnx", signed=True)).network
    stem = network.steps[0]
    assert stem.requantise.low == 128
    assert network.tensors[stem.output].zero_point == 128


def test_partition_names_every_node_once(tmp_path):
    partition = import_model(quantise(resnet(softmax=True), tmp_path / "m.onnx"))
    names = [*partition.before.nodes, *partition.device_nodes, *partition.after.nodes]
    weights = {node.name for node in partition.graph.nodes if node.operator == "DequantizeLinear"}
    assert len(set(names)) == len(names)
    assert {node.name for node in partition.graph.nodes} - set(names) <= weights
    assert [partition.graph.producer[name].operator for name in partition.network.outputs] == ["QuantizeLinear"]


def test_float_head_stays_float(tmp_path):
    model = resnet()
    head = model.graph.node[-1].name
    partition = import_model(quantise(model, tmp_path / "m.onnx", exclude=[head]))
    assert head in partition.after.nodes
    assert isinstance(partition.network.steps[-1], GlobalAveragePool)
    tensor = partition.network.tensors[partition.network.outputs[0]]
    assert tensor.shape == (1, 1, 128)


def test_float_stem_goes_before(tmp_path):
    model = resnet()
    stem, relu, pool = (model.graph.node[i].name for i in range(3))
    path = quantise(model, tmp_path / "m.onnx", exclude=[stem, relu, pool])
    with load(path, "reference") as network:
        assert {stem, relu} <= set(network.contents.before.nodes)
        inputs = images(import_model(path), 2)
        expected = next(iter(onnx_models.run_onnxruntime(path, inputs).values()))
        assert np.abs(next(iter(network.run(inputs).values())) - expected).max() <= 0.15 * expected.std()


def test_image_making_goes_before(tmp_path):
    g = FloatGraph((3, 32, 32))
    mean = g.node("ReduceMean", ["images"], 1, axes=[1], keepdims=1)
    x = g.relu(g.conv(g.node("Sqrt", [g.node("Abs", [mean])]), 8, 3))
    path = quantise(
        g.model(g.head(x, 4), ["batch", 4]),
        tmp_path / "m.onnx",
        operators=["Conv", "Relu", "GlobalAveragePool", "Gemm", "Flatten"],
    )  # fmt: skip
    partition = import_model(path)
    assert len(partition.before.nodes) == 3
    assert partition.network.tensors[partition.network.inputs[0]].shape == (32, 32, 1)


BUILDERS = ["dilation", "ceil", "average", "same", "squeeze", "reshape", "identity", "reducemean"]


@pytest.mark.parametrize("kind", BUILDERS)
def test_other_builders(kind, tmp_path):
    g = FloatGraph((3, 21, 18), opset=17)
    x = g.relu(g.conv("images", 8, 3))
    if kind == "dilation":
        x = g.relu(g.conv(x, 8, 3, dilation=2))
    elif kind == "ceil":
        x = g.max_pool(x, 2, 2, 0, ceil_mode=1)
    elif kind == "average":
        x = g.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    elif kind == "same":
        weights = g.constant(g.rng.normal(0, 0.2, (8, 8, 4, 3)).astype(np.float32), "weight")
        x = g.relu(g.node("Conv", [x, weights], 8, auto_pad="SAME_UPPER", strides=[2, 2]))
    elif kind == "identity":
        x = g.node("Dropout", [g.node("Identity", [x])])
    if kind == "reducemean":
        x = g.dense(g.node("ReduceMean", [x], axes=[2, 3], keepdims=0), 8, 4)
    elif kind == "squeeze":
        axes = g.constant(np.array([2, 3]), "axes")
        x = g.dense(g.node("Squeeze", [g.node("GlobalAveragePool", [x]), axes]), 8, 4)
    elif kind == "reshape":
        shape = g.constant(np.array([0, -1]), "shape")
        x = g.dense(g.node("Reshape", [g.node("GlobalAveragePool", [x]), shape]), 8, 4)
    else:
        x = g.head(x, 4)
    path = quantise(g.model(x, ["batch", 4]), tmp_path / "m.onnx")
    partition = import_proto(read_model(path), fuse=False)
    rows = compare(partition, images(partition))
    assert max(entry.max for entry in rows) <= 1
    assert not partition.before.nodes


def test_dead_and_tiny_channels(tmp_path):
    """A channel of zeros, and one so small that its bias leaves 32 bits, are as onnxruntime has them."""
    model = resnet()
    weights = next(t for t in model.graph.initializer if t.name == model.graph.node[0].input[1])
    values = numpy_helper.to_array(weights).copy()
    values[3] = 0
    values[5] *= 1e-9
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    partition = import_proto(read_model(quantise(model, tmp_path / "m.onnx")), fuse=False)
    assert max(entry.max for entry in compare(partition, images(partition))) <= 1


def test_float_bias_whose_scale_is_tiny(tmp_path):
    """A file that keeps biases in float meets the same channel with no help from the quantiser."""
    partition, _, _ = hand_made(tmp_path, weight_scale=1e-12, bias=0.5)
    entry = compare(partition, {"x": np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)})[0]
    assert entry.differ == 0


def hand_made(tmp_path, *, weight_scale=0.01, bias=0.1, change=None, between=None, opset=17, size=6):
    """One convolution written by hand: u8 in, float bias, u8 out."""
    rng = np.random.default_rng(0)
    constants = {
        "sx": np.float32(0.02), "zx": np.uint8(120), "sw": np.full(4, weight_scale, np.float32),
        "zw": np.zeros(4, np.int8), "w": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "b": np.full(4, bias, np.float32), "sy": np.float32(0.03), "zy": np.uint8(100),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], "qx"),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], "dx"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], "dw", axis=0),
        helper.make_node("Conv", ["xd", "wd", "b"], ["c"], "conv"),
        *(between or []),
        helper.make_node("QuantizeLinear", ["c" if not between else "c2", "sy", "zy"], ["yq"], "qy"),
        helper.make_node("DequantizeLinear", ["yq", "sy", "zy"], ["y"], "dy"),
    ]
    if change is not None:
        change(constants, nodes)
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, size, size])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 20 else 10)
    onnx.save(model, tmp_path / "hand.onnx")
    return import_model(tmp_path / "hand.onnx"), model, tmp_path / "hand.onnx"


def test_unfolded_batch_norm_between_float_is_folded(tmp_path):
    names = ["gamma", "beta", "mean", "variance"]

    def add(constants, nodes):
        rng = np.random.default_rng(1)
        constants |= {
            "gamma": np.array([0.5, -1.5, 1, 2], np.float32), "beta": rng.normal(0, 0.3, 4).astype(np.float32),
            "mean": rng.normal(0, 0.3, 4).astype(np.float32), "variance": np.array([0.5, 1, 2, 3], np.float32),
        }  # fmt: skip

    between = [helper.make_node("BatchNormalization", ["c", *names], ["c2"], "norm")]
    partition, _, _ = hand_made(tmp_path, change=add, between=between)
    assert len(partition.network.steps) == 1
    inputs = {"x": np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)}
    assert compare(partition, inputs)[0].max <= 1


def test_signed_outputs_are_handed_on_as_int8(tmp_path):
    model = resnet()
    path = quantise(model, tmp_path / "m.onnx", signed=True, exclude=[model.graph.node[-1].name])
    partition = import_model(path)
    with load(path, "reference") as network:
        assert network.contents.signed == set(partition.network.outputs)
        inputs = images(partition)
        features = network.features(inputs)
        theirs = onnxruntime_integers(partition, inputs)
        for name, value in features.items():
            assert value.dtype == np.uint8
            assert np.abs(value.reshape(2, -1).astype(int) - theirs[name].reshape(2, -1)).max() <= 12


SCALES = {"zero": 0.0, "nan": np.nan, "infinite": np.inf, "negative": -0.1, "denormal": 1e-40}


@pytest.mark.parametrize("name", ["sx", "sw", "sy"])
@pytest.mark.parametrize("value", SCALES.values(), ids=SCALES)
def test_bad_scales_are_refused(name, value, tmp_path):
    def change(constants, nodes):
        constants[name] = np.full_like(constants[name], value)

    with pytest.raises(ModelError, match="scale"):
        hand_made(tmp_path, change=change)


def swap(**new):
    def change(constants, nodes):
        constants.update(new)

    return change


def check_against_onnxruntime(path):
    """Every tensor of a file made by hand is onnxruntime's, but for an element where its float32 sum ends at a half."""
    inputs = {"x": np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)}
    for entry in compare(import_model(path), inputs):
        assert entry.max <= 1
        assert entry.differ <= 1.01 / 288


SIGNS = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "not said": None}


@pytest.mark.parametrize("kind", SIGNS)
def test_zero_points_that_are_left_out(kind, tmp_path):
    """Integers are of the type that `output_dtype` says, uint8 without it; a DequantizeLinear takes its input's."""

    def change(constants, nodes):
        for node in nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                del node.input[2]
            if node.op_type == "QuantizeLinear" and SIGNS[kind] is not None:
                node.attribute.append(helper.make_attribute("output_dtype", SIGNS[kind]))

    partition, _, path = hand_made(tmp_path, change=change, opset=21)
    assert {tensor.zero_point for tensor in partition.network.tensors.values()} == {128 if kind == "int8" else 0}
    check_against_onnxruntime(path)


def test_clipped_weights_are_clipped(tmp_path):
    """Weights of fewer than 8 bits come with a Clip on their integers (QCDQ)."""

    def change(constants, nodes):
        constants |= {"least": np.int8(-8), "most": np.int8(7)}
        nodes[2].input[0] = "clipped"
        nodes.insert(2, helper.make_node("Clip", ["w", "least", "most"], ["clipped"], "narrow"))

    partition, _, path = hand_made(tmp_path, change=change)
    weights = partition.network.steps[0].weights
    assert (weights.min(), weights.max()) == (-8, 7)
    check_against_onnxruntime(path)


def test_clips_that_cannot_be_are_named(tmp_path):
    def after(constants, nodes):
        constants |= {"least": np.float32(-0.1), "most": np.float32(0.1)}
        nodes[3].input[1] = "clipped"
        nodes.insert(3, helper.make_node("Clip", ["wd", "least", "most"], ["clipped"], "narrow"))

    with pytest.raises(ModelError, match="works on quantised weights") as error:
        hand_made(tmp_path, change=after)
    assert (error.value.node, error.value.operator) == ("narrow", "Clip")


REFUSED = {
    "asymmetric weights": (swap(zw=np.full(4, 90, np.int8)), "symmetric"),
    "16-bit activation": (swap(zy=np.uint16(5)), "uint8 or int8"),
    "scales do not fit": (swap(sw=np.ones(3, np.float32), zw=np.zeros(3, np.int8)), "do not fit"),
    "weights of another depth": (swap(w=np.zeros((4, 5, 3, 3), np.int8)), "do not fit"),
    "nan bias": (swap(b=np.full(4, np.nan, np.float32)), "finite"),
    "long bias": (swap(b=np.zeros(7, np.float32)), "4 channels"),
    "huge kernel": (swap(w=np.ones((4, 3, 11, 11), np.int8)), "does not fit"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_models_are_refused(change, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        hand_made(tmp_path, change=change)


OPERATORS = {
    "Sigmoid": lambda g, x: g.node("Sigmoid", [x]),
    "LeakyRelu": lambda g, x: g.node("LeakyRelu", [x], alpha=0.1),
    "Concat": lambda g, x: g.node("Concat", [x, x], 8, axis=2),
    "Mul": lambda g, x: g.node("Mul", [x, g.node("Sigmoid", [x])]),
    "Transpose": lambda g, x: g.node("Transpose", [x], perm=[0, 1, 3, 2]),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_unsupported_operators_are_named(operator, tmp_path):
    g = FloatGraph((3, 12, 12))
    x = OPERATORS[operator](g, g.relu(g.conv("images", 8, 3)))
    x = g.head(g.relu(g.conv(x, 8, 3)), 4)
    path = quantise(g.model(x, ["batch", 4]), tmp_path / "m.onnx")
    with pytest.raises(ModelError) as error:
        import_model(path)
    assert error.value.operator in ({operator} if operator != "Mul" else {"Sigmoid", "Mul"})
    assert error.value.node
    assert error.value.node.startswith("node_")


def test_excluded_convolution_in_the_middle_is_named(tmp_path):
    model = resnet()
    middle = [node.name for node in model.graph.node if node.op_type == "Conv"][3]
    path = quantise(model, tmp_path / "m.onnx", exclude=[middle])
    with pytest.raises(ModelError, match="not quantised") as error:
        import_model(path)
    assert (error.value.node, error.value.operator) == (middle, "Conv")


def test_float_files_are_told_how(tmp_path):
    onnx.save(resnet(), tmp_path / "float.onnx")
    with pytest.raises(ModelError, match="not quantised: quantise it with"):
        import_model(tmp_path / "float.onnx")


def test_a_batch_fixed_at_zero_is_refused(tmp_path):
    model = onnx.load(quantise(resnet(), tmp_path / "m.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    onnx.save(model, tmp_path / "empty.onnx")
    with pytest.raises(ModelError, match="fixed at 0"):
        import_model(tmp_path / "empty.onnx")


def test_dynamic_image_size_is_refused(tmp_path):
    model = onnx.load(quantise(resnet(), tmp_path / "m.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "dynamic.onnx")
    with pytest.raises(ModelError, match="only the batch may be dynamic"):
        import_model(tmp_path / "dynamic.onnx")


def test_pools_keep_the_scale(tmp_path):
    network = import_model(quantise(vgg(), tmp_path / "m.onnx")).network
    pools = [step for step in network.steps if isinstance(step, MaxPool)]
    assert len(pools) == 2
    assert not any(is_rescale(step) for step in network.steps)
    for step in pools:
        source, output = network.tensors[step.source], network.tensors[step.output]
        assert (source.scale, source.zero_point) == (output.scale, output.zero_point)


POWERS = {"odd zero point": 3, "even zero point": 128, "zero": 0}


@pytest.mark.parametrize("pool", [False, True], ids=["convolution", "mean over 36"])
@pytest.mark.parametrize("zero_point", POWERS.values(), ids=POWERS)
def test_scales_of_powers_of_two_round_ties_as_onnxruntime(zero_point, pool, tmp_path):
    """Every fourth sum ends half-way between two bytes; float32 holds all of them exactly, so every byte must agree."""

    def change(constants, nodes):
        rng = np.random.default_rng(2)
        constants |= {
            "sx": np.float32(0.25), "sw": np.full(4, 2.0**-6, np.float32), "sy": np.float32(0.5),
            "w": rng.integers(-2, 3, (4, 3, 3, 3)).astype(np.int8) * np.int8(16),
            "b": np.array([0, 0.25, 0.5, 1], np.float32), "zy": np.uint8(zero_point),
        }  # fmt: skip
        if pool:
            constants |= {"sy": np.float32(0.5), "sw": np.full(4, 0.25, np.float32)}

    between = None
    if pool:
        between = [
            helper.make_node("QuantizeLinear", ["c", "sy", "zy"], ["mq"], "qm"),
            helper.make_node("DequantizeLinear", ["mq", "sy", "zy"], ["md"], "dm"),
            helper.make_node("AveragePool", ["md"], ["c2"], "mean", kernel_shape=[6, 6]),
        ]
    partition, _, _ = hand_made(tmp_path, change=change, between=between, size=1 if pool else 6)
    images = {"x": (np.random.default_rng(1).integers(-40, 40, (64, 3, 8, 8)) * 0.25).astype(np.float32)}
    rows = compare(partition, images)
    assert [entry.max for entry in rows] == [0] * len(rows)
    rules = [step.requantise for step in partition.network.steps]
    assert any((rule.mask != -1).any() for rule in rules)
    assert any(rule.increment for rule in rules) == bool(zero_point % 2)


def test_scales_without_constants_are_named(tmp_path):
    """A convolution whose sums reach too many steps of its output, at the node and channel."""

    def change(constants, nodes):
        constants |= {"sw": np.array([0.01, 0.01, 3e5, 0.01], np.float32), "sy": np.float32(1e-3)}

    with pytest.raises(ModelError, match=r"output channel 2: its results reach .* steps") as error:
        hand_made(tmp_path, change=change)
    assert error.value.node == "conv"


SHIPPED = ("resnet50_top", "top_tagger", "resnet50_neutrino")


@pytest.mark.parametrize("model", SHIPPED)
def test_shipped_answers_are_those_of_the_file(model):
    """The known answers against onnxruntime with no optimisation, on the same inputs."""
    versions = (Path(__file__).parents[2] / "model_repository" / model).glob("[0-9]*")
    folder = max(versions, key=lambda version: int(version.name))
    with np.load(folder / "golden.npz") as golden:
        given, answers = golden["input"][:3], golden["probabilities"][:3].astype(np.float64)
    partition = import_model(folder / "model.onnx")
    (name,) = partition.graph.inputs
    (expected,) = run_unoptimised(partition.graph.model, ["probabilities"], {name: given})
    gap = np.log(answers[:, 1] / answers[:, 0]) - np.log(expected[:, 1] / expected[:, 0].astype(np.float64))
    assert np.abs(gap).max() <= 0.06
    assert abs(gap.mean()) <= 0.03


@pytest.mark.slow
def test_full_resnet50_agrees_with_onnxruntime(tmp_path):
    model = resnet((3, 4, 6, 3), 64, (3, 224, 224), classes=1000)
    path: Path = quantise(model, tmp_path / "m.onnx")
    partition = import_proto(read_model(path), fuse=False)
    assert len(partition.network.steps) == 72
    rows = compare(partition, images(partition, 1))
    assert max(entry.max for entry in rows) <= 1
    assert max(entry.differ for entry in rows) <= 1e-3
    assert np.mean([entry.differ for entry in rows]) < 2e-5
    fused = import_proto(read_model(path))
    assert len(fused.network.steps) == 56
    make(fused, "reference").close()
