"""Take the newest version of a model back, so that the one before is served again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga rollback`."""
    parser.add_argument("model", help="for example top_tagger")
    parser.add_argument("--repository", type=Path, required=True, help="the model repository")
    parser.add_argument("--server", default=None, metavar="HOST:PORT", help="wait until this server is back, HTTP")
    parser.add_argument("--json", action="store_true", help="print the version now newest as JSON")


def run(args: argparse.Namespace) -> int:
    """Withdraw the newest version."""
    from retrain.publishing.publish import rollback

    version = rollback(args.repository, args.model, args.server)
    if args.json:
        print(json.dumps({"model": version.model, "version": version.number}))
    else:
        print(f"{version.model} is back at version {version.number}")
    return 0
