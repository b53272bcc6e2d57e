"""Which networks of torchvision and timm are taken, and how far their integers are from onnxruntime's.

Each is made with random weights, exported by torch (`dynamo=True`), quantised by onnxruntime and imported. Its tensors
are compared with onnxruntime without optimisation, and a device's answers with the reference's, to the bit. Needs the
extra `training`; what is of timm needs `pip install timm`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fpga_ops.devices import REFERENCE
from fpga_ops.errors import ModelError
from fpga_ops.importer import import_proto
from fpga_ops.importer.onnx_reader import read_model
from fpga_ops.inspection.compare import compare
from fpga_ops.loading import load
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from triton_fpga_bench.networks import sources


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
    refused: str = ""


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga bench networks`."""
    names = sorted({source.network for source in sources.SOURCES})
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"of {', '.join(names)}")
    parser.add_argument("--device", default="cpu", help="compared with the reference (default %(default)s)")
    parser.add_argument("--output", type=Path, metavar="MD", help="write the table as Markdown, row by row")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Try them all."""
    logging.disable(logging.WARNING)  # the exporter's and the quantiser's advice
    outcomes = []
    for source in sources.SOURCES:
        if args.only and source.network not in args.only:
            continue
        try:
            outcome = attempt(source, args.device)
        except ImportError as error:
            print(f"{source.title}: not tried, {error}", file=sys.stderr)
            continue
        outcomes.append(outcome)
        if not args.json:
            print(row(outcome), flush=True)
        if args.output is not None:
            args.output.write_text(table(outcomes), encoding="utf-8")
    if args.json:
        print(json.dumps({"networks": [asdict(outcome) for outcome in outcomes]}))
    return 0


def attempt(source: sources.Source, device: str) -> Outcome:
    """Make a network, import it and compare it.

    Raises:
        ImportError: The package that it is of is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, path = Path(folder) / "float.onnx", Path(folder) / "model.onnx"
        sources.export(sources.build(source), plain, dynamic=source.dynamic)
        sources.quantise(plain, path, source.form)
        return examine(path, source, device)


def examine(path: Path, source: sources.Source, device: str) -> Outcome:
    """Import a quantised file and compare it."""
    labels = source.title, source.form, "dynamic" if source.dynamic else "1"
    try:
        partition = import_proto(read_model(path), fuse=False)
    except ModelError as error:
        return Outcome(*labels, refused=f"{error.operator}: {error.reason}")
    inputs = {sources.INPUT: sources.images(2 if source.dynamic else 1)}
    rows = compare(partition, inputs)
    with load(path, REFERENCE) as reference, load(path, device) as other:
        expected, got = reference.features(inputs), other.features(inputs)
        same = all(np.array_equal(got[name], value) for name, value in expected.items())
    outside = {*partition.before.nodes, *partition.after.nodes}
    names = sorted({node.operator for node in partition.graph.nodes if node.name in outside})
    return Outcome(
        *labels,
        steps=len(partition.network.steps),
        elsewhere=", ".join(names),
        largest=max(entry.max for entry in rows),
        differ=max(entry.differ for entry in rows),
        same_bits=same,
    )


HEADINGS = ("network", "form", "batch", "steps", "left to onnxruntime", "largest difference", "share", "device")


def row(outcome: Outcome) -> str:
    """One line of the table."""
    cells: tuple[object, ...] = (outcome.network, outcome.form, outcome.batch)
    if outcome.refused:
        reason = outcome.refused.replace("|", "/")
        cells += (f"refused: {reason}", *[""] * (len(HEADINGS) - len(cells) - 1))
        return f"| {' | '.join(map(str, cells))} |"
    device = "same bits" if outcome.same_bits else "**differs**"
    share = f"{outcome.differ:.1e}" if outcome.differ else "0"
    cells += (outcome.steps, outcome.elsewhere, outcome.largest, share, device)
    return f"| {' | '.join(map(str, cells))} |"


def table(outcomes: Sequence[Outcome]) -> str:
    """The page that is kept."""
    import torch

    onnxruntime = import_onnxruntime()
    day = datetime.datetime.now(datetime.UTC).date()
    lines = [
        "# Networks of others",
        "",
        f"`triton-fpga bench networks`, {day}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}.",
        "Random weights, images of 32x32. The largest difference of a tensor from onnxruntime without optimisation,",
        "with onnxruntime's operands for each step, is in quantisation steps; the share is that of the elements of",
        "the worst tensor: onnxruntime sums in float32. Same bits: the CPU engine's integers are the reference's.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
        *map(row, outcomes),
        "",
    ]
    return "\n".join(lines)
