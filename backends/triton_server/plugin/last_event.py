"""The last request that was answered, for the page of an operator who shows it (`serve --show-events`)."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_server.protocol import KNOWN_ANSWER_ID

Arrays = Mapping[str, npt.NDArray[Any]]
PERIOD_S = 1.0
"""Between two requests that are looked at: of all others not even a copy is made."""
LABELS_FILE = "labels.txt"
SIDE = 56
"""Pixels of a side that are shown at most."""


class LastEvent:
    """Keeps one row now and then, and writes it to ``folder`` when told to."""

    def __init__(self, folder: Path, model: str, version: str) -> None:
        self._folder = folder
        self._model = model
        self._version = version
        self._kept: dict[str, Any] | None = None
        self._next = 0.0
        self._asked = False

    def offer(self, request_id: str, inputs: Arrays, outputs: Arrays) -> None:
        """Keep the first row of a client's request and its answer, unless another was kept within PERIOD_S.

        Known answers are no client's, nor is what comes before the first of them: Triton warms the model up with it.
        """
        if request_id == KNOWN_ANSWER_ID:
            self._asked = True
            return
        if not self._asked or time.monotonic() < self._next or len(inputs) != 1:
            return
        self._next = time.monotonic() + PERIOD_S
        row = np.array(next(iter(inputs.values()))[0])  # a copy: what came lies in memory that is used again
        self._kept = {
            "model": self._model, "version": self._version, "at": time.time(), **shown(row),
            "outputs": {name: np.ravel(values[0]).astype(float).round(6).tolist() for name, values in outputs.items()},
        }  # fmt: skip

    def write(self) -> None:
        """Write what was kept since the last time; whole or not at all."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        file = self._folder / f"{hashlib.sha256(self._model.encode()).hexdigest()[:16]}.json"
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(kept, allow_nan=False))
        part.replace(file)


def shown(row: npt.NDArray[Any]) -> dict[str, Any]:
    """What of one input, without its batch dimension, can be drawn.

    ``float[n, 4]`` are constituents (E, px, py, pz), GeV: "points", the distance from the jet's axis in eta and phi
    (radians) and pT (GeV) of each. ``float[planes, H, W]`` is an image: "image", the planes' sum, in blocks so that no
    side has more than SIDE. Else nothing.
    """
    if row.ndim == 2 and row.shape[1] == 4:
        px, py, pz = (row[:, column].astype(np.float64) for column in (1, 2, 3))
        pt = np.hypot(px, py)
        real = pt > 0
        if real.any():
            px, py, pz, pt = px[real], py[real], pz[real], pt[real]
            eta = np.arcsinh(pz / pt) - np.arcsinh(pz.sum() / max(1e-12, np.hypot(px.sum(), py.sum())))
            phi = np.angle(np.exp(1j * (np.arctan2(py, px) - np.arctan2(py.sum(), px.sum()))))
            return {"points": np.column_stack((eta, phi, pt)).round(4).tolist()}
    elif row.ndim == 3:
        image = row.astype(np.float64).sum(axis=0)
        step = -(-max(image.shape) // SIDE)
        padded = np.pad(image, [(0, -size % step) for size in image.shape])
        height, width = (size // step for size in padded.shape)
        return {"image": padded.reshape(height, step, width, step).sum((1, 3)).round(6).tolist()}
    return {}


def read_events(folder: Path, repository: Path) -> list[dict[str, Any]]:
    """The last event of each model, as it was written, with the names of its classes where the repository has them."""
    events = []
    for file in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):  # it is replaced at this moment
            event = json.loads(file.read_text())
            events.append({**event, "labels": _labels(event, repository)})
    return events


def _labels(event: dict[str, Any], repository: Path) -> dict[str, list[str]]:
    """The lines of the model's labels.txt for each output of as many values."""
    try:
        lines = (repository / event["model"] / LABELS_FILE).read_text().split("\n")
    except (OSError, ValueError):
        return {}
    labels = [line.strip() for line in lines if line.strip()]
    return {name: labels for name, values in event["outputs"].items() if len(values) == len(labels)}
