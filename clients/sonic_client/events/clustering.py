"""Jets from an event's candidates, by FastJet (an extra: it is GPL and therefore optional)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import awkward as ak
import numpy as np

from fpga_ops.runtime.terminal import standard_output_on_standard_error
from sonic_client.errors import ConfigurationError
from sonic_client.events.readings import Assembled, Collection, follow, joined

ALGORITHMS = {"antikt": "antikt_algorithm", "ca": "cambridge_algorithm", "kt": "kt_algorithm"}
LEAST_PT = 100.0
WRITTEN = ("jet_pt", "jet_eta", "jet_phi", "jet_mass")


@dataclass(frozen=True)
class Definition:
    """A jet algorithm: radius, and the least pT of a jet in GeV."""

    algorithm: str
    radius: float
    least_pt: float = LEAST_PT

    @classmethod
    def parse(cls, text: str) -> Definition:
        """`antikt:0.8`, or `antikt:0.8:200` with the least pT. Raises ConfigurationError."""
        algorithm, *numbers = text.split(":")
        try:
            radius, least_pt = (float(number) for number in [*numbers, str(LEAST_PT)][:2])
            fits = algorithm in ALGORITHMS and 1 <= len(numbers) <= 2 and 0 < radius <= 1.5 and 0 < least_pt < np.inf
        except ValueError:
            fits = False
        if not fits:
            raise ConfigurationError(
                f"clustering: expected ALGORITHM:RADIUS or ALGORITHM:RADIUS:PT, such as antikt:0.8:200, with "
                f"{', '.join(ALGORITHMS)}, a radius up to 1.5 and the jets' least pT in GeV; got '{text}'"
            )
        return cls(algorithm, radius, least_pt)

    def __str__(self) -> str:
        return f"{self.algorithm} R={self.radius:g}, pT > {self.least_pt:g} GeV"


@dataclass(frozen=True)
class Clustered:
    """Jets of all candidates of an event, hardest first; their four-momenta are written beside the scores."""

    name: str
    collections: tuple[Collection, ...]
    definition: Definition
    jets: str = ""
    written: tuple[str, ...] = WRITTEN

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read."""
        return tuple(dict.fromkeys(name for collection in self.collections for name in collection.columns))

    @property
    def unit(self) -> float:
        """GeV in the file's unit of energy."""
        return self.collections[0].unit

    def pinned(self, _events: Any) -> Clustered:
        """The same."""
        return self

    def in_unit(self, unit: float) -> Clustered:
        """The same with another unit of energy."""
        return replace(self, collections=tuple(replace(one, unit=unit) for one in self.collections))

    def assemble(self, events: Any) -> Assembled:
        """Cluster some events. Candidates without pT, or of energy 0 or below (noise), are left out, as is usual.

        Jets of an event with a candidate that is no number are faults.
        """
        candidates = joined(self.collections, events)
        fields = ("E", "px", "py", "pz")
        finite = ak.ones_like(ak.fill_none(candidates["px"], 0.0, axis=-1), dtype=bool)
        for name in fields:
            finite = finite & ak.fill_none(np.isfinite(candidates[name]), False, axis=-1)
        broken = ak.any(~finite, axis=-1)
        candidates = candidates[finite]
        sound = (candidates["px"] != 0) | (candidates["py"] != 0)
        candidates = ak.drop_none(candidates[sound & (candidates["E"] > 0)], axis=-1)
        jets, _ = follow(candidates, self._members(candidates), "the clustering")
        total = {name: ak.sum(jets[name], axis=-1) for name in fields}
        pt = np.hypot(total["px"], total["py"])
        order = ak.argsort(pt, axis=1, ascending=False)
        square = total["E"] ** 2 - total["px"] ** 2 - total["py"] ** 2 - total["pz"] ** 2
        about = (pt, np.arcsinh(total["pz"] / pt), np.arctan2(total["py"], total["px"]), np.sqrt(np.maximum(square, 0)))
        written = {
            name: ak.values_astype(values[order], np.float32) for name, values in zip(WRITTEN, about, strict=True)
        }
        faults = ak.broadcast_arrays(broken, pt)[0] if len(pt) else ak.values_astype(pt, bool)
        words = "is in an event with a candidate that has a NaN, infinite or missing component"
        return Assembled(jets[order], ((faults, words),), written)

    def _members(self, candidates: Any) -> Any:
        """Numbers of the candidates in each jet: events x jets x constituents."""
        fastjet = load_fastjet()
        definition = fastjet.JetDefinition(
            getattr(fastjet, ALGORITHMS[self.definition.algorithm]), self.definition.radius
        )
        if not len(ak.flatten(candidates)):
            return ak.values_astype(ak.unflatten(ak.Array([[0]])[:0], np.zeros(len(candidates), np.int64)), np.int64)
        sequence = fastjet.ClusterSequence(ak.with_name(candidates, "Momentum4D"), definition)
        return sequence.constituent_index(min_pt=self.definition.least_pt)


@cache
def load_fastjet() -> Any:
    """The `fastjet` module, its banner already printed, to standard error. Raises ConfigurationError without it."""
    try:
        import fastjet
        import vector
    except ImportError as error:
        raise ConfigurationError("clustering needs FastJet: pip install 'triton-fpga[clustering]'") from error
    vector.register_awkward()
    one = ak.zip({name: np.ones(1) for name in ("px", "py", "pz", "E")}, with_name="Momentum4D")
    with standard_output_on_standard_error():
        fastjet.ClusterSequence(ak.unflatten(one, [1]), fastjet.JetDefinition(fastjet.antikt_algorithm, 0.4))
    return fastjet
