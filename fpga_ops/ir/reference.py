"""The definition of every step in plain numpy integers. What a device computes must equal this, bit for bit.

Each tensor is the exact real value of its QuantizeLinear, rounded half to even and saturated, given the integers before
it. `Requantise.exact` and `AddRule.exact` say that value in integers of any size (`exact.affine_value` and
`exact.sum_value` evaluate them); the fixed-point form that is used here was proven equal when the network was made.
Written to be read, not to be fast. Tensors are `uint8[N, H, W, C]`; arithmetic is int64, in which nothing can wrap.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fpga_ops.ir.network import (
    Add,
    AddRule,
    Conv,
    Float32Array,
    GlobalAveragePool,
    Int64Array,
    IntegerNetwork,
    MaxPool,
    Requantise,
    Step,
    Tensor,
    UInt8Array,
    sources,
)
from fpga_ops.ir.requantise import quantise


def requantise(accumulator: Int64Array, rule: Requantise) -> UInt8Array:
    """`int64[..., C]` accumulators to `uint8[..., C]`: the integer form of `Requantise`, equal to its `exact`."""
    value = accumulator * rule.multiplier.astype(np.int64) + rule.offset
    return _bounded(value >> rule.shift.astype(np.int64), (value & rule.mask) == 0, rule)


def add(y: UInt8Array, r: UInt8Array, rule: AddRule) -> UInt8Array:
    """Sum of two tensors of the same shape: the integer form of `AddRule`, equal to its `exact`."""
    value = y.astype(np.int64) * rule.multiplier + r.astype(np.int64) * rule.residual_multiplier + rule.offset
    return _bounded(value >> rule.shift, (value & rule.mask) == 0, rule)


def _bounded(rounded: Int64Array, tie: npt.NDArray[np.bool_], rule: Requantise | AddRule) -> UInt8Array:
    even = rounded - (tie & (rounded & 1))
    return np.clip(even + rule.increment, rule.low, rule.high).astype(np.uint8)


def windows(
    x: UInt8Array, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int], fill: int
) -> UInt8Array:
    """`uint8[N, H, W, C]` to a view of its windows, `uint8[N, OH, OW, C, KH, KW]`, padded with `fill`."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    view: UInt8Array = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))  # type: ignore[call-overload]
    return view[:, :: strides[0], :: strides[1]]


def accumulate(x: UInt8Array, step: Conv, zero_point: int) -> Int64Array:
    """Sums of products over raw bytes, `int64[N, OH, OW, OC]`.

    The products are summed in float64, which is exact: every partial sum is an integer below 2^53.
    """
    out_channels, kernel_height, kernel_width, group_channels = step.weights.shape
    view = windows(x, (kernel_height, kernel_width), step.strides, step.pads, zero_point)
    n, height, width = view.shape[:3]
    per_group = out_channels // step.groups
    result = np.empty((n, height, width, out_channels), np.int64)
    for group in range(step.groups):
        columns = view[:, :, :, group * group_channels : (group + 1) * group_channels]
        matrix = columns.transpose(0, 1, 2, 4, 5, 3).reshape(n * height * width, -1).astype(np.float64)
        chosen = slice(group * per_group, (group + 1) * per_group)
        weights = step.weights[chosen].reshape(per_group, -1).astype(np.float64)
        result[..., chosen] = np.rint(matrix @ weights.T).astype(np.int64).reshape(n, height, width, per_group)
    return result


def convolution(x: UInt8Array, step: Conv, zero_point: int, residual: UInt8Array | None = None) -> UInt8Array:
    """Convolution, requantisation and, where the step has one, the residual addition."""
    y = requantise(accumulate(x, step, zero_point), step.requantise)
    if step.add is None or residual is None:
        return y
    return add(y, residual, step.add)


def max_pool(x: UInt8Array, step: MaxPool) -> UInt8Array:
    """Maximum over each window; 0, the smallest byte, stands for minus infinity in the padding."""
    result: UInt8Array = windows(x, step.kernel, step.strides, step.pads, 0).max(axis=(4, 5))
    return result


def global_average_pool(x: UInt8Array, step: GlobalAveragePool) -> UInt8Array:
    """`uint8[N, H, W, C]` to `uint8[N, 1, 1, C]`."""
    return requantise(x.sum(axis=(1, 2), dtype=np.int64, keepdims=True), step.requantise)


def apply(network: IntegerNetwork, step: Step, values: Mapping[str, UInt8Array]) -> UInt8Array:
    """One step on the tensors computed so far."""
    operands = [values[name] for name in sources(step)]
    if isinstance(step, Conv):
        zero_point = network.tensors[step.source].zero_point
        return convolution(operands[0], step, zero_point, operands[1] if step.residual is not None else None)
    if isinstance(step, MaxPool):
        return max_pool(operands[0], step)
    if isinstance(step, GlobalAveragePool):
        return global_average_pool(operands[0], step)
    if isinstance(step, Add):
        return add(operands[0], operands[1], step.add)
    raise TypeError(f"unknown step {step!r}")


def run_integers(network: IntegerNetwork, inputs: Mapping[str, UInt8Array]) -> dict[str, UInt8Array]:
    """All tensors of the network, `uint8[N, H, W, C]`, from its quantised inputs."""
    values: dict[str, UInt8Array] = {name: inputs[name] for name in network.inputs}
    for step in network.steps:
        values[step.output] = apply(network, step, values)
    return values


def to_onnx_layout(value: UInt8Array, tensor: Tensor) -> UInt8Array:
    """`uint8[N, H, W, C]` to `[N, C, H, W]`, or `[N, C]` for a flat tensor."""
    if tensor.flat:
        return np.ascontiguousarray(value.reshape(len(value), tensor.channels))
    return np.ascontiguousarray(value.transpose(0, 3, 1, 2))


def quantise_input(value: Float32Array, tensor: Tensor) -> UInt8Array:
    """`float32[N, C, H, W]` (or `[N, C]`) to `uint8[N, H, W, C]`."""
    image = value.reshape(len(value), tensor.channels, tensor.height, tensor.width).transpose(0, 2, 3, 1)
    return quantise(np.ascontiguousarray(image), tensor.scale, tensor.zero_point)


class ReferenceExecutable:
    """The reference as a device: the last resort of fail-over and the peer in tests."""

    def __init__(self, network: IntegerNetwork) -> None:
        self.network = network

    def run(self, inputs: Mapping[str, Float32Array]) -> dict[str, UInt8Array]:
        """Float inputs `float32[N, C, H, W]` to the network's outputs in ONNX layout."""
        tensors = self.network.tensors
        quantised = {name: quantise_input(inputs[name], tensors[name]) for name in self.network.inputs}
        values = run_integers(self.network, quantised)
        return {name: to_onnx_layout(values[name], tensors[name]) for name in self.network.outputs}

    def close(self) -> None:
        """Nothing to release."""
