"""Pools and means: maxima over windows, and averages as linear steps with equal weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fpga_ops.importer.channels import per_channel
from fpga_ops.importer.context import Context
from fpga_ops.importer.graph import Node
from fpga_ops.importer.values import Leaf, Linear, Maximum, Real, UnsupportedError, Value
from fpga_ops.importer.windows import output_size, window_of
from fpga_ops.ir.exact import Dyadics
from fpga_ops.ir.network import Tensor


def global_average(context: Context, node: Node) -> Value:
    """GlobalAveragePool, or a mean over height and width."""
    value, source = context.leaf(node)
    if value.flat:
        raise UnsupportedError("its input must be [N, C, H, W]")
    flat = False
    if node.operator == "ReduceMean":
        given = context.constant(node, 1)
        axes = node.integers("axes") if given is None else tuple(int(axis) for axis in given.reshape(-1).tolist())
        if sorted(axis % 4 for axis in axes if -4 <= axis < 4) != [2, 3] or len(axes) != 2:
            raise UnsupportedError(f"a mean over axes {axes} is not supported; [2, 3] (height and width) is")
        flat = not node.integer("keepdims", 1)
    return _mean(value, source, flat, node)


def _mean(value: Real, source: Tensor, flat: bool, node: Node) -> Real:
    scale = per_channel(Dyadics.of([source.scale]), source.channels, "scale")
    nothing = per_channel(None, source.channels, "bias")
    form = Linear(source.name, None, scale, nothing, divisor=source.height * source.width)
    return Real(form, (1, 1, source.channels), flat, nodes=(*value.nodes, node.name))


def average_pool(context: Context, node: Node) -> Value:
    """AveragePool: over the whole map the global mean, else a depthwise convolution with equal weights."""
    value, source = context.leaf(node)
    kernel = node.integers("kernel_shape")
    if value.flat or len(kernel) != 2 or min(kernel) < 1:
        raise UnsupportedError("only two-dimensional pools are supported")
    if node.integers("dilations", (1, 1)) != (1, 1):
        raise UnsupportedError("dilations are not supported")
    size = (source.height, source.width)
    window = (kernel[0], kernel[1])
    strides, pads = window_of(node, window, size)
    if node.integer("ceil_mode", 0) and pads != window_of(node, window, size, ceil=False)[1]:
        raise UnsupportedError(
            f"ceil_mode takes windows that reach out of the {size[0]}x{size[1]} map, whose average is over fewer "
            "pixels; an input whose size the strides divide has none"
        )
    out = output_size(size, window, strides, pads)
    if window == (1, 1) and strides == (1, 1) and not any(pads):
        return replace(value, nodes=(*value.nodes, node.name))
    if window == size and not any(pads):
        return _mean(value, source, False, node)
    if any(pads) and not node.integer("count_include_pad", 0):
        raise UnsupportedError("padding that does not count in the average is not supported")
    if window[0] * window[1] * source.channels > 2**26:
        raise UnsupportedError("the window is too large")
    form = Linear(
        source.name, np.ones((source.channels, *window, 1), np.int8),
        per_channel(Dyadics.of([source.scale]), source.channels, "scale"), per_channel(None, source.channels, "bias"),
        strides, (pads[0], pads[1], pads[2], pads[3]), source.channels, window[0] * window[1],
    )  # fmt: skip
    return Real(form, (*out, source.channels), False, nodes=(*value.nodes, node.name))


def max_pool(context: Context, node: Node) -> Value:
    """MaxPool without indices; bounds applied before it may as well be applied after it."""
    value = context.real(node)
    if not isinstance(value.form, Leaf):
        raise UnsupportedError("its input is not quantised: QuantizeLinear and DequantizeLinear are missing")
    source = context.tensors[value.form.source]
    kernel = node.integers("kernel_shape")
    if value.flat or len(kernel) != 2 or min(kernel) < 1:
        raise UnsupportedError("only two-dimensional pools are supported")
    if node.integers("dilations", (1, 1)) != (1, 1):
        raise UnsupportedError("dilations are not supported")
    if len([name for name in node.outputs if name]) > 1:
        raise UnsupportedError("the indices of the maxima are not supported")
    size = (source.height, source.width)
    window = (kernel[0], kernel[1])
    strides, pads = window_of(node, window, size)
    if any(pads[axis] >= window[axis % 2] for axis in range(4)):
        raise UnsupportedError(f"pads {pads} are as large as the window: some windows would be empty")
    out = output_size(size, window, strides, pads)
    form = Maximum(source.name, window, strides, (pads[0], pads[1], pads[2], pads[3]))
    return replace(value, form=form, shape=(*out, source.channels), nodes=(*value.nodes, node.name))
