"""Plots of a judged tagger, in the style that experiments use (mplhep)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrain.evaluation import Judged, binned_fraction, calibration, confusion, working_cut
from retrain.jets import LABELS
from retrain.metrics import roc_curve

PT_EDGES = np.linspace(550.0, 650.0, 11)  # GeV
MASS_EDGES = np.linspace(0.0, 300.0, 16)  # GeV
NAMES = {"qcd": "QCD", "top": "top"}


def save_plots(judged: Judged, folder: Path) -> list[Path]:
    """Write all plots as PNG; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import mplhep

    folder.mkdir(parents=True, exist_ok=True)
    drawers: dict[str, Callable[[Any, Judged], None]] = {
        "roc": _roc,
        "scores": _scores,
        "calibration": _calibration,
        "confusion": _confusion,
        "efficiency_pt": _efficiency_pt,
        "efficiency_mass": _efficiency_mass,
    }
    paths = []
    for name, draw in drawers.items():
        with plt.style.context(mplhep.style.ATLAS):
            figure, axes = plt.subplots(figsize=(7, 5.5), layout="constrained")
            draw(axes, judged)
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=110)
            plt.close(figure)
        paths.append(path)
    return paths


def _roc(axes: Any, judged: Judged) -> None:
    for name, scores in judged.scores.items():
        curve = roc_curve(judged.jets.is_top, scores)
        shown = (curve.background > 0) & (curve.signal > 0.05)
        axes.plot(curve.signal[shown], 1.0 / curve.background[shown], label=name)
    axes.set(yscale="log", xlabel="top efficiency", ylabel="QCD rejection, 1 / efficiency", xlim=(0, 1))
    axes.legend()


def _scores(axes: Any, judged: Judged) -> None:
    import mplhep

    name, scores = next(iter(judged.scores.items()))
    edges = np.linspace(0.0, 1.0, 51)
    for is_top, label in ((False, "qcd"), (True, "top")):
        chosen = scores[judged.jets.is_top == is_top]
        mplhep.histplot(np.histogram(chosen, edges)[0] / len(chosen), edges, ax=axes, label=NAMES[label])
    axes.set(yscale="log", xlabel=f"top score, {name}", ylabel="fraction of jets per bin", xlim=(0, 1))
    axes.legend()


def _calibration(axes: Any, judged: Judged) -> None:
    for name, scores in judged.scores.items():
        bins = calibration(judged.jets, scores)
        centres = (bins.edges[1:] + bins.edges[:-1]) / 2.0
        axes.errorbar(centres, bins.fraction, bins.error, fmt="o", ms=4, label=name)
    axes.plot([0, 1], [0, 1], "k:", lw=1)
    axes.set(xlabel="top score", ylabel="fraction of top jets", xlim=(0, 1), ylim=(0, 1.05))
    axes.legend()


def _confusion(axes: Any, judged: Judged) -> None:
    name, scores = next(iter(judged.scores.items()))
    counts = confusion(judged.jets, scores)
    fractions = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            text = f"{fractions[row, column]:.3f}\n({counts[row, column]})"
            axes.text(column, row, text, ha="center", va="center", color=colour)
    ticks = [NAMES[label] for label in LABELS]
    axes.set(xticks=[0, 1], yticks=[0, 1], xticklabels=ticks, yticklabels=ticks)
    axes.set(xlabel=f"tagged as, {name}", ylabel="jet")


def _efficiency(axes: Any, judged: Judged, values: Any, edges: Any, label: str) -> None:
    name, scores = next(iter(judged.scores.items()))
    passed = scores > working_cut(judged.jets, scores)
    centres = (edges[1:] + edges[:-1]) / 2.0
    for is_top, kind in ((True, "top"), (False, "qcd")):
        chosen = judged.jets.is_top == is_top
        bins = binned_fraction(values[chosen], passed[chosen], edges)
        # A bin where nothing (or everything) passes has no place (or no error) on a logarithmic axis.
        drawn = bins.fraction > 0
        axes.errorbar(
            centres[drawn], bins.fraction[drawn], bins.error[drawn], fmt="o", ms=4, label=f"{NAMES[kind]}, {name}"
        )
    axes.set(yscale="log", xlabel=label, ylabel="efficiency of the 50% cut", xlim=(edges[0], edges[-1]))
    axes.legend()


def _efficiency_pt(axes: Any, judged: Judged) -> None:
    _efficiency(axes, judged, judged.jets.pt, PT_EDGES, r"jet $p_\mathrm{T}$ [GeV]")


def _efficiency_mass(axes: Any, judged: Judged) -> None:
    _efficiency(axes, judged, judged.jets.mass, MASS_EDGES, "jet mass [GeV]")
