"""FCC files (EDM4hep by podio): a jet has the range of its links, a link the number of a reconstructed particle."""

from __future__ import annotations

from sonic_client.events.formats.base import Format, Names, momenta_of
from sonic_client.events.readings import Collection, Linked

_BEGIN = ".particles_begin"
_OLD = "#2.index"
"""What podio called a jet's links before version 0.16: by the relations' order (clusters, tracks, particles, ...)."""


def _particles(names: Names) -> list[Collection]:
    prefixes = [name.removesuffix("momentum.x") for name in names if name.endswith(".momentum.x")]
    chosen = [prefix for prefix in prefixes if _is_particles(prefix)]
    found = []
    for prefix in chosen:
        momentum = {"px": "momentum.x", "py": "momentum.y", "pz": "momentum.z"}
        components = momenta_of(names, prefix, E="energy", **momentum) or momenta_of(
            names, prefix, mass="mass", **momentum
        )
        if components is not None:
            found.append(Collection(components))
    usual = [one for one in found if one.columns[0].startswith(("ReconstructedParticles.", "PandoraPFOs."))]
    return usual[:1] or (found if len(found) == 1 else [])


def _is_particles(prefix: str) -> bool:
    return "jet" not in prefix.lower() and not prefix.startswith(("MC", "Particle."))


def _readings(names: Names) -> list[Linked]:
    particles = _particles(names)
    found = []
    for name in names:
        jets = name.removesuffix(_BEGIN)
        if jets == name or "jet" not in jets.lower() or not particles:
            continue
        links = next((link for link in (f"_{jets}_particles.index", f"{jets}{_OLD}") if link in names), None)
        if links is not None and f"{jets}.particles_end" in names:
            key = links.replace(".index", ".collectionID")
            found.append(
                Linked(
                    f"FCC EDM4hep, {jets}", particles[0], links, begin=name, end=f"{jets}.particles_end", jets=jets,
                    key=key if key in names else None,
                )
            )  # fmt: skip
    return found


FORMAT = Format(
    "FCC EDM4hep", lambda names: any(name.endswith((_BEGIN, ".momentum.x")) for name in names),
    _readings, _particles,
    "expected jets (Jet.particles_begin, .particles_end, _Jet_particles.index) and ReconstructedParticles",
)  # fmt: skip
