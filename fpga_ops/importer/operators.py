"""What each ONNX operator means for tensors of the integer network: one function per operator, listed in `OPERATORS`.

A function gets a node whose inputs are known and returns the value of its first output. It raises `UnsupportedError`
with the reason if the integer network cannot hold the node; the tensor is then opaque, and the partition decides
whether onnxruntime may make it or the model is refused.

Functions that make steps are in `convolutions`, `pools` and `elementwise`; those that only change a shape are here.
"""

from __future__ import annotations

import math
from dataclasses import replace

from fpga_ops.importer.context import Context, Handler
from fpga_ops.importer.convolutions import conv, fully_connected
from fpga_ops.importer.elementwise import add, batch_normalization, clip, multiply, relu
from fpga_ops.importer.graph import Node
from fpga_ops.importer.pools import average_pool, global_average, max_pool
from fpga_ops.importer.values import Integers, Joined, Leaf, Opaque, Real, UnsupportedError, Value


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
    """Flatten, Reshape and Squeeze that make `[N, C]` of `[N, C, H, W]`, or leave `[N, C]` as it is."""
    value = context.operand(node, 0)
    if isinstance(value, Integers):
        tensor = context.tensors[value.tensor]
        shape, flat = tensor.shape, value.flat
    elif isinstance(value, Real):
        shape, flat = value.shape, value.flat
    else:
        raise UnsupportedError("its input is not quantised")
    if not _flattens(context, node, shape, 2 if flat else 4):
        raise UnsupportedError("only a change to [N, C * H * W], or none, is supported")
    if isinstance(value, Integers):
        return replace(value, flat=True)
    if shape[:2] != (1, 1) and not isinstance(value.form, Leaf):
        raise UnsupportedError("its input is not quantised")
    return replace(value, flat=True, nodes=(*value.nodes, node.name))


def _flattens(context: Context, node: Node, shape: tuple[int, int, int], rank: int) -> bool:
    if node.operator == "Flatten":
        return node.integer("axis", 1) in (1, 1 - rank)
    given = context.constant(node, 1)
    if node.operator == "Squeeze":
        if rank == 2:
            return False
        axes = node.integers("axes") if given is None else tuple(int(axis) for axis in given.reshape(-1).tolist())
        return shape[:2] == (1, 1) and sorted(axis % 4 for axis in axes if -4 <= axis < 4) == [2, 3]
    if given is None or given.size != 2:
        return False
    rows, columns = (int(size) for size in given.reshape(-1).tolist())
    if node.integer("allowzero", 0) and not (rows and columns):  # then 0 is a size, not the input's own
        return False
    size = math.prod(shape)
    return (rows in (0, -1, context.batch) and columns == size) or (rows in (0, context.batch) and columns == -1)


def concat(context: Context, node: Node) -> Value:
    """Concat along the channels, of quantised tensors; where their scales are not the result's, they are rescaled."""
    operands = [context.leaf(node, position) for position in range(len(node.inputs))]
    value, _ = operands[0]
    rank = 2 if value.flat else 4
    if node.integer("axis", 1) not in (1, 1 - rank):
        raise UnsupportedError("only tensors side by side along the channels, axis 1, are supported")
    if any(other.flat != value.flat or other.shape[:2] != value.shape[:2] for other, _ in operands):
        raise UnsupportedError("its operands differ in height, width or rank")
    if value.flat and value.shape[:2] != (1, 1):
        raise UnsupportedError("it works on flattened maps")
    if len(operands) == 1:
        return replace(value, nodes=(*value.nodes, node.name))
    channels = sum(source.channels for _, source in operands)
    if channels**2 > MOST_PLACES:
        raise UnsupportedError(f"{channels} channels are too many to be placed one by one; at most 4096 are taken")
    form = Joined(tuple(source.name for _, source in operands))
    nodes = tuple(name for other, _ in operands for name in other.nodes)
    return Real(form, (*value.shape[:2], channels), value.flat, nodes=(*nodes, node.name))


MOST_PLACES = 2**24
"""Weights of all the steps that place one Concat's channels."""

OPERATORS: dict[str, Handler] = {
    "Add": add,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Concat": concat,
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
