"""Transfer from a file that is served: where its float weights are gone, its integers still say what they were.

A quantised file has the batch normalisation folded into the convolutions. It is taken out of them again, so that the
network can be trained on: from each convolution's outputs of some inputs follow the statistics, and the scale and shift
are then those that give the file's own outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrain.errors import CheckpointError

if TYPE_CHECKING:
    import onnx
    import torch

SUFFIX = ".onnx"
_HEAD = "fc"


def load_served(network: torch.nn.Module, path: Path, inputs: torch.Tensor) -> list[str]:
    """Copy the weights of a quantised file that `retrain` made into a network of the same architecture.

    In its evaluation mode the network then computes what the file would without rounding its activations. A head of
    another number of classes is left as is.

    Args:
        network: Of `retrain.network.resnet.build_network`, on the CPU.
        path: The ONNX file, of `quantise` or of a model repository.
        inputs: float32[N, 1, size, size], what the first stage trains on: the statistics are of these.

    Returns:
        Names that were left as is.

    Raises:
        CheckpointError: The file cannot be read, or is of another architecture.
    """
    import torch

    weights = _weights(path)
    prefix = next((name.removesuffix(f"{_HEAD}.weight") for name in weights if name.endswith(f"{_HEAD}.weight")), "")
    biases, kept = {}, []
    for name, module in network.named_modules():
        if not isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            continue
        found = [weights.get(f"{prefix}{name}.{part}") for part in ("weight", "bias")]
        shape = tuple(module.weight.shape)
        if name == _HEAD and found[0] is not None and found[0].shape[1:] == shape[1:] and found[0].shape != shape:
            kept += [f"{name}.weight", f"{name}.bias"]
            continue
        if found[0] is None or found[1] is None or found[0].shape != shape:
            there = "nothing" if found[0] is None else f"a shape of {found[0].shape}"
            raise CheckpointError(f"{path}: of another architecture, expected {name}.weight of {shape}, got {there}")
        module.weight.data = torch.from_numpy(found[0])
        if module.bias is not None:
            module.bias.data = torch.from_numpy(found[1])
        else:
            biases[name] = torch.from_numpy(found[1])
    _unfold(network, biases, inputs)
    return kept


def _unfold(network: torch.nn.Module, biases: dict[str, torch.Tensor], inputs: torch.Tensor) -> None:
    """Give each batch normalisation the statistics of its inputs, and the scale and shift that only add the bias."""
    import torch

    modules = dict(network.named_modules())

    def settle(bias: torch.Tensor) -> Any:
        def before(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            variance, mean = torch.var_mean(given[0], dim=(0, 2, 3), unbiased=False)
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)
            module.weight.data = torch.sqrt(variance + module.eps)
            module.bias.data = mean + bias

        return before

    handles = [modules[_normalisation(name)].register_forward_pre_hook(settle(bias)) for name, bias in biases.items()]
    training = network.training
    network.eval()
    with torch.no_grad():
        network(inputs)
    network.train(training)
    for handle in handles:
        handle.remove()


def _normalisation(convolution: str) -> str:
    """The name that torchvision gives the batch normalisation behind a convolution."""
    if convolution.endswith("downsample.0"):
        return f"{convolution.removesuffix('0')}1"
    before, _, number = convolution.rpartition("conv")
    return f"{before}bn{number}"


def _weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The file's parameters by the names that torch gave them, dequantised."""
    import onnx
    from onnx import numpy_helper

    try:
        model = onnx.load(path)
    except Exception as error:  # onnx raises many types for a file that is none of its own
        raise CheckpointError(f"{path}: not a readable ONNX file ({error})") from error
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values = {name: array for name, array in stored.items() if array.dtype == np.float32}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            values[node.output[0]] = _dequantised(node, stored)
    named = dict(values)
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            base = node.input[1].removesuffix("_DequantizeLinear_Output").removesuffix(".weight")
            for part, name in zip(("weight", "bias"), node.input[1:3], strict=False):
                if name in values:
                    named[f"{base}.{part}"] = values[name]
    return named


def _dequantised(node: onnx.NodeProto, stored: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Integers minus their zero point, times their scale, per channel of the node's axis."""
    integers, scale = stored[node.input[0]].astype(np.float64), stored[node.input[1]].astype(np.float64)
    given = len(node.input) > 2 and node.input[2]
    zero = stored[node.input[2]].astype(np.float64) if given else np.zeros_like(scale)
    if scale.size > 1:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if place == axis % integers.ndim else 1 for place in range(integers.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    values: NDArray[np.float32] = ((integers - zero) * scale).astype(np.float32)
    return values
