"""Hard scattering, shower and hadronisation with Pythia 8, in batches of events.

The settings follow the public top-tagging reference set (A. Butter et al., arXiv:1707.08966; G. Kasieczka et al.,
arXiv:1902.09914): 14 TeV, multiple parton interactions off, no pile-up.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from retrain.data.detector import Floats, Integers, Particles
from retrain.errors import GeneratorError, MissingDependencyError

Process = Literal["top", "qcd"]
PROCESSES: tuple[Process, ...] = ("qcd", "top")

TOP, W_BOSON, HEAVIEST_LIGHT_QUARK = 6, 24, 5
MAX_COPIES = 200  # more "carbon copies" of one top quark than any shower makes


@dataclass(frozen=True)
class GeneratorSettings:
    """What Pythia is asked for. GeV; the pT-hat window covers the jet window with margin for radiation."""

    beam_energy: float = 14_000.0
    min_pt_hat: float = 500.0
    max_pt_hat: float = 800.0

    def commands(self, process: Process, seed: int) -> list[str]:
        """The settings as Pythia's own strings."""
        hard = (
            # Both tops decay to quarks: a hadronic top is what is tagged.
            ["Top:gg2ttbar = on", "Top:qqbar2ttbar = on", "24:onMode = off", "24:onIfAny = 1 2 3 4 5"]
            if process == "top"
            else ["HardQCD:all = on"]
        )
        return [
            "Print:quiet = on",
            f"Beams:eCM = {self.beam_energy}",
            f"PhaseSpace:pTHatMin = {self.min_pt_hat}",
            f"PhaseSpace:pTHatMax = {self.max_pt_hat}",
            "PartonLevel:MPI = off",
            "Random:setSeed = on",
            f"Random:seed = {seed}",
            "ParticleDecays:limitTau0 = on",
            "ParticleDecays:tau0Max = 10.",  # mm: longer-lived particles reach the detector (Pythia manual, LHC usage)
            *hard,
        ]


@dataclass(frozen=True)
class HadronicTops:
    """Hadronically decaying top quarks of a batch; `quarks` are b, q, q'. (px, py, pz, E) in GeV."""

    event: Integers
    top: Floats  # [T, 4]
    quarks: Floats  # [T, 3, 4]


class EventGenerator:
    """Pythia 8 for one process and one seed."""

    def __init__(self, process: Process, seed: int, settings: GeneratorSettings) -> None:
        try:
            import pythia8mc
        except ImportError as error:
            raise MissingDependencyError(
                "generating jets needs pythia8mc: pip install 'triton-fpga[generator]'"
            ) from error
        self._pythia: Any = pythia8mc.Pythia("", False)
        for command in settings.commands(process, seed):
            if not self._pythia.readString(command):
                raise GeneratorError(f"Pythia refused the setting {command!r}")
        if not self._pythia.init():
            raise GeneratorError(f"Pythia did not initialise for process {process!r} and seed {seed}")
        self._charges: dict[int, float] = {}

    def generate(self, events: int) -> Any:
        """A batch of events as an awkward array of records."""
        batch = self._pythia.nextBatch(events)
        if len(batch) == 0:
            raise GeneratorError("Pythia gave up: no event of the batch succeeded")
        return batch

    def final_particles(self, batch: Any) -> Particles:
        """All stable particles of a batch, flat."""
        import awkward as ak

        final = batch.prt[batch.prt.status > 0]
        event = np.repeat(np.arange(len(batch)), ak.to_numpy(ak.num(final.id)))
        pdg_id = _flat(final.id).astype(np.int64)
        px, py, pz, energy = (_flat(final.p[name]).astype(np.float64) for name in ("px", "py", "pz", "e"))
        return Particles(event, pdg_id, self._charge(pdg_id), px, py, pz, energy)

    def _charge(self, pdg_id: Integers) -> Floats:
        kinds, index = np.unique(pdg_id, return_inverse=True)
        for kind in kinds.tolist():
            if kind not in self._charges:
                self._charges[kind] = self._pythia.particleData.charge(kind)
        return np.array([self._charges[kind] for kind in kinds.tolist()], dtype=np.float64)[index]


def _flat(array: Any) -> Any:
    import awkward as ak

    return ak.to_numpy(ak.flatten(array))


def hadronic_tops(batch: Any) -> HadronicTops:
    """Find every top quark's last copy and the three quarks it decays to, for a whole batch at once."""
    import awkward as ak

    particles = batch.prt
    counts = ak.to_numpy(ak.num(particles.id))
    first = np.repeat(np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    event = np.repeat(np.arange(len(counts)), counts)
    pdg_id = _flat(particles.id).astype(np.int64)
    kind = np.abs(pdg_id)
    daughters = np.stack([_flat(particles.daughter1), _flat(particles.daughter2)]).astype(np.int64)
    has_daughters = daughters > 0
    daughters = np.where(has_daughters, daughters + first, np.arange(len(pdg_id)))
    momentum = np.stack([_flat(particles.p[name]) for name in ("px", "py", "pz", "e")], axis=1).astype(np.float64)

    def last_copy(index: Integers) -> Integers:
        for _ in range(MAX_COPIES):
            one, two = daughters[0][index], daughters[1][index]
            following = np.where(pdg_id[one] == pdg_id[index], one, np.where(pdg_id[two] == pdg_id[index], two, index))
            if np.array_equal(following, index):
                return index
            index = following
        raise GeneratorError(f"a particle with more than {MAX_COPIES} copies in Pythia's event record")

    tops = np.unique(last_copy(np.flatnonzero(kind == TOP)))
    one, two = daughters[0][tops], daughters[1][tops]
    boson = np.where(kind[one] == W_BOSON, one, two)
    bottom = np.where(kind[one] == W_BOSON, two, one)
    decayed = (kind[boson] == W_BOSON) & np.isin(kind[bottom], (1, 3, 5))
    tops, boson, bottom = tops[decayed], last_copy(boson[decayed]), bottom[decayed]
    up, down = daughters[0][boson], daughters[1][boson]
    hadronic = (kind[up] <= HEAVIEST_LIGHT_QUARK) & (kind[down] <= HEAVIEST_LIGHT_QUARK)
    tops, bottom, up, down = tops[hadronic], bottom[hadronic], up[hadronic], down[hadronic]
    return HadronicTops(event[tops], momentum[tops], momentum[np.stack([bottom, up, down], axis=1)])
