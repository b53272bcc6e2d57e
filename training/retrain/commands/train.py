"""Train a network on jets, or on neutrino pixel maps, that `triton-fpga data` made.

For pixel maps the size is the number of rows, 100, 50 or 25, and --initial is a network that was trained on jets.
Stages go from coarse, cheap images to the size that is served. A training that was stopped goes on from its last
validation when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrain.training import Stage, Teacher, TrainSettings


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga train`."""
    parser.add_argument("data", type=Path, nargs="+", help="files of jets or maps, or folders of them")
    parser.add_argument("--task", choices=("jets", "neutrinos"), default="jets", help="default %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and training.json")
    parser.add_argument("--architecture", default="resnet50", help="a ResNet of torchvision (default %(default)s)")
    parser.add_argument(
        "--stage",
        action="append",
        metavar="SIZE:IMAGES:BATCH:RATE",
        help="one stage, for example 224:26000:32:5e-4; give it once a stage (default: 64, 112 and 224 pixels)",
    )
    parser.add_argument("--initial", type=Path, default=None, help="checkpoint to transfer from (one plane or three)")
    parser.add_argument(
        "--teacher",
        default=None,
        metavar="CHECKPOINT:SIZE",
        help="a network trained on images of that size, whose scores make half of each label",
    )
    parser.add_argument("--seed", type=int, default=0, help="weights, order and split (default %(default)s)")
    parser.add_argument("--validation", type=int, default=2000, help="examples held out (default %(default)s)")
    parser.add_argument("--patience", type=int, default=None, help="validations without progress that end a stage")
    parser.add_argument("--precision", default="bf16-mixed", help="of Lightning Fabric (default %(default)s)")
    parser.add_argument("--devices", default="auto", help="of Lightning Fabric: a number, or auto")
    parser.add_argument("--accelerator", default="auto", help="of Lightning Fabric: cpu, cuda, mps or auto")
    parser.add_argument("--no-resume", action="store_true", help="begin anew even where last.ckpt exists")
    parser.add_argument("--json", action="store_true", help="print one JSON line a validation, no progress bar")


def parse_stage(text: str) -> Stage:
    """A stage from `size:images:batch:rate`."""
    from retrain.errors import DataError
    from retrain.training import Stage

    try:
        size, images, batch, rate = text.split(":")
        return Stage(int(size), int(images), int(batch), float(rate))
    except ValueError as error:
        raise DataError(f"--stage {text}: expected SIZE:IMAGES:BATCH:RATE, for example 224:26000:32:5e-4") from error


def read_teacher(text: str, settings: TrainSettings) -> Teacher:
    """The teacher of `checkpoint:size`, of the same architecture."""
    from retrain.errors import DataError
    from retrain.network import build_network, load_checkpoint
    from retrain.training import Teacher

    checkpoint, _, size = text.rpartition(":")
    if not checkpoint or not size.isdecimal():
        raise DataError(f"--teacher {text}: expected CHECKPOINT:SIZE, for example run/stage-64.pt:64")
    network = build_network(settings.architecture)
    load_checkpoint(network, Path(checkpoint))
    return Teacher(network, int(size))


def initial_record(checkpoint: Path) -> dict[str, object]:
    """Where the transferred weights come from: the file, and the training.json beside it if there is one."""
    record: dict[str, object] = {"file": checkpoint.name}
    beside = checkpoint.with_name("training.json")
    if beside.is_file():
        record["training"] = json.loads(beside.read_text(encoding="utf-8"))
    return record


def run(args: argparse.Namespace) -> int:
    """Train, and record what was done in training.json."""
    from retrain.commands.progress import progress_bar
    from retrain.tasks import TASKS
    from retrain.training import Progress, TrainSettings, describe_settings, train

    task = TASKS[args.task]

    settings = TrainSettings(
        architecture=args.architecture,
        stages=tuple(parse_stage(text) for text in args.stage) if args.stage else task.stages,
        seed=args.seed,
        precision=args.precision,
        devices=int(args.devices) if args.devices.isdigit() else args.devices,
        accelerator=args.accelerator,
        validation_jets=args.validation,
        patience=args.patience,
    )
    examples = task.read(args.data, args.seed)
    held_out = examples.take(slice(0, args.validation))
    training = examples.take(slice(args.validation, len(examples)))
    history: list[dict[str, float]] = []
    begin = time.perf_counter()
    done = {stage.size: 0 for stage in settings.stages}
    silent = args.json or os.environ.get("LOCAL_RANK", "0") != "0"  # Fabric starts this command once a process
    with progress_bar("training images", sum(s.steps * s.batch_size for s in settings.stages), silent) as advance:

        def report(progress: Progress) -> None:
            advance((progress.step - done[progress.stage.size]) * progress.stage.batch_size)
            done[progress.stage.size] = progress.step
            if progress.validation_loss is None or progress.accuracy is None:
                return
            entry: dict[str, float] = {
                "size": progress.stage.size,
                "step": progress.step,
                "loss": progress.loss,
                "validation_loss": progress.validation_loss,
                "validation_accuracy": progress.accuracy,
                "images_per_s": progress.images_per_s,
            }
            if progress.auc is not None:
                entry["validation_auc"] = progress.auc
            history.append(entry)
            if args.json and os.environ.get("LOCAL_RANK", "0") == "0":
                print(json.dumps(entry), flush=True)

        teacher = read_teacher(args.teacher, settings) if args.teacher else None
        train(training, held_out, settings, args.output, args.initial, not args.no_resume, report, teacher)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return 0
    seconds = time.perf_counter() - begin
    record = {
        "task": args.task,
        "settings": describe_settings(settings),
        "initial": None if args.initial is None else initial_record(args.initial),
        "teacher": None if args.teacher is None else Path(args.teacher).name,
        "training_examples": len(training),
        "seconds": round(seconds, 1),
        "history": history,
    }
    (args.output / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if not args.json and history:
        last = history[-1]
        print(
            f"{seconds:.0f} s, {last['images_per_s']:.0f} images/s at {last['size']} pixels; "
            f"validation accuracy {last['validation_accuracy']:.4f}; weights in {args.output}"
        )
    return 0
