"""From a float expression between DequantizeLinear and QuantizeLinear to steps of the integer network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import ModelError
from fpga_ops.importer.values import Float64Array, Leaf, Linear, Maximum, Real, Sum
from fpga_ops.ir.network import (
    Add,
    AddRule,
    Conv,
    GlobalAveragePool,
    Int8Array,
    MaxPool,
    Step,
    Tensor,
)
from fpga_ops.ir.requantise import (
    ADD_FRACTION_BITS,
    FRACTION_BITS,
    accumulator_bound,
    add_rule,
    requantise,
    zero_point_correction,
)

MAX_TENSOR_BYTES = 2**28
"""Largest tensor of one image."""


def bounds(real: Real, output: Tensor) -> tuple[int, int]:
    """Bounds of ReLU and Clip in output steps: rounding is monotonic, so clipping after it is the same."""

    def to_byte(value: float, fallback: int) -> int:
        if math.isinf(value):
            return fallback if (value < 0) == (fallback == 0) else 255 - fallback
        return int(np.clip(np.rint(value / output.scale) + output.zero_point, 0, 255))

    return to_byte(real.low, 0), to_byte(real.high, 255)


def rescale_rule(source: Tensor, output: Tensor, low: int, high: int) -> AddRule:
    """An addition that takes its first operand alone: a change of scale, zero point or bounds.

    With equal scales and zero points it is exact.
    """
    ratio = source.scale / output.scale
    every_byte = np.arange(256, dtype=np.int64)
    for bits in range(ADD_FRACTION_BITS, 0, -1):
        multiplier = round(ratio * 2.0 ** (8 + bits))
        lost = float(((every_byte * multiplier) & 255).mean()) / 256
        offset = round((output.zero_point + 0.5 - ratio * source.zero_point) * 2.0**bits + lost)
        top = (255 * multiplier) >> 8
        if multiplier < 2**16 and offset >= -(2**15) and top < 2**15 and top + max(offset, 0) < 2**15:
            return AddRule(multiplier, 0, offset, bits, low, high)
    raise ModelError(f"a change of scale from {source.scale:.4g} to {output.scale:.4g} is too large")


def is_rescale(step: Step) -> bool:
    """Whether an addition was made by `rescale_rule`."""
    return isinstance(step, Add) and step.first == step.second and step.add.residual_multiplier == 0


@dataclass(frozen=True)
class Fitted:
    """Weights whose bias fits in 32 bits.

    Attributes:
        weights: `int8[OC, KH, KW, IC / groups]`.
        scale: `float64[OC]`, output steps per accumulator step.
        bound: `int64[OC]`, as `accumulator_bound`.
        correction: `int64[OC]`, as `zero_point_correction`.
    """

    weights: Int8Array
    scale: Float64Array
    bound: npt.NDArray[np.int64]
    correction: npt.NDArray[np.int64]


def fit_channels(
    weights: Int8Array, scale: Float64Array, bias: Float64Array, output_zero: int, source_zero: int
) -> Fitted:
    """Coarser weights for channels whose bias would not fit in 32 bits in steps of their tiny scale.

    Such a channel's weights are divided by the least power of two that makes the bias fit, and rounded; onnxruntime's
    quantiser raises weight scales for the same reason. With `S'` the new scale the output moves by at most
    `1/2 S' sum|x - zero_point|`; docs/explanation/integer-network.md has the bound.

    Args:
        weights: `int8[OC, KH, KW, IC / groups]`.
        scale: `float64[OC]`, output steps per accumulator step.
        bias: `float64[OC]`, in output steps.
        output_zero: Zero point of the output.
        source_zero: Zero point of the source.
    """
    result, wide = weights, scale
    for halvings in range(1, 10):  # after eight, int8 weights are zero
        bound, correction = accumulator_bound(result), zero_point_correction(result, source_zero)
        live = bound > 0
        if not live.any():
            break
        exponent = np.floor(np.log2(wide))
        pre_shift = max(0.0, FRACTION_BITS + 2 + float(exponent[live].max()))
        saturated = np.exp2(15.0 + np.minimum(-FRACTION_BITS - 2 - exponent, 31.0)) + bound
        total = np.abs(bias + output_zero + 0.5) / wide + np.abs(correction)
        over = live & (np.minimum(total, saturated) + bound + 2.0**20 >= (2.0**31 - 1) / 2.0**pre_shift)
        if not over.any():
            break
        result = result.copy()
        result[over] = np.rint(weights[over] / 2.0**halvings).astype(np.int8)
        wide = np.where(over, scale * 2.0**halvings, wide)
    return Fitted(result, wide, bound, correction)


def linear_step(name: str, form: Linear, real: Real, source: Tensor, output: Tensor, nodes: tuple[str, ...]) -> Step:
    """A convolution, fully connected layer or mean, with its fixed-point constants."""
    low, high = bounds(real, output)
    scale, bias = form.scale / output.scale, form.bias / output.scale
    if form.weights is None:
        area = np.full(len(scale), source.height * source.width, np.int64)
        rule = requantise(scale, bias, output.zero_point, area * source.zero_point, low, high, area * 255)
        return GlobalAveragePool(name, source.name, output.name, rule, nodes)
    fitted = fit_channels(form.weights, scale, bias, output.zero_point, source.zero_point)
    rule = requantise(fitted.scale, bias, output.zero_point, fitted.correction, low, high, fitted.bound)
    return Conv(
        name,
        source.name,
        output.name,
        fitted.weights,
        rule,
        form.strides,
        form.pads,
        form.groups,
        nodes=nodes,
    )


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
