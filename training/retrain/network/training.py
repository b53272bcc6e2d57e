"""Training a network on images with Lightning Fabric: progressive image size, mixed precision, resumable, seeded.

Fabric places the model, the precision and the data on whatever the machine has, one process or many; nothing here
knows of devices.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fpga_ops.calibration import CARD_FILE
from retrain.data.examples import Examples, as_examples
from retrain.data.images import ImageSettings
from retrain.data.jet_table import Jets
from retrain.errors import DataError
from retrain.evaluation.metrics import area_under_curve
from retrain.network.resnet import build_network, load_checkpoint
from retrain.network.resuming import LAST_FILE, State, describe_settings, identity, read_last
from retrain.network.served import SUFFIX, load_served
from retrain.network.settings import Stage, TrainSettings

if TYPE_CHECKING:
    import torch

LOSS_SMOOTHING = 0.98
RANGE_EXAMPLES = 64


@dataclass(frozen=True)
class Progress:
    """What `train` reports after a step; what is of the validation only after one, `auc` only for two classes."""

    stage: Stage
    step: int
    loss: float
    images_per_s: float
    auc: float | None = None
    accuracy: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True)
class _Run:
    """What all stages of a training share."""

    fabric: Any
    settings: TrainSettings
    training: dict[str, Any]
    last: Path
    history: list[dict[str, float]]
    began: float
    """When it would have begun, had it never been stopped, by the clock of `time.perf_counter`."""
    report: Callable[[Progress], None]

    def note(self, progress: Progress) -> None:
        """Report a validation, and keep what training.json says of it."""
        values = {
            "size": progress.stage.size,
            "step": progress.step,
            "loss": progress.loss,
            "validation_loss": progress.validation_loss,
            "validation_accuracy": progress.accuracy,
            "images_per_s": progress.images_per_s,
            "validation_auc": progress.auc,
            "seconds": round(time.perf_counter() - self.began, 1),
        }
        self.history.append({name: value for name, value in values.items() if value is not None})
        self.report(progress)

    def save(self, state: State, network: torch.nn.Module, optimiser: Any, schedule: Any) -> None:
        """Write what a stopped training goes on from."""
        content = {
            "training": self.training,
            "state": asdict(state),
            "history": self.history,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
        }
        self.fabric.save(self.last, content)


def train(
    data: Jets | Examples,
    validation: Jets | Examples,
    settings: TrainSettings,
    folder: Path,
    initial: Path | None = None,
    resume: bool = True,
    report: Callable[[Progress], None] = lambda _: None,
    teacher: Teacher | None = None,
    history: list[dict[str, float]] | None = None,
) -> torch.nn.Module:
    """Train a network; leaves `stage-<size>.pt` weights and a resumable `last.ckpt` in `folder`.

    `initial` is a checkpoint to transfer from, or a quantised ONNX file of `retrain`'s. A `teacher` trained on smaller
    images softens the labels. With `resume`, the `last.ckpt` of the same training is continued. `history` gets an entry
    for each validation, also for those before a stop.

    Raises:
        DataError: No examples, a class is missing, or unusable features.
        CheckpointError: `initial` is of another architecture, or `last.ckpt` of another training: of other settings,
            examples, initial weights or teacher.
    """
    import torch
    from lightning.fabric import Fabric

    examples, held_out = as_examples(data, settings.image), as_examples(validation, settings.image)
    examples.require_all_classes()
    held_out.require_all_classes()
    folder.mkdir(parents=True, exist_ok=True)
    fabric = Fabric(accelerator=settings.accelerator, devices=settings.devices, precision=settings.precision)
    fabric.launch()
    fabric.seed_everything(settings.seed, verbose=False)
    network = build_network(settings.architecture, len(examples.classes))
    if initial is not None and initial.suffix == SUFFIX:
        first = examples.take(slice(0, RANGE_EXAMPLES)).inputs(settings.stages[0].size)
        load_served(network, initial, torch.from_numpy(first))
    elif initial is not None:
        load_checkpoint(network, initial)
    network = network.to(memory_format=torch.channels_last)
    state, last = State(), folder / LAST_FILE
    saved: dict[str, Any] = {}
    history = [] if history is None else history
    training = identity(settings, examples, initial, None if teacher is None else teacher.name)
    if resume and last.exists():
        saved = read_last(fabric, last, training)
        state = State(**saved["state"])
        history[:] = saved["history"]
        network.load_state_dict(saved["network"])
    began = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)
    run = _Run(fabric, settings, training, last, history, began, report)
    for index in range(state.stage, len(settings.stages)):
        if index != state.stage:
            state = State(stage=index)
        stage = settings.stages[index]
        order = batch_order(len(examples), stage, settings.seed)[state.step :, fabric.global_rank :: fabric.world_size]
        source = BatchSource(examples, stage.size, order, teacher)
        with _rounding(network, examples, stage) if settings.rounding else nullcontext():
            if not state.is_given_up(settings.patience):
                _run_stage(run, network, source, held_out, stage, state, saved)
        saved = {}
        fabric.save(folder / f"stage-{stage.size}.pt", network.state_dict())
    return network


def _rounding(network: torch.nn.Module, examples: Examples, stage: Stage) -> AbstractContextManager[None]:
    import torch

    from retrain.network.rounding import emulated_rounding

    return emulated_rounding(network, torch.from_numpy(examples.take(slice(0, RANGE_EXAMPLES)).inputs(stage.size)))


def _run_stage(
    run: _Run,
    network: torch.nn.Module,
    source: BatchSource,
    validation: Examples,
    stage: Stage,
    state: State,
    saved: dict[str, Any],
) -> None:
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader

    fabric, settings = run.fabric, run.settings
    optimiser = torch.optim.AdamW(network.parameters(), stage.learning_rate, weight_decay=settings.weight_decay)
    model, optimiser = fabric.setup(network, optimiser)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, stage.learning_rate, total_steps=stage.steps + 1, pct_start=0.25
    )
    if saved:
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
    # One item is a whole batch, so that the image graph runs once for each.
    batches = fabric.setup_dataloaders(DataLoader(source, batch_size=None), use_distributed_sampler=False)
    validate_every = -(-stage.steps // settings.validations_per_stage)
    images, begin = 0, time.perf_counter()
    model.train()
    for inputs, targets in batches:
        loss = cross_entropy(model(inputs.contiguous(memory_format=torch.channels_last)), targets)
        optimiser.zero_grad(set_to_none=True)
        fabric.backward(loss)
        optimiser.step()
        schedule.step()
        state.step += 1
        images += len(targets) * fabric.world_size
        value = loss.item()
        if not np.isfinite(value):
            raise DataError(f"the loss became {value} at step {state.step} of the {stage.size} pixel stage")
        state.loss = value if np.isnan(state.loss) else LOSS_SMOOTHING * state.loss + (1 - LOSS_SMOOTHING) * value
        rate = images / (time.perf_counter() - begin)
        if state.step % validate_every and state.step != stage.steps:
            run.report(Progress(stage, state.step, state.loss, rate))
            continue
        auc, accuracy, validation_loss = _validate(fabric, network, validation, settings, stage.size)
        better = validation_loss < state.best_loss
        state.best_loss = min(state.best_loss, validation_loss)
        state.bad_validations = 0 if better else state.bad_validations + 1
        run.note(Progress(stage, state.step, state.loss, rate, auc, accuracy, validation_loss))
        run.save(state, network, optimiser, schedule)
        if state.is_given_up(settings.patience):
            return
        begin = time.perf_counter() - images / rate  # validation is not training time


@dataclass(frozen=True)
class Teacher:
    """A trained network whose scores stand for part of each label (G. Hinton et al., arXiv:1503.02531).

    A network trained on many coarse images (of `size` pixels) knows more of a jet than its label says; one of the
    served size, which sees fewer images in the same time, learns faster from it.
    """

    network: torch.nn.Module
    size: int
    weight: float = 0.5
    name: str = "teacher"

    def targets(self, examples: Examples) -> torch.Tensor:
        """Class probabilities float32[N, classes], between the labels and the teacher's scores."""
        import torch

        certain = np.eye(len(examples.classes))[examples.labels]
        scores = (1.0 - self.weight) * certain + self.weight * probabilities(self.network, examples, self.size)
        return torch.from_numpy(scores.astype(np.float32))


