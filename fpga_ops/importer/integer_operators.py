"""Operators that read and write integers, as the nodes from DequantizeLinear to QuantizeLinear that they stand for.

Three kinds: the operators of QOperator files (QLinearConv and others: operands and result have scale and zero point
beside them), Clip between QuantizeLinear and DequantizeLinear (QCDQ: fewer than 8 bits or a narrow range), and
operators that only choose or move integers (MaxPool, Relu, Concat), which files of either form put there. The nodes
made here carry the name of the node they stand for, and only the walk sees them: what onnxruntime runs is the file's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from fpga_ops.importer.context import Context
from fpga_ops.importer.graph import Array, Node
from fpga_ops.importer.values import Constant, Integers, QuantisedConstant, UnsupportedError, Value
from fpga_ops.ir.network import Tensor

Positions = tuple[int, int, int]
"""Positions of integers, scale and zero point among a node's inputs."""


@dataclass(frozen=True)
class _Form:
    """How a QOperator is laid out.

    Attributes:
        operator: What it computes on real numbers.
        operands: Where these are.
        result: Positions of the result's scale and zero point.
        bias: Position of the int32 bias, in steps of the product of the operands' scales.
    """

    operator: str
    operands: tuple[Positions, ...]
    result: tuple[int, int]
    bias: int | None = None


_BINARY: tuple[Positions, ...] = ((0, 1, 2), (3, 4, 5))
_UNARY: tuple[Positions, ...] = ((0, 1, 2),)
QOPERATORS: Mapping[str, _Form] = {
    "QLinearConv": _Form("Conv", _BINARY, (6, 7), bias=8),
    "QLinearMatMul": _Form("MatMul", _BINARY, (6, 7)),
    "QGemm": _Form("Gemm", _BINARY, (7, 8), bias=6),
    "QLinearAdd": _Form("Add", _BINARY, (6, 7)),
    "QLinearMul": _Form("Mul", _BINARY, (6, 7)),
    "QLinearAveragePool": _Form("AveragePool", _UNARY, (3, 4)),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", _UNARY, (3, 4)),
    "QLinearReduceMean": _Form("ReduceMean", _UNARY, (3, 4)),
    "QLinearConcat": _Form("Concat", (), (0, 1)),
}
"""Operators of QOperator files that have a meaning here."""
ON_INTEGERS = frozenset({"Clip", "Concat", "MaxPool", "Relu"})
"""Operators that act on integers as on the numbers which they stand for, or, Clip and Relu, bound them."""


