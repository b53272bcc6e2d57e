"""Walk an ONNX graph once and turn every stretch from DequantizeLinear to QuantizeLinear into steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fpga_ops.errors import ModelError, NoConstantsError
from fpga_ops.importer.context import Context
from fpga_ops.importer.graph import Array, Graph, Node
from fpga_ops.importer.integer_operators import acts_on_integers, expand
from fpga_ops.importer.operators import OPERATORS
from fpga_ops.importer.steps import MAX_TENSOR_BYTES, make_steps
from fpga_ops.importer.values import (
    Constant,
    Failure,
    Integers,
    Leaf,
    Opaque,
    QuantisedConstant,
    Real,
    UnsupportedError,
    Value,
)
from fpga_ops.ir.network import Step, Tensor

ShapeOf = Callable[[str], tuple[int | None, ...] | None]
"""Shape of a float tensor of the file, batch first; None if it cannot be known."""

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "QLinearConv"})
"""Operators that are left to onnxruntime only where nothing quantised follows."""

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Entry:
    """Where floats become integers.

    Attributes:
        tensor: The quantised tensor.
        real: The float tensor of the file that is quantised.
        cause: What stopped the integer network upstream, if it was stopped.
    """

    tensor: str
    real: str
    cause: Failure | None


@dataclass
class Walk:
    """What a walk found.

    Attributes:
        values: What is known of each tensor of the file.
        tensors: Tensors of the integer network.
        entries: Quantised tensors that no step makes, by name.
        steps: Unfused, in order.
        signed: Tensors that the file holds as int8.
        stopped: Convolutions with quantised weights that are no step, and why.
    """

    values: dict[str, Value] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    signed: set[str] = field(default_factory=set)
    stopped: dict[str, Failure] = field(default_factory=dict)


def walk(graph: Graph, shape_of: ShapeOf, batch: int | None) -> Walk:
    """Find all steps of the graph; what cannot be one is left opaque, with the reason.

    Raises:
        ModelError: A scale or zero point is invalid anywhere, or a tensor is absurdly large.
    """
    found = Walk()
    for name, tensor in graph.initializers.items():
        found.values[name] = Constant(numpy_helper.to_array(tensor)) if tensor.data_type != 8 else Opaque()
    for name in graph.inputs:
        found.values[name] = Opaque()
    named = frozenset((*graph.producer, *graph.inputs, *graph.initializers))
    context = Context(found.values, found.tensors, batch, found.steps, named)
    operators = {node.name: node.operator for node in graph.nodes}
    for node in graph.nodes:
        try:
            value = _value(node, found, context, shape_of)
        except NoConstantsError:
            raise
        except ModelError as error:
            if error.operator or error.node not in operators:
                raise
            raise ModelError(error.reason, node=error.node, operator=operators[error.node]) from error
        for position, name in enumerate(node.outputs):
            if name:
                cause = value.cause if isinstance(value, Opaque) else None
                found.values[name] = value if position == 0 else Opaque(cause)
    return found


def _value(node: Node, found: Walk, context: Context, shape_of: ShapeOf) -> Value:
    operands = [found.values[name] for name in node.reads]
    try:
        if node.operator == "QuantizeLinear":
            return _quantise(node, found, context, shape_of)
        if node.operator == "DequantizeLinear":
            return _dequantise(node, found, context)
        if all(isinstance(value, Constant | QuantisedConstant) for value in operands):
            return _fold(node, context)
        if acts_on_integers(node, context):
            return _integer_operator(node, found, context, shape_of)
        if not any(isinstance(value, Integers | Real) for value in operands):
            return _outside(node, found, operands)
        return OPERATORS.get(node.operator, _unsupported)(context, node)
    except UnsupportedError as error:
        causes = [value.cause for value in operands if isinstance(value, Opaque) and value.cause]
        failure = causes[0] if causes else Failure(node.name, node.operator, str(error))
        if node.operator in CONVOLUTIONS:
            found.stopped[node.name] = failure
        return Opaque(failure)


def _integer_operator(node: Node, found: Walk, context: Context, shape_of: ShapeOf) -> Value:
    """An operator on integers, by the nodes it stands for; reasons name the operator of the file."""

    def named(cause: Failure) -> Failure:
        return replace(cause, operator=node.operator) if cause.node == node.name else cause

    expansion = expand(node, context, found.signed)
    context.check_made([*expansion.constants, *(part.outputs[0] for part in expansion.nodes[:-1])])
    found.values.update(expansion.constants)
    value: Value = Opaque()
    for part in expansion.nodes:
        try:
            value = _value(part, found, context, shape_of)
        except ModelError as error:
            raise ModelError(error.reason, node=node.name, operator=node.operator) from error
        found.values[part.outputs[0]] = value
        if isinstance(value, Opaque):
            cause = None if value.cause is None else named(value.cause)
            if node.operator in CONVOLUTIONS:
                reason = f"its input '{node.inputs[0]}' is not quantised by this file"
                found.stopped[node.name] = cause or Failure(node.name, node.operator, reason)
            return Opaque(cause)
    return value


def _unsupported(context: Context, node: Node) -> Value:
    known = ", ".join(sorted(OPERATORS))
    raise UnsupportedError(f"the operator is not supported between quantised tensors; supported are {known}")


def _outside(node: Node, found: Walk, operands: list[Value]) -> Opaque:
    """A node that reads nothing integer; quantised weights are a sign that it should."""
    cause = next((value.cause for value in operands if isinstance(value, Opaque) and value.cause), None)
    if node.operator in CONVOLUTIONS and any(isinstance(value, QuantisedConstant) for value in operands):
        reason = f"its weights are quantised but its input '{node.inputs[0]}' is not"
        cause = cause or Failure(node.name, node.operator, reason)
        found.stopped[node.name] = cause
    return Opaque(cause)


def _quantised_type(node: Node) -> type[np.generic]:
    """What a QuantizeLinear without a zero point makes."""
    given = node.integer("output_dtype", 0)
    known = {0: np.uint8, onnx.TensorProto.UINT8: np.uint8, onnx.TensorProto.INT8: np.int8}
    if given not in known:
        raise UnsupportedError(f"its output_dtype is {given}; uint8 or int8 is expected")
    return known[given]


def _parameters(node: Node, context: Context, integers: type[np.generic] | np.dtype[Any]) -> tuple[Array, Array]:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear, checked; without one it is a zero of `integers`."""
    operands = [context.operand(node, position) for position in (1, 2)]
    scale, zero_point = operands
    if not isinstance(scale, Constant) or not (zero_point is None or isinstance(zero_point, Constant)):
        raise UnsupportedError("its scale and zero point must be constants")
    zero = np.zeros(scale.value.shape, integers) if zero_point is None else zero_point.value
    if scale.value.dtype != np.float32:
        raise UnsupportedError(f"its scale is {scale.value.dtype}; float32 is expected")
    if zero.shape != scale.value.shape and not (zero.size == scale.value.size == 1):
        raise ModelError(
            f"scale of shape {scale.value.shape} and zero point of shape {zero.shape} differ",
            node=node.name,
            operator=node.operator,
        )
    if scale.value.ndim > 1 or node.integer("block_size", 0):
        raise UnsupportedError("scales in blocks are not supported; one per tensor or per channel is")
    # The bias of a dead channel may have a tiny scale, since it is a product; a tensor or weights may not.
    least = 0.0 if zero.dtype == np.int32 else _TINY
    flat = scale.value.astype(np.float64).reshape(-1)
    if not flat.size or not np.isfinite(flat).all() or not (flat > 0).all() or (flat < least).any():
        worst = flat[~(np.isfinite(flat) & (flat > 0) & (flat >= least))][:1]
        raise ModelError(
            f"scale {worst[0] if worst.size else 'missing'} is not a positive, finite, normal float32",
            node=node.name,
            operator=node.operator,
        )
    return scale.value, zero


