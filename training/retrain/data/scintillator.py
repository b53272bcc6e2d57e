"""A stand-in for a segmented liquid-scintillator calorimeter: parametric transport of particles, all events at once.

This is NOT Geant4, and not an experiment's simulation. Tracks lose energy by the mean of Bethe's formula, scatter by
Highland's, and end by range or by an exponential hadronic interaction; electrons and photons become showers of spots
with the mean longitudinal and radial profiles. What it is for: maps with muons, showers and hadrons that look
different, made from a seed, to show transfer learning on.

Sources: PDG, "Passage of particles through matter" (Phys. Rev. D 110 (2024) 030001, section 34) for the formulas;
D. S. Ayres et al., NOvA technical design report, FERMILAB-DESIGN-2007-01, for the geometry and the material.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retrain.data.pixelmaps import CELLS, LARGEST_CHARGE, PLANES, VIEWS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Geometry and material (NOvA technical design report): extruded PVC cells filled with liquid scintillator.
CELL_WIDTH, PLANE_PITCH = 3.97, 6.65  # cm; planes alternate between the two views
RADIATION_LENGTH, MOLIERE_RADIUS = 38.0, 11.0  # cm
DENSITY = 0.95  # g/cm3, scintillator and PVC together
# Chosen for light materials, not from the report: carbon-like values.
INTERACTION_LENGTH = 80.0  # cm
CRITICAL_ENERGY = 0.09  # GeV
Z_OVER_A, MEAN_EXCITATION = 0.54, 68e-6  # MeV for the latter: polystyrene-like, PDG tables

ELECTRON_MASS = 0.511e-3  # GeV
MASSES = {13: 0.10566, 211: 0.13957, 321: 0.49368, 2212: 0.93827}  # GeV, PDG
BETHE_CONSTANT = 0.307075  # MeV cm2/mol, PDG table 34.1
HIGHLAND = 0.0136  # GeV, PDG eq. 34.16
MIN_DEDX = 1.7e-3  # GeV cm2/g, of a minimum ionising particle in light materials
LOSS_SPREAD = 0.15  # relative, Gaussian in place of Landau's tail; chosen
STEP = 2.0  # cm; half a cell
MAX_STEPS = 1250
SHOWER_SPOT = 1e-3  # GeV a spot
SHOWER_SHAPE = 0.5  # b of the longitudinal gamma profile, PDG section 34.5
CORE_FRACTION, CORE_RADIUS, HALO_RADIUS = 0.8, 0.13, 0.45  # of the Molière radius: nine tenths within one of them

# The chain of light: chosen so that a through-going muon gives a few dozen counts a cell.
PHOTOELECTRONS_PER_MEV = 4.0
THRESHOLD = 12  # photoelectrons
PHOTOELECTRONS_PER_COUNT = 4

HADRONS = (211, 321, 2212)
DECAYING_PIONS = 0.35  # of pion interactions give their energy to a neutral pion (charge exchange); chosen
MICHEL_FRACTION = 0.9  # of stopped muons give an electron of 5 to 50 MeV; chosen
MAX_GENERATION = 3


@dataclass
class Tracks:
    """Charged particles on their way; kinetic energy in GeV, places in cm."""

    event: Integers
    kind: Integers  # absolute PDG code
    place: Floats  # [T, 3]
    direction: Floats  # [T, 3], unit vectors
    energy: Floats
    generation: Integers

    def __len__(self) -> int:
        return len(self.event)


@dataclass
class Showers:
    """Electrons and photons; `depth` in cm is how far a photon goes before it converts, 0 for an electron."""

    event: Integers
    place: Floats
    direction: Floats
    energy: Floats
    depth: Floats

    def __len__(self) -> int:
        return len(self.event)

    @classmethod
    def none(cls) -> Showers:
        """No shower at all."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))


