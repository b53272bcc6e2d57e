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


def points(prediction: Prediction) -> list[tuple[str, float, float]]:
    """For each layer with products: what it is bound by, its intensity, its GOP/s.

    The intensity is operations for each byte that external memory delivers while the layer runs: what is fetched ahead
    counts where it is fetched, so no layer is above the memory's slope.
    """
    return [
        (x.bound_by, 2 * x.macs / max(x.delivered, 1.0), 2e-3 * x.macs / x.cycles * prediction.clock_mhz)
        for x in prediction.layers
        if x.macs
    ]


def roofline(prediction: Prediction, board: Board, path: Path) -> None:
    """Attained operations a second of each layer against its operations for each byte of external memory."""
    plt = pyplot()
    geometry, clock = prediction.plan.geometry, prediction.clock_mhz
    peak = 2e-3 * geometry.macs * clock  # GOP/s
    slope = board.ddr_gbs * board.ddr_efficiency
    figure, axes = plt.subplots(figsize=(7, 4.5))
    colours = {"macs": "C0", "shape": "C1", "results": "C2", "ddr": "C3", "fill": "C4"}
    low, high = 10.0, 2e4
    for kind, colour in colours.items():
        of_kind = [
            (min(intensity, high), attained) for bound, intensity, attained in points(prediction) if bound == kind
        ]
        if of_kind:
            axes.scatter(*zip(*of_kind, strict=True), s=18, color=colour, label=f"bound by {kind}")
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
