"""Models to measure with: ResNets in QDQ form with random weights, and the float model inside a QDQ file.

No download and no training is needed: only on CPUs without VNNI does our speed depend on the values (`--inputs` is for
models with trained ones), and the scales are chosen so that every tensor uses its 8 bits, as a calibrated model's do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fpga_ops.errors import ModelError

RESNETS: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}
"""Blocks per stage, and whether they are bottlenecks (He et al., arXiv:1512.03385; strides in the 3x3)."""

INPUT_SCALE, INPUT_ZERO = 0.02, 114
MEAN_SQUARE = 50.0**2
"""Of an activation in output steps, after ReLU; what the scales below aim at."""


@dataclass
class _Writer:
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)

    def constant(self, name: str, value: npt.NDArray[np.generic] | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}_{operator}", **attributes))
        return output

    def quantise(self, name: str, scale: float, zero_point: int = 0) -> str:
        """QuantizeLinear and DequantizeLinear of an activation."""
        parameters = [
            self.constant(f"{name}_scale", np.float32(scale)), self.constant(f"{name}_zero", np.uint8(zero_point))
        ]  # fmt: skip
        self.node("QuantizeLinear", [name, *parameters], f"{name}_q")
        self.scales[f"{name}_dq"] = scale
        return self.node("DequantizeLinear", [f"{name}_q", *parameters], f"{name}_dq")

    def convolution(self, source: str, name: str, shape: tuple[int, ...], stride: int, relu: bool) -> str:
        """Conv (or Gemm for a 2-dimensional weight) with per-channel int8 weights and int32 bias, then quantisation."""
        weights = self.rng.integers(-127, 128, shape).astype(np.int8)
        fan_in = int(np.prod(shape[1:]))
        scale = self.scales[source]
        # the output's standard deviation in steps: sqrt(fan_in * mean square of inputs * of weights) * s_in s_w / s_out
        spread = np.sqrt(fan_in * MEAN_SQUARE * 127**2 / 3)
        out_scale = 0.03
        channel = (70.0 if relu else 45.0) / spread * out_scale / scale * self.rng.uniform(0.7, 1.4, shape[0])
        inputs = [source]
        bias = np.rint(self.rng.normal(0, 10, shape[0]) * out_scale / (scale * channel)).astype(np.int32)
        for suffix, value, factor in (("w", weights, channel), ("b", bias, channel * scale)):
            stored = self.constant(f"{name}_{suffix}", value)
            scales = self.constant(f"{name}_{suffix}_scale", factor.astype(np.float32))
            zero = self.constant(f"{name}_{suffix}_zero", np.zeros(shape[0], value.dtype))
            inputs.append(self.node("DequantizeLinear", [stored, scales, zero], f"{name}_{suffix}_dq", axis=0))
        if len(shape) == 2:
            self.node("Gemm", inputs, name, transB=1)
        else:
            pad = shape[2] // 2
            options = {"kernel_shape": list(shape[2:]), "strides": [stride] * 2, "pads": [pad] * 4}
            self.node("Conv", inputs, name, **options)
        last = self.node("Relu", [name], f"{name}_relu") if relu else name
        return self.quantise(last, out_scale, 0 if relu else 128)


def resnet(
    name: str, image: tuple[int, int, int] = (3, 224, 224), classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """A ResNet in QDQ form (opset 17): `images` FP32[-1, C, H, W] to `probabilities` FP32[-1, classes]."""
    blocks, bottleneck = RESNETS[name]
    out = _Writer(np.random.default_rng(seed))
    x = out.quantise("images", INPUT_SCALE, INPUT_ZERO)
    x = out.convolution(x, "stem", (64, image[0], 7, 7), 2, True)
    pooled = out.node("MaxPool", [x], "pooled", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x, channels = out.quantise(pooled, out.scales[x]), 64
    for stage, count in enumerate(blocks):
        inner = 64 << stage
        outer = 4 * inner if bottleneck else inner
        for block in range(count):
            stride = 2 if stage and not block else 1
            prefix = f"s{stage}b{block}"
            shortcut = x
            if channels != outer or stride != 1:
                shortcut = out.convolution(x, f"{prefix}d", (outer, channels, 1, 1), stride, False)
            if bottleneck:
                y = out.convolution(x, f"{prefix}a", (inner, channels, 1, 1), 1, True)
                y = out.convolution(y, f"{prefix}b", (inner, inner, 3, 3), stride, True)
                y = out.convolution(y, f"{prefix}c", (outer, inner, 1, 1), 1, False)
            else:
                y = out.convolution(x, f"{prefix}a", (inner, channels, 3, 3), stride, True)
                y = out.convolution(y, f"{prefix}b", (outer, inner, 3, 3), 1, False)
            added = out.node("Add", [y, shortcut], f"{prefix}_sum")
            x, channels = out.quantise(out.node("Relu", [added], f"{prefix}_out"), 0.04), outer
    x = out.quantise(out.node("GlobalAveragePool", [x], "mean"), 0.02)
    flat = out.node("Flatten", [x], "features")
    out.scales[flat] = out.scales[x]
    out.scales["features_dq"] = out.scales[x]
    flat = out.quantise(flat, out.scales[x])
    logits = out.convolution(flat, "logits", (classes, channels), 1, False)
    out.node("Softmax", [logits], "probabilities", axis=-1)
    graph = helper.make_graph(
        out.nodes,
        name,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *image])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes])],
        out.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def find(model: str, folder: Path) -> Path:
    """Path of a model given as a file or as a name of `RESNETS`, which is written to `folder`.

    Raises:
        ModelError: Neither.
    """
    path = Path(model)
    if path.is_file():
        return path
    if model not in RESNETS:
        raise ModelError(f"'{model}' is no file and none of {', '.join(RESNETS)}")
    made = folder / f"{model}.onnx"
    if not made.is_file():
        onnx.save(resnet(model), made)
    return made


def float_model(path: Path, target: Path) -> Path:
    """Write the float32 model that a QDQ file stands for: weights dequantised, activations left alone."""
    model = onnx.load(path)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    quantised: dict[str, str] = {}
    for node in graph.node:
        inputs = [renamed.get(name, name) for name in node.input]
        if node.op_type == "QuantizeLinear" and inputs[0] not in constants:
            quantised[node.output[0]] = inputs[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] in quantised:
            renamed[node.output[0]] = quantised[node.input[0]]
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            values = [numpy_helper.to_array(constants[name]) for name in node.input]
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            zero = values[2] if len(values) > 2 else np.zeros_like(values[1], values[0].dtype)
            if values[1].size > 1:
                shape = [1] * values[0].ndim
                shape[axis] = -1
                values[1], zero = values[1].reshape(shape), zero.reshape(shape)
            real = (values[0].astype(np.float32) - zero.astype(np.float32)) * values[1]
            graph.initializer.append(numpy_helper.from_array(real.astype(np.float32), node.output[0]))
        else:
            del node.input[:]
            node.input.extend(inputs)
            kept.append(node)
    outputs = {value.name for value in graph.output}
    for name, source in renamed.items():
        if name in outputs:
            kept.append(helper.make_node("Identity", [source], [name]))
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    remaining = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(remaining)
    del graph.value_info[:]
    onnx.save(model, target)
    return target
