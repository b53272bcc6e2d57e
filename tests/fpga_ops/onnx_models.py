"""QDQ models for tests: small float graphs with random weights, quantised by onnxruntime's static quantiser."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static


@dataclass
class FloatGraph:
    """Adds float nodes one by one; every method returns the name of its result."""

    image: tuple[int, int, int]
    seed: int = 0
    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.numbers = itertools.count()
        self.channels["images"] = self.image[0]

    def constant(self, values: np.ndarray, name: str) -> str:
        unique = f"{name}_{next(self.numbers)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), unique))
        return unique

    def node(self, operator: str, inputs: Sequence[str], channels: int | None = None, **attributes: object) -> str:
        name = f"{operator.lower()}{next(self.numbers)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=f"node_{name}", **attributes))
        self.channels[name] = self.channels[inputs[0]] if channels is None else channels
        return name

    def conv(
        self, x: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, pad: int | None = None,
        norm: bool = False, bias: bool = True, gain: float = 1.0, dilation: int = 1,
    ) -> str:  # fmt: skip
        fan = self.channels[x] // groups
        weights = self.rng.normal(0, gain * np.sqrt(2 / (fan * kernel**2)), (channels, fan, kernel, kernel))
        inputs = [x, self.constant(weights.astype(np.float32), "weight")]
        if bias and not norm:
            inputs.append(self.constant(self.rng.normal(0, 0.1, channels).astype(np.float32), "bias"))
        margin = (kernel - 1) * dilation // 2 if pad is None else pad
        y = self.node(
            "Conv", inputs, channels, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[margin] * 4, group=groups,
            dilations=[dilation] * 2,
        )  # fmt: skip
        return self.batch_norm(y) if norm else y

    def batch_norm(self, x: str) -> str:
        count = self.channels[x]
        draws = [
            self.rng.uniform(0.7, 1.3, count) * self.rng.choice([-1, 1], count, p=[0.1, 0.9]),
            self.rng.normal(0, 0.2, count),
            self.rng.normal(0, 0.2, count),
            self.rng.uniform(0.5, 1.5, count),
        ]
        names = [self.constant(values.astype(np.float32), "norm") for values in draws]
        return self.node("BatchNormalization", [x, *names])

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def relu6(self, x: str) -> str:
        bounds = [self.constant(np.array(value, np.float32), "bound") for value in (0, 6)]
        return self.node("Clip", [x, *bounds])

    def max_pool(self, x: str, kernel: int = 3, stride: int = 2, pad: int = 1, **attributes: object) -> str:
        return self.node(
            "MaxPool", [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, **attributes
        )  # fmt: skip

    def dense(self, x: str, length: int, count: int, operator: str = "Gemm") -> str:
        weights = self.rng.normal(0, np.sqrt(2 / length), (length, count)).astype(np.float32)
        bias = self.constant(self.rng.normal(0, 0.1, count).astype(np.float32), "bias")
        if operator == "Gemm":
            return self.node("Gemm", [x, self.constant(weights.T, "weight"), bias], count, transB=1)
        y = self.node("MatMul", [x, self.constant(weights, "weight")], count)
        return self.node("Add", [y, bias])

    def head(self, x: str, classes: int) -> str:
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        return self.dense(x, self.channels[x], classes)

    def model(self, output: str, shape: Sequence[int | str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *self.image])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def resnet(
    blocks: Sequence[int] = (1, 1),
    width: int = 16,
    image: tuple[int, int, int] = (3, 32, 32),
    bottleneck: bool = True,
    groups: int = 1,
    norm: bool = False,
    classes: int = 10,
    softmax: bool = False,
    relu6: bool = False,
    seed: int = 0,
    opset: int = 17,
) -> onnx.ModelProto:
    """A ResNet v1.5 as torchvision builds it."""
    g = FloatGraph(image, seed, opset)
    act = g.relu6 if relu6 else g.relu
    x = g.max_pool(act(g.conv("images", width, 7, 2, norm=norm)))
    for stage, count in enumerate(blocks):
        inner = width << stage
        out = 4 * inner if bottleneck else inner
        for block in range(count):
            stride = 2 if stage and not block else 1
            shortcut = x
            if bottleneck:
                y = act(g.conv(x, inner, norm=norm))
                y = act(g.conv(y, inner, 3, stride, groups, norm=norm))
                y = g.conv(y, out, norm=norm, gain=0.5)
            else:
                y = act(g.conv(x, inner, 3, stride, norm=norm))
                y = g.conv(y, out, 3, norm=norm, gain=0.5)
            if g.channels[x] != out or stride != 1:
                shortcut = g.conv(x, out, 1, stride, norm=norm)
            x = act(g.node("Add", [y, shortcut]))
    x = g.head(x, classes)
    if softmax:
        x = g.node("Softmax", [x], axis=1)
    return g.model(x, ["batch", classes])


def vgg(image: tuple[int, int, int] = (3, 16, 16), norm: bool = False, operator: str = "Gemm") -> onnx.ModelProto:
    """A small VGG: convolutions, pools, a flattened map into fully connected layers."""
    g = FloatGraph(image)
    x = "images"
    for channels in (16, 24):
        x = g.relu(g.conv(x, channels, 3, norm=norm))
        x = g.max_pool(g.relu(g.conv(x, channels, 3, norm=norm)), 2, 2, 0)
    area = (image[1] // 4) * (image[2] // 4)
    x = g.node("Flatten", [x])
    x = g.relu(g.dense(x, 24 * area, 32, operator))
    return g.model(g.dense(x, 32, 5, operator), ["batch", 5])


@dataclass
class Images(CalibrationDataReader):  # type: ignore[misc]
    """Random images for the calibration."""

    shape: tuple[int, ...]
    name: str = "images"
    count: int = 4
    seed: int = 1

    def __post_init__(self) -> None:
        self.batches = self._batches()

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(self.seed)
        for _ in range(self.count):
            yield {self.name: rng.normal(0, 1, (1, *self.shape)).astype(np.float32)}

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def quantise(
    model: onnx.ModelProto,
    path: Path,
    *,
    signed: bool = False,
    symmetric: bool | None = None,
    per_channel: bool = True,
    weights_folded: bool = True,
    exclude: Sequence[str] = (),
    operators: Sequence[str] | None = None,
    form: QuantFormat = QuantFormat.QDQ,
    **extra: object,
) -> Path:
    """Quantise statically, to QDQ form unless told: U8S8, or S8S8 if `signed` (symmetric unless told)."""
    logging.getLogger().setLevel(logging.ERROR)
    shape = tuple(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:])
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            path,
            Images(shape, model.graph.input[0].name),
            quant_format=form,
            per_channel=per_channel,
            activation_type=kind,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(exclude),
            op_types_to_quantize=None if operators is None else list(operators),
            extra_options={
                "ActivationSymmetric": signed if symmetric is None else symmetric,
                "AddQDQPairToWeight": not weights_folded,
                **extra,
            },
        )
    return path


def run_onnxruntime(path: Path | onnx.ModelProto, inputs: dict[str, np.ndarray], names: Sequence[str] | None = None):
    """What onnxruntime makes of a file with no optimisation: each node by itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(path) if isinstance(path, Path) else path.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    wanted = list(names) if names is not None else [value.name for value in session.get_outputs()]
    return dict(zip(wanted, session.run(wanted, inputs), strict=True))
