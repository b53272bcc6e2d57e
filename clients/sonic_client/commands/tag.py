"""Tag the jets of a ROOT, parquet or HDF5 file and write the scores."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", type=Path, help="a .root, .parquet or .h5 file")
    parser.add_argument("--out", type=Path, required=True, help="the file to write: .root, .parquet or .h5")
    parser.add_argument("--tree", help="tree in the ROOT file (group in HDF5); not needed when there is one")
    parser.add_argument(
        "--server", default="triton+grpc://localhost:8001/top_tagger", metavar="URL",
        help="triton+grpc://host:port/model/version (or http, grpcs, https); several with commas. Default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--constituents", metavar="PREFIX", help="what the branches E, px, py, pz begin with")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="PATTERN", help="branches to copy, such as 'jet_*'"
    )
    parser.add_argument("--score", default="top_score", help="name of the new branch (default: %(default)s)")
    parser.add_argument("--label", default="top", help="class whose probability is written (default: %(default)s)")
    parser.add_argument(
        "--bad", choices=("raise", "mask"), default="raise",
        help="a jet that cannot be tagged stops the job, or gets a missing score (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--chunk", type=int, default=5000, help="events at a time (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--in-flight", type=int, default=32, metavar="N", help="requests under way, a process")
    parser.add_argument(
        "--connections", type=int, default=8, metavar="N",
        help="gRPC connections to a server at most; one until much is under way (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="jets in a request (default: %(default)s)")
    parser.add_argument(
        "--deadline", type=float, default=60.0, metavar="S", help="seconds for one request, retries included"
    )
    parser.add_argument("--token-file", type=Path, help="bearer token (default: BEARER_TOKEN, BEARER_TOKEN_FILE)")
    parser.add_argument("--ca", type=Path, help="certificate authority of the server (PEM)")
    parser.add_argument("--cert", type=Path, help="client certificate (PEM), for mutual TLS")
    parser.add_argument("--key", type=Path, help="its key (PEM)")
    parser.add_argument(
        "--local-model", type=Path, metavar="ONNX", help="model.onnx to run here when no server answers"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output, forget an unfinished run")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sonic_client.options import LocalModel, Options, Tls, token_from_environment
    from sonic_client.tag_file import Job, run_job

    signal.signal(signal.SIGTERM, _stop)
    options = Options(
        max_in_flight=args.in_flight,
        batch_size=args.batch,
        connections=args.connections,
        deadline=args.deadline,
        tls=Tls(args.ca, args.cert, args.key),
        token=args.token_file or token_from_environment(),
        fallback=None if args.local_model is None else LocalModel(args.local_model),
    )
    job = Job(
        args.input, args.out, args.server, args.tree, args.constituents, tuple(args.keep), args.score, args.label,
        args.bad, args.chunk, options,
    )  # fmt: skip
    console = Console(stderr=True)
    columns: tuple[Any, ...] = (
        TextColumn("Tagging"), BarColumn(), MofNCompleteColumn(), TextColumn("events"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)
        summary = run_job(
            job,
            workers=args.workers,
            overwrite=args.overwrite,
            started=lambda total: bar.update(task, total=total),
            done=lambda count: bar.advance(task, count),
        )
    if args.json:
        print(json.dumps(asdict(summary)))
    else:
        left = summary.jets - summary.tagged
        console.print(
            f"{summary.tagged} jets of {summary.events} events tagged; scores in {summary.output}"
            + (f"; {left} jets could not be tagged and have a missing score" if left else "")
            + (f"; {summary.resumed_events} events were done before" if summary.resumed_events else "")
        )
    return 0


def _stop(number: int, _frame: object) -> None:
    sys.exit(128 + number)