@dataclass
class Detector:
    """Cells of a batch of events, filled by tracks and showers. Places: x, y from the middle, z from the front."""

    events: int
    rng: np.random.Generator
    energy: Floats = field(init=False)  # [events * VIEWS * PLANES * CELLS], GeV

    def __post_init__(self) -> None:
        self.energy = np.zeros(self.events * VIEWS * PLANES * CELLS)

    def transport(self, tracks: Tracks, showers: Showers) -> None:
        """Follow everything, secondaries included, to its end."""
        self._shower(showers)
        while len(tracks):
            tracks, showers = self._follow(tracks)
            self._shower(showers)

    def charge(self) -> NDArray[np.uint8]:
        """Counts uint8[events, 2, 100, 80]: photoelectron statistics, threshold, 8 bits."""
        hit = np.flatnonzero(self.energy)
        light = self.rng.poisson(self.energy[hit] * 1e3 * PHOTOELECTRONS_PER_MEV)
        counts = np.minimum(np.where(light < THRESHOLD, 0, light // PHOTOELECTRONS_PER_COUNT), LARGEST_CHARGE)
        cells = np.zeros(self.energy.size, np.uint8)
        cells[hit] = counts
        return cells.reshape(self.events, VIEWS, PLANES, CELLS)

    def _deposit(self, event: Integers, place: Floats, energy: Floats) -> None:
        layer = np.floor(place[:, 2] / PLANE_PITCH).astype(np.int64)
        view, plane = layer % VIEWS, layer // VIEWS
        across = np.where(view == 0, place[:, 0], place[:, 1])
        cell = np.floor(across / CELL_WIDTH).astype(np.int64) + CELLS // 2
        inside = (layer >= 0) & (plane < PLANES) & (cell >= 0) & (cell < CELLS)
        flat = ((event * VIEWS + view) * PLANES + plane) * CELLS + cell
        np.add.at(self.energy, flat[inside], energy[inside])

    def _follow(self, tracks: Tracks) -> tuple[Tracks, Showers]:
        """Step all tracks to their ends; returns what they make there."""
        rng = self.rng
        hadronic = np.isin(tracks.kind, HADRONS)
        left = np.where(hadronic, rng.exponential(INTERACTION_LENGTH, len(tracks)), np.inf)  # cm to an interaction
        mass = np.array([MASSES[kind] for kind in tracks.kind.tolist()])
        place, direction, energy = tracks.place.copy(), tracks.direction.copy(), tracks.energy.copy()
        interacted = np.zeros(len(tracks), bool)
        going = np.flatnonzero(energy > 0)
        for _ in range(MAX_STEPS):
            if not len(going):
                break
            loss = np.minimum(energy[going], self._loss(tracks.kind[going], mass[going], energy[going]))
            self._deposit(tracks.event[going], place[going], loss)
            energy[going] -= loss
            direction[going] = self._scattered(direction[going], mass[going], energy[going])
            place[going] += STEP * direction[going]
            left[going] -= STEP
            ends = (left[going] < 0) & (energy[going] > 0.02)
            interacted[going[ends]] = True
            going = going[(energy[going] > 0) & ~ends & _near(place[going])]
        return self._secondaries(tracks, place, direction, energy, interacted)

    def _loss(self, kind: Integers, mass: Floats, energy: Floats) -> Floats:
        """Energy lost in one step, GeV: Bethe's mean (PDG eq. 34.5 without density effect), smeared."""
        gamma = 1.0 + energy / mass
        beta2 = 1.0 - 1.0 / gamma**2
        with np.errstate(divide="ignore"):
            logarithm = np.log(2.0 * ELECTRON_MASS * 1e3 * np.maximum(beta2 * gamma**2, 1e-9) / MEAN_EXCITATION) - beta2
        mean = 1e-3 * BETHE_CONSTANT * Z_OVER_A / np.maximum(beta2, 1e-3) * np.maximum(logarithm, 0.0)
        mean = np.maximum(mean, MIN_DEDX) * DENSITY * STEP
        return np.asarray(mean * np.maximum(self.rng.normal(1.0, LOSS_SPREAD, len(energy)), 0.1))

    def _scattered(self, direction: Floats, mass: Floats, energy: Floats) -> Floats:
        """Directions after one step of multiple scattering."""
        momentum = np.sqrt(energy**2 + 2.0 * energy * mass)
        beta = np.maximum(momentum / (energy + mass), 0.1)
        angle = HIGHLAND / np.maximum(beta * momentum, 1e-4) * np.sqrt(STEP / RADIATION_LENGTH)
        turned = direction + np.minimum(angle, 1.0)[:, None] * self.rng.normal(size=direction.shape)
        return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True))

    def _isotropic(self, count: int) -> Floats:
        vectors = self.rng.normal(size=(count, 3))
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def _secondaries(
        self, tracks: Tracks, place: Floats, direction: Floats, energy: Floats, interacted: NDArray[np.bool_]
    ) -> tuple[Tracks, Showers]:
        rng = self.rng
        stopped = (tracks.kind == 13) & (energy <= 0.0) & (rng.random(len(tracks)) < MICHEL_FRACTION)
        breaks = interacted & (tracks.generation < MAX_GENERATION)
        neutral = breaks & (tracks.kind != 2212) & (rng.random(len(tracks)) < DECAYING_PIONS)
        michel, exchange = np.flatnonzero(stopped), np.flatnonzero(neutral)
        origin = np.concatenate([michel, exchange])
        showers = Showers(
            tracks.event[origin],
            place[origin],
            np.concatenate([self._isotropic(len(michel)), direction[exchange]]),
            np.concatenate([
                rng.uniform(0.005, 0.05, len(michel)), energy[exchange] * rng.uniform(0.3, 0.9, len(exchange))
            ]),
            np.zeros(len(origin)),
        )  # fmt: skip
        parents = np.flatnonzero(breaks & ~neutral)
        parents = np.repeat(parents, rng.integers(1, 4, len(parents)))
        turned = direction[parents] + self._isotropic(len(parents))
        children = Tracks(
            tracks.event[parents],
            rng.choice([211, 2212], len(parents)),
            place[parents],
            turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-9),
            energy[parents] * rng.uniform(0.1, 0.4, len(parents)),
            tracks.generation[parents] + 1,
        )
        return children, showers

    def _shower(self, showers: Showers) -> None:
        """Spots along the gamma profile dE/dt ~ (bt)^(a-1) exp(-bt) (PDG eq. 34.36), exponential across."""
        rng = self.rng
        if not len(showers):
            return
        photon = np.where(showers.depth > 0, 0.5, -0.5)  # PDG: C of the shower maximum, ln(E / Ec) + C
        maximum = np.log(np.maximum(showers.energy / CRITICAL_ENERGY, 1.05)) + photon
        shape = np.maximum((1.0 + SHOWER_SHAPE * maximum) * rng.normal(1.0, 0.08, len(showers)), 1.05)
        spots = np.maximum(showers.energy / SHOWER_SPOT, 6).astype(np.int64)
        owner = np.repeat(np.arange(len(showers)), spots)
        along = rng.gamma(shape[owner], 1.0 / SHOWER_SHAPE) * RADIATION_LENGTH + showers.depth[owner]
        core = rng.random(len(owner)) < CORE_FRACTION
        radius = MOLIERE_RADIUS * np.where(core, CORE_RADIUS, HALO_RADIUS) * rng.standard_exponential(len(owner))
        azimuth = rng.uniform(0.0, 2.0 * np.pi, len(owner))
        one, two = _transverse(showers.direction)
        place = showers.place[owner] + along[:, None] * showers.direction[owner]
        place += (radius * np.cos(azimuth))[:, None] * one[owner] + (radius * np.sin(azimuth))[:, None] * two[owner]
        self._deposit(showers.event[owner], place, (showers.energy / spots)[owner])


def _near(place: Floats) -> NDArray[np.bool_]:
    """Whether a particle can still reach a cell."""
    half = CELL_WIDTH * CELLS / 2.0 + 50.0
    depth = PLANE_PITCH * PLANES * VIEWS
    inside = (np.abs(place[:, :2]) < half).all(axis=1) & (place[:, 2] > -50.0) & (place[:, 2] < depth)
    return np.asarray(inside)


def _transverse(direction: Floats) -> tuple[Floats, Floats]:
    """Two unit vectors across each direction."""
    axis = np.where(np.abs(direction[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    one = np.cross(direction, axis)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    return one, np.cross(direction, one)
