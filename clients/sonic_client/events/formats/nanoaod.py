"""CMS NanoAOD and PFNano: tables such as FatJetPFCands tie candidates (PFCands) to jets (FatJet).

A row of the table has the jet's number (`_jetIdx`; -1 for a jet that was not kept) and the candidate's (`_pFCandsIdx`,
also where the candidates are GenCands), as github.com/cms-jet/PFNano writes them.
"""

from __future__ import annotations

import re

from sonic_client.events.formats.base import Format, Names, momenta_of
from sonic_client.events.readings import Collection, Linked

_TABLE = re.compile(r"(?P<table>(?P<jets>\w*?Jet\w*?)(?P<kind>PFCands?|GenCands?|Cands?))[._]jetIdx")
_JETS = {"GenFatJet": "GenJetAK8"}
_PREFERRED = ("FatJet", "Jet", "GenJetAK8", "GenJet")


def _recognises(names: Names) -> bool:
    cms = {"run", "luminosityBlock", "event", "nFatJet", "nJet", "nPFCands"} & set(names)
    return any(map(_TABLE.fullmatch, names)) or (
        (len(cms) > 1 or _collection(names, "PFCands") is not None) and _has_jets(names)
    )


def _has_jets(names: Names) -> bool:
    return any(re.fullmatch(r"\w*Jet(AK\d+)?[_.]pt|n\w*Jet(AK\d+)?", name) for name in names)


def _collection(names: Names, prefix: str) -> Collection | None:
    """Columns `PFCands_pt`, or `PFCands.pt` where a file has records (RNTuple, parquet)."""
    for components in (("pt", "eta", "phi", "mass"), ("pt", "eta", "phi")):
        for separator in "_.":
            found = momenta_of(names, f"{prefix}{separator}", *components)
            if found is not None:
                return Collection(found)
    return None


def _readings(names: Names) -> list[Linked]:
    found = []
    for match in filter(None, map(_TABLE.fullmatch, names)):
        table, kind = match["table"], match["kind"]
        jets = _JETS.get(match["jets"], match["jets"])
        singular = kind.removesuffix("s")
        targets = [kind, f"{singular}s", singular] if singular != "Cand" else ["GenCands", "GenCand"]
        candidates = next(filter(None, (_collection(names, target) for target in targets)), None)
        links = [name for name in names if re.fullmatch(rf"{table}[._](pf|gen)Cands?Idx", name, re.IGNORECASE)]
        sizes = [f"{jets}_pt", *(name for name in names if name.startswith((f"{jets}_", f"{jets}."))), f"n{jets}"]
        size = next((name for name in sizes if name in names), None)
        if candidates is not None and len(links) == 1 and size is not None:
            found.append(Linked(f"CMS PFNano, {jets}", candidates, links[0], jet=match.string, size=size, jets=jets))
    order = {name: place for place, name in enumerate(_PREFERRED)}
    return sorted(found, key=lambda reading: order.get(reading.jets, len(order)))


def _candidates(names: Names) -> list[Collection]:
    found = (_collection(names, prefix) for prefix in ("PFCands", "PFCand", "GenCands", "GenCand"))
    return list(filter(None, found))[:1]


FORMAT = Format(
    "CMS NanoAOD", _recognises, _readings, _candidates,
    "this file has no constituents that are tied to jets. Look for the branches FatJetPFCands_jetIdx, "
    "FatJetPFCands_pFCandsIdx and PFCands_pt, _eta, _phi, _mass, which PFNano adds to NanoAOD",
)  # fmt: skip
