"""Cycles of every layer as the simulated RTL counts them, beside the model's, and whether the bits are the reference's.

    python -m triton_fpga_bench.overlay.simulated_cycles resnet50 --board u250 --json resnet50-u250.json

A model is a QDQ file or a name (`resnet18`, `resnet50`, ...: random weights). Memory, clock and geometry are those of
the board's file; products are simulated as written, so the drain is that of `pipeline_lag(geometry)`, and the model is
given the same. A ResNet50 takes a minute or two beside the first translation of the array.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fpga_ops.ir import reference
from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.overlay import boards
from fpga_ops.overlay.model.cycles import external, layer_times, rtl_channels
from fpga_ops.rtl import Memory, RtlExecutable, RtlSettings, pipeline_lag


@dataclass(frozen=True)
class Row:
    """A layer: cycles counted and modelled, and those that the array or the requantiser waited."""

    name: str
    op: str
    simulated: int
    modelled: float
    waits: dict[str, int]

    @property
    def deviation(self) -> float:
        """simulated / modelled - 1."""
        return self.simulated / self.modelled - 1


@dataclass(frozen=True)
class Comparison:
    """One image through a network on a board's geometry, memory and clock.

    Attributes:
        equal: Whether all outputs are the reference's.
        checking: Cycles before the first layer.
        lag: Stages that the board's products have more than the simulated ones, for each layer that has a drain.
        rows: Layers in order.
    """

    equal: bool
    checking: int
    lag: int
    rows: tuple[Row, ...]

    @property
    def cycles(self) -> int:
        """From the first layer's start to the last one's end, the board's own stages included."""
        return sum(row.simulated + (self.lag if row.op not in ("LOAD", "STORE") else 0) for row in self.rows)


def compare(network: IntegerNetwork, board: boards.Board, clock_mhz: float) -> Comparison:
    """Simulate one random image, and model it."""
    geometry = replace(board.geometry, lag=pipeline_lag(board.geometry))
    channels, rate = rtl_channels(board, geometry, clock_mhz)
    outside = external(board, geometry, clock_mhz)
    settings = RtlSettings(memory=Memory(channels=channels, latency=outside.latency, bytes_per_cycle=rate))
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (1, *network.tensors[name].shape)).astype(np.uint8) for name in network.inputs}
    executable = RtlExecutable(network, 1, geometry, settings=settings)
    try:
        got = executable.run_integers(images)
    finally:
        executable.close()
    want = reference.run_integers(network, images)
    times = layer_times(executable.plan, outside)
    rows = tuple(
        Row(counted.name, counted.op, counted.cycles, modelled.cycles, counted.waits)
        for counted, modelled in zip(executable.layers[0], times, strict=True)
    )
    equal = all(np.array_equal(got[name], want[name]) for name in network.outputs)
    return Comparison(equal, executable.checking_cycles, max(0, board.geometry.lag - geometry.lag), rows)


def main() -> int:
    """Returns 0; 1 if a bit differs."""
    from fpga_ops.commands.tables import read_network
    from triton_fpga_bench.engine import models

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", help="QDQ file, or resnet18, resnet50, ... with random weights")
    parser.add_argument("--board", default="u250", help="one that takes the overlay in RTL")
    parser.add_argument("--clock", type=float, help="MHz, instead of the upper end of the board's range")
    parser.add_argument("--json", type=Path, help="write all layers to this file")
    args = parser.parse_args()
    board = boards.load(args.board)
    clock = args.clock or board.clock_mhz
    with tempfile.TemporaryDirectory() as folder:
        network = read_network(str(models.find(args.model, Path(folder))))
    result = compare(network, board, clock)
    if args.json is not None:
        layers = [
            {"name": r.name, "op": r.op, "simulated": r.simulated, "modelled": round(r.modelled), "waits": r.waits}
            for r in result.rows
        ]  # fmt: skip
        table = {
            "model": args.model, "board": board.name, "clock_mhz": clock, "date": datetime.now(UTC).date().isoformat(),
            "equal": result.equal, "cycles": result.cycles, "checking_cycles": result.checking, "layers": layers,
        }  # fmt: skip
        args.json.write_text(json.dumps(table, indent=1) + "\n")
    for row in result.rows:
        if abs(row.deviation) > 0.005:
            print(f"{row.name:32} {row.op:6} {row.simulated:8} {row.modelled:10.0f} {row.deviation:+.1%}")
    modelled = sum(row.modelled for row in result.rows)
    simulated = sum(row.simulated for row in result.rows)
    print(f"{simulated} cycles simulated, {modelled:.0f} modelled ({simulated / modelled - 1:+.2%})")
    print(f"{result.cycles} with the board's products: {clock * 1e6 / result.cycles:.0f} images/s at {clock:g} MHz")
    print("bits: " + ("those of the reference" if result.equal else "DIFFERENT"))
    return 0 if result.equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
