"""Random but physical jets for tests."""

from __future__ import annotations

import awkward as ak
import numpy as np


def narrow_jets(count: int, seed: int = 0, most: int = 60) -> ak.Array:
    """`count * var * {E, px, py, pz}`: jets of a few hundred GeV, all constituents within 0.8 of the axis."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most + 1, count)
    jet = np.repeat(np.arange(count), counts)
    distance, angle = 0.35 * np.sqrt(rng.random(len(jet))), rng.uniform(0, 2 * np.pi, len(jet))
    pt = rng.exponential(300 / np.maximum(counts[jet], 1)) + 1.0
    eta = rng.uniform(-1.5, 1.5, count)[jet] + distance * np.cos(angle)
    phi = rng.uniform(-np.pi, np.pi, count)[jet] + distance * np.sin(angle)
    momenta = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=1).astype(np.float32)
    energy = np.sqrt((momenta.astype(np.float64) ** 2).sum(axis=1) + 0.14**2).astype(np.float32)
    fields = {"E": energy} | {name: np.ascontiguousarray(momenta[:, i]) for i, name in enumerate(("px", "py", "pz"))}
    return ak.unflatten(ak.zip(fields), counts)


def random_jets(count: int, seed: int = 0, most: int = 260) -> ak.Array:
    """`count * var * {E, px, py, pz}`: 1 to `most` constituents each, in no order."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most + 1, count)
    momenta = rng.normal(0, 10, (counts.sum(), 3)).astype(np.float32)
    energy = np.sqrt((momenta.astype(np.float64) ** 2).sum(axis=1) + 0.14**2).astype(np.float32)
    fields = {"E": energy} | {name: np.ascontiguousarray(momenta[:, i]) for i, name in enumerate(("px", "py", "pz"))}
    return ak.unflatten(ak.zip(fields), counts)


LAYOUT_JETS = narrow_jets(9, seed=11, most=12)
"""The jets that tests of file layouts write and tag."""
