"""Jets and pixel maps for the tests: seeded toys with the look of real ones, made without a generator."""

import numpy as np

from retrain.data.jet_table import MAX_CONSTITUENTS, Jets
from retrain.data.pixelmaps import CELLS, CLASSES, PLANES, VIEWS, PixelMaps


def toy_jets(count: int, seed: int = 0) -> Jets:
    """Half one-prong "QCD" and half three-prong "top" jets of about 600 GeV, at random places, some across phi = pi."""
    rng = np.random.default_rng(seed)
    is_top = np.arange(count) % 2 == 1
    constituents = np.zeros((count, MAX_CONSTITUENTS, 4), np.float32)
    eta, phi = rng.uniform(-2, 2, count), rng.uniform(-np.pi, np.pi, count)
    for row in range(count):
        number = int(rng.integers(5, 120))
        pt = np.sort(rng.exponential(1.0, number))[::-1]
        pt *= 600.0 / pt.sum()
        prongs = rng.normal(0.0, 0.25, (3 if is_top[row] else 1, 2))
        place = prongs[rng.integers(0, len(prongs), number)] + rng.normal(0.0, 0.05, (number, 2))
        e, f = eta[row] + place[:, 0], phi[row] + place[:, 1]
        momenta = np.stack([pt * np.cosh(e), pt * np.cos(f), pt * np.sin(f), pt * np.sinh(e)], axis=1)
        constituents[row, :number] = momenta
    total = constituents.astype(np.float64).sum(axis=1)
    jet_pt = np.hypot(total[:, 1], total[:, 2])
    mass = np.sqrt(np.maximum(total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(axis=1), 0.0))
    kinematics = (jet_pt, np.arcsinh(total[:, 3] / jet_pt), np.arctan2(total[:, 2], total[:, 1]), mass)
    return Jets(constituents, is_top, *(values.astype(np.float32) for values in kinematics))


def toy_maps(count: int, seed: int = 0) -> PixelMaps:
    """Blobs whose place along the planes and whose width depend on the class, which goes round."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % len(CLASSES)
    charge = np.zeros((count, VIEWS, PLANES, CELLS), np.uint8)
    for row, kind in enumerate(label):
        plane = np.clip(rng.normal(15 + 15 * kind, 4, 60), 0, PLANES - 1).astype(int)
        cell = np.clip(rng.normal(40, 2 + 3 * kind, 60), 0, CELLS - 1).astype(int)
        charge[row, rng.integers(0, VIEWS, 60), plane, cell] = rng.integers(3, 200, 60)
    return PixelMaps(charge, label.astype(np.int64), rng.uniform(0.5, 5.0, count).astype(np.float32))