def _activation_parameters(
    node: Node, context: Context, integers: type[np.generic] | np.dtype[Any]
) -> tuple[float, int, bool]:
    """(scale, zero point as uint8, whether the file holds it as int8)."""
    scale, zero = _parameters(node, context, integers)
    if scale.size != 1:
        raise UnsupportedError("activations must have one scale for the whole tensor")
    if zero.dtype not in (np.uint8, np.int8):
        raise UnsupportedError(f"its zero point is {zero.dtype}; uint8 or int8 is expected")
    signed = zero.dtype == np.int8
    return float(scale.reshape(())), int(zero.reshape(())) + (128 if signed else 0), signed


def _constant_axis(node: Node, values: Array, scale: Array) -> int | None:
    if scale.size == 1:
        return None
    axis = node.integer("axis", 1)
    axis += values.ndim if axis < 0 else 0
    if values.ndim == 1 and axis == 1:
        axis = 0
    if not 0 <= axis < values.ndim or values.shape[axis] != scale.size:
        raise ModelError(
            f"{scale.size} scales do not fit axis {axis} of weights of shape {values.shape}",
            node=node.name,
            operator=node.operator,
        )
    return axis


def _dequantise(node: Node, found: Walk, context: Context) -> Value:
    source = context.operand(node, 0)
    if isinstance(source, Constant):
        scale, zero = _parameters(node, context, source.value.dtype)
        if source.value.dtype not in (np.int8, np.uint8, np.int32):
            raise UnsupportedError(f"its integers are {source.value.dtype}; int8, uint8 or int32 is expected")
        if zero.dtype != source.value.dtype:
            raise ModelError(
                f"its integers are {source.value.dtype}, their zero point is {zero.dtype}",
                node=node.name,
                operator=node.operator,
            )
        axis = _constant_axis(node, source.value, scale)
        flat_scale, flat_zero = scale.astype(np.float64).reshape(-1), zero.astype(np.int64).reshape(-1)
        return QuantisedConstant(source.value, flat_scale, flat_zero, axis)
    made_signed = isinstance(source, Integers) and found.tensors[source.tensor].name in found.signed
    integers = np.int8 if made_signed else np.uint8
    scale_value, zero_point, signed = _activation_parameters(node, context, integers)
    if not isinstance(source, Integers):
        cause = source.cause if isinstance(source, Opaque) else None
        if cause is not None:
            return Opaque(cause)
        raise UnsupportedError("no QuantizeLinear of this file made the integers it reads; give it float32 inputs")
    tensor = found.tensors[source.tensor]
    if (scale_value, zero_point, signed) != (tensor.scale, tensor.zero_point, tensor.name in found.signed):
        raise UnsupportedError(
            f"it has scale {scale_value:.6g} and zero point {zero_point}, but its input was quantised with "
            f"{tensor.scale:.6g} and {tensor.zero_point}"
        )
    return Real(Leaf(tensor.name), tensor.shape, source.flat, nodes=(node.name,))


