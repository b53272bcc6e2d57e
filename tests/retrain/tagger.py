"""A tiny quantised tagger without torch, for tests of what comes after training."""

import numpy as np
import onnx

from retrain.data.images import NETWORK_INPUT, OPSET, ImageSettings, JetImager
from retrain.quantisation.export import PROBABILITIES
from retrain.quantisation.quantise import quantise
from tests.fpga_ops.onnx_models import resnet
from tests.retrain.jets import toy_jets

IMAGE = ImageSettings(size=32)


def tiny_float(seed: int = 0) -> onnx.ModelProto:
    """`network_input` FP32[N, 1, 32, 32] -> `probabilities` FP32[N, 2], random weights."""
    model = resnet((1,), 8, (1, 32, 32), classes=2, softmax=True, seed=seed, opset=OPSET)
    names = {model.graph.input[0].name: NETWORK_INPUT, model.graph.output[0].name: PROBABILITIES}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    model.ir_version = 9
    return model


def tiny_quantised(seed: int = 0) -> onnx.ModelProto:
    """The same, in QDQ form, calibrated on toy jets."""
    images = JetImager(IMAGE, transformed=True)(toy_jets(16).constituents)
    return quantise(tiny_float(seed), [images[:8], images[8:]], input_range=(0.0, 1.0))


def golden_jets(count: int = 3) -> np.ndarray:
    return toy_jets(count, seed=9).constituents
