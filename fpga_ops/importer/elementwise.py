"""What changes each number by itself: bounds, factors and offsets per channel, and the sum of two tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fpga_ops.importer.channels import affine, channel_vector
from fpga_ops.importer.context import Context
from fpga_ops.importer.graph import Node
from fpga_ops.importer.values import Constant, Leaf, QuantisedConstant, Real, Sum, UnsupportedError, Value
from fpga_ops.ir.exact import Dyadics
from fpga_ops.ir.network import Tensor


def relu(context: Context, node: Node) -> Value:
    """Relu: a lower bound."""
    return clip_real(context.real(node), 0.0, math.inf, context.tensors, node.name)


def clip(context: Context, node: Node) -> Value:
    """Clip with constant bounds."""
    bounds = []
    for position, default in ((1, -math.inf), (2, math.inf)):
        given = context.constant(node, position)
        if given is not None and given.size != 1:
            raise UnsupportedError("its bounds must be single numbers")
        bounds.append(default if given is None else float(given.reshape(()).item()))
    if any(math.isnan(bound) for bound in bounds):
        raise UnsupportedError("a bound is NaN")
    return clip_real(context.real(node), bounds[0], bounds[1], context.tensors, node.name)


def clip_real(value: Real, low: float, high: float, tensors: Mapping[str, Tensor], node: str) -> Real:
    """Apply bounds; bounds that a quantised tensor keeps anyway are dropped."""
    if isinstance(value.form, Leaf):
        tensor = tensors[value.form.source]
        low = -math.inf if low <= -tensor.zero_point * tensor.scale else low
        high = math.inf if high >= (255 - tensor.zero_point) * tensor.scale else high
    if max(value.low, low) > min(value.high, high):
        raise UnsupportedError(f"the bounds {low} to {high} leave nothing")
    return replace(value, low=max(value.low, low), high=min(value.high, high), nodes=(*value.nodes, node))


def batch_normalization(context: Context, node: Node) -> Value:
    """BatchNormalization that the exporter left: folded into the layer before it where no QuantizeLinear is between."""
    value = context.real(node)
    if len([name for name in node.outputs if name]) > 1 or node.integer("training_mode", 0):
        raise UnsupportedError("it is in training mode; export the model for inference")
    channels = value.shape[2]
    parameters = []
    for position, what in enumerate(("scale", "bias", "mean", "variance"), 1):
        given = context.constant(node, position)
        if given is None:
            raise UnsupportedError(f"its {what} is missing")
        flat = np.asarray(given, np.float64).reshape(-1)
        if flat.size not in (1, channels) or not np.isfinite(flat).all():
            raise UnsupportedError(f"its {what} must be finite, one for each of {channels} channels")
        parameters.append(np.broadcast_to(flat, (channels,)))
    gamma, beta, mean, variance = parameters
    if (variance < 0).any():
        raise UnsupportedError("a variance is negative")
    with np.errstate(divide="ignore", invalid="ignore"):
        root = gamma / np.sqrt(variance + node.real("epsilon", 1e-5))
    if not np.isfinite(root).all():
        raise UnsupportedError("a variance with its epsilon is zero")
    factor = Dyadics.of(root)  # of a square root there is no exact number: float64's is taken for it
    result = affine(value, factor, Dyadics.of(beta) + Dyadics.of(-mean) * factor, context.tensors)
    return replace(result, nodes=(*result.nodes, node.name))


def add(context: Context, node: Node) -> Value:
    """Add: of two quantised tensors, or of a constant per channel."""
    if len(node.inputs) != 2:
        raise UnsupportedError("two operands are expected")
    for position in range(2):
        if isinstance(context.operand(node, position), Constant | QuantisedConstant):
            value = context.real(node, 1 - position)
            result = affine(value, None, channel_vector(context, node, position, value), context.tensors)
            return replace(result, nodes=(*result.nodes, node.name))
    for position in range(2):
        value = context.real(node, position)
        if not isinstance(value.form, Leaf):
            raise UnsupportedError(
                f"its operand '{node.inputs[position]}' is not quantised, as in files made for TensorRT or oneDNN: "
                f"QuantizeLinear and DequantizeLinear are missing behind node '{value.nodes[-1]}'"
            )
    first, _ = context.leaf(node, 0)
    second, _ = context.leaf(node, 1)
    if first.shape != second.shape or first.flat != second.flat:
        raise UnsupportedError(f"its operands' shapes {first.shape} and {second.shape} differ")
    if not isinstance(first.form, Leaf) or not isinstance(second.form, Leaf):
        raise UnsupportedError("its operands are not quantised")
    nodes = (*first.nodes, *second.nodes, node.name)
    return Real(Sum(first.form.source, second.form.source), first.shape, first.flat, nodes=nodes)


def multiply(context: Context, node: Node) -> Value:
    """Mul by a constant per channel."""
    for position in range(2):
        if isinstance(context.operand(node, position), Constant | QuantisedConstant):
            value = context.real(node, 1 - position)
            result = affine(value, channel_vector(context, node, position, value), None, context.tensors)
            return replace(result, nodes=(*result.nodes, node.name))
    raise UnsupportedError(
        "a product of two tensors, as of SiLU and squeeze-and-excitation, is not supported; "
        "take a network with ReLU, or ReLU6, and without attention"
    )
