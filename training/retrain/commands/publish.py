"""Judge quantised networks and add them to a model repository as its next versions.

Verified first: the integer reference, the device here and onnxruntime must agree, and the figures must not be worse
than those of the version before. With --server, its answers are checked, and the version is withdrawn if they are
wrong.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fpga_ops.commands.arguments import count


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga publish`."""
    parser.add_argument("files", type=Path, help="folder that `triton-fpga quantise` wrote")
    parser.add_argument("--repository", type=Path, required=True, help="the model repository")
    parser.add_argument("--training", type=Path, required=True, help="training.json that `triton-fpga train` wrote")
    parser.add_argument("--training-data", type=Path, required=True, help="folder of the events trained on")
    parser.add_argument("--test-data", type=Path, required=True, help="folder of held-out events")
    parser.add_argument(
        "--events", "--jets", dest="events", type=count, default=None, help="judge on so many of the test events only"
    )
    parser.add_argument("--server", default=None, metavar="HOST:PORT", help="HTTP address of a server that follows")
    parser.add_argument("--force", action="store_true", help="publish even what is worse than the version before")
    parser.add_argument("--json", action="store_true", help="print the published versions as JSON")


def run(args: argparse.Namespace) -> int:
    """Judge, verify, publish: both taggers, or the network for pixel maps."""
    from functools import partial

    from retrain.commands.progress import progress_bar
    from retrain.publishing.publish import live_servers
    from retrain.publishing.release import Candidate, judge_taggers, publish_neutrino, publish_taggers

    candidate = Candidate(args.files, args.training, args.training_data, args.test_data, args.events)
    bar = partial(progress_bar, quiet=args.json)
    _, quantisation = candidate.records()
    live_servers(args.server)  # judging takes minutes
    if quantisation.get("task") == "neutrinos":
        published = [publish_neutrino(candidate, args.repository, bar, args.server, args.force)]
    else:
        judged = judge_taggers(candidate, bar)
        published = publish_taggers(candidate, judged, args.repository, args.server, args.force)
    if args.json:
        rows = [{"model": v.model, "version": v.number, "metrics": v.card["metrics"]} for v in published]
        print(json.dumps(rows))
    else:
        for version in published:
            print(f"{version.model} version {version.number} is in {version.folder}")
    return 0
