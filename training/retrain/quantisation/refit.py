"""A tagger's last layers trained again, on what the device says and on what the jet's momenta say directly.

An image of pT fractions is blind to the scale: 3% of the jet's pT looks the same at 550 and 650 GeV, and a pixel does
not know how many constituents it sums. So the mass, the pT and the number of constituents meet the network's logits in
a small head. The file that takes constituents computes them itself; the integer network is not touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, utils

from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from retrain.data.images import CONSTITUENTS, IR_VERSION, SMALLEST_PT, GraphBuilder
from retrain.data.jet_table import MAX_CONSTITUENTS, Jets
from retrain.errors import CheckpointError, PublishError
from retrain.evaluation.scoring import engine_outputs
from retrain.network.head import HeadSettings, fit_head
from retrain.quantisation.export import PROBABILITIES
from retrain.quantisation.quantise import save_onnx

if TYPE_CHECKING:
    import torch

GLOBALS = ("mass", "pt", "multiplicity")
JET_GLOBALS, LOGITS = "jet_globals", "logits"
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
    onnxruntime = import_onnxruntime()

    return onnxruntime.InferenceSession(globals_graph().SerializeToString(), providers=["CPUExecutionProvider"])


def jet_globals(constituents: NDArray[np.float32]) -> NDArray[np.float32]:
    """`GLOBALS` float32[N, 3] of jets float32[N, 200, 4], by the graph that the served file contains."""
    values: NDArray[np.float32] = _globals_session().run([JET_GLOBALS], {CONSTITUENTS: constituents})[0]
    return values


def logits_output(model: onnx.ModelProto) -> str:
    """The network's own logits [N, classes]: what a head of `with_head` reads, else the last Softmax.

    Raises:
        CheckpointError: The probabilities do not come from a Softmax.
    """
    for node in model.graph.node:
        if node.op_type == "Concat" and JET_GLOBALS in node.input:
            return str(node.input[0])
    for node in model.graph.node:
        if node.op_type == "Softmax" and PROBABILITIES in node.output:
            return str(node.input[0])
    raise CheckpointError(f"{PROBABILITIES} do not come from a Softmax: the head was not found")


def without_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """The part of a tagger from its constituents to the network's own logits."""
    return utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(
        [CONSTITUENTS], [logits_output(model)]
    )


def with_head(model: onnx.ModelProto, head: torch.nn.Sequential) -> onnx.ModelProto:
    """A tagger that takes constituents, with another head: of the network's logits and of `GLOBALS`, in this order."""
    from torch import nn

    graph = GraphBuilder()
    value = graph.add("Concat", LOGITS, JET_GLOBALS, axis=1)
    for layer in head:
        if isinstance(layer, nn.Linear):
            weight, bias = (tensor.detach().numpy() for tensor in (layer.weight, layer.bias))
            value = graph.add("Gemm", value, graph.constant(weight), graph.constant(bias), transB=1)
        elif isinstance(layer, nn.ReLU):
            value = graph.add("Relu", value)
    graph.add("Softmax", value, output=PROBABILITIES, axis=1)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    inputs = {LOGITS: linear[0].in_features - len(GLOBALS), JET_GLOBALS: len(GLOBALS)}
    top = graph.model(
        "head",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in inputs.items()],
        [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["N", linear[-1].out_features])],
    )
    top = compose.add_prefix(top, "head/", rename_inputs=False, rename_outputs=False)
    side = compose.add_prefix(globals_graph(), PREFIX, rename_inputs=False, rename_outputs=False)
    body = without_softmax(model)
    logits = body.graph.output[0].name
    joined = _side_by_side(body, side)
    merged = compose.merge_models(joined, top, io_map=[(logits, LOGITS), (JET_GLOBALS, JET_GLOBALS)])
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
    """What the head of a quantised tagger is given, float32[N, 5]: its logits on the best device, and `GLOBALS`.

    `constituents` is float32[N, 200, 4], (E, px, py, pz) in GeV.
    """
    with TemporaryDirectory() as folder:
        part = without_softmax(onnx.load(model))
        save_onnx(part, Path(folder) / "logits.onnx")
        logits = engine_outputs(Path(folder) / "logits.onnx", constituents, part.graph.output[0].name, None, progress)
    return np.concatenate([logits.astype(np.float32), jet_globals(constituents)], axis=1)


def refit_tagger(
    folder: Path, training: Jets, settings: HeadSettings, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Train the head of `top_tagger.onnx` in a folder that `quantise` wrote anew, on the device's features of jets.

    top_tagger.onnx and float.onnx get it, in the place of one that was fitted before, and quantisation.json says so.
    `resnet50_top.onnx`, which sees no momenta, stays as it is.
    """
    record_file = folder / "quantisation.json"
    try:
        record: dict[str, Any] = json.loads(record_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"cannot read what quantise recorded: {error}") from error
    training.require_both_classes()
    rows = head_inputs(folder / f"{TAGGER}.onnx", training.constituents, progress)
    head = fit_head(rows, training.labels, 2, settings)
    files = [folder / f"{name}.onnx" for name in (TAGGER, "float")]
    refitted = [with_head(onnx.load(path), head) for path in files]
    for path, model in zip(files, refitted, strict=True):
        save_onnx(model, path)
    record["head"] = {"globals": list(GLOBALS), "jets": len(training), **asdict(settings)}
    record_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record
