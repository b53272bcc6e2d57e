"""Which networks of torchvision and timm are taken, and how far their integers and outputs are from onnxruntime's.

Each is made with random weights, quantised by onnxruntime, torchao or neural-compressor, exported by torch
(`dynamo=True`) and imported. Its tensors are compared with onnxruntime without optimisation, its outputs with those of
onnxruntime's int8 kernels and OpenVINO besides, and a device's answers with the reference's, to the bit. Needs the
extras `training` and `bench`; some need timm, torchao or neural-compressor-pt, which are named when they are missing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from fpga_ops.commands.arguments import count
from fpga_ops.devices import REFERENCE
from fpga_ops.errors import ModelError
from fpga_ops.importer import import_proto
from fpga_ops.importer.onnx_reader import read_model
from fpga_ops.inspection import judges
from fpga_ops.inspection.compare import compare
from fpga_ops.loading import load
from fpga_ops.runtime import opencl
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from fpga_ops.vector import isa
from triton_fpga_bench.networks import forms, pytorch, sources


@dataclass(frozen=True)
class Outcome:
    """What became of one network.

    Attributes:
        network, form, batch: As tried.
        steps: Of the integer network.
        elsewhere: Operators that onnxruntime runs, before or after it.
        largest: Largest difference of a tensor from onnxruntime's, in steps, each with onnxruntime's operands.
        differ: Largest share of a tensor's elements that differ.
        same_bits: Whether the device's integers are the reference's.
        outputs: How far the outputs of the whole network are from onnxruntime's without optimisation, and those of
            onnxruntime's int8 kernels and OpenVINO, by name: mean and standard deviation, in those of the outputs.
        refused: Why it is not taken, if it is not.
    """

    network: str
    form: str
    batch: str
    steps: int = 0
    elsewhere: str = ""
    largest: int = 0
    differ: float = 0.0
    same_bits: bool = False
    outputs: dict[str, tuple[float, float]] = field(default_factory=dict)
    refused: str = ""


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga bench networks`."""
    names = sorted({source.network for source in sources.SOURCES})
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"of {', '.join(names)}")
    kinds = [*forms.FORMS, *pytorch.TOOLS]
    parser.add_argument("--form", nargs="+", metavar="FORM", choices=kinds, help=f"of {'; '.join(kinds)}")
    parser.add_argument("--images", type=count, default=32, help="of which outputs are compared (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="compared with the reference (default %(default)s)")
    parser.add_argument("--output", type=Path, metavar="MD", help="write the table as Markdown, row by row")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Try them all."""
    logging.disable(logging.WARNING)  # the exporter's and the quantiser's advice
    outcomes = []
    for source in sources.SOURCES:
        if (args.only and source.network not in args.only) or (args.form and source.form not in args.form):
            continue
        try:
            outcome = attempt(source, args.device, args.images)
        except ImportError as error:
            print(f"{source.title}: not tried, {error}", file=sys.stderr)
            continue
        outcomes.append(outcome)
        if not args.json:
            print(row(outcome), flush=True)
        if args.output is not None:
            args.output.write_text(table(outcomes, args.images), encoding="utf-8")
    if args.json:
        print(json.dumps({"networks": [asdict(outcome) for outcome in outcomes]}))
    return 0


def attempt(source: sources.Source, device: str, images: int) -> Outcome:
    """Make a network, import it and compare it.

    Raises:
        ImportError: A package that it needs is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            sources.make(source, path)
        except pytorch.NoFileError as error:
            return Outcome(*_labels(source), refused=f"no file: {error}")
        return examine(path, source, device, images)


def _labels(source: sources.Source) -> tuple[str, str, str]:
    return source.title, source.form, "dynamic" if source.dynamic else "1"


def examine(path: Path, source: sources.Source, device: str, images: int) -> Outcome:
    """Import a quantised file and compare it."""
    try:
        partition = import_proto(read_model(path), fuse=False)
    except ModelError as error:
        return Outcome(*_labels(source), refused=f"refused: {error.operator} `{error.node}`: {error.reason}")
    inputs = {pytorch.INPUT: sources.images(2 if source.dynamic else 1)}
    rows = compare(partition, inputs)
    with load(path, REFERENCE) as reference, load(path, device) as other:
        expected, got = reference.features(inputs), other.features(inputs)
        same = all(np.array_equal(got[name], value) for name, value in expected.items())
    shifts = judges.shifts(import_proto(read_model(path)), {pytorch.INPUT: sources.images(images)}, device)
    unit = shifts[0].spread or 1.0  # outputs may all be alike
    outside = {*partition.before.nodes, *partition.after.nodes}
    names = sorted({node.operator for node in partition.graph.nodes if node.name in outside})
    return Outcome(
        *_labels(source),
        steps=len(partition.network.steps),
        elsewhere=", ".join(names),
        largest=max(entry.max for entry in rows),
        differ=max(entry.differ for entry in rows),
        same_bits=same,
        outputs={shift.name: (shift.mean / unit, shift.sd / unit) for shift in shifts},
    )


HEADINGS = ("network", "form", "batch", "steps", "left to onnxruntime", "largest", "share", "device", "outputs",
            "onnxruntime int8", "OpenVINO int8")  # fmt: skip


def row(outcome: Outcome) -> str:
    """One line of the table."""
    cells: tuple[object, ...] = (outcome.network, outcome.form, outcome.batch)
    if outcome.refused:
        reason = outcome.refused.replace("|", "/")
        cells += (reason, *[""] * (len(HEADINGS) - len(cells) - 1))
        return f"| {' | '.join(map(str, cells))} |"
    device = "same bits" if outcome.same_bits else "**differs**"
    share = f"{outcome.differ:.1e}" if outcome.differ else "0"
    cells += (outcome.steps, outcome.elsewhere, outcome.largest, share, device)
    for name in (judges.OURS, judges.INT8, judges.OPENVINO):
        found = outcome.outputs.get(name)
        cells += ("not taken" if found is None else f"{found[0]:+.5f}, {found[1]:.5f}",)
    return f"| {' | '.join(map(str, cells))} |"


def table(outcomes: Sequence[Outcome], images: int) -> str:
    """The page that is kept."""
    import torch

    onnxruntime = import_onnxruntime()
    flags = opencl.cpu_flags()
    cpu = next(entry.title for entry in isa.SETS if entry.portable or any(group <= flags for group in entry.flags))
    day = datetime.datetime.now(datetime.UTC).date()
    lines = [
        "# Networks of others",
        "",
        f"`triton-fpga bench networks`, {day}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"{cpu}. Random weights, images of 32x32.",
        "",
        "- **largest, share**: of a tensor's difference from onnxruntime without optimisation, with onnxruntime's",
        "  operands for each step, in quantisation steps; the share is that of the elements of the worst tensor.",
        "  onnxruntime sums in float32, and takes either side where the mean of four integers (ResNet-D) is a half.",
        "- **device**: same bits where the CPU engine's integers are the reference's.",
        "- **outputs**, onnxruntime int8, OpenVINO int8: the whole network by itself, outputs minus those of",
        f"  onnxruntime without optimisation on {images} images: mean and standard deviation, both in standard",
        "  deviations of the outputs.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
        *map(row, outcomes),
        "",
    ]
    return "\n".join(lines)
