"""Compute the known answers of versions anew, after a release whose integers are made by another rule.

The network and its number stay; only golden.npz and its hash in the model card change.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga renew-answers`."""
    parser.add_argument("versions", type=Path, nargs="+", help="version folders, as model_repository/top_tagger/1")


def run(args: argparse.Namespace) -> int:
    """Renew them one by one."""
    from retrain.errors import PublishError
    from retrain.publishing.versions import Version, renew_answers

    for folder in args.versions:
        folder = folder.resolve()
        if not folder.name.isdecimal():
            raise PublishError(f"{folder}: expected a version folder, as model_repository/top_tagger/1")
        renew_answers(Version(folder.parent.name, int(folder.name), folder))
        print(f"{folder.parent.name} version {folder.name}: known answers renewed")
    return 0