def _quantise(node: Node, found: Walk, context: Context, shape_of: ShapeOf) -> Value:
    source = context.operand(node, 0)
    if isinstance(source, Constant | QuantisedConstant):
        return _fold_quantise(node, source, context)
    scale, zero_point, signed = _activation_parameters(node, context, _quantised_type(node))
    name = node.outputs[0]
    if isinstance(source, Real):
        if isinstance(source.form, Leaf) and not source.clipped:
            tensor = found.tensors[source.form.source]
            if (tensor.scale, tensor.zero_point, tensor.name in found.signed) == (scale, zero_point, signed):
                return Integers(tensor.name, source.flat)
        if source.flat and source.shape[:2] != (1, 1):
            raise UnsupportedError("a flattened map is quantised with another scale than the map itself")
        output = Tensor(name, *source.shape, scale, zero_point, source.flat)
        _check_size(output, node)
        try:
            stands_for = tuple(dict.fromkeys((*source.nodes, node.name)))
            steps, tensors = make_steps(source, output, found.tensors, stands_for)
        except NoConstantsError as error:
            raise NoConstantsError(error.reason, error.channels, source.nodes or (node.name,)) from error
        except ModelError as error:
            where = source.nodes[-1] if source.nodes else node.name
            raise ModelError(error.reason, node=where) from error
        context.check_made(tensor.name for tensor in tensors if tensor.name != name)
        found.steps.extend(steps)
        found.tensors.update({tensor.name: tensor for tensor in tensors})
    elif isinstance(source, Opaque):
        shape = _entry_shape(shape_of(node.inputs[0]), node)
        output = Tensor(name, *shape[:3], scale, zero_point, shape[3])
        _check_size(output, node)
        found.tensors[name] = output
        found.entries[name] = Entry(name, node.inputs[0], source.cause)
    else:
        raise UnsupportedError("it quantises integers")
    if signed:
        found.signed.add(name)
    return Integers(name, output.flat)


def _check_size(tensor: Tensor, node: Node) -> None:
    if tensor.size > MAX_TENSOR_BYTES or min(tensor.shape) < 1:
        raise ModelError(
            f"tensor '{tensor.name}' of height, width, channels {tensor.shape} is beyond {MAX_TENSOR_BYTES} bytes",
            node=node.name,
            operator=node.operator,
        )


def _entry_shape(shape: tuple[int | None, ...] | None, node: Node) -> tuple[int, int, int, bool]:
    if shape is None or len(shape) not in (2, 4) or any(size is None or size < 1 for size in shape[1:]):
        raise UnsupportedError(
            f"the shape of its input '{node.inputs[0]}' is {shape}; fixed [N, C, H, W] or [N, C] is needed "
            "(only the batch may be dynamic)"
        )
    sizes = [int(size) for size in shape[1:] if size is not None]
    return (1, 1, sizes[0], True) if len(sizes) == 1 else (sizes[1], sizes[2], sizes[0], False)


