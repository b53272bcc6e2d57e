"""Measure speed side by side with peers: `triton-fpga bench engine`, and what other packages register.

A benchmark is a module with `register(parser)` and `run(args)`, like a command; packages add theirs in the entry-point
group `triton_fpga.benches`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from importlib.metadata import entry_points

GROUP = "triton_fpga.benches"
OWN = {"engine": "triton_fpga_bench.engine.command", "networks": "triton_fpga_bench.networks.command"}


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga bench`: one sub-parser per benchmark that is installed."""
    choices = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    found = {entry.name: entry.value for entry in entry_points(group=GROUP)} | OWN
    for name in sorted(found):
        try:
            module = importlib.import_module(found[name])
        except ImportError as error:
            print(f"triton-fpga bench {name}: not installed here ({error})", file=sys.stderr)
            continue
        summary = (module.__doc__ or "").strip().splitlines()[0]
        entry = choices.add_parser(name, help=summary, description=module.__doc__)
        module.register(entry)
        entry.set_defaults(bench=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark chosen."""
    code: int = args.bench(args)
    return code
