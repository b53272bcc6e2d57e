"""ATLAS PHYSLITE: jets point to their constituents by element links. Energies are in MeV."""

from __future__ import annotations

import re

from sonic_client.events.formats.base import Format, Names, momenta_of
from sonic_client.events.readings import Collection, Linked

MEV = 1e-3
_LINKS = re.compile(r"(?P<jets>\w*Jets\w*?)Aux(?:Dyn)?[.:]constituentLinks(?P<member>(?:\.\w+)*\.m_persIndex)?")
_OBJECTS = re.compile(r"(?P<prefix>\w*(?:FlowObjects|FlowElements|CaloTopoClusters)\w*?Aux(?:Dyn)?[.:])pt")


def _objects(names: Names) -> list[Collection]:
    found = []
    for match in filter(None, map(_OBJECTS.fullmatch, names)):
        prefix = match["prefix"]
        components = next(
            filter(None, (momenta_of(names, prefix, "pt", "eta", "phi", **energy) for energy in _ENERGIES)), None
        )
        if components is not None:
            found.append(Collection(components, MEV))
    return found


_ENERGIES: tuple[dict[str, str], ...] = ({"mass": "m"}, {"E": "e"}, {})


def _readings(names: Names) -> list[Linked]:
    objects = _objects(names)
    if len(objects) != 1:  # the links' key names the collection by a hash: with several it cannot be told
        return []
    found = []
    for match in filter(None, map(_LINKS.fullmatch, names)):
        inside = match["member"] is None
        key = "m_persKey" if inside else match.string.replace("m_persIndex", "m_persKey")
        found.append(
            Linked(
                f"ATLAS PHYSLITE, {match['jets']}", objects[0], match.string, jets=match["jets"],
                field="m_persIndex" if inside else None, key=key if inside or key in names else None,
            )
        )  # fmt: skip
    return sorted(found, key=lambda reading: "LargeR" not in reading.jets)


FORMAT = Format(
    "ATLAS PHYSLITE",
    lambda names: any(re.match(r"\w+AuxDyn[.:]", name) for name in names),
    _readings, _objects,
    "expected one collection of flow objects (pt, eta, phi, m) and jets with constituentLinks into it",
)  # fmt: skip
