"""Random but physical jets for tests."""

from __future__ import annotations

import awkward as ak
import numpy as np


def random_jets(count: int, seed: int = 0, most: int = 260) -> ak.Array:
    """`count * var * {E, px, py, pz}`: 1 to `most` constituents each, in no order."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most + 1, count)
    momenta = rng.normal(0, 10, (counts.sum(), 3)).astype(np.float32)
    energy = np.sqrt((momenta.astype(np.float64) ** 2).sum(axis=1) + 0.14**2).astype(np.float32)
    fields = {"E": energy} | {name: np.ascontiguousarray(momenta[:, i]) for i, name in enumerate(("px", "py", "pz"))}
    return ak.unflatten(ak.zip(fields), counts)
