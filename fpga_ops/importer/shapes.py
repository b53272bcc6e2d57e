"""Shapes of float tensors where they become integers."""

from __future__ import annotations

import math

import numpy as np
import onnx

from fpga_ops.errors import FpgaOpsError, ModelError
from fpga_ops.importer.graph import Graph
from fpga_ops.importer.subgraph import extract
from fpga_ops.runtime import onnx_parts

MAX_ELEMENTS = 2**31
"""Largest tensor of one image that may appear anywhere in the graph."""


class Shapes:
    """Shapes by declaration, else by ONNX shape inference, else by running one image of zeros.

    Attributes:
        batch: Images in a batch if the file fixes it, else None.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._inferred: dict[str, tuple[int | None, ...]] | None = None
        for name, value in graph.inputs.items():
            declared = _declared(value)
            if not declared:
                how = "as a single number" if declared == () else "without a shape"
                raise ModelError(f"input '{name}' is declared {how}; a tensor with the batch first is expected")
            if value.type.tensor_type.elem_type not in onnx.helper.get_all_tensor_dtypes():
                raise ModelError(f"the file does not say of which type input '{name}' is")
            _check(name, declared)
            if declared[0] == 0:
                raise ModelError(f"input '{name}' has a batch that is fixed at 0: no inference can be made with it")
        batches = {shape[0] for value in graph.inputs.values() if (shape := _declared(value))}
        fixed = sorted(size for size in batches if size is not None)
        if len(fixed) > 1:
            raise ModelError(
                f"the batches of inputs {sorted(graph.inputs)} are fixed at different sizes, {fixed}: one for all is "
                "expected"
            )
        self.batch: int | None = batches.pop() if len(batches) == 1 else None

    def of(self, name: str) -> tuple[int | None, ...] | None:
        """The shape of a float tensor, batch first; None if nothing tells."""
        if name in self._graph.inputs:
            return _declared(self._graph.inputs[name])
        if self._inferred is None:
            self._inferred = self._infer()
        shape = self._inferred.get(name)
        if shape is None or any(size is None for size in shape[1:]):
            return self._probe(name) or shape
        return shape

    def _infer(self) -> dict[str, tuple[int | None, ...]]:
        # Values of weights matter only to shapes that are computed; those are small.
        light = onnx.ModelProto()
        light.ir_version = self._graph.model.ir_version
        light.opset_import.extend(self._graph.model.opset_import)
        source = self._graph.model.graph
        light.graph.name = source.name or "graph"
        light.graph.node.extend(source.node)
        light.graph.input.extend(self._graph.inputs.values())
        light.graph.output.extend(source.output)
        for tensor in source.initializer:
            if math.prod(tensor.dims) <= 64:
                light.graph.initializer.append(tensor)
            else:
                light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        try:
            inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
            raise ModelError(f"shapes cannot be worked out: {onnx_parts.first_line(error)}") from error
        result = {}
        for value in inferred.graph.value_info:
            shape = _declared(value)
            if shape is not None:
                _check(value.name, shape)
                result[value.name] = shape
        return result

    def _probe(self, name: str) -> tuple[int | None, ...] | None:
        nodes, read = self._graph.slice_back([name], ())
        feeds = {}
        for source in read:
            value = self._graph.inputs[source]
            shape = _declared(value)
            if shape is None or any(size is None for size in shape[1:]):
                return None
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feeds[source] = np.zeros([shape[0] or 1, *(size or 1 for size in shape[1:])], dtype)
        model = extract(self._graph, nodes, sorted(read), [name])
        try:
            session = onnx_parts.make_session(model.SerializeToString(), "the part before the integer network")
            return tuple(onnx_parts.run_session(session, [name], feeds)[0].shape)
        except FpgaOpsError:
            return None


def _declared(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        int(axis.dim_value) if axis.HasField("dim_value") and axis.dim_value >= 0 else None for axis in tensor.shape.dim
    )


def _check(name: str, shape: tuple[int | None, ...]) -> None:
    if math.prod(size for size in shape if size is not None) > MAX_ELEMENTS:
        raise ModelError(f"tensor '{name}' has the absurd shape {list(shape)}")
