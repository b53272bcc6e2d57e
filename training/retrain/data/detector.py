"""A parametric detector with particle flow, a stand-in for Delphes.

Formulas and numbers are those of Delphes' `delphes_card_ATLAS.tcl` and the modules it names (`ParticlePropagator`,
`Efficiency`, `MomentumSmearing`, `Calorimeter`; J. de Favereau et al., JHEP 02 (2014) 057, arXiv:1307.6346), inside
|eta| < 3.2. Simplifications, by intent: no pile-up, no material, one regular eta-phi grid per calorimeter (the card's
central granularity everywhere), tracks keep the direction they have at the vertex, and a particle that curls up in
the field (pT below about 0.35 GeV) is lost to the calorimeter.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Resolution = Callable[[Floats, Floats], Floats]

MAX_ABS_ETA = 3.2  # end of the card's hadronic end-cap
MAX_TRACK_ABS_ETA = 2.5  # card, *TrackingEfficiency
MIN_TRACK_PT = 0.1  # GeV; card, *TrackingEfficiency
SOLENOID_RADIUS = 1.15  # m; card, ParticlePropagator.Radius
SOLENOID_FIELD = 2.0  # T; card, ParticlePropagator.Bz
BENDING_GEV_PER_TESLA_METRE = 0.3  # pT [GeV] = 0.3 B [T] R [m]; PDG review, "Particle detectors at accelerators"
MIN_SIGNIFICANCE = 2.0  # card, ECal/HCal EnergySignificanceMin

NEUTRINOS = (12, 14, 16)
ELECTRON, MUON, PHOTON, K_SHORT, LAMBDA = 11, 13, 22, 310, 3122


@dataclass(frozen=True)
class Particles:
    """A flat list of particles of many events; every field has one entry a particle. GeV."""

    event: Integers
    pdg_id: Integers
    charge: Floats
    px: Floats
    py: Floats
    pz: Floats
    energy: Floats


@dataclass(frozen=True)
class FlowObjects:
    """Reconstructed tracks and neutral towers of many events, sorted by event. GeV, radian."""

    event: Integers
    pt: Floats
    eta: Floats
    phi: Floats
    energy: Floats


@dataclass(frozen=True)
class Calorimeter:
    """One calorimeter: granularity, energy resolution (|eta|, E -> sigma of E) and threshold, in GeV."""

    delta_eta: float
    phi_bins: int
    min_energy: float
    resolution: Resolution


def _ecal_resolution(_abs_eta: Floats, energy: Floats) -> Floats:
    return np.sqrt((0.0017 * energy) ** 2 + 0.101**2 * energy)  # card, ECal.ResolutionFormula, |eta| <= 3.2


def _hcal_resolution(abs_eta: Floats, energy: Floats) -> Floats:
    barrel = np.sqrt((0.0302 * energy) ** 2 + 0.5205**2 * energy + 1.59**2)  # card, HCal, |eta| <= 1.7
    end_cap = np.sqrt((0.05 * energy) ** 2 + 0.706**2 * energy)  # card, HCal, 1.7 < |eta| <= 3.2
    return np.where(abs_eta <= 1.7, barrel, end_cap)


ECAL = Calorimeter(delta_eta=0.0174, phi_bins=360, min_energy=0.5, resolution=_ecal_resolution)
HCAL = Calorimeter(delta_eta=0.1, phi_bins=36, min_energy=1.0, resolution=_hcal_resolution)


def log_normal(rng: np.random.Generator, mean: Floats, sigma: Floats) -> Floats:
    """Log-normal numbers of a given mean and width, as Delphes smears energies and momenta."""
    mean = np.maximum(mean, 1e-12)
    variance = np.log1p((sigma / mean) ** 2)
    normal = rng.standard_normal(mean.shape)
    return np.asarray(np.exp(np.log(mean) - 0.5 * variance + np.sqrt(variance) * normal))


def tracking_efficiency(pdg_id: Integers, pt: Floats, eta: Floats) -> Floats:
    """Probability that a charged particle leaves a track (card: Charged-, Electron- and MuonTrackingEfficiency)."""
    kind = np.abs(pdg_id)
    abs_eta = np.abs(eta)
    low, central = pt <= 1.0, abs_eta <= 1.5
    muon = np.where(central, np.where(low, 0.75, 0.99), np.where(low, 0.70, 0.98))
    electron = np.where(central, np.where(low, 0.73, 0.95), np.where(low, 0.50, 0.83))
    fast_electron = np.where(central, 0.99, 0.90)
    hadron = np.where(central, np.where(low, 0.70, 0.95), np.where(low, 0.60, 0.85))
    efficiency = np.select(
        [kind == MUON, (kind == ELECTRON) & (pt > 100.0), kind == ELECTRON], [muon, fast_electron, electron], hadron
    )
    return np.where((pt > MIN_TRACK_PT) & (abs_eta <= MAX_TRACK_ABS_ETA), efficiency, 0.0)


def track_resolution(pdg_id: Integers, pt: Floats, eta: Floats) -> Floats:
    """sigma(pT)/pT of tracks in three |eta| regions (card: Charged-, Electron- and MuonMomentumSmearing)."""
    kind = np.abs(pdg_id)
    region = np.digitize(np.abs(eta), [0.5, 1.5])
    constant = np.select(
        [kind == MUON, kind == ELECTRON],
        [np.array([0.01, 0.015, 0.025])[region], np.array([0.03, 0.05, 0.15])[region]],
        np.array([0.06, 0.10, 0.25])[region],
    )
    slope = np.where(
        kind == MUON, np.array([1.0e-4, 1.5e-4, 3.5e-4])[region], np.array([1.3e-3, 1.7e-3, 3.1e-3])[region]
    )
    return np.hypot(constant, slope * pt)


def deposited_fractions(pdg_id: Integers) -> tuple[Floats, Floats]:
    """Fraction of a particle's energy left in ECAL and HCAL (card: EnergyFraction of both calorimeters)."""
    kind = np.abs(pdg_id)
    electromagnetic = (kind == ELECTRON) | (kind == PHOTON)
    neutral_v = (kind == K_SHORT) | (kind == LAMBDA)
    ecal = np.select([electromagnetic, neutral_v], [1.0, 0.3], 0.0)
    hcal = np.select([electromagnetic | (kind == MUON), neutral_v], [0.0, 0.7], 1.0)
    return ecal, hcal


