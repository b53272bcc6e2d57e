"""From generated events to labelled jets: clustering, selection and truth matching.

The selection is that of the public top-tagging reference set (A. Butter et al., arXiv:1707.08966): anti-kT R = 0.8,
550 < pT < 650 GeV, |eta| < 2, the leading jet; a top jet holds the top quark and its three decay quarks within 0.8
of the jet axis; up to 200 constituents, sorted by falling pT.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrain.data.clustering import load_fastjet
from retrain.data.detector import Floats, FlowObjects, Integers, detect
from retrain.data.jet_table import MAX_CONSTITUENTS, Jets, concatenate
from retrain.data.pythia import PROCESSES, EventGenerator, GeneratorSettings, HadronicTops, Process, hadronic_tops

EVENTS_PER_BATCH = 500
MIN_CLUSTERED_PT = 200.0  # GeV; below the window, only to keep the list of jets short
LARGEST_PYTHIA_SEED = 900_000_000  # Pythia manual, Random:seed


@dataclass(frozen=True)
class JetSelection:
    """Jet definition and kinematic window; GeV."""

    radius: float = 0.8
    min_pt: float = 550.0
    max_pt: float = 650.0
    max_abs_eta: float = 2.0
    match_radius: float = 0.8


@dataclass(frozen=True)
class JetSettings:
    """Everything that, with a seed, decides which jets are made."""

    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    selection: JetSelection = field(default_factory=JetSelection)


def chunk_seeds(seed: int, process: Process, chunk: int) -> tuple[int, np.random.Generator]:
    """Pythia's seed and the detector's random numbers of one chunk: distinct for every (seed, process, chunk)."""
    sequence = np.random.SeedSequence([seed, PROCESSES.index(process), chunk])
    pythia_seed = 1 + int(sequence.generate_state(1)[0]) % LARGEST_PYTHIA_SEED
    return pythia_seed, np.random.default_rng(sequence)


def generate_chunk(process: Process, jets: int, seed: int, chunk: int, settings: JetSettings | None = None) -> Jets:
    """Exactly `jets` jets of one process; the same numbers always give the same jets."""
    settings = settings or JetSettings()
    pythia_seed, rng = chunk_seeds(seed, process, chunk)
    generator = EventGenerator(process, pythia_seed, settings.generator)
    parts: list[Jets] = []
    while sum(map(len, parts)) < jets:
        batch = generator.generate(EVENTS_PER_BATCH)
        objects = detect(rng, generator.final_particles(batch))
        parts.append(_select(batch, objects, process, settings.selection))
    return concatenate(parts).take(slice(0, jets))


def _select(batch: Any, objects: FlowObjects, process: Process, selection: JetSelection) -> Jets:
    momenta = _four_momenta(objects)
    counts = np.bincount(objects.event, minlength=len(batch))
    leading, constituents = _leading_jets(momenta, counts, selection.radius)
    chosen = (
        (leading["pt"] > selection.min_pt)
        & (leading["pt"] < selection.max_pt)
        & (np.abs(leading["eta"]) < selection.max_abs_eta)
    )
    if process == "top":
        chosen &= _holds_top(hadronic_tops(batch), leading, selection.match_radius)
    events = np.flatnonzero(chosen)
    first = np.concatenate([[0], np.cumsum(counts)])
    padded = np.zeros((len(events), MAX_CONSTITUENTS, 4), np.float32)
    for row, event in enumerate(events):
        members = momenta[first[event] + np.asarray(constituents[event])]
        hardest = np.argsort(-np.hypot(members[:, 1], members[:, 2]), kind="stable")[:MAX_CONSTITUENTS]
        padded[row, : len(hardest)] = members[hardest]
    pt, eta, phi, mass = (leading[name][events].astype(np.float32) for name in ("pt", "eta", "phi", "mass"))
    return Jets(padded, np.full(len(events), process == "top"), pt, eta, phi, mass)


def _four_momenta(objects: FlowObjects) -> Floats:
    """(E, px, py, pz) in GeV; smearing may make E < |p|, which is lifted to a massless object."""
    momentum = objects.pt * np.cosh(objects.eta)
    energy = np.maximum(objects.energy, momentum * (1.0 + 1e-9))
    px, py = objects.pt * np.cos(objects.phi), objects.pt * np.sin(objects.phi)
    return np.stack([energy, px, py, objects.pt * np.sinh(objects.eta)], axis=1)


def _leading_jets(momenta: Floats, counts: Integers, radius: float) -> tuple[dict[str, Floats], Any]:
    """Kinematics of each event's hardest anti-kT jet (pT = 0 when there is none) and its constituents' positions."""
    fastjet = load_fastjet()
    import awkward as ak

    flat = ak.zip({name: momenta[:, i] for i, name in enumerate(("E", "px", "py", "pz"))}, with_name="Momentum4D")
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, radius)
    cluster = fastjet.ClusterSequence(ak.unflatten(flat, counts), definition)
    jets = cluster.inclusive_jets(min_pt=MIN_CLUSTERED_PT)
    hardest = ak.argmax(jets.pt, axis=1, keepdims=True)
    jet = ak.firsts(jets[hardest])
    members = ak.firsts(cluster.constituent_index(min_pt=MIN_CLUSTERED_PT)[hardest])
    return {name: ak.to_numpy(ak.fill_none(getattr(jet, name), 0.0)) for name in ("pt", "eta", "phi", "mass")}, members


def _holds_top(tops: HadronicTops, leading: dict[str, Floats], radius: float) -> Any:
    """bool[events]: whether a top and all its quarks are within `radius` of the event's leading jet."""

    def near(momentum: Floats, event: Integers) -> Any:
        eta = np.arcsinh(momentum[:, 2] / np.hypot(momentum[:, 0], momentum[:, 1]))
        phi = np.arctan2(momentum[:, 1], momentum[:, 0])
        delta_phi = (phi - leading["phi"][event] + np.pi) % (2 * np.pi) - np.pi
        return np.hypot(eta - leading["eta"][event], delta_phi) < radius

    inside = near(tops.top, tops.event)
    for quark in range(3):
        inside &= near(tops.quarks[:, quark], tops.event)
    held = np.zeros(len(leading["pt"]), bool)
    held[tops.event[inside]] = True
    return held
