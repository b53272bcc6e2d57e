"""Presets: one short module for each experiment's files. To add one, write it and name it in FORMATS."""

from __future__ import annotations

from sonic_client.events.formats import delphes, edm4hep, jetclass, nanoaod, physlite, toptagging
from sonic_client.events.formats.base import Format

FORMATS: tuple[Format, ...] = (
    nanoaod.FORMAT,
    delphes.FORMAT,
    physlite.FORMAT,
    edm4hep.FORMAT,
    jetclass.FORMAT,
    toptagging.FORMAT,
)
