"""Boards: one TOML file each in `fpga_ops/boards/`. Adding a board is adding a file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from fpga_ops.errors import DeviceError
from fpga_ops.overlay.geometry import Geometry


@dataclass(frozen=True)
class Board:
    """What a board offers and what is assumed of a design on it.

    Attributes:
        name: File name without suffix.
        title: Device and card.
        dsp_blocks, m20k, alms: Of the whole device.
        products_per_dsp: int8 products that a DSP block makes natively.
        clock_mhz: Assumed kernel clock (an assumption until the compiler has said).
        ddr_gbs: Peak of external memory.
        ddr_efficiency: Share of it that sequential reads reach.
        pcie_gbs: Each way, effective.
        launch_us: From the host's enqueue to the first kernel cycle, and back.
        reserved_dsp, reserved_m20k, reserved_alm: Shares that the card's shell takes.
        fill_dsp, fill_m20k, fill_alm: Largest share, shell included, at which designs still close timing.
        aoc_board: Name for the vendor's compiler (`-board=`).
        geometry: The shape that the project builds for it.
        images: Interleaved images of that shape.
    """

    name: str
    title: str
    dsp_blocks: int
    m20k: int
    alms: int
    products_per_dsp: int
    clock_mhz: float
    ddr_gbs: float
    ddr_efficiency: float
    pcie_gbs: float
    launch_us: float
    reserved_dsp: float
    reserved_m20k: float
    reserved_alm: float
    fill_dsp: float
    fill_m20k: float
    fill_alm: float
    aoc_board: str
    geometry: Geometry
    images: int

    def bytes_per_cycle(self, clock_mhz: float) -> float:
        """External-memory bytes in a kernel cycle."""
        return self.ddr_gbs * self.ddr_efficiency * 1e3 / clock_mhz


def directory() -> Path:
    """The folder of board files."""
    return Path(str(files("fpga_ops"))) / "boards"


def names() -> list[str]:
    """All boards."""
    return sorted(path.stem for path in directory().glob("*.toml"))


def load(name: str) -> Board:
    """A board by name.

    Raises:
        DeviceError: There is no such board, or its file is incomplete.
    """
    path = directory() / f"{name}.toml"
    if name not in names():
        raise DeviceError(f"no board '{name}'; there are: {', '.join(names())}")
    table: dict[str, Any] = tomllib.loads(path.read_text())
    shape = dict(table.pop("geometry"))
    if "map_words" in shape:
        shape["map_words"] = tuple(shape["map_words"])
    images = shape.pop("images")
    expected = {f.name for f in fields(Board)} - {"name", "geometry", "images"}
    if table.keys() != expected:
        raise DeviceError(
            f"{path.name}: missing {sorted(expected - table.keys())}, unknown {sorted(table.keys() - expected)}"
        )
    return Board(name=name, geometry=Geometry(**shape), images=images, **table)
