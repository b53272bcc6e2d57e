"""What decides a training, with its examples."""

from __future__ import annotations

from dataclasses import dataclass, field

from retrain.data.images import ImageSettings


@dataclass(frozen=True)
class Stage:
    """Training at one image size on `images` images in all (examples are repeated when there are fewer)."""

    size: int
    images: int
    batch_size: int = 64
    learning_rate: float = 2e-3

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return max(1, self.images // self.batch_size)


# Two CPU cores: about 40 minutes. Coarse images teach the physics cheaply; the last stage is what is served.
DEFAULT_STAGES = (
    Stage(64, 70_000, 64, 2e-3),
    Stage(112, 55_000, 64, 1e-3),
    Stage(224, 26_000, 32, 5e-4),
)


@dataclass(frozen=True)
class TrainSettings:
    """Everything that, with the examples, decides the weights; `image` holds for jets alone."""

    architecture: str = "resnet50"
    stages: tuple[Stage, ...] = DEFAULT_STAGES
    image: ImageSettings = field(default_factory=ImageSettings)
    seed: int = 0
    weight_decay: float = 1e-2
    precision: str = "bf16-mixed"
    devices: int | str = "auto"
    accelerator: str = "auto"
    validation_jets: int = 2000
    validations_per_stage: int = 4
    patience: int | None = None  # validations without a better loss before a stage stops early
    rounding: bool = (
        False  # emulate the served network's integers (retrain.network.rounding); wants a trained `initial`
    )
