"""Tag the jets of a ROOT, parquet or HDF5 file and write the scores."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from fpga_ops.commands.arguments import count


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "input", nargs="*", help="a .root (also root:// or https://), .parquet or .h5 file, or several in order"
    )
    parser.add_argument("--out", required=True, help="the file to write: .root, .parquet or .h5")
    parser.add_argument("--tree", help="tree in the ROOT file (group in HDF5); not needed when there is one")
    parser.add_argument("--dry-run", action="store_true", help="say what the file holds, send and write nothing")
    parser.add_argument(
        "--finish", nargs="?", const="", metavar="PARTS",
        help="only write finished chunks (OUT.parts, found beside --out if there is one such folder) to --out",
    )  # fmt: skip
    parser.add_argument(
        "--server", default="triton+grpc://localhost:8001/top_tagger", metavar="URL",
        help="triton+grpc://host:port/model/version (or http, grpcs, https); several with commas. Default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--constituents", metavar="PREFIX[:NAMES]",
        help="what the branches E, px, py, pz begin with; part_:pt,eta,phi,E says which of them, where there are more",
    )  # fmt: skip
    parser.add_argument("--jets", metavar="NAME", help="collection of jets, such as FatJet (default: the usual one)")
    parser.add_argument(
        "--cluster", metavar="ALGORITHM:R[:PT]",
        help="make jets of all candidates of an event, such as antikt:0.8 or antikt:0.8:200 (least pT, GeV)",
    )  # fmt: skip
    parser.add_argument(
        "--one-jet-per-event", action="store_true", help="an event's candidates are one jet, though nothing says so"
    )
    parser.add_argument("--unit", choices=("GeV", "MeV"), help="of energies (default: the format's)")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="PATTERN", help="branches to copy, such as 'jet_*'"
    )
    parser.add_argument("--score", default="top_score", help="name of the new branch (default: %(default)s)")
    parser.add_argument("--label", default="top", help="class whose probability is written (default: %(default)s)")
    parser.add_argument(
        "--bad", choices=("raise", "mask"), default="raise",
        help="a jet that cannot be tagged stops the job, or gets a missing score (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--working-point", type=float, action="append", default=[], metavar="E",
        help="also write whether the score passes the version's cut for this efficiency, such as 0.3; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--card", type=Path, metavar="PATH", help="the version's model_card.json (default: what the server tells)"
    )
    parser.add_argument("--chunk", type=count, default=5000, help="events at a time (default: %(default)s)")
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--in-flight", type=count, default=32, metavar="N", help="requests under way, a process")
    parser.add_argument(
        "--connections", type=count, default=8, metavar="N",
        help="gRPC connections to a server at most; one until much is under way (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--batch", type=count, default=1, metavar="N", help="jets in a request (default: %(default)s)")
    parser.add_argument(
        "--deadline", type=float, default=60.0, metavar="S", help="seconds for one request, retries included"
    )
    parser.add_argument(
        "--patience", type=float, default=20.0, metavar="S",
        help="seconds that a server which cannot be reached gets to appear (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--any-version", action="store_true", help="resume although another version of the model answers"
    )
    parser.add_argument("--metrics", metavar="URL", help="the server's metrics, which name the kernel that answers")
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

    from sonic_client.errors import ConfigurationError
    from sonic_client.events.understanding import Understanding
    from sonic_client.options import LocalModel, Options, Tls, token_from_environment
    from sonic_client.tag_file import Job, examine, expand, finish_parts, run_job

    signal.signal(signal.SIGTERM, _stop)
    console = Console(stderr=True)

    def report(summary: Any) -> int:
        if args.json:
            print(json.dumps(asdict(summary)))
            return 0
        left = summary.jets - summary.tagged
        console.print(
            f"{summary.tagged} jets of {summary.events} events tagged; scores in {summary.output}"
            + (f"; {left} jets could not be tagged and have a missing score" if left else "")
            + (f"; {summary.resumed_events} events were done before" if summary.resumed_events else "")
        )
        for flag, point in summary.provenance.get("working_points", {}).items():
            console.print(
                f"{flag}: {args.score} above {point['threshold']:.9g} (efficiency {point['efficiency']:g} of "
                f"{point['label']}, version {summary.provenance['answered']['version']})",
                highlight=False,
            )
        return 0

    if "://" in args.out:
        raise ConfigurationError(
            f"{args.out}: outputs are written to local folders only; copy the file there afterwards"
        )
    out = Path(args.out)
    if args.finish is not None:
        return report(finish_parts(_find_parts(args.finish, args.input, out), out, overwrite=args.overwrite))
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
        expand(args.input), out, args.server, args.tree, args.constituents,
        tuple(args.keep), args.score, args.label, args.bad, args.chunk, options, jets=args.jets, cluster=args.cluster,
        one_jet_per_event=args.one_jet_per_event, unit=args.unit, any_version=args.any_version, metrics=args.metrics,
        patience=args.patience, working_points=tuple(args.working_point), card=args.card,
    )  # fmt: skip

    def understood(found: Understanding) -> None:
        for line in found.lines():
            console.print(line, highlight=False, markup=False)

    if args.dry_run:
        _, found = examine(job)
        if args.json:
            print(json.dumps(asdict(found)))
        else:
            understood(found)
        return 0
    columns: tuple[Any, ...] = (
        TextColumn("Tagging"), BarColumn(), MofNCompleteColumn(), TextColumn("events"), TimeRemainingColumn(),
    )  # fmt: skip
    bar = Progress(*columns, console=console)
    task = bar.add_task("", total=None)

    def started(total: int) -> None:
        bar.update(task, total=total)
        bar.start()

    try:
        summary = run_job(
            job,
            workers=args.workers,
            overwrite=args.overwrite,
            started=started,
            done=lambda count: bar.advance(task, count),
            understood=understood,
            say=lambda words: console.print(words, highlight=False, markup=False),
        )
    finally:
        if bar.live.is_started:
            bar.stop()
    return report(summary)


def _find_parts(given: str, sources: list[str], out: Path) -> Path:
    """The folder of finished chunks that is meant."""
    from sonic_client.errors import FileError

    if given and Path(given).is_dir():
        return Path(given)
    name = given or next(iter(sources), None)  # `--finish IN --out OUT` gives the input's name to the option
    folders = [one for one in sorted(out.parent.glob("*.parts")) if (one / "manifest.json").is_file()]
    if name is not None:
        wanted = f'"{Path(name).resolve()}"'
        folders = [one for one in folders if wanted in (one / "manifest.json").read_text()]
    if len(folders) != 1:
        words = ", ".join(one.name for one in folders[:8]) or "none"
        raise FileError(f"{out.parent}: expected one folder of finished chunks, found {words}; name it: --finish PARTS")
    return folders[0]


def _stop(number: int, _frame: object) -> None:
    sys.exit(128 + number)
