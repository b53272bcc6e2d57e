"""Integer networks made for tests: random weights, scales that keep every tensor spread over its 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fpga_ops.importer.steps import rescale_rule
from fpga_ops.ir import reference
from fpga_ops.ir.exact import Dyadics, affine
from fpga_ops.ir.network import (
    Add,
    Conv,
    GlobalAveragePool,
    Int8Array,
    IntegerNetwork,
    MaxPool,
    Requantise,
    Step,
    Tensor,
    UInt8Array,
)
from fpga_ops.ir.requantise import accumulator_range, add_rule, requantise, zero_point_correction


def rule_of(scale, bias, zero_point, correction=0, low=0, high=255, least=-(2**24), most=2**24) -> Requantise:
    """The proven rule of `clip(round((a - correction) * scale + bias) + zero_point)`; floats are taken as they are."""
    exact = affine(Dyadics.of(scale), Dyadics.of(bias), 1, (1.0, zero_point), correction, least, most)
    return requantise(exact, low, high)


def blank_rule(low: int = 0, high: int = 255) -> Requantise:
    """A rule of which only the bounds are looked at."""
    return rule_of([1.0], [0.0], 0, 0, low, high, 0, 255)


@dataclass
class Builder:
    """Adds steps one by one and runs the reference on a calibration batch to choose each scale."""

    rng: np.random.Generator
    images: int = 2
    tensors: dict[str, Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    values: dict[str, UInt8Array] = field(default_factory=dict)

    def input(self, height: int, width: int, channels: int, zero_point: int = 114, name: str = "image") -> str:
        self.tensors[name] = Tensor(name, height, width, channels, 0.02, zero_point)
        self.values[name] = self.rng.integers(0, 256, (self.images, height, width, channels)).astype(np.uint8)
        return name

    def _finish(self, step: Step, name: str, scale: float, zero_point: int) -> str:
        self.steps.append(step)
        partial = IntegerNetwork((), (), self.tensors, ())
        self.values[name] = reference.apply(partial, step, self.values)
        _, height, width, channels = self.values[name].shape
        self.tensors[name] = Tensor(name, height, width, channels, scale, zero_point)
        return name

    def _requantise(self, step: Conv, zero_point: int) -> Requantise:
        source_zero = self.tensors[step.source].zero_point
        correction = zero_point_correction(step.weights, source_zero)
        real = reference.accumulate(self.values[step.source], step, source_zero) - correction
        spread = (
            np.sqrt(np.mean(real.astype(np.float64) ** 2, axis=(0, 1, 2)).mean(keepdims=True).repeat(real.shape[-1]))
            + 1.0
        )
        scale = (80.0 if step.requantise.low == zero_point else 45.0) / spread * self.rng.uniform(0.5, 1.5, len(spread))
        scale = np.minimum(scale, 0.2)
        bias = self.rng.uniform(-20, 20, len(spread))
        bounds = step.requantise.low, step.requantise.high
        return rule_of(scale, bias, zero_point, correction, *bounds, *accumulator_range(step.weights))

    def conv(
        self,
        source: str,
        channels: int,
        kernel: tuple[int, int] = (1, 1),
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        groups: int = 1,
        relu: bool = True,
        residual: str | None = None,
        high: int = 255,
    ) -> str:
        name = f"t{len(self.steps)}"
        weights: Int8Array = self.rng.integers(
            -128, 128, (channels, *kernel, self.tensors[source].channels // groups)
        ).astype(np.int8)
        zero_point = 0 if relu and residual is None else int(self.rng.integers(100, 156))
        low = zero_point if relu and residual is None else 0
        step = Conv(name, source, name, weights, blank_rule(low), strides, pads, groups)
        rule = self._requantise(step, zero_point)
        if residual is None:
            rule = replace(rule, low=low, high=high)
            return self._finish(Conv(name, source, name, weights, rule, strides, pads, groups), name, 0.02, zero_point)
        other = self.tensors[residual]
        out_zero = 0 if relu else int(self.rng.integers(90, 160))
        out_scale = float(self.rng.uniform(0.025, 0.04))
        add = add_rule(
            (0.02, zero_point), (other.scale, other.zero_point), (out_scale, out_zero), out_zero * relu, high
        )
        step = Conv(name, source, name, weights, rule, strides, pads, groups, residual, add)
        return self._finish(step, name, out_scale, out_zero)

    def max_pool(
        self,
        source: str,
        kernel: tuple[int, int] = (3, 3),
        strides: tuple[int, int] = (2, 2),
        pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    ) -> str:
        name = f"t{len(self.steps)}"
        tensor = self.tensors[source]
        return self._finish(MaxPool(name, source, name, kernel, strides, pads), name, tensor.scale, tensor.zero_point)

    def global_average_pool(self, source: str) -> str:
        name = f"t{len(self.steps)}"
        tensor = self.tensors[source]
        area = tensor.height * tensor.width
        ratio = np.full(tensor.channels, np.float32(1.3 / area))
        rule = rule_of(ratio, 0 * ratio, 3, area * tensor.zero_point, 0, 255, 0, area * 255)
        return self._finish(GlobalAveragePool(name, source, name, rule), name, tensor.scale / 1.3, 3)

    def add(self, first: str, second: str, relu: bool = True) -> str:
        name = f"t{len(self.steps)}"
        a, b = self.tensors[first], self.tensors[second]
        zero = 0 if relu else 128
        rule = add_rule((a.scale, a.zero_point), (b.scale, b.zero_point), (0.035, zero), 0, 255)
        return self._finish(Add(name, first, second, name, rule), name, 0.035, zero)

    def rescale(self, source: str, scale: float = 0.03, zero_point: int = 40, low: int = 10, high: int = 230) -> str:
        """A change of scale, zero point and bounds: an addition that takes its first operand alone."""
        name = f"t{len(self.steps)}"
        output = Tensor(name, *self.tensors[source].shape, scale, zero_point)
        rule = rescale_rule(self.tensors[source], output, low, high)
        return self._finish(Add(name, source, source, name, rule), name, scale, zero_point)

    def affine(self, source: str) -> str:
        """What a batch normalisation behind a QuantizeLinear becomes: a depthwise 1x1 with weights of +-1."""
        name, tensor = f"t{len(self.steps)}", self.tensors[source]
        signs = self.rng.choice([-1, 1], (tensor.channels, 1, 1, 1)).astype(np.int8)
        correction = zero_point_correction(signs, tensor.zero_point)
        factor = self.rng.uniform(0.05, 1.5, tensor.channels)
        offset = self.rng.uniform(-20, 20, tensor.channels)
        rule = rule_of(factor, offset, 110, correction, 0, 255, *accumulator_range(signs))
        step = Conv(name, source, name, signs, rule, (1, 1), (0, 0, 0, 0), tensor.channels)
        return self._finish(step, name, 0.02, 110)

    def dense(self, source: str, channels: int) -> str:
        tensor = self.tensors[source]
        return self.conv(source, channels, (tensor.height, tensor.width), relu=False)

    def build(self, *outputs: str) -> IntegerNetwork:
        last = outputs or (self.steps[-1].output,)
        return IntegerNetwork(("image",), tuple(last), dict(self.tensors), tuple(self.steps))


def resnet(
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    width: int = 64,
    image: tuple[int, int, int] = (224, 224, 3),
    bottleneck: bool = True,
    classes: int | None = 1000,
    groups: int = 1,
    seed: int = 0,
) -> IntegerNetwork:
    """A ResNet v1.5 (strides in the 3x3) with random weights; `classes=None` ends at the pooled features."""
    builder = Builder(np.random.default_rng(seed), images=1)
    x = builder.conv(builder.input(*image), width, (7, 7), (2, 2), (3, 3, 3, 3))
    x = builder.max_pool(x)
    for stage, count in enumerate(blocks):
        inner = width << stage
        for block in range(count):
            strides = (2, 2) if stage and not block else (1, 1)
            shortcut = x
            out = 4 * inner if bottleneck else inner
            if builder.tensors[x].channels != out or strides != (1, 1):
                shortcut = builder.conv(x, out, strides=strides, relu=False)
            if bottleneck:
                y = builder.conv(x, inner)
                y = builder.conv(y, inner, (3, 3), strides, (1, 1, 1, 1), groups)
                x = builder.conv(y, out, residual=shortcut)
            else:
                y = builder.conv(x, inner, (3, 3), strides, (1, 1, 1, 1))
                x = builder.conv(y, out, (3, 3), pads=(1, 1, 1, 1), residual=shortcut)
    x = builder.global_average_pool(x)
    if classes is not None:
        x = builder.dense(x, classes)
    return builder.build(x)


def random_network(rng: np.random.Generator, depth: int = 6, max_size: int = 20) -> IntegerNetwork:
    """A random chain with branches over every kind of step."""
    builder = Builder(rng)
    channels = int(rng.integers(1, 5))
    x = builder.input(
        int(rng.integers(5, max_size)), int(rng.integers(5, max_size)), channels, int(rng.integers(0, 256))
    )
    for _ in range(depth):
        tensor = builder.tensors[x]
        kind = rng.choice(["conv", "conv", "residual", "pool", "add"])
        kernel = (int(rng.integers(1, 1 + min(5, tensor.height))), int(rng.integers(1, 1 + min(5, tensor.width))))
        pads = tuple(int(rng.integers(0, size)) for size in (kernel[0], kernel[1], kernel[0], kernel[1]))
        strides = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        if kind == "conv":
            groups = int(rng.choice([g for g in (1, 2, 4) if tensor.channels % g == 0]))
            x = builder.conv(
                x, groups * int(rng.integers(1, 24)), kernel, strides, pads, groups, bool(rng.integers(0, 2)),
                high=int(rng.choice([255, 200])),
            )  # fmt: skip
        elif kind == "residual":
            x = builder.conv(x, tensor.channels, residual=x, relu=bool(rng.integers(0, 2)))
        elif kind == "pool":
            x = builder.max_pool(x, kernel, strides, pads)
        else:
            y = builder.conv(x, tensor.channels, relu=False)
            x = builder.add(y, x, relu=bool(rng.integers(0, 2)))
    if rng.integers(0, 2):
        x = builder.global_average_pool(x)
    return builder.build(builder.dense(x, int(rng.integers(1, 20))))


def random_images(network: IntegerNetwork, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Float inputs `float32[N, C, H, W]` that use the whole range of the input tensors and a little more."""
    result = {}
    for name in network.inputs:
        tensor = network.tensors[name]
        low, high = -tensor.zero_point * tensor.scale, (255 - tensor.zero_point) * tensor.scale
        margin = 0.1 * (high - low)
        shape = (count, tensor.channels, tensor.height, tensor.width)
        result[name] = rng.uniform(low - margin, high + margin, shape).astype(np.float32)
    return result
