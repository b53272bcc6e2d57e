"""Make jets (Pythia 8, a detector stand-in, anti-kT), or neutrino pixel maps (a parametric stand-in).

Give training and test events different seeds. A production that was stopped goes on where it was when the same command
is given again, and a larger --jets (or --maps) adds to it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from fpga_ops.commands.arguments import count, seed

NEUTRINO_CLASSES = ("numu_cc", "nue_cc", "nutau_cc", "nc", "cosmic")


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga data`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="jets|neutrinos")
    jets = kinds.add_parser("jets", help="top and QCD jets, 550 < pT < 650 GeV", description=__doc__)
    jets.add_argument(
        "--jets", dest="events", type=count, default=10_000, help="jets of each class (default %(default)s)"
    )
    _common(jets, ("qcd", "top"), "jets")
    maps = kinds.add_parser("neutrinos", help="pixel maps of neutrinos and cosmic muons", description=__doc__)
    maps.add_argument(
        "--maps", dest="events", type=count, default=4000, help="maps of each class (default %(default)s)"
    )
    _common(maps, NEUTRINO_CLASSES, "maps")


def _common(parser: argparse.ArgumentParser, classes: tuple[str, ...], unit: str) -> None:
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--classes", nargs="+", choices=classes, default=list(classes), help="which to make")
    parser.add_argument("--seed", type=seed, default=1, help="decides every random number (default %(default)s)")
    parser.add_argument("--format", choices=("parquet", "root"), default="parquet", help="file format")
    parser.add_argument("--chunk", type=count, default=2000, help=f"{unit} in one file (default %(default)s)")
    parser.add_argument("--workers", type=count, default=None, help="processes (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, without a progress bar")


def run(args: argparse.Namespace) -> int:
    """Make what is missing."""
    from retrain.commands.progress import progress_bar
    from retrain.data.production import Production, neutrino_production, produce

    make = neutrino_production if args.kind == "neutrinos" else Production
    unit = "maps" if args.kind == "neutrinos" else "jets"
    production = make(args.folder, args.events, args.seed, tuple(args.classes), f".{args.format}", args.chunk)
    missing = sum(chunk.jets for chunk in production.missing())
    begin = time.perf_counter()
    with progress_bar(unit, missing, quiet=args.json) as advance:
        made = produce(production, args.workers, advance)
    seconds = time.perf_counter() - begin
    files = production.tidy()
    size = sum(path.stat().st_size for path in files)
    outcome = {
        "folder": str(args.folder),
        "files": len(files),
        "bytes": size,
        "made": made,
        "seconds": round(seconds, 1),
        f"{unit}_per_s": round(made / seconds, 1),
    }
    if args.json:
        print(json.dumps(outcome))
    else:
        print(f"{made} {unit} made in {seconds:.0f} s; {len(files)} files, {size / 1e6:.1f} MB in {args.folder}")
    return 0
