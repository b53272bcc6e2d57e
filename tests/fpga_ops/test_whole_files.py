"""From inputs to outputs, a file gives on each device what onnxruntime makes of it, or is refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fpga_ops.errors import InputError, ModelError
from fpga_ops.loading import load
from tests.fpga_ops.onnx_models import run_onnxruntime

DEVICES = ["reference", "cpu", pytest.param("fpga-emulator", marks=pytest.mark.emulator)]
RNG = np.random.default_rng(0)
CONSTANTS: dict[str, Any] = {
    "sx": np.float32(0.021), "zx": np.uint8(120), "sy": np.float32(0.0317), "zy": np.uint8(100),
    "sz": np.float32(0.0271), "w": RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
    "sw": np.full(4, 0.004, np.float32),
    "zw": np.zeros(4, np.int8), "dense": RNG.integers(-127, 128, (4, 4)).astype(np.int8), "s1": np.float32(0.01),
    "z1": np.int8(0), "bias": RNG.normal(0, 1, (2, 1)).astype(np.float32), "two": np.float32([1, 2]),
}  # fmt: skip
TYPES = dict.fromkeys(("yq", "a0q", "a1q", "a2q"), TensorProto.UINT8)
Nodes = list[onnx.NodeProto]


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), f"node_{outputs}", **attributes)


def qdq(real: str, name: str, scale: str = "sy", zero: str = "zy") -> Nodes:
    """`real` to integers `name`q and back to `name`."""
    return [
        node("QuantizeLinear", f"{real} {scale} {zero}", f"{name}q"),
        node("DequantizeLinear", f"{name}q {scale} {zero}", name),
    ]


def stem(source: str = "x") -> Nodes:
    """A quantised convolution of `source`, `y`: float32[N, 4, 6, 6], of integers `yq`."""
    weights = node("DequantizeLinear", "w sw zw", "wd", axis=0)
    return [*qdq(source, "d", "sx", "zx"), weights, node("Conv", "d wd", "c"), *qdq("c", "y")]


def scores(bias: str = "") -> Nodes:
    """Four numbers `g` of each image, quantised."""
    return [
        *stem(), node("GlobalAveragePool", "y", "m"), *qdq("m", "p", "sz"), node("Flatten", "p", "f"),
        node("DequantizeLinear", "dense s1 z1", "densed"), node("Gemm", f"f densed {bias}", "r"), *qdq("r", "g"),
    ]  # fmt: skip


def write(
    folder: Path,
    nodes: Nodes,
    outputs: Sequence[str],
    *,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    opset: int = 17,
    **constants: Any,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "whole",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
         for name, shape in (inputs or {"x": ["n", 3, 8, 8]}).items()],
        [helper.make_tensor_value_info(name, TYPES.get(name, TensorProto.FLOAT), None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (CONSTANTS | constants).items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def images(count: int = 2, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (count, *(shape or (3, 8, 8)))).astype(np.float32)


def check(path: Path, feeds: Mapping[str, np.ndarray], device: str, step: float = 0.0) -> None:
    """Same outputs; of integers one step may differ where a float32 sum ends near to a half."""
    expected = run_onnxruntime(path, dict(feeds))
    with load(path, device, cache_dir=path.parent) as network:
        for rows in (slice(None), slice(0, 1)):
            got = network.run({name: value[rows] for name, value in feeds.items()})
            assert got.keys() == expected.keys()
            if rows.stop is None:
                for name, value in expected.items():
                    assert got[name].dtype == value.dtype, name
                    assert got[name].shape == value.shape, name
                    np.testing.assert_allclose(got[name].astype(float), value, atol=step, rtol=1e-6, err_msg=name)


LEFT_ALONE: dict[str, list[onnx.NodeProto]] = {
    "flat to a map": [node("Reshape", "g shape", "h")],
    "all in one row": [node("Flatten", "g", "h", axis=0)],
    "two images' rows made one": [node("Reshape", "g halves", "h")],
    "a third axis": [node("Unsqueeze", "g axis", "h")],
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_reshapes_of_vectors_keep_their_meaning(kind: str, tmp_path: Path) -> None:
    """A Reshape behind a fully connected layer was taken for nothing: the output had another shape than the file's."""
    shapes = {"shape": np.int64([0, 4, 1, 1]), "halves": np.int64([-1, 2]), "axis": np.int64([1])}
    path = write(tmp_path, [*scores(), *LEFT_ALONE[kind], node("Relu", "h", "k"), *qdq("k", "o")], ["o"], **shapes)
    expected = run_onnxruntime(path, {"x": images()})
    with load(path, "reference") as network:
        got = network.run({"x": images()})
    assert got["o"].shape == expected["o"].shape
    np.testing.assert_allclose(got["o"], expected["o"], atol=0.0318)


