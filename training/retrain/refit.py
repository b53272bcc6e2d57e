"""A tagger's head trained again, on what the device gives it and on what the jet's momenta say directly.

An image of pT fractions is blind to the scale: 3% of the jet's pT looks the same at 550 and 650 GeV, and a pixel does
not know how many constituents it sums. So the mass, the pT and the number of constituents go to the head beside the
2048 features. The file that takes constituents computes them itself; the integer network is not touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper, utils

from retrain.errors import CheckpointError, PublishError
from retrain.export import PROBABILITIES
from retrain.head import HeadSettings, fit_head
from retrain.images import CONSTITUENTS, IR_VERSION, SMALLEST_PT, GraphBuilder
from retrain.jets import MAX_CONSTITUENTS, Jets
from retrain.quantise import save_onnx
from retrain.scoring import engine_features

if TYPE_CHECKING:
    import torch

GLOBALS = ("mass", "pt", "multiplicity")
JET_GLOBALS, FEATURES = "jet_globals", "head_features"
PREFIX, TAGGER = "globals/", "top_tagger"


def globals_graph() -> onnx.ModelProto:
    """`constituents` FP32[N, 200, 4] (GeV) -> `jet_globals` FP32[N, 3]: mass and pT of their sum (GeV), their number.

    Sums are in double precision: the mass is a small difference of large energies.
    """
    graph = GraphBuilder()
    axis = graph.constant([1], np.int64)
    total = graph.add("ReduceSum", graph.add("Cast", CONSTITUENTS, to=TensorProto.DOUBLE), axis, keepdims=0)
    energy, px, py, pz = graph.add_many("Split", 4, total, axis=1, num_outputs=4)
    square = [graph.add("Mul", value, value) for value in (energy, px, py, pz)]
    transverse = graph.add("Add", square[1], square[2])
    mass = graph.add("Sub", square[0], graph.add("Add", transverse, square[3]))
    mass = graph.add("Sqrt", graph.add("Max", mass, graph.constant(0.0, np.float64)))
    x, y = (graph.add("Gather", CONSTITUENTS, graph.constant(i, np.int64), axis=2) for i in (1, 2))
    single = graph.add("Sqrt", graph.add("Add", graph.add("Mul", x, x), graph.add("Mul", y, y)))
    present = graph.add("Greater", single, graph.constant(SMALLEST_PT))
    number = graph.add("ReduceSum", graph.add("Cast", present, to=TensorProto.DOUBLE), axis, keepdims=1)
    row = graph.add("Concat", mass, graph.add("Sqrt", transverse), number, axis=1)
    graph.add("Cast", row, output=JET_GLOBALS, to=TensorProto.FLOAT)
    return graph.model(
        JET_GLOBALS,
        [helper.make_tensor_value_info(CONSTITUENTS, TensorProto.FLOAT, ["N", MAX_CONSTITUENTS, 4])],
        [helper.make_tensor_value_info(JET_GLOBALS, TensorProto.FLOAT, ["N", len(GLOBALS)])],
    )


@cache
def _globals_session() -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(globals_graph().SerializeToString(), providers=["CPUExecutionProvider"])


def jet_globals(constituents: NDArray[np.float32]) -> NDArray[np.float32]:
    """`GLOBALS` float32[N, 3] of jets float32[N, 200, 4], by the graph that the served file contains."""
    values: NDArray[np.float32] = _globals_session().run([JET_GLOBALS], {CONSTITUENTS: constituents})[0]
    return values


def pooled_output(model: onnx.ModelProto) -> str:
    """The float tensor [N, channels] that a network's head reads.

    Raises:
        CheckpointError: There is no flattened global average.
    """
    pooled: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "GlobalAveragePool" or pooled & set(node.input):
            pooled |= set(node.output)
            if node.op_type in ("Flatten", "Reshape"):
                return str(node.output[0])
    raise CheckpointError("no flattened global average pooling: the head's input was not found")


def dequantisation(model: onnx.ModelProto) -> tuple[float, int]:
    """Scale and zero point of the integers that the device gives to the head."""
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    node = producers[pooled_output(model)]
    while node.op_type != "DequantizeLinear":
        if node.op_type == "GlobalAveragePool" or node.input[0] not in producers:
            raise CheckpointError("the head reads floats: this is not a quantised network")
        node = producers[node.input[0]]
    return float(numpy_helper.to_array(known[node.input[1]])), int(numpy_helper.to_array(known[node.input[2]]))


def with_head(model: onnx.ModelProto, head: torch.nn.Sequential) -> onnx.ModelProto:
    """A tagger that takes constituents, with another head: of its features and of `GLOBALS`, in this order."""
    from torch import nn

    features = pooled_output(model)
    body = utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model([CONSTITUENTS], [features])
    graph = GraphBuilder()
    value = graph.add("Concat", FEATURES, JET_GLOBALS, axis=1)
    for layer in head:
        if isinstance(layer, nn.Linear):
            weight, bias = (tensor.detach().numpy() for tensor in (layer.weight, layer.bias))
            value = graph.add("Gemm", value, graph.constant(weight), graph.constant(bias), transB=1)
        elif isinstance(layer, nn.ReLU):
            value = graph.add("Relu", value)
    graph.add("Softmax", value, output=PROBABILITIES, axis=1)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    inputs = {FEATURES: linear[0].in_features - len(GLOBALS), JET_GLOBALS: len(GLOBALS)}
    top = graph.model(
        "head",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in inputs.items()],
        [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["N", linear[-1].out_features])],
    )
    top = compose.add_prefix(top, "head/", rename_inputs=False, rename_outputs=False)
    side = compose.add_prefix(globals_graph(), PREFIX, rename_inputs=False, rename_outputs=False)
    joined = _side_by_side(body, side)
    merged = compose.merge_models(joined, top, io_map=[(features, FEATURES), (JET_GLOBALS, JET_GLOBALS)])
    merged.ir_version = IR_VERSION
    onnx.checker.check_model(merged, full_check=True)
    return merged


def _side_by_side(one: onnx.ModelProto, two: onnx.ModelProto) -> onnx.ModelProto:
    """Two graphs of the same input as one, with the outputs of both."""
    joined = onnx.ModelProto()
    joined.CopyFrom(one)
    joined.graph.node.extend(two.graph.node)
    joined.graph.initializer.extend(two.graph.initializer)
    joined.graph.output.extend(two.graph.output)
    return joined


def head_inputs(
    model: Path, constituents: NDArray[np.float32], progress: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """What the head of a quantised tagger is given: dequantised features from the best device here, and `GLOBALS`."""
    scale, zero = dequantisation(onnx.load(model))
    return head_rows(engine_features(model, constituents, progress=progress), scale, zero, constituents)


def head_rows(
    integers: NDArray[Any], scale: float, zero: int, constituents: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The same from features that are known already."""
    features = (integers.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    return np.concatenate([features, jet_globals(constituents)], axis=1)


def refit_tagger(
    folder: Path, training: Jets, settings: HeadSettings, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Train the head of `top_tagger.onnx` in a folder that `quantise` wrote anew, on the device's features of jets.

    top_tagger.onnx and float.onnx get it, and quantisation.json says so. `resnet50_top.onnx`, which sees no momenta,
    stays as it is.
    """
    record_file = folder / "quantisation.json"
    try:
        record: dict[str, Any] = json.loads(record_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"cannot read what quantise recorded: {error}") from error
    training.require_both_classes()
    rows = head_inputs(folder / f"{TAGGER}.onnx", training.constituents, progress)
    head = fit_head(rows, training.labels, 2, settings)
    for name in (TAGGER, "float"):
        path = folder / f"{name}.onnx"
        save_onnx(with_head(onnx.load(path), head), path)
    record["head"] = {"globals": list(GLOBALS), "jets": len(training), **asdict(settings)}
    record_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record
