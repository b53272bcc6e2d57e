"""Plots of the cycle model; needs the extra `plots`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fpga_ops.overlay.boards import Board
from fpga_ops.overlay.model.cycles import Prediction


def pyplot() -> Any:
    """matplotlib.pyplot that draws into files."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def roofline(prediction: Prediction, board: Board, path: Path) -> None:
    """Attained operations a second of each layer against its operations for each byte of external memory.

    A layer may lie above the memory's slope: its weights were partly fetched during the layers before.
    """
    plt = pyplot()
    geometry, clock = prediction.plan.geometry, prediction.clock_mhz
    peak = 2e-3 * geometry.macs * clock  # GOP/s
    slope = board.ddr_gbs * board.ddr_efficiency
    figure, axes = plt.subplots(figsize=(7, 4.5))
    colours = {"macs": "C0", "shape": "C1", "results": "C2", "ddr": "C3", "fill": "C4"}
    for kind, colour in colours.items():
        layers = [x for x in prediction.layers if x.macs and x.bound_by == kind]
        if layers:
            intensity = [2 * x.macs / x.bytes for x in layers]
            attained = [2e-3 * x.macs / x.cycles * clock for x in layers]
            axes.scatter(intensity, attained, s=18, color=colour, label=f"bound by {kind}")
    low, high = 10.0, 2e4
    axes.plot([low, peak / slope, high], [low * slope, peak, peak], color="black", lw=1)
    axes.set(
        xscale="log", yscale="log", xlabel="operations for each byte of external memory", ylabel="GOP/s",
        xlim=(low, high), ylim=(peak / 200, peak * 1.6),
    )  # fmt: skip
    axes.set_title(f"{board.title}, {geometry.name}, {clock:g} MHz (modelled)", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
