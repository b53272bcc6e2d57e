"""Plots of scores: ROC curve as the field draws it, and the two score histograms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonic_client.demo.roc import auc, roc_curve


def figure(width: float = 7.0, height: float = 6.0) -> tuple[Any, Any]:
    """A figure in the field's style, drawn without a display."""
    fig, axes = _pyplot().subplots(figsize=(width, height), layout="constrained")
    return fig, axes


def panels(count: int) -> tuple[Any, Any]:
    """A figure with panels side by side."""
    fig, axes = _pyplot().subplots(1, count, figsize=(6.5 * count, 5.5), layout="constrained")
    return fig, axes


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import mplhep

    plt.style.use(mplhep.style.CMS)
    plt.rcParams.update({"font.size": 14, "axes.labelsize": 15, "xtick.labelsize": 13, "ytick.labelsize": 13})
    return plt


def colour(number: int) -> Any:
    """One of ten colours: the field's style repeats itself after six."""
    import matplotlib as mpl

    return mpl.colormaps["tab10"](number % 10)


def save(fig: Any, path: Path) -> None:
    """Write the figure and free it."""
    import matplotlib.pyplot as plt

    fig.savefig(path, dpi=120)
    plt.close(fig)


def roc(is_top: NDArray[np.bool_], scores: NDArray[np.float32], path: Path, title: str) -> None:
    """Background rejection 1/eB against signal efficiency eS, of bool[N] and float32[N], as a picture at `path`."""
    background, signal = roc_curve(is_top, scores)
    shown = background > 0
    fig, axes = figure()
    axes.step(signal[shown], 1.0 / background[shown], where="post", label=f"AUC {auc(is_top, scores):.4f}")
    axes.plot(np.linspace(0.01, 1, 50), 1.0 / np.linspace(0.01, 1, 50), ":", color="grey", label="guessing")
    axes.set(
        xlabel=r"top efficiency $\epsilon_S$",
        ylabel=r"QCD rejection $1/\epsilon_B$",
        yscale="log",
        xlim=(0, 1),
        ylim=(1, None),
    )
    axes.set_title(title, fontsize=13, loc="left")
    axes.legend()
    save(fig, path)


def score_histogram(is_top: NDArray[np.bool_], scores: NDArray[np.float32], path: Path, title: str) -> None:
    """Scores of top and QCD jets, each normalised to one, of bool[N] and float32[N], as a picture at `path`."""
    import mplhep

    edges = np.linspace(0, 1, 31)
    fig, axes = figure()
    for label, chosen in (("QCD jets", ~is_top), ("top jets", is_top)):
        counts = np.histogram(scores[chosen], edges)[0]
        mplhep.histplot(counts / max(1, counts.sum()), edges, ax=axes, label=f"{label} ({counts.sum()})", lw=2)
    axes.set(xlabel="top score", ylabel="fraction of jets", yscale="log", xlim=(0, 1), ylim=(1e-3, 1.5))
    axes.set_title(title, fontsize=13, loc="left")
    axes.legend()
    save(fig, path)