def test_a_repeated_flatten_is_no_change(tmp_path: Path) -> None:
    path = write(tmp_path, [*scores(), node("Flatten", "g", "h"), node("Relu", "h", "k"), *qdq("k", "o")], ["o"])
    check(path, {"x": images()}, "reference", 0.0318)
    with load(path, "reference") as network:
        assert "node_h" in network.describe()["partition"]["device"]


def test_a_gemm_bias_for_each_row_is_not_one_for_each_output(tmp_path: Path) -> None:
    """A bias of `[2, 1]` has a number for each of two images; of two outputs it was added to each output."""
    path = write(tmp_path, scores("bias"), ["g"], dense=CONSTANTS["dense"][:, :2])
    expected = run_onnxruntime(path, {"x": images()})
    with load(path, "reference") as network:
        np.testing.assert_allclose(network.run({"x": images()})["g"], expected["g"], atol=0.0318)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("inner", ["a0q", "a1q", "a2q"])
def test_inner_tensors_may_be_outputs(inner: str, device: str, tmp_path: Path) -> None:
    """The memory of an output that is also read inside was given to a later layer: CPUs returned its integers."""
    nodes = stem()
    for layer, source in enumerate(("y", "a0", "a1", "a2", "a3")):
        nodes += [
            node("BatchNormalization", f"{source} gamma beta beta variance", f"b{layer}"),
            *qdq(f"b{layer}", f"a{layer}"),
        ]
    more = {
        "gamma": np.float32([1.1, 0.9, -1.2, 0.8]),
        "beta": np.zeros(4, np.float32),
        "variance": np.ones(4, np.float32),
    }
    check(write(tmp_path, nodes, ["a4", inner], **more), {"x": images(3)}, device, 1.01)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_outputs_that_no_node_makes(device: str, tmp_path: Path) -> None:
    """Weights, inputs and integers of the device, with no node behind the network: this was a KeyError."""
    check(write(tmp_path, stem()[:-1], ["yq", "two", "x"]), {"x": images()}, device, 1.01)


def test_constants_between_the_last_nodes(tmp_path: Path) -> None:
    """A Constant among the nodes of the head has no input to look at: this was an IndexError."""
    shape = helper.make_node("Constant", [], ["to"], "to", value=numpy_helper.from_array(np.int64([0, -1])))
    nodes = [*stem(), shape, node("Reshape", "y to", "h"), node("Sigmoid", "h", "o")]
    check(write(tmp_path, nodes, ["o"]), {"x": images()}, "reference", 0.008)


def test_names_that_are_needed_here(tmp_path: Path) -> None:
    """A file may call a tensor as the importer would call one between two of it: refused, not mixed up."""
    pool = [node("MaxPool", "y", "m", kernel_shape=[2, 2]), *qdq("m", "o", "sz")]
    path = write(tmp_path, [*stem(), *pool], ["o"])
    check(path, {"x": images()}, "reference", 0.0318)
    model = onnx.load(path)
    for entry in model.graph.node:
        for names in (entry.input, entry.output):
            names[:] = ["oq:maximum" if name == "yq" else name for name in names]
    onnx.save(model, path)
    with load(path, "reference") as network:  # left to onnxruntime, since nothing quantised follows
        assert "node_o" in network.describe()["partition"]["after"]
        np.testing.assert_allclose(network.run({"x": images()})["o"], run_onnxruntime(path, {"x": images()})["o"])
    third = [*qdq("o", "again", "sx"), node("Conv", "again wd4", "last"), *qdq("last", "end")]
    model.graph.node.extend([node("DequantizeLinear", "w4 sw zw", "wd4", axis=0), *third])
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 1, 1), np.int8), "w4"))
    model.graph.output[0].name = "end"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"has a tensor 'oq:maximum'.*rename that tensor"):
        load(path, "reference")


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_windows_that_skip_the_edge_are_not_guessed(operator: str, tmp_path: Path) -> None:
    """auto_pad with strides beyond the window: onnxruntime's pools differ among themselves, so the file's own runs."""
    attributes = {"kernel_shape": [1, 1], "strides": [4, 4], "auto_pad": "SAME_UPPER"}
    pool = [node(operator, "y", "m", **attributes, count_include_pad=1, ceil_mode=1), *qdq("m", "o")]
    if operator == "MaxPool":
        pool = [node(operator, "yq", "m", **attributes), node("DequantizeLinear", "m sy zy", "o")]
    path = write(tmp_path, [*stem(), *pool], ["o"])
    with load(path, "reference") as network:
        assert "node_m" in network.describe()["partition"]["after"]
        np.testing.assert_allclose(network.run({"x": images()})["o"], run_onnxruntime(path, {"x": images()})["o"])


