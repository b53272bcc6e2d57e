"""onnxruntime for what is left of a graph: small sessions that leave the cores to the device.

Threads that spin between two inferences would take the very cores on which an OpenCL CPU device computes, so there is
one thread and no spinning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from fpga_ops.errors import FpgaOpsError, ModelError
from fpga_ops.network import IntegerNetwork

if TYPE_CHECKING:
    from fpga_ops.importer.graph import Graph, Node

Session: TypeAlias = Any
"""An `onnxruntime.InferenceSession`; the library has no types."""
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


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


def make_session(model: onnx.ModelProto, what: str, threads: int = 1) -> Session:
    """A session for a small part of a model.

    Raises:
        ModelError: onnxruntime does not take it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"onnxruntime refuses {what}: {first_line(error)}") from error


def run_session(session: Session, outputs: Sequence[str], feeds: Arrays) -> list[npt.NDArray[np.generic]]:
    """Run a session.

    Raises:
        FpgaOpsError: onnxruntime failed on these inputs.
    """
    try:
        result: list[npt.NDArray[np.generic]] = session.run(outputs, feeds)
    except Exception as error:
        raise FpgaOpsError(f"onnxruntime failed: {first_line(error)}") from error
    return result


def first_line(error: Exception) -> str:
    """The gist of an error of another library."""
    text = str(error).strip()
    return text.splitlines()[0][:400] if text else type(error).__name__
