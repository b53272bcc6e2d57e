"""Copy the shipped models into a folder that `triton-fpga serve` serves."""

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``triton-fpga models``."""
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("model_repository"), metavar="DIR",
        help="made if it is missing (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Copy them; returns the exit code."""
    from triton_server.repository.shipped import copy_models

    names = copy_models(args.folder)
    print(f"{', '.join(names)} in {args.folder}; serve with: triton-fpga serve --model-repository {args.folder}")
    return 0
