"""What a training that was stopped goes on from, and whether that is the same training."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.errors import CheckpointError

if TYPE_CHECKING:
    from retrain.data.examples import Examples
    from retrain.network.settings import TrainSettings

LAST_FILE = "last.ckpt"
_WORDS = {"settings": "settings", "examples": "examples", "initial": "initial weights", "teacher": "teacher"}


@dataclass
class State:
    """Where a training is; what a resumed one continues from."""

    stage: int = 0
    step: int = 0
    loss: float = float("nan")
    best_loss: float = float("inf")
    bad_validations: int = 0

    def is_given_up(self, patience: int | None) -> bool:
        """Whether so many validations in a row were no better that the stage has ended."""
        return patience is not None and self.bad_validations >= patience


def describe_settings(settings: TrainSettings) -> dict[str, Any]:
    """What decides the weights, as plain values: recorded with them, and compared when a training resumes."""
    values = asdict(settings)
    values["stages"] = [asdict(stage) for stage in settings.stages]
    for name in ("devices", "accelerator", "validation_jets", "validations_per_stage", "patience"):
        del values[name]
    return values


def identity(settings: TrainSettings, examples: Examples, initial: Path | None, teacher: str | None) -> dict[str, Any]:
    """What makes a training the same one: its settings, its examples, what it starts from, and its teacher's name."""
    digest = None
    if initial is not None and initial.is_file():  # what is none is said by whoever reads it
        with initial.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "settings": describe_settings(settings),
        "examples": examples.digest(),
        "initial": digest,
        "teacher": teacher,
    }


def read_last(fabric: Any, path: Path, training: dict[str, Any]) -> dict[str, Any]:
    """What `train` saved after its last validation.

    Raises:
        CheckpointError: It is of another training than `training`, an `identity`.
    """
    saved: dict[str, Any] = fabric.load(path)
    known = saved.get("training", {})
    for name, words in _WORDS.items():
        if name not in known or known[name] != training[name]:
            raise CheckpointError(f"{path}: left by a training with other {words}; use another folder or --no-resume")
    return saved
