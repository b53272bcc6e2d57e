"""Boards: one TOML file each in `fpga_ops/boards/`. Adding a board is adding a file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from fpga_ops.errors import DeviceError
from fpga_ops.overlay.geometry import Geometry

Family: TypeAlias = Literal["stratix", "agilex", "ultrascale", "versal"]
"""How a device's products and memories are counted (`resources.FAMILIES`); Arria 10 counts as a Stratix 10."""


@dataclass(frozen=True)
class Supply:
    """One kind of block of a device.

    Attributes:
        total: Of the whole device.
        reserved: Share that the card's shell takes.
        fill: Largest share, shell included, at which designs still close timing.
    """

    total: int
    reserved: float
    fill: float

    @property
    def usable(self) -> int:
        """Blocks that the overlay may take."""
        return int(self.total * (self.fill - self.reserved))


@dataclass(frozen=True)
class Board:
    """What a board offers and what is assumed of a design on it.

    Attributes:
        name: File name without suffix.
        title: Device and card.
        family: How its products and memories are counted.
        supplies: Its blocks by kind: `dsp`, `m20k`, `alm` of Intel's, `dsp`, `uram`, `bram`, `lut` of AMD's.
        clock_range_mhz: Kernel clock, from what a full device may be expected to reach to what designs on it have
            reached: assumptions until the compiler has said.
        ddr_gbs: Peak of external memory, DDR or HBM.
        ddr_efficiency: Share of it that sequential reads reach.
        banks: Of it, with ports of their own (pseudo-channels of HBM). OpenCL spreads every buffer over all of them.
        pcie_gbs: Each way, effective.
        launch_us: From the host's enqueue to the first kernel cycle, and back.
        restart: Cycles from a layer's last iteration to the next one's first: a descriptor through its channel, what is
            computed once a layer, and the loops' own pipelines. About 100 in designs of Intel's compiler.
        aoc_board: Name for Intel's OpenCL compiler (`-board=`); empty for a card that takes the overlay in RTL.
        geometry: The shape that the project builds for it.
        images: Interleaved images of that shape.
    """

    name: str
    title: str
    family: Family
    supplies: dict[str, Supply]
    clock_range_mhz: tuple[float, float]
    ddr_gbs: float
    ddr_efficiency: float
    banks: int
    pcie_gbs: float
    launch_us: float
    restart: int
    aoc_board: str
    geometry: Geometry
    images: int

    @property
    def clock_mhz(self) -> float:
        """The upper end of the clock's range, at which figures are told unless they say both."""
        return self.clock_range_mhz[1]

    @property
    def takes_rtl(self) -> bool:
        """Whether the card takes the overlay in RTL, not in OpenCL."""
        return not self.aoc_board

    def bytes_per_cycle(self, clock_mhz: float) -> float:
        """External-memory bytes in a kernel cycle."""
        return self.ddr_gbs * self.ddr_efficiency * 1e3 / clock_mhz


def directory() -> Path:
    """The folder of board files."""
    return Path(__file__).resolve().parents[1] / "boards"


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
    if table.keys() != expected or table["family"] not in get_args(Family):
        raise DeviceError(
            f"{path.name}: missing {sorted(expected - table.keys())}, unknown {sorted(table.keys() - expected)}, "
            f"family {table.get('family')!r} of {', '.join(get_args(Family))}"
        )
    table["supplies"] = {kind: Supply(**supply) for kind, supply in table["supplies"].items()}
    low, high = table.pop("clock_range_mhz")
    if not 0 < low <= high:
        raise DeviceError(f"{path.name}: clock_range_mhz must be [lower, upper], positive, got [{low}, {high}]")
    return Board(name=name, geometry=Geometry(**shape), images=images, clock_range_mhz=(low, high), **table)
