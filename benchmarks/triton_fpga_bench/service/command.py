"""Measure the service: latency added, clients at once, near and far, where the time goes."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpga_ops.commands.arguments import count, not_negative, positive

SECTIONS = ("latency", "scaling", "remote", "breakdown", "table", "overlap")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--model-repository", type=Path, metavar="DIR", help="models to serve (default: the shipped)")
    parser.add_argument("--jets", type=Path, metavar="FILE", help="jets to tag (default: the shipped sample)")
    parser.add_argument("--output", type=Path, default=Path("bench-output") / "service", help="folder for the report")
    parser.add_argument("--device", default="cpu", help="device of the bare call; the server's is in its configuration")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="measurements to make")
    parser.add_argument("--seconds", type=positive, default=10.0, help="length of one run (default: %(default)s)")
    parser.add_argument("--rounds", type=count, default=200, help="rounds of the interleaved latencies")
    parser.add_argument("--connections", type=count, nargs="+", default=[1, 2, 4, 8, 10, 50, 100, 500], metavar="N",
                        help="of the closed loop of 'scaling', in turn")  # fmt: skip
    parser.add_argument("--loads", type=positive, nargs="+", default=[0.3, 0.5, 0.7, 0.8, 0.9, 0.95], metavar="SHARE",
                        help="of the closed loop's most answers, for its open loop")  # fmt: skip
    parser.add_argument("--rtt", type=not_negative, nargs="+", default=[0.0, 10.0, 60.0], metavar="MS",
                        help="round-trip times of 'remote'")  # fmt: skip
    parser.add_argument(
        "--device-ms", type=positive, default=1.0, metavar="MS", help="of the pretended device, an image"
    )
    parser.add_argument(
        "--host-ms", type=not_negative, default=0.0, metavar="MS", help="of the processor before it, an image"
    )
    parser.add_argument("--in-flight", type=count, default=48, metavar="N", help="requests in flight over the far link")
    parser.add_argument("--quick", action="store_true", help="short runs, fewer points: to see that it works")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; returns the exit code."""
    import json

    from rich.console import Console

    from triton_fpga_bench.service.run import run_all
    from triton_server.repository.shipped import shipped_jets, shipped_models

    args.model_repository = args.model_repository or shipped_models()
    args.jets = args.jets or shipped_jets()
    console = Console(stderr=args.json)
    numbers = run_all(args, console)
    if args.json:
        print(json.dumps(numbers["summary"] | {"report": str(args.output / "report.md")}))
    else:
        from rich.markdown import Markdown

        console.print(Markdown((args.output / "report.md").read_text()))
    return 1 if numbers["failed"] else 0
