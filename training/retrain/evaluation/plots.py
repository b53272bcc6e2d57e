"""Plots of data, of a training and of a judged tagger, in the style that experiments use (mplhep)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.data.images import ImageSettings, JetImager
from retrain.data.jet_table import LABELS, Jets
from retrain.data.pixelmaps import CLASSES, VIEWS, PixelMaps
from retrain.evaluation.judging import Judged, binned_fraction, calibration, confusion, working_cut
from retrain.evaluation.metrics import roc_curve
from retrain.evaluation.sculpting import sculpting
from retrain.evaluation.temperature import scaled

PT_EDGES = np.linspace(550.0, 650.0, 11)  # GeV
MASS_EDGES = np.linspace(0.0, 300.0, 16)  # GeV
BINNED = {
    "pt": (PT_EDGES, r"jet $p_\mathrm{T}$ [GeV]"),
    "mass": (MASS_EDGES, "jet mass [GeV]"),
    "multiplicity": (np.linspace(0.0, 200.0, 11), "constituents"),
}
"""What efficiencies are drawn against: a property of `Jets` to the edges of its bins and its label."""
WORKING_POINTS = (0.3, 0.5)
NAMES = {"qcd": "QCD", "top": "top"}


def save_plots(judged: Judged, folder: Path, temperature: float | None = None) -> list[Path]:
    """Write all plots as PNG; returns their paths.

    Args:
        judged: The taggers; distributions and efficiencies are of the first.
        folder: Where they go; made when missing.
        temperature: Of the first tagger; its calibration is shown before and after scaling.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import mplhep

    folder.mkdir(parents=True, exist_ok=True)
    drawers: dict[str, Callable[[Any, Judged], None]] = {
        "roc": _roc,
        "scores": _scores,
        "calibration": partial(_calibration, temperature=temperature),
        "confusion": _confusion,
        "efficiency_pt": partial(_efficiency, variable="pt"),
        "efficiency_mass": partial(_efficiency, variable="mass"),
        "efficiency_multiplicity": partial(_efficiency, variable="multiplicity"),
        "mass_sculpting": _mass_sculpting,
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
        (line,) = axes.plot(curve.signal[shown], 1.0 / curve.background[shown], label=name)
        # One standard deviation of the number of background jets that pass.
        passing = curve.background[shown] * np.count_nonzero(~judged.jets.is_top)
        spread = np.sqrt(passing * (1.0 - curve.background[shown])) / passing
        axes.fill_between(
            curve.signal[shown], 1.0 / curve.background[shown] / (1.0 + spread),
            1.0 / curve.background[shown] * (1.0 + spread), color=line.get_color(), alpha=0.2, lw=0,
        )  # fmt: skip
    axes.set(yscale="log", xlabel="top efficiency", ylabel="QCD rejection, 1 / efficiency", xlim=(0, 1), ylim=(1, None))
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


def _calibration(axes: Any, judged: Judged, temperature: float | None) -> None:
    shown = dict(judged.scores)
    if temperature is not None:
        first, scores = next(iter(judged.scores.items()))
        shown[f"{first}, temperature {temperature:.2f}"] = scaled(scores, temperature)
    for name, scores in shown.items():
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


def _efficiency(axes: Any, judged: Judged, variable: str) -> None:
    """Efficiency and mistag rate of the fixed working points against a jet's property."""
    edges, label = BINNED[variable]
    values = getattr(judged.jets, variable)
    name, scores = next(iter(judged.scores.items()))
    centres = (edges[1:] + edges[:-1]) / 2.0
    for marker, efficiency in zip("os", WORKING_POINTS, strict=True):
        passed = scores > working_cut(judged.jets, scores, efficiency)
        for is_top, colour in ((True, "C0"), (False, "C1")):
            chosen = judged.jets.is_top == is_top
            bins = binned_fraction(values[chosen], passed[chosen], edges)
            # A bin where nothing (or everything) passes has no place (or no error) on a logarithmic axis.
            drawn = bins.fraction > 0
            kind = NAMES["top" if is_top else "qcd"]
            axes.errorbar(
                centres[drawn], bins.fraction[drawn], bins.error[drawn], fmt=marker, ms=4, color=colour,
                label=f"{kind}, {efficiency:.0%} cut",
            )  # fmt: skip
    axes.set(yscale="log", xlabel=label, ylabel="fraction that passes", xlim=(edges[0], edges[-1]), title=name)
    axes.legend(ncols=2)


def _mass_sculpting(axes: Any, judged: Judged) -> None:
    """The mass of QCD jets, all and above the working points' cuts."""
    import mplhep

    name, scores = next(iter(judged.scores.items()))
    background = ~judged.jets.is_top
    cuts = {"all QCD jets": -np.inf}
    cuts |= {f"{e:.0%} cut": working_cut(judged.jets, scores, e) for e in WORKING_POINTS}
    for label, cut in cuts.items():
        counts = np.histogram(judged.jets.mass[background & (scores > cut)], MASS_EDGES)[0]
        if counts.any():
            measure = "" if cut == -np.inf else f", JSD {sculpting(judged.jets, scores, cut)['jsd']:.2f} bits"
            mplhep.histplot(counts / counts.sum(), MASS_EDGES, ax=axes, label=label + measure, yerr=False)
    axes.set(xlabel="jet mass [GeV]", ylabel="fraction of jets per bin", xlim=(0, 300), title=name)
    axes.legend()


@contextmanager
def _panels(rows: int, columns: int, width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """A figure in the experiments' style and its axes [rows, columns]; it is not shown by itself."""
    import matplotlib.pyplot as plt
    import mplhep

    with plt.style.context(mplhep.style.ATLAS), plt.rc_context({"font.size": 9, "axes.labelsize": 10}):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
        yield figure, axes
        plt.close(figure)


def draw_kinematics(jets: Jets) -> Any:
    """Mass, number of constituents and pT of both classes, side by side."""
    import mplhep

    shown: tuple[tuple[str, NDArray[Any], NDArray[Any]], ...] = (
        ("jet mass [GeV]", jets.mass, np.linspace(0, 300, 41)),
        ("constituents", jets.multiplicity, np.linspace(0, 200, 41)),
        (r"jet $p_\mathrm{T}$ [GeV]", jets.pt, np.linspace(550, 650, 21)),
    )
    with _panels(1, 3, 10.5, 3.0) as (figure, axes):
        for axis, (label, values, edges) in zip(axes[0], shown, strict=True):
            for is_top, name in ((False, "QCD"), (True, "top")):
                counts = np.histogram(values[jets.is_top == is_top], edges)[0]
                mplhep.histplot(counts, edges, ax=axis, label=name, yerr=False)
            axis.set(xlabel=label, ylabel="jets")
        axes[0, 0].legend()
    return figure


def draw_jet_images(jets: Jets, image: ImageSettings, examples: int = 3) -> Any:
    """The mean image and some single jets of each class, as pT fractions on a logarithmic scale."""
    from matplotlib.colors import LogNorm

    imager, edge = JetImager(image), image.half_width
    with _panels(2, examples + 1, 2.6 * (examples + 1), 5.2) as (figure, axes):
        for row, is_top in enumerate((True, False)):
            pixels = imager(jets.constituents[jets.is_top == is_top])[:, 0]
            for column, picture in enumerate((pixels.mean(axis=0), *pixels[:examples])):
                norm = LogNorm(1e-6, 1e-2) if column == 0 else LogNorm(1e-3, 0.3)
                axes[row, column].imshow(picture, origin="lower", norm=norm, extent=(-edge, edge, -edge, edge))
                title = f"mean of {len(pixels)}" if column == 0 else f"jet {column}"
                axes[row, column].set_title(f"{'top' if is_top else 'QCD'}, {title}", fontsize=9)
    return figure


def draw_history(history: Sequence[Mapping[str, float]]) -> Any:
    """Loss on the training and the validation events, and validation accuracy, against the images seen."""
    steps = np.arange(1, len(history) + 1)
    with _panels(1, 2, 8.0, 3.0) as (figure, axes):
        for name, label in (("loss", "training"), ("validation_loss", "validation")):
            axes[0, 0].plot(steps, [entry[name] for entry in history], "o-", label=label)
        axes[0, 0].set(xlabel="validation", ylabel="cross entropy")
        axes[0, 0].legend()
        axes[0, 1].plot(steps, [entry["validation_accuracy"] for entry in history], "o-")
        axes[0, 1].set(xlabel="validation", ylabel="validation accuracy")
    return figure


def draw_judged(judged: Judged) -> Any:
    """ROC curves of all taggers, and the scores of the first."""
    with _panels(1, 2, 9.0, 3.6) as (figure, axes):
        _roc(axes[0, 0], judged)
        _scores(axes[0, 1], judged)
    return figure


def draw_pixel_maps(maps: PixelMaps) -> Any:
    """One event of each class, both views: planes from left to right, cells upwards."""
    with _panels(VIEWS, len(CLASSES), 2.3 * len(CLASSES), 4.2) as (figure, axes):
        for column, name in enumerate(CLASSES):
            event = int(np.flatnonzero(maps.label == column)[0])
            for view in range(VIEWS):
                charge = maps.charge[event, view].astype(float).T
                axes[view, column].imshow(
                    np.sqrt(np.where(charge > 0, charge, np.nan)), origin="lower", aspect="auto", cmap="viridis_r"
                )
            axes[0, column].set_title(name.replace("_", " "), fontsize=9)
        axes[0, 0].set_ylabel("x cell")
        axes[1, 0].set_ylabel("y cell")
    return figure


def draw_confusion(titled: Mapping[str, NDArray[np.int64]], classes: Sequence[str] = CLASSES) -> Any:
    """Confusion matrices [true, predicted] side by side, each row a fraction of its class."""
    with _panels(1, len(titled), 4.2 * len(titled), 3.8) as (figure, axes):
        for axis, (title, counts) in zip(axes[0], titled.items(), strict=True):
            fractions = np.asarray(counts) / np.asarray(counts).sum(axis=1, keepdims=True)
            axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
            for (row, column), value in np.ndenumerate(fractions):
                colour = "white" if value > 0.5 else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
            ticks = range(len(classes))
            axis.set(xticks=ticks, yticks=ticks, xticklabels=classes, yticklabels=classes, xlabel="tagged as")
            axis.tick_params(labelsize=7)
            axis.set_title(title, fontsize=10)
        axes[0, 0].set_ylabel("event")
    return figure
