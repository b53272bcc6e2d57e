"""Make jets (Pythia 8, a detector stand-in, anti-kT) for training and testing.

Give training and test jets different seeds. A production that was stopped goes on where it was when the same command
is given again, and a larger --jets adds to it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga data`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="jets")
    jets = kinds.add_parser("jets", help="top and QCD jets, 550 < pT < 650 GeV", description=__doc__)
    jets.add_argument("folder", type=Path, help="where the files go")
    jets.add_argument("--jets", type=int, default=10_000, help="jets of each class (default %(default)s)")
    jets.add_argument("--classes", nargs="+", choices=("qcd", "top"), default=["qcd", "top"], help="which to make")
    jets.add_argument("--seed", type=int, default=1, help="decides every random number (default %(default)s)")
    jets.add_argument("--format", choices=("parquet", "root"), default="parquet", help="file format")
    jets.add_argument("--chunk", type=int, default=2000, help="jets in one file (default %(default)s)")
    jets.add_argument("--workers", type=int, default=None, help="processes (default: all cores)")
    jets.add_argument("--json", action="store_true", help="print the outcome as JSON, without a progress bar")


def run(args: argparse.Namespace) -> int:
    """Make what is missing."""
    from retrain.commands.progress import progress_bar
    from retrain.data.production import Production, produce

    production = Production(
        args.folder,
        args.jets,
        args.seed,
        tuple(args.classes),
        f".{args.format}",
        args.chunk,
    )
    missing = sum(chunk.jets for chunk in production.missing())
    begin = time.perf_counter()
    with progress_bar("jets", missing, quiet=args.json) as advance:
        made = produce(production, args.workers, advance)
    seconds = time.perf_counter() - begin
    files = [chunk.path for chunk in production.chunks()]
    size = sum(path.stat().st_size for path in files)
    outcome = {
        "folder": str(args.folder),
        "files": len(files),
        "bytes": size,
        "made": made,
        "seconds": round(seconds, 1),
        "jets_per_s": round(made / seconds, 1),
    }
    if args.json:
        print(json.dumps(outcome))
    else:
        print(f"{made} jets made in {seconds:.0f} s; {len(files)} files, {size / 1e6:.1f} MB in {args.folder}")
    return 0
