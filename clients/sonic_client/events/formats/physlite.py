"""ATLAS PHYSLITE and other derivations: jets point to their constituents by element links. Energies are in MeV.

A link names its collection by StoreGate's hash, so that of several collections the right one is followed. PHYSLITE
itself mostly keeps the links only: its large-R jets point to UFOCSSK, which is in the derivations made for jets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sonic_client.errors import JetError
from sonic_client.events.formats import store_gate
from sonic_client.events.formats.base import Format, Names, momenta_of
from sonic_client.events.readings import Assembled, Collection, Linked

MEV = 1e-3
_AUX = r"Aux(?:Dyn)?[.:]{1,2}"  # `Jets_Aux.x` and `Jets_AuxDyn.x` in a TTree, `Aux:.x` and `AuxDyn:x` in an RNTuple
_LINKS = re.compile(rf"(?P<jets>\w*Jets\w*?){_AUX}constituentLinks(?P<member>(?:\.\w+)*\.m_persIndex)?")
_OBJECTS = re.compile(
    rf"(?P<collection>(?!\w*Jets)\w*(?:FlowObjects|FlowElements|TopoClusters|UFO)\w*?)(?P<aux>{_AUX})pt"
)
_ENERGIES: tuple[dict[str, str], ...] = ({"mass": "m"}, {"E": "e"}, {})


def _objects(names: Names) -> dict[str, Collection]:
    """Momenta of all collections that jets can be made of, by the collections' names."""
    found = {}
    for match in filter(None, map(_OBJECTS.fullmatch, names)):
        prefix = match["collection"] + match["aux"]
        sets = [momenta_of(names, prefix, "pt", "eta", "phi", **energy) for energy in _ENERGIES]
        components = next(filter(None, sets), None)
        if components is not None:
            found[match["collection"]] = Collection(components, MEV)
    return found


@dataclass(frozen=True)
class ElementLinked(Linked):
    """Links that say by a key which of a file's collections they point into.

    Attributes:
        choices: The collections by key; none once the first links were seen.
    """

    choices: tuple[tuple[int, Collection], ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read."""
        several = [name for _, one in self.choices for name in one.columns]
        return tuple(dict.fromkeys([*several, *super().columns]))

    def in_unit(self, unit: float) -> ElementLinked:
        """The same with another unit of energy."""
        collection = replace(self.collection, unit=unit)
        return replace(
            self, collection=collection, choices=tuple((key, replace(one, unit=unit)) for key, one in self.choices)
        )

    def pinned(self, events: Any) -> ElementLinked:
        """The same with the collection that the first of these events' links point into.

        Raises JetError if the file does not hold it.
        """
        keys = np.unique(self._keys(events)).tolist()
        if not self.choices or not keys:
            return self
        choices = dict(self.choices)
        target = next((key for key in keys if key in choices), None)
        if target is None:
            there = sorted({one.columns[0] for one in choices.values()})
            raise JetError(
                f"'{self.links}' points into a collection that is not in this file ({store_gate.described(keys[0])}); "
                f"there are {', '.join(map(repr, there[:4]))}"
            )
        return replace(self, target=target, collection=choices[target], choices=())

    def assemble(self, events: Any) -> Assembled:
        """The jets of some events; jets whose links cannot be followed are faults."""
        return Linked.assemble(self.pinned(events), events)


def _readings(names: Names) -> list[ElementLinked]:
    objects = _objects(names)
    choices = tuple((key, one) for name, one in objects.items() for key in sorted(store_gate.keys(name)))
    found = []
    for match in filter(None, map(_LINKS.fullmatch, names)) if objects else ():
        inside = match["member"] is None
        key = "m_persKey" if inside else match.string.replace("m_persIndex", "m_persKey")
        if inside or key in names:
            found.append(
                ElementLinked(
                    f"ATLAS PHYSLITE, {match['jets']}", choices[0][1], match.string, jets=match["jets"],
                    field="m_persIndex" if inside else None, key=key, choices=choices,
                )
            )  # fmt: skip
    return sorted(found, key=lambda reading: ("Truth" in reading.jets, "LargeR" not in reading.jets))


def _candidates(names: Names) -> list[Collection]:
    """What makes up an event once: unified flow objects; else charged and neutral ones together; else what is alone."""
    objects = _objects(names)
    for wanted in ("UFOCSSK", *sorted(name for name in objects if "UFO" in name)):
        if wanted in objects:
            return [objects[wanted]]
    for name, charged in objects.items():
        neutral = objects.get(name.replace("Charged", "Neutral"))
        if "Charged" in name and neutral is not None:
            return [charged, neutral]
    return list(objects.values()) if len(objects) == 1 else []


FORMAT = Format(
    "ATLAS PHYSLITE",
    lambda names: any(re.match(r"\w+AuxDyn[.:]", name) for name in names),
    _readings, _candidates,
    "it holds no constituents of jets: PHYSLITE keeps links to them (constituentLinks), and mostly not what they point "
    "to. Take a derivation that has it, such as UFOCSSKAuxDyn.pt, .eta, .phi, .m for the large-R jets",
)  # fmt: skip