@dataclass
class Expansion:
    """Nodes in order, the last of which makes the node's first output, and constants that only these read."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Value] = field(default_factory=dict)


def acts_on_integers(node: Node, context: Context) -> bool:
    """Whether `expand` has something to say of a node."""
    if node.operator in QOPERATORS:
        return True
    return node.operator in ON_INTEGERS and isinstance(context.operand(node, 0), Integers)


def expand(node: Node, context: Context, signed: set[str]) -> Expansion:
    """The nodes for which `acts_on_integers` holds, in QDQ form.

    Args:
        node: The node.
        context: What is known of its inputs.
        signed: Tensors that the file holds as int8.

    Raises:
        UnsupportedError: It has a layout or bounds without a meaning here.
    """
    if node.operator in QOPERATORS:
        return _qoperator(node, context, QOPERATORS[node.operator])
    return _on_integers(node, context, signed)


def _qoperator(node: Node, context: Context, form: _Form) -> Expansion:
    if node.integer("channels_last", 0):
        raise UnsupportedError("channels_last is not supported; NCHW is, as onnxruntime's quantiser writes it")
    made = Expansion()
    operands = form.operands or tuple((first, first + 1, first + 2) for first in range(2, len(node.inputs), 3))
    names = [_dequantised(made, node, context, form, place) for place in operands]
    if form.bias is not None and _given(node, form.bias):
        names.append(_bias(made, node, context, form.bias))
    attributes = list(node.proto.attribute)
    if form.operator == "Gemm":  # the bias is scaled by alpha as the product is
        attributes.append(helper.make_attribute("beta", node.real("alpha", 1.0)))
    result = node.outputs[0]
    if not _given(node, form.result[0]):
        if form.operator != "Gemm":
            raise UnsupportedError("the scale of its result is missing")
        made.nodes.append(_node(node, form.operator, names, result, attributes))
        return made
    made.nodes.append(_node(node, form.operator, names, f"{result}:real", attributes))
    ends = [f"{result}:real", *(node.inputs[p] if _given(node, p) else "" for p in form.result)]
    made.nodes.append(_node(node, "QuantizeLinear", ends, result))
    return made


def _given(node: Node, position: int) -> bool:
    return position < len(node.inputs) and bool(node.inputs[position])


def _dequantised(made: Expansion, node: Node, context: Context, form: _Form, at: Positions) -> str:
    """A DequantizeLinear of one operand; scales of weights are along their outputs, one zero point may serve all."""
    axis = 0 if form.operator == "Conv" or (form.operator == "Gemm" and node.integer("transB", 0)) else 1
    name = f"{node.outputs[0]}:operand{at[0]}"
    inputs = [node.inputs[position] if _given(node, position) else "" for position in at]
    scale, zero = (context.operand(node, position) for position in at[1:])
    if isinstance(scale, Constant) and isinstance(zero, Constant) and zero.value.size == 1 < scale.value.size:
        inputs[2] = f"{name}:zero"
        made.constants[inputs[2]] = Constant(np.broadcast_to(zero.value.reshape(()), scale.value.shape))
    made.nodes.append(_node(node, "DequantizeLinear", inputs, name, [helper.make_attribute("axis", axis)]))
    return name


def _bias(made: Expansion, node: Node, context: Context, position: int) -> str:
    """The bias in steps of the product of the scales, which float64 holds exactly."""
    bias = context.constant(node, position)
    scales = [context.constant(node, at) for at in (1, 4)]
    if bias is None or any(scale is None for scale in scales):
        raise UnsupportedError("a scale is missing")
    if bias.dtype != np.int32 or bias.ndim != 1:
        raise UnsupportedError(f"its bias is {bias.dtype}{list(bias.shape)}; int32, one per channel, is expected")
    product = np.ones(1, np.float64)
    for scale in scales:
        product = product * np.asarray(scale, np.float64).reshape(-1)
    if product.size not in (1, bias.size):
        raise UnsupportedError(f"{product.size} scales do not fit a bias of {bias.size} channels")
    name = f"{node.outputs[0]}:bias"
    axis = 0 if product.size > 1 else None
    made.constants[name] = QuantisedConstant(bias, product, np.zeros(product.size, np.int64), axis)
    return name


def _on_integers(node: Node, context: Context, signed: set[str]) -> Expansion:
    """With the scale of the integers it reads, before it and after it; bounds in real numbers are exact in float64."""
    made = Expansion()
    result = node.outputs[0]
    names = []
    operands = node.inputs if node.operator == "Concat" else node.inputs[:1]
    kinds: dict[tuple[float, int, bool], Tensor] = {}
    for position, name in enumerate(operands):
        value = context.operand(node, position)
        if not isinstance(value, Integers):
            raise UnsupportedError(f"its input '{name}' is not quantised")
        tensor = context.tensors[value.tensor]
        kinds[tensor.scale, tensor.zero_point, tensor.name in signed] = tensor
        names.append(f"{result}:operand{position}")
        made.nodes.append(_node(node, "DequantizeLinear", [name, *_parameters(made, node, tensor, signed)], names[-1]))
    if len(kinds) > 1:
        raise UnsupportedError(
            "it joins integers of several scales as if they were of one; a DequantizeLinear is expected before it"
        )
    (tensor,) = kinds.values()
    zero = tensor.zero_point - (128 if tensor.name in signed else 0)
    attributes = list(node.proto.attribute)
    operator = node.operator
    if operator in ("Clip", "Relu"):
        operator = "Clip"
        bounds: list[Array | None] = [np.zeros(1, np.int64), None]
        if node.operator == "Clip":
            bounds = [context.constant(node, position) for position in (1, 2)]
        for which, bound in zip(("least", "most"), bounds, strict=True):
            if bound is not None and (bound.size != 1 or bound.dtype.kind not in "iu"):
                raise UnsupportedError("its bounds must be single integers")
            if bound is None:
                names.append("")
                continue
            names.append(f"{result}:{which}")
            made.constants[names[-1]] = Constant(np.array((int(bound.reshape(())) - zero) * tensor.scale))
    made.nodes.append(_node(node, operator, names, f"{result}:real", attributes))
    ends = [f"{result}:real", *_parameters(made, node, tensor, signed)]
    made.nodes.append(_node(node, "QuantizeLinear", ends, result))
    return made


def _parameters(made: Expansion, node: Node, tensor: Tensor, signed: set[str]) -> tuple[str, str]:
    """Names of the scale and zero point of a tensor, as the file has them."""
    names = f"{node.outputs[0]}:{tensor.name}:scale", f"{node.outputs[0]}:{tensor.name}:zero"
    held = tensor.name in signed
    zero = np.int8(tensor.zero_point - 128) if held else np.uint8(tensor.zero_point)
    made.constants[names[0]] = Constant(np.array(tensor.scale, np.float32))
    made.constants[names[1]] = Constant(np.array(zero))
    return names


def _node(
    node: Node,
    operator: str,
    inputs: list[str],
    output: str,
    attributes: list[onnx.AttributeProto] | None = None,
) -> Node:
    """One node of an expansion."""
    outputs = [output, *(node.outputs[1:] if operator == node.operator else ())]
    proto = helper.make_node(operator, inputs, outputs, name=node.name)
    proto.attribute.extend(attributes or ())
    return Node(node.name, operator, tuple(inputs), tuple(outputs), (), proto)
