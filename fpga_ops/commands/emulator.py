"""Install Intel's FPGA emulator from pip, or say where it is (no root, about 400 MB)."""

from __future__ import annotations

import argparse


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("action", choices=("install", "find"), help="install it if need be; or print its library")


def run(args: argparse.Namespace) -> int:
    """Returns 1 if `find` does not find it."""
    from fpga_ops.overlay.build import emulator
    from fpga_ops.runtime import emulator_place

    if args.action == "install":
        print(emulator.install(progress=True))
        return 0
    found = emulator_place.find()
    print(found if found is not None else f"not in {emulator_place.directory()}: triton-fpga emulator install")
    return 0 if found is not None else 1
