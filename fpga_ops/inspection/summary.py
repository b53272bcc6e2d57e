"""What runs where of a model, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fpga_ops.ir.fingerprint import fingerprint
from fpga_ops.ir.network import Add, Conv, IntegerNetwork, MaxPool, Step, sources, step_operations
from fpga_ops.signature import interface

if TYPE_CHECKING:
    from fpga_ops.importer.partition import Partition
    from fpga_ops.inspection.compare import TensorDifference
    from fpga_ops.inspection.judges import Shift


@dataclass(frozen=True)
class Comparison:
    """What `--compare` found: tensor by tensor, and the answers of the whole network and of others."""

    tensors: list[TensorDifference]
    answers: list[Shift]


def summary(partition: Partition, differences: Comparison | None = None) -> dict[str, Any]:
    """What `--json` prints: interface, partition, steps, and the comparison if one was made."""
    network = partition.network
    result: dict[str, Any] = {
        **interface(partition.graph),
        "precision": "int8",
        "partition": {
            "before": list(partition.before.nodes),
            "device": list(partition.device_nodes),
            "after": list(partition.after.nodes),
        },
        "operations": network.operations,
        "weight_bytes": sum(step.weights.size for step in network.steps if isinstance(step, Conv)),
        "network": fingerprint(network),
        "steps": [step_row(network, step) for step in network.steps],
    }
    if differences is not None:
        result["tensors"] = [asdict(entry) for entry in differences.tensors]
        result["answers"] = [asdict(entry) for entry in differences.answers]
        result["logit_shift"] = {"mean": differences.answers[0].mean, "sd": differences.answers[0].sd}
    return result


def step_row(network: IntegerNetwork, step: Step) -> dict[str, Any]:
    """One step as plain data."""
    source, output = network.tensors[sources(step)[0]], network.tensors[step.output]
    row: dict[str, Any] = {
        "name": step.name,
        "step": type(step).__name__,
        "detail": detail(step),
        "input": list(source.shape),
        "output": list(output.shape),
        "operations": step_operations(network, step),
        "nodes": list(step.nodes),
    }
    if isinstance(step, Conv):
        row["weights"] = list(step.weights.shape)
        row["residual"] = step.residual
    return row


def detail(step: Step) -> str:
    """Kernel, stride and the like, as `3x3 /2 g32 + residual`."""
    if isinstance(step, Conv):
        _, height, width, _ = step.weights.shape
        words = [f"{height}x{width}"]
        if step.strides != (1, 1):
            words.append(f"/{step.strides[0]}" if step.strides[0] == step.strides[1] else f"/{step.strides}")
        if step.groups > 1:
            words.append(f"groups {step.groups}")
        if step.residual is not None:
            words.append("+ residual")
        return " ".join(words)
    if isinstance(step, MaxPool):
        return f"{step.kernel[0]}x{step.kernel[1]} /{step.strides[0]}"
    if isinstance(step, Add):
        return "change of scale" if step.first == step.second else ""
    return ""
