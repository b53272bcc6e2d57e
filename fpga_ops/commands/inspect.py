"""Show what of a model runs on the device and what on the CPU, step by step.

Needs no device. `--compare` checks each quantised tensor against onnxruntime on the same file, and the answers against
those of onnxruntime and OpenVINO.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpga_ops.devices import REFERENCE
from fpga_ops.errors import InputError
from fpga_ops.inspection.summary import Comparison, step_row, summary

if TYPE_CHECKING:
    from rich.console import Console

    from fpga_ops.importer.partition import Part, Partition

TENSOR_ROWS = 8
"""Rows of which every tensor is compared; answers are compared for all."""


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga inspect`."""
    parser.add_argument("model", type=Path, help="ONNX file in QDQ form")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the partition")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="NPZ",
        help="compare with onnxruntime on the arrays of this file, named as the model's inputs (or 'input')",
    )
    parser.add_argument(
        "--device",
        default=REFERENCE,
        metavar="NAME",
        help="for --compare: who runs the whole network; all devices give the same bits (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the partition."""
    from fpga_ops.importer import import_model
    from fpga_ops.runtime.terminal import console as make_console

    partition = import_model(args.model)
    differences = None
    if args.compare is not None:
        from fpga_ops.inspection.compare import compare
        from fpga_ops.inspection.judges import shifts

        arrays = _arrays(args.compare, partition)
        few = {name: value[:TENSOR_ROWS] for name, value in arrays.items()}
        differences = Comparison(compare(partition, few), shifts(partition, arrays, args.device))
    if args.picture is not None:
        from fpga_ops.inspection.picture import draw

        draw(partition, args.picture, title=args.model.name)
    if args.json:
        print_json(summary(partition, differences))
    else:
        _print_tables(make_console(), partition, differences)
        if args.picture is not None:
            make_console().print(f"picture: {args.picture}")
    return 0


def print_json(value: object) -> None:
    """One JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _arrays(file: Path, partition: Partition) -> dict[str, Any]:
    import numpy as np

    from fpga_ops.signature import check_inputs, interface

    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    names = list(partition.graph.inputs)
    if len(names) == 1 and names[0] not in arrays and "input" in arrays:
        arrays[names[0]] = arrays["input"]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(f"{file} has arrays {sorted(arrays)}; the model's inputs {missing} are not among them")
    chosen = {name: arrays[name] for name in names}
    check_inputs(chosen, interface(partition.graph)["inputs"], max(1, len(arrays[names[0]])))
    return chosen


def _print_tables(console: Console, partition: Partition, differences: Comparison | None) -> None:
    from rich.table import Table

    from fpga_ops.signature import interface

    network = partition.network
    declared = interface(partition.graph)
    for kind, values in (("input", declared["inputs"]), ("output", declared["outputs"])):
        for name, value in values.items():
            console.print(f"{kind:7s} {name}  {value['dtype']}{value['shape']}", highlight=False, markup=False)
    overview = Table("part", "runs on", "nodes", "operators", box=None, pad_edge=False)
    operators = {node.name: node.operator for node in partition.graph.nodes}

    def count(names: Sequence[str]) -> str:
        found = Counter(operators[name] for name in names)
        return ", ".join(f"{name} {number}" if number > 1 else name for name, number in found.most_common())

    def part(title: str, value: Part) -> None:
        overview.add_row(title, "CPU, onnxruntime", str(len(value.nodes)), count(value.nodes))

    part("before", partition.before)
    overview.add_row("device", "device, int8", str(len(partition.device_nodes)), count(partition.device_nodes))
    part("after", partition.after)
    console.print(overview)
    table = Table("step", "", "input", "output", "MOP", "name", box=None, pad_edge=False, title="on the device")
    for step in network.steps:
        row = step_row(network, step)
        sizes = ["x".join(str(size) for size in row[key]) for key in ("input", "output")]
        work = f"{row['operations'] / 1e6:.1f}" if row["operations"] else ""
        table.add_row(row["step"], row["detail"], *sizes, work, row["name"])
    console.print(table)
    console.print(
        f"{len(network.steps)} steps, {network.operations / 1e9:.3f} GOP per image; "
        f"sizes are height x width x channels",
        highlight=False,
    )
    if differences is not None:
        _print_comparison(console, differences)


def _print_comparison(console: Console, differences: Comparison) -> None:
    from rich.table import Table

    table = Table(
        "tensor", "step", "differ", "largest", "differ", "largest", box=None, pad_edge=False,
        title="against onnxruntime, in quantisation steps: each step by itself, then the whole network by itself",
    )  # fmt: skip
    for entry in differences.tensors:
        table.add_row(
            entry.name, entry.step, f"{entry.differ:.2e}", str(entry.max), f"{entry.free_differ:.2e}", str(entry.free)
        )
    console.print(table)
    first = differences.answers[0]
    what = "outputs" if first.decisions is None else "logits"
    answers = Table(
        "who", "mean", "spread", "largest", "decisions", "far", box=None, pad_edge=False,
        title=f"{what} minus those of onnxruntime without optimisation, {first.rows} rows",
    )  # fmt: skip
    for shift in differences.answers:
        counts = ["" if count is None else str(count) for count in (shift.decisions, shift.far)]
        answers.add_row(shift.name, f"{shift.mean:+.5f}", f"{shift.sd:.5f}", f"{shift.largest:.5f}", *counts)
    console.print(answers)