class BatchSource:
    """One process's share of each batch of a stage; a map-style data set whose items are whole batches.

    The order is seeded and does not depend on the number of processes; images are made on the fly.
    """

    def __init__(self, examples: Examples, size: int, order: NDArray[np.int64], teacher: Teacher | None = None) -> None:
        self._examples, self._size, self._order, self._teacher = examples, size, order, teacher

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Network inputs float32[B, 1, height, width] and labels int64[B], or the teacher's targets."""
        import torch

        chosen = self._examples.take(self._order[step])
        targets = torch.from_numpy(chosen.labels) if self._teacher is None else self._teacher.targets(chosen)
        return torch.from_numpy(chosen.inputs(self._size)), targets


def split_off(examples: Examples, validation: int) -> tuple[Examples, Examples]:
    """The first `validation` examples, which are held out, and the others.

    Raises:
        DataError: One of the two would be empty.
    """
    if not 0 < validation < len(examples):
        raise DataError(
            f"{len(examples)} examples, of which {validation} are to be held out (--validation): expected some of each"
        )
    return examples.take(slice(0, validation)), examples.take(slice(validation, len(examples)))


def run_training(
    examples: Examples,
    validation: int,
    settings: TrainSettings,
    folder: Path,
    initial: Path | None = None,
    resume: bool = True,
    report: Callable[[Progress, dict[str, float] | None], None] = lambda *_: None,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """`train` with the first `validation` examples held out; writes and returns what training.json holds.

    `report` gets every step, and after a validation also the entry that goes into the history.
    """
    held_out, learnt = split_off(examples, validation)
    history: list[dict[str, float]] = []

    def note(progress: Progress) -> None:
        report(progress, None if progress.validation_loss is None else history[-1])

    train(learnt, held_out, settings, folder, initial, resume, note, teacher, history)
    record = {
        "classes": list(examples.classes),
        "settings": describe_settings(settings),
        "initial": None if initial is None else _initial_record(initial),
        "teacher": None if teacher is None else teacher.name,
        "training_examples": len(learnt),
        "seconds": history[-1]["seconds"],
        "history": history,
    }
    if os.environ.get("LOCAL_RANK", "0") == "0":
        (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _initial_record(checkpoint: Path) -> dict[str, object]:
    """Where the transferred weights come from: the file, and what training.json or a version's card beside it says."""
    record: dict[str, object] = {"file": checkpoint.name}
    card = checkpoint.with_name(CARD_FILE)
    if checkpoint.suffix == SUFFIX and card.is_file():
        told = json.loads(card.read_text(encoding="utf-8"))
        record |= {name: told.get(name) for name in ("model", "version")}
    beside = checkpoint.with_name("training.json")
    if beside.is_file():
        record["training"] = json.loads(beside.read_text(encoding="utf-8"))
    return record


def batch_order(examples: int, stage: Stage, seed: int) -> NDArray[np.int64]:
    """Which examples make each batch of a stage: int64[steps, batch_size], whole permutations one after the other."""
    rng = np.random.default_rng([seed, stage.size])
    wanted = stage.steps * stage.batch_size
    passes = [rng.permutation(examples) for _ in range(-(-wanted // examples))]
    order: NDArray[np.int64] = np.concatenate(passes)[:wanted].reshape(stage.steps, stage.batch_size)
    return order


def _validate(
    fabric: Any, network: torch.nn.Module, examples: Examples, settings: TrainSettings, size: int
) -> tuple[float | None, float, float]:
    """AUC (of two classes), accuracy and mean cross entropy; each process scores an equal share."""
    import torch

    share = min(settings.validation_jets, len(examples)) // fabric.world_size
    own = examples.take(slice(fabric.global_rank * share, (fabric.global_rank + 1) * share))
    scored = torch.from_numpy(probabilities(network, own, size))
    scores = fabric.all_gather(scored).cpu().numpy().reshape(-1, len(examples.classes))
    labels = examples.labels[: len(scores)]
    loss = float(-np.log(np.clip(scores[np.arange(len(scores)), labels], 1e-7, 1.0)).mean())
    auc = area_under_curve(labels == 1, scores[:, 1]) if scores.shape[1] == 2 else None
    return auc, float(np.mean(scores.argmax(axis=1) == labels)), loss


def probabilities(
    network: torch.nn.Module, examples: Examples, size: int, batch_size: int = 100, mixed: bool = True
) -> NDArray[np.float64]:
    """Scores float64[N, classes] of a torch network in evaluation mode; its mode is put back afterwards."""
    import torch

    parts = [scores.softmax(dim=1) for scores in _forward(network, examples, size, batch_size, mixed)]
    values: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
    return values


def features(
    network: torch.nn.Module, examples: Examples, size: int, batch_size: int = 100, mixed: bool = True
) -> NDArray[np.float32]:
    """What the network gives to its head, float32[N, channels], in evaluation mode."""
    import torch
    from torch import nn

    head = network.fc
    network.fc = nn.Identity()
    try:
        values: NDArray[np.float32] = (
            torch.cat(list(_forward(network, examples, size, batch_size, mixed))).cpu().numpy()
        )
    finally:
        network.fc = head
    return values


def _forward(
    network: torch.nn.Module, examples: Examples, size: int, batch_size: int, mixed: bool
) -> Iterator[torch.Tensor]:
    import torch

    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        for first in range(0, len(examples), batch_size):
            inputs = torch.from_numpy(examples.take(slice(first, first + batch_size)).inputs(size)).to(device)
            with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
                yield network(inputs.contiguous(memory_format=torch.channels_last)).float()
    finally:
        network.train(was_training)


def predict(
    network: torch.nn.Module, jets: Jets, image: ImageSettings, batch_size: int = 100, mixed: bool = True
) -> NDArray[np.float64]:
    """Top scores float64[N] of a torch network for jets."""
    size = image.size // image.reduce
    scores: NDArray[np.float64] = probabilities(network, as_examples(jets, image), size, batch_size, mixed)[:, 1]
    return scores
