"""From a float expression between DequantizeLinear and QuantizeLinear to steps of the integer network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np

from fpga_ops.importer.values import Joined, Leaf, Linear, Maximum, Real, Sum
from fpga_ops.ir.exact import Dyadics, affine
from fpga_ops.ir.network import Add, AddRule, Conv, GlobalAveragePool, MaxPool, Step, Tensor
from fpga_ops.ir.requantise import accumulator_range, add_rule, requantise, zero_point_correction

MAX_TENSOR_BYTES = 2**28
"""Largest tensor of one image."""


def bounds(real: Real, output: Tensor) -> tuple[int, int]:
    """Bounds of ReLU and Clip in output steps: rounding is monotonic, so clipping after it is the same."""

    def to_byte(value: float, fallback: int) -> int:
        if math.isinf(value):
            return fallback if (value < 0) == (fallback == 0) else 255 - fallback
        return min(max(round(Fraction(value) / Fraction(output.scale)) + output.zero_point, 0), 255)

    return to_byte(real.low, 0), to_byte(real.high, 255)


def rescale_rule(source: Tensor, output: Tensor, low: int, high: int) -> AddRule:
    """An addition that takes its first operand alone: a change of scale, zero point or bounds."""
    return add_rule((source.scale, source.zero_point), None, (output.scale, output.zero_point), low, high)


def is_rescale(step: Step) -> bool:
    """Whether an addition was made by `rescale_rule`."""
    return isinstance(step, Add) and step.first == step.second and step.add.exact.second == 0


def linear_step(name: str, form: Linear, real: Real, source: Tensor, output: Tensor, nodes: tuple[str, ...]) -> Step:
    """A convolution, fully connected layer or mean, with its constants."""
    low, high = bounds(real, output)
    quantised = output.scale, output.zero_point
    if form.weights is None:
        area = source.height * source.width
        exact = affine(form.scale, form.bias, form.divisor, quantised, area * source.zero_point, 0, area * 255)
        return GlobalAveragePool(name, source.name, output.name, requantise(exact, low, high), nodes)
    correction = zero_point_correction(form.weights, source.zero_point)
    limits = accumulator_range(form.weights)
    exact = affine(form.scale, form.bias, form.divisor, quantised, correction, *limits)
    return Conv(
        name,
        source.name,
        output.name,
        form.weights,
        requantise(exact, low, high),
        form.strides,
        form.pads,
        form.groups,
        nodes=nodes,
    )


def join_steps(
    name: str, form: Joined, real: Real, output: Tensor, tensors: Mapping[str, Tensor], nodes: tuple[str, ...]
) -> tuple[list[Step], list[Tensor]]:
    """Tensors side by side, by steps that every device has: each is placed among zeros, and these are added.

    A 1x1 convolution with weights of 1 and 0 takes a tensor to its channels of the result, in the result's scale: one
    rounding, which is that of the file. All its other channels are exactly zero, so the additions round nothing.
    """
    steps: list[Step] = []
    made: list[Tensor] = []
    plain = Real(form, real.shape, real.flat)
    end = output.scale, output.zero_point
    before: Tensor | None = None
    start = 0
    for position, source in enumerate(tensors[key] for key in form.sources):
        weights = np.zeros((output.channels, 1, 1, source.channels), np.int8)
        weights[start + np.arange(source.channels), 0, 0, np.arange(source.channels)] = 1
        start += source.channels
        scale = Dyadics.of(np.full(output.channels, source.scale))
        placed = replace(output, name=f"{output.name}:placed{position}")
        linear = Linear(source.name, weights, scale, Dyadics.of(np.zeros(output.channels)))
        steps.append(linear_step(f"{name}:placed{position}", linear, plain, source, placed, nodes))
        made.append(placed)
        if before is None:
            before = placed
            continue
        last = position == len(form.sources) - 1
        joined = output if last else replace(output, name=f"{output.name}:joined{position}")
        rule = add_rule(end, end, end, *(bounds(real, output) if last else (0, 255)))
        steps.append(
            Add(name if last else f"{name}:joined{position}", before.name, placed.name, joined.name, rule, nodes)
        )
        made.append(joined)
        before = joined
    return steps, made


def make_steps(
    real: Real, output: Tensor, tensors: Mapping[str, Tensor], nodes: tuple[str, ...]
) -> tuple[list[Step], list[Tensor]]:
    """Steps that make the tensor `output` from a float expression, and the tensors that they write.

    Args:
        real: The expression.
        output: The quantised result.
        tensors: Those that the expression reads.
        nodes: ONNX nodes, the last of which made the float tensor, then the QuantizeLinear.

    Raises:
        ModelError: The scales are out of the range of the fixed-point rules.
    """
    form = real.form
    name = real.nodes[-1] if real.nodes else nodes[-1]
    if isinstance(form, Linear):
        return [linear_step(name, form, real, tensors[form.source], output, nodes)], [output]
    if isinstance(form, Joined):
        return join_steps(name, form, real, output, tensors, nodes)
    low, high = bounds(real, output)
    if isinstance(form, Sum):
        first, second = tensors[form.first], tensors[form.second]
        rule = add_rule(
            (first.scale, first.zero_point),
            (second.scale, second.zero_point),
            (output.scale, output.zero_point),
            low,
            high,
        )
        return [Add(name, first.name, second.name, output.name, rule, nodes)], [output]
    source = tensors[form.source]
    same = source.scale == output.scale and source.zero_point == output.zero_point
    if isinstance(form, Leaf):
        rule = rescale_rule(source, output, low, high)
        return [Add(name, source.name, source.name, output.name, rule, nodes)], [output]
    if not isinstance(form, Maximum):
        raise TypeError(f"unknown expression {form!r}")
    if same and (low, high) == (0, 255):
        return [MaxPool(name, source.name, output.name, form.kernel, form.strides, form.pads, nodes)], [output]
    middle = Tensor(f"{output.name}:maximum", *real.shape, source.scale, source.zero_point)
    rule = rescale_rule(source, output, low, high)
    return [
        MaxPool(name, source.name, middle.name, form.kernel, form.strides, form.pads, nodes[:-1]),
        Add(f"{name}:rescale", middle.name, middle.name, output.name, rule, nodes[-1:]),
    ], [middle, output]
