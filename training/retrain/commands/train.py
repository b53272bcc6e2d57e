"""Train a network on jets, or on neutrino pixel maps, that `triton-fpga data` made.

For pixel maps the size is the number of rows, 100, 50 or 25, and --initial is a network that was trained on jets.
Stages go from coarse, cheap images to the size that is served. A training that was stopped goes on from its last
validation when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fpga_ops.commands.arguments import count, seed

if TYPE_CHECKING:
    from retrain.network.settings import Stage, TrainSettings
    from retrain.network.training import Teacher


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
    parser.add_argument(
        "--initial",
        type=Path,
        default=None,
        help="what to transfer from: a checkpoint (one plane or three), or the model.onnx of a served version",
    )
    parser.add_argument(
        "--teacher",
        default=None,
        metavar="CHECKPOINT:SIZE",
        help="a network trained on images of that size, whose scores make half of each label",
    )
    parser.add_argument(
        "--rounding",
        action="store_true",
        help="fine-tune --initial with the rounding of its 8-bit form emulated (use --precision 32-true)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="weights, order and split (default %(default)s)")
    parser.add_argument("--validation", type=count, default=2000, help="examples held out (default %(default)s)")
    parser.add_argument("--patience", type=count, default=None, help="validations without progress that end a stage")
    parser.add_argument("--precision", default="bf16-mixed", help="of Lightning Fabric (default %(default)s)")
    parser.add_argument("--devices", default="auto", help="of Lightning Fabric: a number, or auto")
    parser.add_argument("--accelerator", default="auto", help="of Lightning Fabric: cpu, cuda, mps or auto")
    parser.add_argument("--no-resume", action="store_true", help="begin anew even where last.ckpt exists")
    parser.add_argument("--json", action="store_true", help="print one JSON line a validation, no progress bar")


def parse_stage(text: str) -> Stage:
    """A stage from `size:images:batch:rate`."""
    from retrain.errors import DataError
    from retrain.network.settings import Stage

    try:
        size, images, batch, rate = text.split(":")
        return Stage(int(size), int(images), int(batch), float(rate))
    except ValueError as error:
        raise DataError(f"--stage {text}: expected SIZE:IMAGES:BATCH:RATE, for example 224:26000:32:5e-4") from error


def read_teacher(text: str, settings: TrainSettings) -> Teacher:
    """The teacher of `checkpoint:size`, of the same architecture."""
    from retrain.errors import DataError
    from retrain.network.resnet import build_network, load_checkpoint
    from retrain.network.training import Teacher

    checkpoint, _, size = text.rpartition(":")
    if not checkpoint or not size.isdecimal():
        raise DataError(f"--teacher {text}: expected CHECKPOINT:SIZE, for example run/stage-64.pt:64")
    network = build_network(settings.architecture)
    load_checkpoint(network, Path(checkpoint))
    return Teacher(network, int(size), name=f"{Path(checkpoint).name}:{size}")


def run(args: argparse.Namespace) -> int:
    """Train, and record what was done in training.json."""
    from retrain.commands.progress import progress_bar
    from retrain.network.settings import TrainSettings
    from retrain.network.training import Progress, run_training, split_off
    from retrain.publishing.tasks import TASKS

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
        rounding=args.rounding,
    )
    examples = task.read(args.data, args.seed)
    split_off(examples, args.validation)  # what cannot be split is said before the bar
    teacher = read_teacher(args.teacher, settings) if args.teacher else None
    done = {stage.size: 0 for stage in settings.stages}
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # Fabric starts this command once a process
    total = sum(stage.steps * stage.batch_size for stage in settings.stages)
    with progress_bar("training images", total, args.json or not first) as advance:

        def report(progress: Progress, entry: dict[str, float] | None) -> None:
            advance((progress.step - done[progress.stage.size]) * progress.stage.batch_size)
            done[progress.stage.size] = progress.step
            if entry is not None and args.json and first:
                print(json.dumps(entry), flush=True)

        record = run_training(
            examples, args.validation, settings, args.output, args.initial, not args.no_resume, report, teacher
        )
    if first and not args.json and record["history"]:
        last = record["history"][-1]
        print(
            f"{record['seconds']:.0f} s, {last['images_per_s']:.0f} images/s at {last['size']} pixels; "
            f"validation accuracy {last['validation_accuracy']:.4f}; weights in {args.output}"
        )
    return 0
