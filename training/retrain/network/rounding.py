"""Quantisation-aware training: a network that rounds as the served integers will, while its weights still learn.

Weights are rounded per output channel to int8, outputs of layers to uint8; gradients pass through the rounding
unchanged and are zero outside the range (B. Jacob et al., arXiv:1712.05877, section 3). Batch normalisation keeps its
statistics: in the served network it is part of the weights, and a factor per output channel changes nothing about
rounding per output channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from retrain.errors import DataError

LEVELS = 255
SMALLEST_RANGE = 1e-6
PERCENTILE = 0.9999


class RoundedConv2d(nn.Conv2d):  # type: ignore[misc]
    """A convolution whose weights are rounded to int8 per output channel, symmetric, as the quantiser does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """As `nn.Conv2d`."""
        with torch.no_grad():
            scale = self.weight.abs().amax(dim=(1, 2, 3)).clamp_min(SMALLEST_RANGE) / 127.0
            zero = torch.zeros_like(scale, dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(self.weight, scale, zero, 0, -127, 127)
        return self._conv_forward(input, weight, self.bias)


class FrozenBatchNorm2d(nn.BatchNorm2d):  # type: ignore[misc]
    """Batch normalisation that stays in evaluation mode."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stays as it is, whatever the `mode`."""
        super().train(False)
        return self


class _Rounding:
    """A hook that rounds a module's outputs to uint8; a module that is called several times has a range for each."""

    def __init__(self) -> None:
        self._ranges: list[tuple[float, int]] = []
        self._call = 0
        self.watching = True

    def begin(self) -> None:
        """A pass through the network begins."""
        self._call = 0

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        call, self._call = self._call, self._call + 1
        if self.watching:
            if call == len(self._ranges):
                self._ranges.append(_scale_and_zero(output))
            return output
        scale, zero = self._ranges[call]
        return torch.fake_quantize_per_tensor_affine(output.float(), scale, zero, 0, LEVELS).to(output.dtype)


def _scale_and_zero(values: torch.Tensor) -> tuple[float, int]:
    """Scale and zero point of uint8 for values between their percentiles, zero included."""
    ordered = values.detach().float().flatten().sort().values
    tail = min(round((1.0 - PERCENTILE) * len(ordered)), len(ordered) // 2)
    low, high = min(float(ordered[tail]), 0.0), max(float(ordered[-1 - tail]), 0.0)
    scale = max(high - low, SMALLEST_RANGE) / LEVELS
    return scale, round(-low / scale)


@contextmanager
def emulated_rounding(network: nn.Module, inputs: torch.Tensor) -> Iterator[None]:
    """Let a torchvision ResNet round as its served form will, with ranges of activations from `inputs`.

    Inside, forward passes round, and training moves the weights with that; names and shapes of the weights stay.
    `inputs` are float32[N, planes, height, width], a batch of some dozen examples.

    Raises:
        DataError: No inputs.
    """
    if len(inputs) == 0:
        raise DataError("rounding: expected at least one network input")
    kinds: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: RoundedConv2d, nn.BatchNorm2d: FrozenBatchNorm2d}
    changed = [module for module in network.modules() if type(module) in kinds]
    mode, roundings, handles = network.training, [], []
    for module in _with_a_scale(network):
        roundings.append(_Rounding())
        handles.append(module.register_forward_hook(roundings[-1]))
    handles.append(network.register_forward_pre_hook(_begin(roundings)))
    try:
        network.eval()
        with torch.no_grad():
            network(inputs)
        for rounding in roundings:
            rounding.watching = False
        for module in changed:
            module.__class__ = kinds[type(module)]
        network.train(mode)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in changed:
            for plain, own in kinds.items():
                if type(module) is own:
                    module.__class__ = plain
        network.train(mode)


def _begin(roundings: list[_Rounding]) -> Callable[..., None]:
    def begin(*_: Any) -> None:
        for rounding in roundings:
            rounding.begin()

    return begin


def _with_a_scale(network: nn.Module) -> Iterator[nn.Module]:
    """Modules whose outputs the quantiser gives scales: ReLUs, and the two sides of each block's addition."""
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            yield module
        elif isinstance(module, Bottleneck | BasicBlock):
            yield module.bn3 if isinstance(module, Bottleneck) else module.bn2
            if module.downsample is not None:
                yield module.downsample[-1]