def detect(rng: np.random.Generator, particles: Particles) -> FlowObjects:
    """Particles at the vertex to particle-flow objects: tracks, and towers for what no track accounts for."""
    pt = np.hypot(particles.px, particles.py)
    eta = np.arcsinh(particles.pz / np.maximum(pt, 1e-9))
    seen = (pt > 1e-3) & (np.abs(eta) < MAX_ABS_ETA) & ~np.isin(np.abs(particles.pdg_id), NEUTRINOS)
    event, pdg_id, charge = particles.event[seen], particles.pdg_id[seen], particles.charge[seen]
    pt, eta, energy = pt[seen], eta[seen], particles.energy[seen]
    phi = np.arctan2(particles.py[seen], particles.px[seen])

    # Sine of half the angle that the solenoid turns the particle by before it reaches the calorimeter.
    bend = BENDING_GEV_PER_TESLA_METRE * SOLENOID_FIELD * SOLENOID_RADIUS * np.abs(charge) / (2.0 * pt)
    reaches = bend < 1.0
    phi_calorimeter = np.where(reaches, phi - np.sign(charge) * np.arcsin(np.clip(bend, 0.0, 1.0)), phi)

    is_track = (charge != 0) & (rng.random(len(pt)) < tracking_efficiency(pdg_id, pt, eta))
    tracks = np.flatnonzero(is_track)
    relative = track_resolution(pdg_id[tracks], pt[tracks], eta[tracks])
    track_pt = log_normal(rng, pt[tracks], relative * pt[tracks])
    mass2 = np.maximum(energy[tracks] ** 2 - (pt[tracks] * np.cosh(eta[tracks])) ** 2, 0.0)
    track_energy = np.sqrt((track_pt * np.cosh(eta[tracks])) ** 2 + mass2)

    scale = np.ones(len(tracks))
    towers = []
    for calorimeter, fraction in zip((ECAL, HCAL), deposited_fractions(pdg_id), strict=True):
        hits = reaches & (fraction > 0.0)
        hit_tracks = hits[tracks]
        into = tracks[hit_tracks]
        found, rescale = _measure(
            rng,
            calorimeter,
            FlowObjects(event[hits], pt[hits], eta[hits], phi_calorimeter[hits], energy[hits] * fraction[hits]),
            FlowObjects(event[into], pt[into], eta[into], phi_calorimeter[into], track_energy[hit_tracks]),
            relative[hit_tracks] * track_energy[hit_tracks],
        )
        towers.append(found)
        scale[hit_tracks] *= rescale
    towers.append(FlowObjects(event[tracks], track_pt * scale, eta[tracks], phi[tracks], track_energy * scale))
    return _merge(towers)


