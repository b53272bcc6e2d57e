"""Start Triton, tag the shipped jets over gRPC and HTTP, show AUC, speed and plots."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from fpga_ops.commands.arguments import count


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for scores, plots and report")
    parser.add_argument("--model-repository", type=Path, metavar="DIR", help="models to serve (default: the shipped)")
    parser.add_argument("--jets", type=Path, metavar="FILE", help="jets to tag (default: the shipped sample)")
    parser.add_argument("--limit", type=count, default=None, metavar="N", help="tag only the first N jets")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of the table")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    import json
    from dataclasses import asdict

    from fpga_ops.runtime.terminal import console as make_console
    from sonic_client.demo.demo import demonstrate, show
    from triton_server.repository.shipped import shipped_jets, shipped_models

    signal.signal(signal.SIGTERM, _stop)  # so that the server is stopped on SIGTERM as on Ctrl-C
    console = make_console(stderr=args.json)
    models, jets = args.model_repository or shipped_models(), args.jets or shipped_jets()
    report = demonstrate(models, jets, args.output, jets=args.limit, console=console)
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        show(report, args.output, console)
    return 0


def _stop(number: int, _frame: object) -> None:
    sys.exit(128 + number)