def test_two_roundings_in_a_row_are_two(tmp_path: Path) -> None:
    """onnxruntime leaves out the first of two QuantizeLinear in the part that it runs, and with it its rounding."""
    nodes = [*stem(), node("Sigmoid", "y", "h"), *qdq("h", "a", "s1", "zero"), *qdq("a", "b", "sp", "zero")]
    path = write(tmp_path, nodes, ["b"], sp=np.float32(0.0131), zero=np.uint8(0))
    expected = run_onnxruntime(path, {"x": images()})["b"]
    with load(path, "reference") as network:
        assert "node_bq" in network.describe()["partition"]["after"]
        got = network.run({"x": images()})["b"]
    assert (np.abs(got - expected) > 1e-6).mean() < 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_batches_that_nodes_before_the_network_make(device: str, tmp_path: Path) -> None:
    """They may change the batch: one for all and within `max_batch` is served, any other is the request's fault."""
    shape = {"shape": np.int64([-1, 3, 8, 8]), "zeros": np.int64([2])}
    path = write(
        tmp_path, [node("Reshape", "x shape", "r"), *stem("r")], ["y"], inputs={"x": ["n", 3, 3, 8, 8]}, **shape
    )
    check(path, {"x": images(2, 3, 3, 8, 8)}, device, 0.0318)
    with (
        load(path, device, cache_dir=tmp_path) as network,
        pytest.raises(InputError, match=r"batches of \[9\].*at most 8"),
    ):
        network.run({"x": images(3, 3, 3, 8, 8)})
    mean = [node("ReduceMean", "x", "r", axes=[0]), *qdq("r", "one"), *qdq("x", "each", "sz")]
    weights = {"w": CONSTANTS["w"][:3], "sw": CONSTANTS["sw"][:3], "zw": CONSTANTS["zw"][:3]}
    nodes = [
        *mean,
        *stem("x")[2:3],
        node("Conv", "each wd", "c", pads=[1] * 4),
        *qdq("c", "y"),
        node("Add", "one y", "s"),
    ]
    path = write(tmp_path, [*nodes, *qdq("s", "o")], ["o"], **weights)
    with load(path, device, cache_dir=tmp_path) as network:
        with pytest.raises(InputError, match=r"batches of \[1, 2\]"):
            network.run({"x": images()})
        with pytest.raises(InputError, match=r"batches of \[1, 2\]"):
            network.features({"x": images()})


@pytest.mark.parametrize(
    ("attribute", "match"),
    [
        (helper.make_attribute("value", 1.5), "attribute 'value' is FLOAT; TENSOR is expected"),
        (helper.make_attribute("value_ints", 1), "attribute 'value_ints' is INT; INTS is expected"),
        (helper.make_attribute("axis", 1.0), "attribute 'axis' is FLOAT; INT is expected"),
    ],
)
def test_attributes_of_another_kind(attribute: onnx.AttributeProto, match: str, tmp_path: Path) -> None:
    """These were a TypeError of onnx, or taken for 0."""
    other = node("Constant", "", "other") if attribute.name != "axis" else node("Flatten", "y", "other")
    other.attribute.append(attribute)
    with pytest.raises(ModelError, match=f"{other.name}.*{match}"):
        load(write(tmp_path, [*stem(), other], ["y", "other"]), "reference")


@pytest.mark.parametrize("kind", [0, 77])
def test_inputs_of_no_type(kind: int, tmp_path: Path) -> None:
    path = write(tmp_path, [node("Identity", "x", "r"), *stem("r")], ["y"])
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = kind
    onnx.save(model, path)
    with pytest.raises(ModelError, match="does not say of which type input 'x' is"):
        load(path, "reference")


@pytest.mark.parametrize("inputs", ["m", "m two"])
def test_a_gemm_without_a_matrix(inputs: str, tmp_path: Path) -> None:
    """Another IndexError of the head: onnxruntime says what is wrong."""
    nodes = [*stem(), node("Flatten", "y", "m"), node("Gemm", inputs, "o")]
    with pytest.raises(ModelError, match="onnxruntime refuses"):
        load(write(tmp_path, nodes, ["o"]), "reference")


def test_outputs_of_no_type(tmp_path: Path) -> None:
    """This was a KeyError of onnx."""
    path = write(tmp_path, stem(), ["y", "two"])
    model = onnx.load(path)
    model.graph.output[1].ClearField("type")
    onnx.save(model, path)
    with pytest.raises(ModelError, match="does not say of which type 'two' is"):
        load(path, "reference")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"gain": []}, "input 'gain' is declared as a single number"),
        ({"gain": [3, 1, 1], "x": [2, 3, 8, 8]}, r"inputs \['gain', 'x'\] are fixed at different sizes, \[2, 3\]"),
    ],
)
def test_inputs_that_no_batch_fits(more: dict[str, list[int]], match: str, tmp_path: Path) -> None:
    inputs: dict[str, Sequence[int | str]] = {"x": ["n", 3, 8, 8], **more}
    with pytest.raises(ModelError, match=match):
        load(write(tmp_path, [node("Mul", "x gain", "r"), *stem("r")], ["y"], inputs=inputs), "reference")
