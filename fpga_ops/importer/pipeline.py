"""The steps of an import, in their order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from fpga_ops.errors import ModelError
from fpga_ops.importer.graph import Graph, make_graph
from fpga_ops.importer.integer_operators import QOPERATORS
from fpga_ops.importer.interpret import walk
from fpga_ops.importer.onnx_reader import Origin, read_original
from fpga_ops.importer.partition import Partition, partition
from fpga_ops.importer.passes import optimise
from fpga_ops.importer.shapes import Shapes

HOW_TO_QUANTISE = (
    "quantise it with onnxruntime.quantization.quantize_static(..., quant_format=QuantFormat.QDQ, per_channel=True)"
)
DYNAMIC = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
"""Operators of files that onnxruntime's `quantize_dynamic` writes."""


def import_model(path: str | Path) -> Partition:
    """Read, check, partition and fuse an ONNX file.

    Args:
        path: The `.onnx` file, in QDQ or QOperator form, opset 13 or later.

    Raises:
        ModelError: The file is bad, not quantised, or holds what the integer network cannot: node, operator, reason.
    """
    return import_original(path)[0]


def import_original(path: str | Path) -> tuple[Partition, Origin]:
    """As `import_model`, with the bytes that it read."""
    model, origin = read_original(path)
    return import_proto(model), origin


def import_proto(model: onnx.ModelProto, *, fuse: bool = True) -> Partition:
    """As `import_model`, from a model in memory whose sizes were checked by `onnx_reader.read_model`.

    Args:
        model: The model.
        fuse: Run the passes; tests switch them off to show that they change no bit.
    """
    graph = make_graph(model)
    _check_form(graph)
    shapes = Shapes(graph)
    result = partition(graph, walk(graph, shapes.of, shapes.batch))
    return replace(result, network=optimise(result.network)) if fuse else result


def _check_form(graph: Graph) -> None:
    operators = {node.operator: node for node in reversed(graph.nodes)}
    for name in DYNAMIC:
        if name in operators:
            raise ModelError(
                f"the file is quantised dynamically: its scales are made anew for each input; {HOW_TO_QUANTISE}",
                node=operators[name].name,
                operator=name,
            )
    if not ({"QuantizeLinear"} & operators.keys() and ({"DequantizeLinear", *QOPERATORS} & operators.keys())):
        raise ModelError(f"the model is not quantised: {HOW_TO_QUANTISE}")
