"""Compare an imported network with onnxruntime on the same file, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from fpga_ops.importer.partition import Partition
from fpga_ops.ir import reference
from fpga_ops.ir.network import Float32Array, UInt8Array, sources
from fpga_ops.ir.requantise import quantise
from fpga_ops.runtime import onnx_parts
from fpga_ops.runtime.exact_products import with_exact_products
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorDifference:
    """How a quantised tensor differs from onnxruntime's, in quantisation steps.

    Attributes:
        name: Of the tensor.
        step: Kind of the step that makes it.
        differ: Share of the elements that differ when the step gets onnxruntime's own operands. onnxruntime rounds its
            float32 sums, so it is not exact itself where these end near to a half.
        max: Largest difference then.
        free: Largest difference when the network runs by itself from the same input.
        free_differ: Share of the elements that differ then.
    """

    name: str
    step: str
    differ: float
    max: int
    free: int
    free_differ: float


def compare(partition: Partition, inputs: Mapping[str, Array]) -> list[TensorDifference]:
    """Run every step of a network on onnxruntime's tensors and on its own, and compare.

    onnxruntime runs the file with no optimisation, so that each QuantizeLinear is executed as written.

    Args:
        partition: The imported file.
        inputs: A batch for the file's inputs.
    """
    return list(_compare(partition, inputs))


def _compare(partition: Partition, inputs: Mapping[str, Array]) -> Iterator[TensorDifference]:
    network = partition.network
    theirs, floats = _onnxruntime(partition, inputs)
    free: dict[str, UInt8Array] = {}
    given = dict(theirs)
    for name in network.inputs:
        tensor = network.tensors[name]
        free[name] = quantise(_nhwc(floats[name], *tensor.shape), tensor.scale, tensor.zero_point)
        gap = np.abs(free[name].astype(np.int16) - theirs[name])
        yield TensorDifference(
            name, "input", float((gap > 0).mean()), int(gap.max()), int(gap.max()), float((gap > 0).mean())
        )
    for step in network.steps:
        tensor = network.tensors[step.output]
        free[step.output] = reference.apply(network, step, free)
        own = reference.apply(network, step, given)
        expected = theirs.get(step.output)
        if expected is None:  # made between two tensors of the file: a maximum before its change of scale
            given[step.output] = own
            continue
        forced = np.abs(own.astype(np.int16) - expected)
        gap = np.abs(free[step.output].astype(np.int16) - expected)
        yield TensorDifference(
            tensor.name,
            type(step).__name__ + (" + Add" if getattr(step, "add", None) and len(sources(step)) == 2 else ""),
            float((forced > 0).mean()),
            int(forced.max()),
            int(gap.max()),
            float((gap > 0).mean()),
        )


def onnxruntime_integers(partition: Partition, inputs: Mapping[str, Array]) -> dict[str, UInt8Array]:
    """Quantised tensors as onnxruntime makes them, `uint8[N, H, W, C]` with int8 shifted by 128, by name."""
    return _onnxruntime(partition, inputs)[0]


def _onnxruntime(
    partition: Partition, inputs: Mapping[str, Array]
) -> tuple[dict[str, UInt8Array], dict[str, Float32Array]]:
    """Its quantised tensors, and the float tensors that feed the network's inputs, by the input's name."""
    network, graph = partition.network, partition.graph
    floats = tuple(dict.fromkeys(partition.quantised.values()))
    wanted = [name for name in network.tensors if name in graph.producer]
    from_before = [name for name in floats if name in graph.producer]
    names = [*wanted, *from_before]
    values = dict(zip(names, run_unoptimised(graph.model, names, inputs), strict=True))
    result: dict[str, UInt8Array] = {}
    fed = {
        name: np.asarray(values[real] if real in values else inputs[real], np.float32)
        for name, real in partition.quantised.items()
    }
    for name in wanted:
        value = values[name]
        integers = value.view(np.uint8) ^ np.uint8(128) if value.dtype == np.int8 else value
        result[name] = _nhwc(integers, *network.tensors[name].shape)
    return result, fed


def _nhwc(value: Array, height: int, width: int, channels: int) -> Array:
    return np.ascontiguousarray(value.reshape(len(value), channels, height, width).transpose(0, 2, 3, 1))


def run_unoptimised(model: onnx.ModelProto, names: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
    """Any tensors of a model, each node run by itself as the ONNX specification says."""
    onnxruntime = import_onnxruntime()

    wider = onnx.ModelProto()
    wider.CopyFrom(with_exact_products(model))
    present = {value.name for value in wider.graph.output}
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(wider.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(onnx_parts.run_session(session, names, inputs))
