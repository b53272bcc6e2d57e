"""Devices that can run integer networks, and why others cannot; and the boards that a bitstream can be built for.

`triton-fpga devices` lists them. Names are what `fpga_ops.load` and a model's `device` parameter take; a board's name
is what `--board` takes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from fpga_ops.devices import DeviceInfo, devices
from fpga_ops.errors import DeviceError

BOARD = "board"
"""Kind of what no OpenCL driver tells of."""


def board_list() -> list[DeviceInfo]:
    """The boards of `fpga_ops/boards`, whether or not there is one here, with the chip memory left for feature maps."""
    from fpga_ops.overlay import boards
    from fpga_ops.overlay.build import bitstream
    from fpga_ops.overlay.model.resources import map_capacity

    found = []
    for name in boards.names():
        board = boards.load(name)
        built, reason = False, "its vendor's tools build the overlay from RTL (docs/explanation/fpga-rtl.md)"
        if not board.takes_rtl:
            try:
                path, _ = bitstream.find(name)
                built, reason = True, f"bitstream {path.name}"
            except DeviceError as error:
                reason = str(error)
        description = (
            f"overlay {board.geometry.name}, {board.clock_range_mhz[0]:g} to {board.clock_range_mhz[1]:g} MHz assumed"
        )
        found.append(
            DeviceInfo(name, BOARD, board.title, built, reason, description, "", 1, "overlay", map_capacity(board))
        )
    return found


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga devices`."""
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    """List the devices, then the boards."""
    from rich.console import Console
    from rich.table import Table

    from fpga_ops.runtime.terminal import console as make_console

    found = [*devices(), *board_list()]
    if args.json:
        Console(width=10**6, soft_wrap=True, highlight=False, markup=False).print(
            json.dumps([asdict(info) for info in found], indent=2)
        )
        return 0
    console = make_console()
    for title, boards in (("Devices", False), ("Boards that a bitstream can be built for (modelled)", True)):
        first = ("board", "built", "card", "overlay", "maps on chip") if boards else (
            "name", "usable", "platform", "device", "holds")  # fmt: skip
        table = Table(*first, "remark", box=None, pad_edge=False, title=title, title_justify="left")
        for info in found:
            if (info.kind == BOARD) is boards:
                mark = "[green]yes[/]" if info.usable else "[red]no[/]"
                holds = "-" if info.holds_bytes is None else _size(info.holds_bytes)
                table.add_row(info.name, mark, info.platform, info.description, holds, info.reason)
        console.print(table)
    return 0


def _size(count: int) -> str:
    """Bytes for people: `3.4 MB`, `24 GB`."""
    return f"{count / 1e9:.0f} GB" if count >= 10**10 else f"{count / 1e6:.1f} MB"
