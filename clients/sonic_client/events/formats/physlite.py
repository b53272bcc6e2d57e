"""ATLAS PHYSLITE and other derivations: jets point to their constituents by element links. Energies are in MeV.

A link names its collection by StoreGate's hash, so that of several collections the right one is followed, and each
where a jet has candidates of several (charged and neutral flow objects). PHYSLITE itself mostly keeps the links only:
its large-R jets point to UFOCSSK, which is in the derivations made for jets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.errors import JetError
from sonic_client.events.coordinates import CLUSTER, Coordinates
from sonic_client.events.formats import store_gate
from sonic_client.events.formats.base import Format, Names, momenta_of
from sonic_client.events.readings import Assembled, Collection, Linked, whole

MEV = 1e-3
_AUX = r"Aux(?:Dyn)?[.:]{1,2}"  # `Jets_Aux.x` and `Jets_AuxDyn.x` in a TTree, `Aux:.x` and `AuxDyn:x` in an RNTuple
_LINKS = re.compile(rf"(?P<jets>\w*Jets\w*?){_AUX}constituentLinks(?P<member>(?:\.\w+)*\.m_persIndex)?")
_OBJECTS = re.compile(
    rf"(?P<collection>(?!\w*Jets)\w*(?:FlowObjects|FlowElements|TopoClusters|UFO)\w*?)(?P<aux>{_AUX})(?:pt|calE)"
)
_COMPONENTS: tuple[dict[str, str], ...] = (
    {"pt": "pt", "eta": "eta", "phi": "phi", "mass": "m"},
    {"pt": "pt", "eta": "eta", "phi": "phi", "E": "e"},
    {"E": "calE", "eta": "calEta", "phi": "calPhi", "mass": "calM"},  # xAOD's calorimeter clusters, calibrated
    {"pt": "pt", "eta": "eta", "phi": "phi"},
)


def _objects(names: Names) -> dict[str, Collection]:
    """Momenta of all collections that jets can be made of, by the collections' names."""
    found = {}
    for match in filter(None, map(_OBJECTS.fullmatch, names)):
        prefix = match["collection"] + match["aux"]
        sets = [momenta_of(names, prefix, **components) for components in _COMPONENTS]
        components = next(filter(None, sets), None)
        if components is not None:
            cluster = None if "pt" in components else Coordinates({key: key for key in CLUSTER}, (CLUSTER,))
            found[match["collection"]] = Collection(components, MEV, coordinates=cluster)
    return found


@dataclass(frozen=True)
class ElementLinked(Linked):
    """Links that say by a key which of a file's collections they point into.

    Attributes:
        choices: The collections by key; once the first links were seen, those that these point into.
        chosen: Whether they were seen.
    """

    choices: tuple[tuple[int, Collection], ...] = ()
    chosen: bool = False

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
        """The same with the collections that the first of these events' links point into.

        Raises JetError if the file does not hold one of them.
        """
        keys = np.unique(self._keys(events)).tolist()
        if self.chosen or not keys:
            return self
        choices = dict(self.choices)
        for key in keys:
            if key not in choices:
                there = sorted({one.columns[0] for one in choices.values()})
                raise JetError(
                    f"'{self.links}' points into a collection that is not in this file ({store_gate.described(key)}); "
                    f"there are {', '.join(map(repr, there[:4]))}"
                )
        followed = tuple((key, choices[key]) for key in keys)
        return replace(self, collection=followed[0][1], choices=followed, chosen=True)

    def assemble(self, events: Any) -> Assembled:
        """The jets of some events; jets whose links cannot be followed are faults."""
        return Linked.assemble(self.pinned(events), events)

    def _candidates(self, events: Any) -> tuple[Any, Any]:
        """The collections one behind the other, and the links' numbers of that."""
        keys, numbers = self._key_of_links(events), self._numbers(events)
        strange = sorted({*np.unique(self._keys(events)).tolist()} - {key for key, _ in self.choices})
        if strange:
            raise JetError(
                f"'{self.links}' points into {store_gate.described(strange[0])} here, and in the file's first events "
                f"into {', '.join(store_gate.described(key) for key, _ in self.choices)} only"
            )
        parts, before = [], 0
        place = ak.full_like(numbers, -1)
        for key, collection in self.choices:
            momenta = whole(collection.momenta(events), collection)
            there = ak.num(momenta, axis=1)
            place = ak.where((keys == key) & (numbers >= 0) & (numbers < there), numbers + before, place)
            parts.append(momenta)
            before = before + there
        return ak.concatenate(parts, axis=1), place


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
