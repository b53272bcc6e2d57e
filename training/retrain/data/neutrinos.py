"""Neutrino interactions and cosmic muons as labelled pixel maps.

This is a STAND-IN: not GENIE, not NuWro, not an experiment's beam. Fluxes, the mixture of interaction modes and the
inelasticities are chosen to give events of the right look at 2 GeV; kinematics are exact; hadron systems of high mass
and tau decays come from Pythia 8; the detector is `retrain.data.scintillator`. There are no nuclear effects, no
neutrons, and one interaction a map. Nothing learnt here holds for an experiment; it shows that the chain works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from retrain.data.pixelmaps import CELLS, CLASSES, PLANES, VIEWS, PixelMaps, concatenate_maps
from retrain.data.scintillator import (
    CELL_WIDTH,
    HADRONS,
    MASSES,
    PLANE_PITCH,
    Detector,
    Floats,
    Showers,
    Tracks,
)
from retrain.errors import GeneratorError, MissingDependencyError

EVENTS_PER_BATCH = 250
LARGEST_PYTHIA_SEED = 900_000_000  # Pythia manual, Random:seed
NUCLEON, PION, TAU, DELTA = 0.9389, 0.1381, 1.7769, 1.232  # GeV, PDG; means of the isospin partners
LEPTON_MASSES = {"numu_cc": MASSES[13], "nue_cc": 0.511e-3, "nutau_cc": TAU, "nc": 0.0}
PHOTON_DEPTH = 38.0 * 9.0 / 7.0  # cm, mean free path of a photon (PDG eq. 34.29)
STRING_MASS = 1.6  # GeV; above, Pythia's strings; below, a nucleon and a pion


@dataclass(frozen=True)
class NeutrinoSettings:
    """What decides, with a seed, which events are made. All numbers chosen; energies in GeV."""

    peak_energy: float = 2.0  # of a narrow band, as off axis of NuMI
    peak_width: float = 0.45
    peak_fraction: float = 0.8
    tail_scale: float = 1.8  # the rest: a gamma distribution of shape 2
    min_energy: float = 0.6
    max_energy: float = 12.0
    min_tau_energy: float = 4.5  # the threshold is 3.5
    max_tau_energy: float = 20.0
    quasi_elastic: float = 0.25
    resonant: float = 0.35  # the rest is deep inelastic
    max_muon_energy: float = 20.0  # cosmic, from 1
    min_hits: int = 10  # cells over threshold; an emptier event is not kept


@dataclass
class _Final:
    """Visible particles of a batch, flat."""

    event: list[int]
    kind: list[int]
    momentum: list[Floats]

    def add(self, event: int, kind: int, momentum: Floats) -> None:
        self.event.append(event)
        self.kind.append(abs(kind))
        self.momentum.append(momentum)


class Interactions:
    """Events of one class and one seed."""

    def __init__(self, label: str, seed: int, rng: np.random.Generator, settings: NeutrinoSettings) -> None:
        self.label, self.rng, self.settings = label, rng, settings
        self._pythia: Any = None if label == "cosmic" else _hadroniser(seed)

    def generate(self, events: int) -> PixelMaps:
        """A batch of maps."""
        detector = Detector(events, self.rng)
        if self.label == "cosmic":
            tracks, energy = self._cosmic(events), np.zeros(events)
            detector.transport(tracks, Showers.none())
        else:
            final, vertex, energy = self._neutrinos(events)
            detector.transport(*_visible(final, vertex, self.rng))
        label = np.full(events, CLASSES.index(self.label), np.int64)
        return PixelMaps(detector.charge(), label, energy.astype(np.float32))

    def _cosmic(self, events: int) -> Tracks:
        """Muons from above, intensity as the square of the cosine of the zenith angle (PDG section 30.3)."""
        rng = self.rng
        place = np.stack([
            rng.uniform(-150.0, 150.0, events),
            np.full(events, CELLS / 2 * CELL_WIDTH),
            rng.uniform(0.0, PLANES * VIEWS * PLANE_PITCH, events),
        ], axis=1)  # fmt: skip
        cosine = rng.uniform(0.1, 1.0, events) ** (1.0 / 3.0)
        azimuth = rng.uniform(0.0, 2.0 * np.pi, events)
        sine = np.sqrt(1.0 - cosine**2)
        direction = np.stack([sine * np.cos(azimuth), -cosine, sine * np.sin(azimuth)], axis=1)
        energy = rng.uniform(1.0, self.settings.max_muon_energy, events)
        index = np.arange(events)
        return Tracks(index, np.full(events, 13), place, direction, energy, np.zeros(events, np.int64))

    def _energies(self, events: int) -> Floats:
        rng, chosen = self.rng, self.settings
        if self.label == "nutau_cc":
            return rng.uniform(chosen.min_tau_energy, chosen.max_tau_energy, events)
        peak = rng.normal(chosen.peak_energy, chosen.peak_width, events)
        tail = rng.gamma(2.0, chosen.tail_scale, events)
        energy = np.where(rng.random(events) < chosen.peak_fraction, peak, tail)
        return np.clip(energy, chosen.min_energy, chosen.max_energy)

    def _neutrinos(self, events: int) -> tuple[_Final, Floats, Floats]:
        """Final particles, vertices [N, 3] in cm, and neutrino energies."""
        rng, chosen = self.rng, self.settings
        energy = self._energies(events)
        draw = rng.random(events)
        elastic, resonant = draw < chosen.quasi_elastic, draw < chosen.quasi_elastic + chosen.resonant
        inelasticity = np.where(
            elastic,
            np.clip(rng.exponential(0.12, events), 0.01, 0.6),
            np.where(
                resonant,
                np.clip(rng.beta(1.6, 3.2, events), 0.08, 0.9),
                np.clip(rng.beta(1.3, 1.6, events), 0.1, 0.95),
            ),
        )
        mass = LEPTON_MASSES[self.label]
        lepton = np.maximum(energy * (1.0 - inelasticity), mass + 0.02)
        transfer = np.maximum(energy - lepton, 0.01)
        heaviest = np.sqrt(NUCLEON**2 + 2.0 * NUCLEON * transfer)  # at zero momentum transfer squared
        wanted = np.where(
            elastic,
            NUCLEON,
            np.where(
                resonant, np.clip(rng.normal(DELTA, 0.06, events), 1.1, 1.45), 1.25 + rng.exponential(0.45, events)
            ),
        )
        hadron_mass = np.maximum(np.minimum(wanted, heaviest), NUCLEON)
        momentum = np.sqrt(np.maximum(lepton**2 - mass**2, 0.0))
        squared = np.maximum(NUCLEON**2 + 2.0 * NUCLEON * transfer - hadron_mass**2, 0.0)  # Q2
        cosine = np.clip((2.0 * energy * lepton - squared - mass**2) / (2.0 * energy * momentum + 1e-9), -1.0, 1.0)
        azimuth = rng.uniform(0.0, 2.0 * np.pi, events)
        sine = np.sqrt(1.0 - cosine**2)
        out = momentum[:, None] * np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], axis=1)
        recoil = np.array([0.0, 0.0, 1.0]) * energy[:, None] - out
        recoil /= np.linalg.norm(recoil, axis=1, keepdims=True)
        final = _Final([], [], [])
        for event in range(events):
            self._leptons(final, event, out[event], lepton[event])
            self._hadrons(final, event, transfer[event] + NUCLEON, hadron_mass[event], recoil[event])
        vertex = np.stack([
            rng.normal(0.0, 20.0, events),
            rng.normal(0.0, 20.0, events),
            PLANE_PITCH * rng.uniform(12.0, 30.0, events),
        ], axis=1)  # fmt: skip
        return final, vertex, energy

    def _leptons(self, final: _Final, event: int, momentum: Floats, energy: float) -> None:
        if self.label == "numu_cc":
            final.add(event, 13, momentum)
        elif self.label == "nue_cc":
            final.add(event, 11, momentum)
        elif self.label == "nutau_cc":
            for kind, part in self._run_pythia([(15, 1, 0, 0, *momentum.tolist(), energy, TAU)]):
                final.add(event, kind, part)

    def _hadrons(self, final: _Final, event: int, energy: float, mass: float, along: Floats) -> None:
        """A hadron system of given energy and mass that moves `along`."""
        if mass < NUCLEON + PION + 1e-3:
            final.add(event, 2212, np.sqrt(max(energy**2 - NUCLEON**2, 1e-4)) * along)
            return
        boost = np.sqrt(max(energy**2 - mass**2, 0.0)) / energy
        if mass > STRING_MASS:
            ends = ((2, 101, 0, 1.0), (2101, 0, 101, -1.0))  # an up quark and what is left of the nucleon
            half, gamma = mass / 2.0, energy / mass
            lines = []
            for kind, colour, anticolour, sign in ends:
                momentum = gamma * half * (sign + boost) * along
                lines.append(
                    (kind, 23, colour, anticolour, *momentum.tolist(), gamma * half * (1.0 + boost * sign), 0.0)
                )
            made = self._run_pythia(lines)
            if made:
                for kind, part in made:
                    final.add(event, kind, part)
                return
        self._nucleon_and_pion(final, event, mass, energy / mass, boost * along)

    def _nucleon_and_pion(self, final: _Final, event: int, mass: float, gamma: float, velocity: Floats) -> None:
        """Isotropic two-body decay, as of a Delta; a third of the pions are neutral (two photons)."""
        rng = self.rng
        nucleon = (mass**2 + NUCLEON**2 - PION**2) / (2.0 * mass)
        momentum = np.sqrt(max(nucleon**2 - NUCLEON**2, 0.0)) * _isotropic(rng)
        final.add(event, 2212 if rng.random() < 0.5 else 2112, _boosted(momentum, nucleon, gamma, velocity))
        pion = _boosted(-momentum, mass - nucleon, gamma, velocity)
        if rng.random() < 2.0 / 3.0:
            final.add(event, 211, pion)
            return
        energy = float(np.sqrt(pion @ pion + PION**2))
        photon = PION / 2.0 * _isotropic(rng)
        for sign in (1.0, -1.0):
            final.add(event, 22, _boosted(sign * photon, PION / 2.0, energy / PION, pion / energy))

    def _run_pythia(self, lines: list[tuple[Any, ...]]) -> list[tuple[int, Floats]]:
        """Hadronise and decay what is given; empty when Pythia cannot."""
        record = self._pythia.event
        record.reset()
        for line in lines:
            record.append(*line)
        if not self._pythia.next():
            return []
        return [
            (particle.id(), np.array([particle.px(), particle.py(), particle.pz()]))
            for particle in (record[i] for i in range(1, record.size()))
            if particle.isFinal()
        ]


def _hadroniser(seed: int) -> Any:
    try:
        import pythia8mc
    except ImportError as error:
        raise MissingDependencyError(
            "generating neutrinos needs pythia8mc: pip install 'triton-fpga[training]'"
        ) from error
    pythia = pythia8mc.Pythia("", False)
    commands = (
        "Print:quiet = on",
        "ProcessLevel:all = off",
        "Check:event = off",  # one string alone conserves nothing that Pythia would check
        "Random:setSeed = on",
        f"Random:seed = {seed}",
        "ParticleDecays:limitTau0 = on",
        "ParticleDecays:tau0Max = 100.",  # mm
        "HadronLevel:mStringMin = 0.5",
    )
    if not all(pythia.readString(command) for command in commands) or not pythia.init():
        raise GeneratorError(f"Pythia did not initialise for hadronisation with seed {seed}")
    return pythia


def _isotropic(rng: np.random.Generator) -> Floats:
    vector = rng.normal(size=3)
    return np.asarray(vector / np.linalg.norm(vector))


def _boosted(momentum: Floats, energy: float, gamma: float, velocity: Floats) -> Floats:
    """A momentum seen from where its frame moves with `velocity`."""
    speed2 = float(velocity @ velocity)
    if speed2 < 1e-12:
        return momentum
    along = float(velocity @ momentum)
    return np.asarray(momentum + velocity * ((gamma - 1.0) * along / speed2 + gamma * energy))


def _visible(final: _Final, vertex: Floats, rng: np.random.Generator) -> tuple[Tracks, Showers]:
    """Tracks and showers of final particles; neutrinos, neutrons and long-lived neutral kaons leave nothing."""
    event = np.array(final.event, np.int64)
    kind = np.array(final.kind, np.int64)
    momentum = np.array(final.momentum, np.float64).reshape(-1, 3)
    size = np.linalg.norm(momentum, axis=1)
    seen = size > 1e-3  # GeV
    event, kind, momentum, size = event[seen], kind[seen], momentum[seen], size[seen]
    direction = momentum / size[:, None]
    charged, electromagnetic = np.isin(kind, (13, *HADRONS)), np.isin(kind, (11, 22))
    mass = np.array([MASSES.get(code, 0.0) for code in kind.tolist()])
    kinetic = np.hypot(size, mass) - mass
    generation = np.zeros(int(charged.sum()), np.int64)
    own = event[charged]
    tracks = Tracks(own, kind[charged], vertex[own], direction[charged], kinetic[charged], generation)
    own, size = event[electromagnetic], size[electromagnetic]
    depth = np.where(kind[electromagnetic] == 22, rng.exponential(PHOTON_DEPTH, len(own)), 0.0)
    return tracks, Showers(own, vertex[own], direction[electromagnetic], size, depth)


def chunk_seeds(seed: int, label: str, chunk: int) -> tuple[int, np.random.Generator]:
    """Pythia's seed and all other random numbers of one chunk: distinct for every (seed, class, chunk)."""
    sequence = np.random.SeedSequence([seed, CLASSES.index(label), chunk])
    return 1 + int(sequence.generate_state(1)[0]) % LARGEST_PYTHIA_SEED, np.random.default_rng(sequence)


def generate_maps(
    label: str, events: int, seed: int, chunk: int, settings: NeutrinoSettings | None = None
) -> PixelMaps:
    """Exactly `events` maps of one class; the same numbers always give the same maps."""
    pythia_seed, rng = chunk_seeds(seed, label, chunk)
    interactions = Interactions(label, pythia_seed, rng, settings or NeutrinoSettings())
    parts: list[PixelMaps] = []
    while sum(map(len, parts)) < events:
        batch = interactions.generate(EVENTS_PER_BATCH)
        hits = np.count_nonzero(batch.charge, axis=(1, 2, 3))
        parts.append(batch.take(np.flatnonzero(hits >= interactions.settings.min_hits)))
    return concatenate_maps(parts).take(slice(0, events))
