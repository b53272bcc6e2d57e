"""What is served of a model's file, the integer network aside: all that a `Network` needs, in plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fpga_ops.ir.classifier_head import Head
from fpga_ops.signature import Interface, interface

if TYPE_CHECKING:
    from fpga_ops.importer.partition import Part, Partition


@dataclass(frozen=True)
class Outside:
    """Nodes that onnxruntime runs.

    Attributes:
        model: A serialised ONNX model; empty if there is nothing to run.
        inputs: What it reads.
        outputs: What it makes.
        nodes: Names of its nodes, in order.
    """

    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """A model's file.

    Attributes:
        interface: Its inputs and outputs.
        before: From its inputs to the float tensors that are quantised.
        after: From the integer network's outputs to its outputs.
        head: What does the same as `after` without onnxruntime, if it is a usual one.
        quantised: Float tensor that feeds each input of the integer network.
        device_nodes: Names of the nodes that the integer network stands for.
        signed: Outputs of the integer network that the file holds as int8.
        fingerprint: Of the integer network.
    """

    interface: Interface
    before: Outside
    after: Outside
    head: Head | None
    quantised: dict[str, str]
    device_nodes: tuple[str, ...]
    signed: frozenset[str]
    fingerprint: str


def contents(partition: Partition) -> Contents:
    """What is served of an imported file."""
    from fpga_ops.importer.classifier_head import recognise
    from fpga_ops.ir.fingerprint import fingerprint

    network = partition.network
    return Contents(
        interface(partition.graph), _outside(partition.before), _outside(partition.after),
        recognise(partition.after, network), partition.quantised, partition.device_nodes, network.signed,
        fingerprint(network),
    )  # fmt: skip


def _outside(part: Part) -> Outside:
    model = b""
    if part.model is not None and (
        part.nodes or {*part.outputs} & {tensor.name for tensor in part.model.graph.initializer}
    ):
        model = part.model.SerializeToString()
    return Outside(model, part.inputs, part.outputs, part.nodes)
