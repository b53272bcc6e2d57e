"""Numbers that vary along channels alone, and how they go into the scales, bias and signs of a linear step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fpga_ops.importer.context import Context
from fpga_ops.importer.graph import Node
from fpga_ops.importer.values import Leaf, Linear, Real, UnsupportedError
from fpga_ops.ir.exact import Dyadics
from fpga_ops.ir.network import Tensor


def per_channel(values: Dyadics | None, channels: int, what: str) -> Dyadics:
    """One number for each channel; zeros if nothing was given."""
    if values is None:
        return Dyadics.of(np.zeros(channels))
    if values.mantissas.size not in (1, channels):
        raise UnsupportedError(f"its {what} must be one for each of {channels} channels, got {values.mantissas.size}")
    return Dyadics(np.broadcast_to(values.mantissas, (channels,)), values.exponent)


def channel_vector(context: Context, node: Node, position: int, value: Real) -> Dyadics:
    """A constant operand that varies along channels at most, as `[C]` or one number."""
    values, exact = context.constant(node, position), context.exact(node, position, "constant")
    if values is None or exact is None:
        raise UnsupportedError("an operand is missing")
    channels = value.shape[2]
    rank = 2 if value.flat else 4
    shape = (1,) * max(0, rank - values.ndim) + values.shape
    if len(shape) != rank or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        raise UnsupportedError(f"its constant of shape {values.shape} does not vary along channels alone")
    if shape[1] not in (1, channels):
        raise UnsupportedError(f"its constant of shape {values.shape} does not fit {channels} channels")
    return exact


def affine(value: Real, factor: Dyadics | None, offset: Dyadics | None, tensors: Mapping[str, Tensor]) -> Real:
    """`value * factor[c] + offset[c]`: into the scales and bias of a layer, or as a depthwise 1x1 convolution."""
    channels = value.shape[2]
    multiply = per_channel(Dyadics.of([1.0]) if factor is None else factor, channels, "factor")
    shift = per_channel(offset, channels, "offset")
    if value.clipped:
        raise UnsupportedError("it follows a ReLU or Clip that is not quantised")
    form = value.form
    if isinstance(form, Leaf):
        if value.flat and value.shape[:2] != (1, 1):
            raise UnsupportedError("it works on a flattened map")
        source = tensors[form.source]
        scale = per_channel(Dyadics.of([source.scale]), channels, "scale")
        nothing = per_channel(None, channels, "bias")
        form = Linear(source.name, np.ones((channels, 1, 1, 1), np.int8), scale, nothing, groups=channels)
    if not isinstance(form, Linear):
        raise UnsupportedError("it follows an operator whose result is not quantised")
    return positive(replace(value, form=replace(form, scale=form.scale * multiply, bias=form.bias * multiply + shift)))


def positive(value: Real) -> Real:
    """The same linear form with positive scales: signs go into the weights, and a scale of zero makes them zero."""
    form = value.form
    if not isinstance(form, Linear):
        return value
    sign = np.sign(form.scale.mantissas).astype(np.int16)
    if (sign > 0).all():
        return value
    if form.weights is None:
        raise UnsupportedError("a factor after a mean must be positive")
    signed = form.weights.astype(np.int16) * sign[:, None, None, None]
    if signed.max() > 127:
        raise UnsupportedError("a negative factor meets a weight of -128; use weights of -127 to 127")
    mantissas = np.where(sign == 0, 1, np.abs(form.scale.mantissas))
    scale = Dyadics(mantissas, form.scale.exponent)
    return replace(value, form=replace(form, weights=signed.astype(np.int8), scale=scale))
