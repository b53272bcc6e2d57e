"""Start Triton, tag the shipped jets over gRPC and HTTP, show AUC, speed and plots."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for scores, plots and report")
    parser.add_argument("--model-repository", type=Path, default=_ROOT / "model_repository")
    parser.add_argument("--jets", type=Path, default=_ROOT / "training" / "sample" / "jets.root", metavar="FILE")
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="tag only the first N jets")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of the table")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    import json
    from dataclasses import asdict

    from rich.console import Console

    from sonic_client.demo.demo import demonstrate, show

    signal.signal(signal.SIGTERM, _stop)  # so that the server is stopped on SIGTERM as on Ctrl-C
    console = Console(stderr=args.json)
    report = demonstrate(args.model_repository, args.jets, args.output, jets=args.limit, console=console)
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        show(report, args.output, console)
    return 0


def _stop(number: int, _frame: object) -> None:
    sys.exit(128 + number)
