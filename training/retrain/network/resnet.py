"""torchvision networks for jet images: one input plane, two classes, and transfer from checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.errors import CheckpointError

if TYPE_CHECKING:
    import torch

FIRST_CONVOLUTION, HEAD = "conv1.weight", "fc."


def build_network(architecture: str = "resnet50", classes: int = 2) -> torch.nn.Module:
    """A torchvision ResNet whose first convolution takes one plane.

    The original service copied one plane of pT fractions into three. A convolution over three equal planes is one over
    a single plane with the planes' weights summed, at a third of the work.
    """
    import torchvision
    from torch import nn

    if architecture not in torchvision.models.list_models(include="*res*net*"):
        raise CheckpointError(f"architecture {architecture!r}: expected a ResNet of torchvision, for example resnet50")
    options = {"zero_init_residual": True} if architecture.startswith(("resnet", "resnext", "wide_resnet")) else {}
    network: torch.nn.Module = torchvision.models.get_model(architecture, weights=None, num_classes=classes, **options)
    first = network.conv1
    network.conv1 = nn.Conv2d(1, first.out_channels, first.kernel_size, first.stride, first.padding, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


def load_checkpoint(network: torch.nn.Module, path: Path) -> list[str]:
    """Copy a checkpoint's weights into a network of the same architecture; returns the names that were left as is.

    A three-plane first convolution is summed over its planes. A head of another number of classes is left as is.

    Raises:
        CheckpointError: The file is not a checkpoint, or of another architecture.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is none of its own
        raise CheckpointError(f"{path}: not a readable torch checkpoint ({error})") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors")
    return transfer(network, dict(state), str(path))


def transfer(network: torch.nn.Module, state: dict[str, Any], source: str = "checkpoint") -> list[str]:
    """`load_checkpoint` for tensors already in memory."""
    own = network.state_dict()
    first = state.get(FIRST_CONVOLUTION)
    if first is not None and first.ndim == 4 and first.shape[1] != 1 and own[FIRST_CONVOLUTION].shape[1] == 1:
        state[FIRST_CONVOLUTION] = first.sum(dim=1, keepdim=True)
    kept = [name for name in own if name.startswith(HEAD) and name in state and state[name].shape != own[name].shape]
    for name in kept:
        del state[name]
    missing = sorted(set(own) - set(state) - set(kept))
    surplus = sorted(set(state) - set(own))
    reshaped = sorted(name for name in set(own) & set(state) if own[name].shape != state[name].shape)
    for what, names in (("lacks", missing), ("has the unknown", surplus), ("has another shape of", reshaped)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{source}: of another architecture, it {what} {names[0]}{more}")
    network.load_state_dict(state, strict=False)
    return kept
