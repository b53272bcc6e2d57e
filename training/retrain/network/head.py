"""The classifier alone, trained on features that a network or a device has already made.

"Fine-tuned on the device" means this in the original (J. Duarte et al., arXiv:1904.08986): the features come from the
real hardware, with all it does to them, and only the head behind them learns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrain.errors import DataError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class HeadSettings:
    """Dropout, hidden layers and the output layer; Adam with weight decay. The defaults are the original's."""

    hidden: tuple[int, ...] = (1024,)
    dropout: float = 0.2
    epochs: int = 15
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


def fit_head(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, settings: HeadSettings | None = None
) -> torch.nn.Sequential:
    """A head float32[N, features] -> logits[N, classes], trained; the features' standardisation is its first layer's.

    Raises:
        DataError: Features that are not finite, or not one label a row.
    """
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    if len(features) != len(labels) or not len(labels):
        raise DataError(f"head: {len(labels)} labels for {len(features)} rows of features")
    if not np.isfinite(features).all():
        raise DataError("head: a feature is NaN or infinite")
    settings = settings or HeadSettings()
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    inputs = torch.from_numpy((features - mean) / spread)
    targets = torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        layers: list[nn.Module] = [nn.Dropout(settings.dropout)]
        width = features.shape[1]
        for wide in settings.hidden:
            layers += [nn.Linear(width, wide), nn.ReLU()]
            width = wide
        head = nn.Sequential(*layers, nn.Linear(width, classes))
        optimiser = torch.optim.AdamW(head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        steps = settings.epochs * -(-len(labels) // settings.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=steps + 1)
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(labels)).split(settings.batch_size):
                loss = cross_entropy(head(inputs[rows]), targets[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
    _absorb(head[1], torch.from_numpy(mean), torch.from_numpy(spread))
    return head.eval()


def _absorb(layer: torch.nn.Linear, mean: torch.Tensor, spread: torch.Tensor) -> None:
    """W ((x - mean) / spread) + b as one layer of x."""
    import torch

    with torch.no_grad():
        layer.weight.div_(spread)
        layer.bias.sub_(layer.weight @ mean)


def head_probabilities(head: torch.nn.Module, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores float64[N, classes]."""
    import torch

    with torch.inference_mode():
        values: NDArray[np.float64] = head(torch.from_numpy(features)).softmax(dim=1).double().numpy()
    return values