def _measure(
    rng: np.random.Generator, calorimeter: Calorimeter, deposits: FlowObjects, tracks: FlowObjects, track_sigma: Floats
) -> tuple[FlowObjects, Floats]:
    """Neutral towers of one calorimeter, and the factor by which its measurement rescales each track.

    The logic of Delphes' `Calorimeter::FinalizeTower`: energy above the tracks' sum becomes a neutral tower when it
    is significant, else tracks and tower are averaged by their resolutions.
    """
    width, bins = calorimeter.delta_eta, calorimeter.phi_bins
    rows = int(np.ceil(2 * MAX_ABS_ETA / width)) + 2
    step = 2 * np.pi / bins

    def cell(objects: FlowObjects) -> Integers:
        row = np.floor((objects.eta + MAX_ABS_ETA) / width).astype(np.int64)
        column = np.floor(((objects.phi + np.pi) % (2 * np.pi)) / step).astype(np.int64) % bins
        cells: Integers = (objects.event * rows + row) * bins + column
        return cells

    cells, index = np.unique(np.concatenate([cell(deposits), cell(tracks)]), return_inverse=True)
    of_deposit, of_track = index[: len(deposits.event)], index[len(deposits.event) :]
    count = len(cells)
    deposited: Floats = np.bincount(of_deposit, deposits.energy, count).astype(np.float64)
    tracked = np.bincount(of_track, tracks.energy, count)
    tracked_variance = np.bincount(of_track, track_sigma**2, count)

    row, column, event = cells // bins % rows, cells % bins, cells // bins // rows
    centre = (row + 0.5) * width - MAX_ABS_ETA
    sigma = calorimeter.resolution(np.abs(centre), deposited)
    measured = np.where(deposited > 0.0, log_normal(rng, deposited, sigma), 0.0)
    sigma = calorimeter.resolution(np.abs(centre), measured)
    measured[(measured < calorimeter.min_energy) | (measured < MIN_SIGNIFICANCE * sigma)] = 0.0

    excess = np.maximum(measured - tracked, 0.0)
    significance = excess / np.sqrt(tracked_variance + sigma**2 + 1e-12)
    neutral = (excess > calorimeter.min_energy) & (significance > MIN_SIGNIFICANCE)

    averaged = ~neutral & (tracked > 0.0) & (measured > 0.0)
    safe_tracked = np.where(averaged, tracked, 1.0)
    weight_track = 1.0 / np.where(averaged, tracked_variance, 1.0)
    weight_tower = 1.0 / np.where(averaged, sigma**2, 1.0)
    best = (weight_track * tracked + weight_tower * measured) / (weight_track + weight_tower)
    factor = np.where(averaged, best / safe_tracked, 1.0)

    # A tower's direction is drawn inside its cell, as Delphes does with SmearTowerCenter.
    eta = centre[neutral] + width * (rng.random(int(neutral.sum())) - 0.5)
    phi = (column[neutral] + rng.random(int(neutral.sum()))) * step - np.pi
    energy = excess[neutral]
    return FlowObjects(event[neutral], energy / np.cosh(eta), eta, phi, energy), factor[of_track]


def _merge(parts: list[FlowObjects]) -> FlowObjects:
    event = np.concatenate([part.event for part in parts])
    order = np.argsort(event, kind="stable")
    pt, eta, phi, energy = (
        np.concatenate([getattr(part, name) for part in parts])[order] for name in ("pt", "eta", "phi", "energy")
    )
    return FlowObjects(event[order], pt, eta, phi, energy)
