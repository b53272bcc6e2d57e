"""What each ONNX operator means for tensors of the integer network: one function per operator, listed in `OPERATORS`.

A function gets a node whose inputs are known and returns the value of its first output. It raises `UnsupportedError`
with the reason if the integer network cannot hold the node; the tensor is then opaque, and the partition decides
whether onnxruntime may make it or the model is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fpga_ops.importer.graph import Array, Node
from fpga_ops.importer.values import (
    Constant,
    Integers,
    Leaf,
    Linear,
    Maximum,
    Opaque,
    QuantisedConstant,
    Real,
    Sum,
    UnsupportedError,
    Value,
)
from fpga_ops.ir.exact import Dyadics
from fpga_ops.ir.network import Float64Array, Int8Array, Tensor


@dataclass(frozen=True)
class Context:
    """What has been found so far.

    Attributes:
        values: By tensor name of the file.
        tensors: Tensors of the integer network.
        batch: Images in a batch if the file fixes it, else None.
    """

    values: Mapping[str, Value]
    tensors: Mapping[str, Tensor]
    batch: int | None

    def operand(self, node: Node, position: int) -> Value | None:
        """The value of an input, None if it was left out."""
        if position >= len(node.inputs) or not node.inputs[position]:
            return None
        return self.values[node.inputs[position]]

    def real(self, node: Node, position: int = 0) -> Real:
        """An input that must be a dequantised tensor or what one step makes of such."""
        value = self.operand(node, position)
        if isinstance(value, Real):
            return value
        if isinstance(value, Integers):
            raise UnsupportedError("it works on integers; a DequantizeLinear is expected before it")
        raise UnsupportedError(f"its input '{node.inputs[position] if position < len(node.inputs) else ''}' "
                               "is not quantised")  # fmt: skip

    def leaf(self, node: Node, position: int = 0) -> tuple[Real, Tensor]:
        """An input that must come straight from a DequantizeLinear."""
        value = self.real(node, position)
        if not isinstance(value.form, Leaf) or value.clipped:
            name = node.inputs[position]
            raise UnsupportedError(f"its input '{name}' is not quantised: QuantizeLinear, DequantizeLinear are missing")
        return value, self.tensors[value.form.source]

    def constant(self, node: Node, position: int) -> Array | None:
        """An input that must be stored in the file, as real numbers; None if it was left out."""
        value = self.operand(node, position)
        if value is None:
            return None
        if isinstance(value, Constant):
            return value.value
        if isinstance(value, QuantisedConstant):
            return value.real()
        raise UnsupportedError(f"its input '{node.inputs[position]}' must be a constant")

    def exact(self, node: Node, position: int, what: str) -> Dyadics | None:
        """As `constant`, without any rounding, flattened; None if it was left out."""
        value = self.operand(node, position)
        if isinstance(value, QuantisedConstant):
            return value.exact()
        given = self.constant(node, position)
        if given is None:
            return None
        if not np.isfinite(np.asarray(given, np.float64)).all():
            raise UnsupportedError(f"its {what} must be finite")
        return Dyadics.of(given)


Handler = Callable[[Context, Node], Value]


def clip_real(value: Real, low: float, high: float, tensors: Mapping[str, Tensor], node: str) -> Real:
    """Apply bounds; bounds that a quantised tensor keeps anyway are dropped."""
    if isinstance(value.form, Leaf):
        tensor = tensors[value.form.source]
        low = -math.inf if low <= -tensor.zero_point * tensor.scale else low
        high = math.inf if high >= (255 - tensor.zero_point) * tensor.scale else high
    if max(value.low, low) > min(value.high, high):
        raise UnsupportedError(f"the bounds {low} to {high} leave nothing")
    return replace(value, low=max(value.low, low), high=min(value.high, high), nodes=(*value.nodes, node))


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


def _per_channel(values: Dyadics | None, channels: int, what: str) -> Dyadics:
    if values is None:
        return Dyadics.of(np.zeros(channels))
    if values.mantissas.size not in (1, channels):
        raise UnsupportedError(f"its {what} must be one for each of {channels} channels, got {values.mantissas.size}")
    return Dyadics(np.broadcast_to(values.mantissas, (channels,)), values.exponent)


def _window(node: Node, kernel: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Strides and pads of a convolution or pool over a map; `auto_pad` and `ceil_mode` worked out."""
    strides = node.integers("strides", (1, 1))
    pads = list(node.integers("pads", (0, 0, 0, 0)))
    if len(strides) != 2 or min(strides) < 1 or len(pads) != 4 or min(pads) < 0:
        raise UnsupportedError(f"strides {strides} and pads {tuple(pads)} are not those of a two-dimensional window")
    auto = node.text("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(2):
            total = max(0, (-(-size[axis] // strides[axis]) - 1) * strides[axis] + kernel[axis] - size[axis])
            pads[axis] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads[axis + 2] = total - pads[axis]
    elif auto == "VALID":
        pads = [0, 0, 0, 0]
    elif auto != "NOTSET":
        raise UnsupportedError(f"auto_pad {auto} is not known")
    if node.integer("ceil_mode", 0):
        for axis in range(2):
            span = size[axis] + pads[axis] + pads[axis + 2] - kernel[axis]
            count = -(-span // strides[axis]) + 1
            if (count - 1) * strides[axis] >= size[axis] + pads[axis]:  # a window all in the padding is not taken
                count -= 1
            pads[axis + 2] += max(0, (count - 1) * strides[axis] - span)
    return (strides[0], strides[1]), tuple(pads)


def _output_size(
    size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...]
) -> tuple[int, int]:
    height, width = (
        (size[axis] + pads[axis] + pads[axis + 2] - kernel[axis]) // strides[axis] + 1 for axis in range(2)
    )
    if height < 1 or width < 1:
        raise UnsupportedError(f"a {kernel[0]}x{kernel[1]} window does not fit a {size[0]}x{size[1]} map")
    return height, width


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
    strides, pads = _window(node, kernel, (source.height, source.width))
    out = _output_size((source.height, source.width), kernel, strides, pads)
    bias = _per_channel(context.exact(node, 2, "bias"), out_channels, "bias")
    form = Linear(
        source.name,
        np.ascontiguousarray(weights.transpose(0, 2, 3, 1)),
        Dyadics.of(scale) * Dyadics.of([source.scale]),
        bias,
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
    bias = _per_channel(context.exact(node, 2, "bias") if gemm else None, count, "bias")
    kernel = matrix.reshape(count, source.channels, source.height, source.width).transpose(0, 2, 3, 1)
    real_scale = Dyadics.of(scale) * Dyadics.of([source.scale]) * Dyadics.of([alpha])
    form = Linear(source.name, np.ascontiguousarray(kernel), real_scale, bias * Dyadics.of([beta]))
    return _positive(Real(form, (1, 1, count), True, nodes=(*value.nodes, node.name)))


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
    scale = _per_channel(Dyadics.of([source.scale]), source.channels, "scale")
    nothing = _per_channel(None, source.channels, "bias")
    form = Linear(source.name, None, scale, nothing, divisor=source.height * source.width)
    return Real(form, (1, 1, source.channels), flat, nodes=(*value.nodes, node.name))


def average_pool(context: Context, node: Node) -> Value:
    """AveragePool: over the whole map the global mean, else a depthwise convolution with equal weights."""
    value, source = context.leaf(node)
    kernel = node.integers("kernel_shape")
    if value.flat or len(kernel) != 2 or min(kernel) < 1:
        raise UnsupportedError("only two-dimensional pools are supported")
    if node.integers("dilations", (1, 1)) != (1, 1) or node.integer("ceil_mode", 0):
        raise UnsupportedError("dilations and ceil_mode are not supported")
    size = (source.height, source.width)
    window = (kernel[0], kernel[1])
    strides, pads = _window(node, window, size)
    out = _output_size(size, window, strides, pads)
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
        _per_channel(Dyadics.of([source.scale]), source.channels, "scale"), _per_channel(None, source.channels, "bias"),
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
    strides, pads = _window(node, window, size)
    if any(pads[axis] >= window[axis % 2] for axis in range(4)):
        raise UnsupportedError(f"pads {pads} are as large as the window: some windows would be empty")
    out = _output_size(size, window, strides, pads)
    form = Maximum(source.name, window, strides, (pads[0], pads[1], pads[2], pads[3]))
    return replace(value, form=form, shape=(*out, source.channels), nodes=(*value.nodes, node.name))


def affine(value: Real, factor: Dyadics | None, offset: Dyadics | None, tensors: Mapping[str, Tensor]) -> Real:
    """`value * factor[c] + offset[c]`: into the scales and bias of a layer, or as a depthwise 1x1 convolution."""
    channels = value.shape[2]
    multiply = _per_channel(Dyadics.of([1.0]) if factor is None else factor, channels, "factor")
    shift = _per_channel(offset, channels, "offset")
    if value.clipped:
        raise UnsupportedError("it follows a ReLU or Clip that is not quantised")
    form = value.form
    if isinstance(form, Leaf):
        if value.flat and value.shape[:2] != (1, 1):
            raise UnsupportedError("it works on a flattened map")
        source = tensors[form.source]
        scale = _per_channel(Dyadics.of([source.scale]), channels, "scale")
        nothing = _per_channel(None, channels, "bias")
        form = Linear(source.name, np.ones((channels, 1, 1, 1), np.int8), scale, nothing, groups=channels)
    if not isinstance(form, Linear):
        raise UnsupportedError("it follows an operator whose result is not quantised")
    return _positive(replace(value, form=replace(form, scale=form.scale * multiply, bias=form.bias * multiply + shift)))


def _positive(value: Real) -> Real:
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


def _channel_vector(context: Context, node: Node, position: int, value: Real) -> Dyadics:
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


def add(context: Context, node: Node) -> Value:
    """Add: of two quantised tensors, or of a constant per channel."""
    if len(node.inputs) != 2:
        raise UnsupportedError("two operands are expected")
    for position in range(2):
        if isinstance(context.operand(node, position), Constant | QuantisedConstant):
            value = context.real(node, 1 - position)
            result = affine(value, None, _channel_vector(context, node, position, value), context.tensors)
            return replace(result, nodes=(*result.nodes, node.name))
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
            result = affine(value, _channel_vector(context, node, position, value), None, context.tensors)
            return replace(result, nodes=(*result.nodes, node.name))
    raise UnsupportedError("a product of two tensors is not supported")


def identity(context: Context, node: Node) -> Value:
    """Identity, and Dropout at inference."""
    value = context.operand(node, 0)
    if value is None or isinstance(value, Opaque):
        raise UnsupportedError("its input is not quantised")
    return replace(value, nodes=(*value.nodes, node.name)) if isinstance(value, Real) else value


def dropout(context: Context, node: Node) -> Value:
    """Dropout, which does nothing at inference."""
    training = context.constant(node, 2)
    if len([name for name in node.outputs if name]) > 1 or (training is not None and bool(training.any())):
        raise UnsupportedError("it is in training mode; export the model for inference")
    return identity(context, node)


def flatten(context: Context, node: Node) -> Value:
    """Flatten, Reshape and Squeeze that make `[N, C]` of `[N, C, H, W]`."""
    value = context.operand(node, 0)
    if isinstance(value, Integers):
        tensor = context.tensors[value.tensor]
        shape, flat = tensor.shape, value.flat
    elif isinstance(value, Real):
        shape, flat = value.shape, value.flat
    else:
        raise UnsupportedError("its input is not quantised")
    if not (flat or _flattens(context, node, shape)):
        raise UnsupportedError("only a change from [N, C, H, W] to [N, C * H * W] is supported")
    if isinstance(value, Integers):
        return replace(value, flat=True)
    if shape[:2] != (1, 1) and not isinstance(value.form, Leaf):
        raise UnsupportedError("its input is not quantised")
    return replace(value, flat=True, nodes=(*value.nodes, node.name))


def _flattens(context: Context, node: Node, shape: tuple[int, int, int]) -> bool:
    if node.operator == "Flatten":
        return node.integer("axis", 1) in (1, -3)
    given = context.constant(node, 1)
    if node.operator == "Squeeze":
        axes = node.integers("axes") if given is None else tuple(int(axis) for axis in given.reshape(-1).tolist())
        return shape[:2] == (1, 1) and sorted(axis % 4 for axis in axes if -4 <= axis < 4) == [2, 3]
    if given is None or given.size != 2 or node.integer("allowzero", 0):
        return False
    rows, columns = (int(size) for size in given.reshape(-1).tolist())
    size = math.prod(shape)
    return (rows in (0, -1, context.batch) and columns == size) or (rows in (0, context.batch) and columns == -1)


OPERATORS: dict[str, Handler] = {
    "Add": add,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Conv": conv,
    "Dropout": dropout,
    "Flatten": flatten,
    "Gemm": fully_connected,
    "GlobalAveragePool": global_average,
    "Identity": identity,
    "MatMul": fully_connected,
    "MaxPool": max_pool,
    "Mul": multiply,
    "ReduceMean": global_average,
    "Relu": relu,
    "Reshape": flatten,
    "Squeeze": flatten,
}
"""Operators that may be part of the integer network, between DequantizeLinear and QuantizeLinear."""
