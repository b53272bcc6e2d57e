"""Conv, Gemm and MatMul by quantised weights, as linear steps."""

from __future__ import annotations

import math

import numpy as np

from fpga_ops.importer.channels import per_channel, positive
from fpga_ops.importer.context import Context
from fpga_ops.importer.graph import Node
from fpga_ops.importer.values import Linear, QuantisedConstant, Real, UnsupportedError, Value
from fpga_ops.importer.windows import output_size, window_of
from fpga_ops.ir.exact import Dyadics
from fpga_ops.ir.network import Float64Array, Int8Array


def centred_weights(value: Value | None, axis: int) -> tuple[Int8Array, Float64Array]:
    """Weights over zero and their scale per channel of `axis`."""
    if not isinstance(value, QuantisedConstant):
        raise UnsupportedError("its weights are not quantised: int8 weights behind a DequantizeLinear are expected")
    if value.value.dtype not in (np.int8, np.uint8):
        raise UnsupportedError(f"its weights are {value.value.dtype}; int8 is expected")
    if value.axis is not None and value.scale.size > 1 and value.axis != axis:
        raise UnsupportedError(f"its weights have scales along axis {value.axis}; axis {axis} (outputs) is expected")
    scale = np.broadcast_to(value.scale.reshape(-1), (value.value.shape[axis],))
    if value.value.dtype == np.int8 and not value.zero_point.any():
        return value.value.astype(np.int8, copy=False), scale
    centred = value.value.astype(np.int16) - value.along(value.zero_point).astype(np.int16)
    if centred.min(initial=0) < -128 or centred.max(initial=0) > 127:
        raise UnsupportedError("its weights are not symmetric around their zero point; quantise them symmetrically")
    return centred.astype(np.int8), scale


def conv(context: Context, node: Node) -> Value:
    """Conv in two dimensions: any kernel, stride, padding, groups; dilation by zeros between the weights."""
    weights_value = context.operand(node, 1)
    if not isinstance(weights_value, QuantisedConstant):
        raise UnsupportedError("its weights are not quantised: int8 weights behind a DequantizeLinear are expected")
    value, source = context.leaf(node)
    if weights_value.value.ndim != 4 or value.flat:
        raise UnsupportedError("only two-dimensional convolutions are supported")
    weights, scale = centred_weights(weights_value, 0)
    groups = node.integer("group", 1)
    out_channels, group_channels, height, width = weights.shape
    if groups < 1 or groups * group_channels != source.channels or out_channels % groups or not weights.size:
        raise UnsupportedError(
            f"weights of shape {weights.shape} in {groups} groups do not fit {source.channels} input channels"
        )
    if node.integers("kernel_shape", (height, width)) != (height, width):
        raise UnsupportedError(f"kernel_shape differs from the weights' {height}x{width}")
    dilations = node.integers("dilations", (1, 1))
    if len(dilations) != 2 or not all(1 <= step <= 4096 for step in dilations):
        raise UnsupportedError(f"dilations {dilations} are not supported")
    if dilations != (1, 1):
        spread_shape = tuple((size - 1) * step + 1 for size, step in zip((height, width), dilations, strict=True))
        if math.prod(spread_shape) * out_channels * group_channels > 2**28:
            raise UnsupportedError(f"dilations {dilations} make the kernel too large")
        spread = np.zeros((out_channels, group_channels, *spread_shape), np.int8)
        spread[:, :, :: dilations[0], :: dilations[1]] = weights
        weights = spread
    kernel = (weights.shape[2], weights.shape[3])
    strides, pads = window_of(node, kernel, (source.height, source.width))
    out = output_size((source.height, source.width), kernel, strides, pads)
    bias = context.exact(node, 2, "bias")
    if bias is not None and bias.mantissas.size != out_channels:
        raise UnsupportedError(f"its bias must be one for each of {out_channels} channels, got {bias.mantissas.size}")
    form = Linear(
        source.name,
        np.ascontiguousarray(weights.transpose(0, 2, 3, 1)),
        Dyadics.of(scale) * Dyadics.of([source.scale]),
        per_channel(bias, out_channels, "bias"),
        strides,
        (pads[0], pads[1], pads[2], pads[3]),
        groups,
    )
    return Real(form, (*out, out_channels), False, nodes=(*value.nodes, node.name))


def fully_connected(context: Context, node: Node) -> Value:
    """Gemm or MatMul by stored weights: a convolution whose kernel covers the map, read in the file's C, H, W order."""
    gemm = node.operator == "Gemm"
    weights_value = context.operand(node, 1)
    if not isinstance(weights_value, QuantisedConstant) or weights_value.value.ndim != 2:
        raise UnsupportedError("its weights are not a quantised matrix: int8 behind a DequantizeLinear is expected")
    value, source = context.leaf(node)
    if not value.flat or (gemm and node.integer("transA", 0)):
        raise UnsupportedError("its input must be [N, C]; a Flatten is expected before it")
    transposed = gemm and bool(node.integer("transB", 0))
    weights, scale = centred_weights(weights_value, 0 if transposed else 1)
    matrix = weights if transposed else np.ascontiguousarray(weights.T)
    count, length = matrix.shape
    if length != source.size or not count:
        raise UnsupportedError(f"weights of shape {weights.shape} do not fit {source.size} inputs")
    alpha, beta = (node.real("alpha", 1.0), node.real("beta", 1.0)) if gemm else (1.0, 1.0)
    bias = per_channel(_row(context, node, count) if gemm else None, count, "bias")
    kernel = matrix.reshape(count, source.channels, source.height, source.width).transpose(0, 2, 3, 1)
    real_scale = Dyadics.of(scale) * Dyadics.of([source.scale]) * Dyadics.of([alpha])
    form = Linear(source.name, np.ascontiguousarray(kernel), real_scale, bias * Dyadics.of([beta]))
    return positive(Real(form, (1, 1, count), True, nodes=(*value.nodes, node.name)))


def _row(context: Context, node: Node, count: int) -> Dyadics | None:
    """The bias of a Gemm, the same for every row: one of `[M, 1]` or `[M, C]` has numbers for each image."""
    given = context.constant(node, 2)
    if given is not None and given.ndim and given.size != given.shape[-1]:
        raise UnsupportedError(f"its bias of shape {list(given.shape)} is not one for each of {count} outputs")
    return context.exact(node, 2, "bias")
