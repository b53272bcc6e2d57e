"""Delphes: the energy-flow objects of the event, in three branches, or its particle-flow candidates; for clustering."""

from __future__ import annotations

from sonic_client.events.formats.base import Format, Names, momenta_of
from sonic_client.events.readings import Collection


def _candidates(names: Names) -> list[Collection]:
    merged = momenta_of(names, "ParticleFlowCandidate.", pt="PT", eta="Eta", phi="Phi")
    if merged is not None:
        with_mass = momenta_of(names, "ParticleFlowCandidate.", pt="PT", eta="Eta", phi="Phi", mass="Mass")
        return [Collection(with_mass or merged)]
    pieces = [
        momenta_of(names, "EFlowTrack.", pt="PT", eta="Eta", phi="Phi"),
        momenta_of(names, "EFlowPhoton.", pt="ET", eta="Eta", phi="Phi"),
        momenta_of(names, "EFlowNeutralHadron.", pt="ET", eta="Eta", phi="Phi"),
    ]
    # Tracks alone would be half a jet.
    return [Collection(piece) for piece in pieces if piece is not None] if all(pieces) else []


# FCC's files have branches of these names with other members.
_MARKS = ("EFlowTrack.PT", "ParticleFlowCandidate.PT", "Jet.PT", "Tower.ET")

FORMAT = Format(
    "Delphes", lambda names: any(name.endswith(_MARKS) for name in names),
    lambda _names: [], _candidates,
    "the energy-flow objects are those of whole events",
)  # fmt: skip
