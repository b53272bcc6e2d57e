"""Parts of a graph as models of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from fpga_ops.importer.graph import Graph, Node
from fpga_ops.ir.network import IntegerNetwork


def extract(
    graph: Graph,
    nodes: Iterable[Node],
    inputs: Sequence[str],
    outputs: Sequence[str],
    network: IntegerNetwork | None = None,
) -> onnx.ModelProto:
    """A model of some nodes of a graph, with the weights they need.

    Args:
        graph: The whole graph.
        nodes: In order.
        inputs: Graph inputs, or tensors of `network`, that the nodes read.
        outputs: Tensors handed out.
        network: Describes those inputs that are quantised tensors.
    """
    source = graph.model
    model = onnx.ModelProto(ir_version=source.ir_version, producer_name="fpga_ops")
    model.opset_import.extend(source.opset_import)
    model.graph.name = source.graph.name or "part"
    chosen = list(nodes)
    model.graph.node.extend(node.proto for node in chosen)
    used = {name for node in chosen for name in node.reads} | set(outputs)
    model.graph.initializer.extend(graph.initializers[name] for name in sorted(used & graph.initializers.keys()))
    for name in inputs:
        if name in graph.inputs:
            model.graph.input.append(graph.inputs[name])
        elif network is not None:
            tensor = network.tensors[name]
            kind = onnx.TensorProto.INT8 if name in network.signed else onnx.TensorProto.UINT8
            shape = [tensor.channels] if tensor.flat else [tensor.channels, tensor.height, tensor.width]
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, ["batch", *shape]))
    known = {value.name: value for value in source.graph.output}
    for name in outputs:
        model.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    return model
