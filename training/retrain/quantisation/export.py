"""From a trained torch network to the float ONNX files that are quantised and served."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from retrain.data.images import (
    IR_VERSION,
    NETWORK_INPUT,
    OPSET,
    GraphBuilder,
    ImageSettings,
    image_graph,
    network_input,
)
from retrain.data.pixelmaps import pixel_map_graph

if TYPE_CHECKING:
    import torch

IMAGES = "images"
PROBABILITIES = "probabilities"
ORIGINAL_PLANES = 3


def fold_batch_norms(network: torch.nn.Module) -> torch.nn.Module:
    """A copy in evaluation mode with every batch normalisation folded into the convolution before it."""
    from torch import fx, nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    traced = fx.symbolic_trace(copy.deepcopy(network).float().eval())
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        convolution = modules.get(before.target) if before.op == "call_module" else None
        if not isinstance(convolution, nn.Conv2d) or len(before.users) != 1:
            continue
        traced.set_submodule(before.target, fuse_conv_bn_eval(convolution, modules[node.target]))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.graph.lint()
    traced.recompile()
    return traced


def export_network(network: torch.nn.Module, planes: int, size: int, width: int | None = None) -> onnx.ModelProto:
    """`network_input` FP32[N, planes, size, width] -> `probabilities` FP32[N, classes], batch norms folded."""
    import torch
    from torch import nn

    module = nn.Sequential(fold_batch_norms(network), nn.Softmax(dim=1)).eval()
    example = torch.zeros(2, planes, size, width or size)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            module,
            (example,),
            path,
            input_names=[NETWORK_INPUT],
            output_names=[PROBABILITIES],
            dynamic_axes={NETWORK_INPUT: {0: "N"}, PROBABILITIES: {0: "N"}},
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(path)
    _own_initializers(model.graph)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def _own_initializers(graph: onnx.GraphProto) -> None:
    """Undo torch's sharing of equal initializers through Identity nodes: each layer gets its own again."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    shared = [node for node in graph.node if node.op_type == "Identity" and node.input[0] in initializers]
    for node in shared:
        tensor = graph.initializer.add()
        tensor.CopyFrom(initializers[node.input[0]])
        tensor.name = node.output[0]
        graph.node.remove(node)


def with_constituents(network: onnx.ModelProto, settings: ImageSettings) -> onnx.ModelProto:
    """The network behind the image graph: `constituents` FP32[N, 200, 4] -> `probabilities`."""
    return _joined(image_graph(settings, transformed=True), network)


def with_images(network: onnx.ModelProto, settings: ImageSettings) -> onnx.ModelProto:
    """The network behind the original service's input: `images` FP32[N, 3, size, size], three equal planes."""
    front = GraphBuilder()
    planes: list[str | int | None] = ["N", ORIGINAL_PLANES, settings.size, settings.size]
    plane: list[str | int | None] = ["N", 1, settings.size // settings.reduce, settings.size // settings.reduce]
    network_input(front, front.add("ReduceMean", IMAGES, front.constant([1], np.int64), keepdims=1), settings)
    model = front.model(
        "mean_plane",
        [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, planes)],
        [helper.make_tensor_value_info(NETWORK_INPUT, TensorProto.FLOAT, plane)],
    )
    return _joined(model, network)


def with_pixel_maps(network: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """The network behind the graph that puts views side by side: `pixel_maps` FP32[N, 2, 100, 80] to scores."""
    return _joined(pixel_map_graph(size), network)


def _joined(front: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    front = compose.add_prefix(front, "front/", rename_inputs=False, rename_nodes=False)
    model = compose.merge_models(front, network, io_map=[("front/" + NETWORK_INPUT, NETWORK_INPUT)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


CONTRACTS: dict[str, Callable[[onnx.ModelProto, ImageSettings], onnx.ModelProto]] = {
    "top_tagger": with_constituents,
    "resnet50_top": with_images,
}