def _fold_quantise(node: Node, source: Constant | QuantisedConstant, context: Context) -> Value:
    """QuantizeLinear of stored float weights: divided in float32, as by whoever runs the node, and half to even.

    Quantisers scale the largest weight to 127.5, so ties are usual, and float32 decides on which side they end.
    """
    scale, zero = _parameters(node, context, _quantised_type(node))
    values = np.asarray(source.value if isinstance(source, Constant) else source.real(), np.float32)
    if zero.dtype not in (np.int8, np.uint8, np.int32) or not np.isfinite(values).all():
        raise UnsupportedError(f"weights are quantised to {zero.dtype} or are not finite")
    wanted = QuantisedConstant(values, scale.astype(np.float64).reshape(-1), zero.astype(np.int64).reshape(-1),
                               _constant_axis(node, values, scale))  # fmt: skip
    least, most = {"int8": (-128, 127), "uint8": (0, 255), "int32": (-(2**31), 2**31 - 1)}[zero.dtype.name]
    with np.errstate(over="ignore"):
        steps = np.rint(values / wanted.along(wanted.scale).astype(np.float32)).astype(np.float64)
    integers = steps + wanted.along(wanted.zero_point).astype(np.float64)
    return Constant(np.clip(integers, least, most).astype(zero.dtype))


def _fold(node: Node, context: Context) -> Value:
    """Constants computed from constants; only what exporters put around weights."""
    if node.operator == "Constant":
        for name, (kind, convert) in _CONSTANT_ATTRIBUTES.items():
            attribute = node.attribute(name, kind)
            if attribute is not None:
                return Constant(convert(attribute))
        return Opaque()
    value = context.operand(node, 0)
    if node.operator in {"Identity", "Dropout"} and value is not None:
        return value
    if node.operator == "Transpose" and isinstance(value, Constant | QuantisedConstant):
        return _transpose(node, value)
    if node.operator == "Clip" and isinstance(value, Constant):  # of integer weights of fewer than 8 bits
        bounds = [context.constant(node, position) for position in (1, 2)]
        if all(bound is None or (bound.size == 1 and bound.dtype == value.value.dtype) for bound in bounds):
            low, high = (None if bound is None else bound.reshape(()) for bound in bounds)
            return value if low is None and high is None else Constant(np.clip(value.value, low, high))
    if node.operator == "Reshape" and isinstance(value, Constant):
        target = context.operand(node, 1)
        if isinstance(target, Constant) and target.value.ndim == 1:
            wanted = [int(size) for size in target.value.tolist()]
            known = math.prod(size for size in wanted if size > 0)
            if min(wanted, default=1) > 0 and known == value.value.size:
                return Constant(value.value.reshape(wanted))
    if isinstance(value, QuantisedConstant):
        reason = "it works on quantised weights; only Identity, Dropout and Transpose may, and Clip on their integers"
        return Opaque(Failure(node.name, node.operator, reason))
    return Opaque()


_CONSTANT_ATTRIBUTES: dict[str, tuple[onnx.AttributeProto.AttributeType, Callable[[onnx.AttributeProto], Array]]] = {
    "value": (onnx.AttributeProto.TENSOR, lambda attribute: numpy_helper.to_array(attribute.t)),
    "value_float": (onnx.AttributeProto.FLOAT, lambda attribute: np.array(attribute.f, np.float32)),
    "value_int": (onnx.AttributeProto.INT, lambda attribute: np.array(attribute.i, np.int64)),
    "value_floats": (onnx.AttributeProto.FLOATS, lambda attribute: np.array(attribute.floats, np.float32)),
    "value_ints": (onnx.AttributeProto.INTS, lambda attribute: np.array(attribute.ints, np.int64)),
}


def _transpose(node: Node, value: Constant | QuantisedConstant) -> Value:
    rank = value.value.ndim
    order = node.integers("perm", range(rank)[::-1])
    if sorted(order) != list(range(rank)):
        raise UnsupportedError(f"perm {order} does not fit weights of shape {value.value.shape}")
    turned: Array = np.ascontiguousarray(value.value.transpose(order))
    if isinstance(value, Constant):
        return Constant(turned)
    axis = None if value.axis is None else order.index(value.axis)
    return QuantisedConstant(turned, value.scale, value.zero_point, axis)
