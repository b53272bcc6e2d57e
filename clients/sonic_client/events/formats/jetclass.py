"""JetClass and JetClass-II: one jet an entry, constituents in `part_*`.

JetClass-II has generated particles besides (`genpart_*`, `aux_genpart_*`), which are not what a detector sees.
"""

from __future__ import annotations

from sonic_client.events.formats.base import Format, Names, momenta_of
from sonic_client.events.readings import Collection, Nested


def _components(names: Names) -> dict[str, str] | None:
    return momenta_of(names, "part_", "px", "py", "pz", E="energy")


def _recognises(names: Names) -> bool:
    return _components(names) is not None and any(name.startswith("jet_") for name in names)


def _readings(names: Names) -> list[Nested]:
    components = _components(names)
    return [] if components is None else [Nested("JetClass", Collection(components))]


FORMAT = Format("JetClass", _recognises, _readings)
