"""ATLAS derivations: of several collections the one that the links name, by the hash that real files have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

from sonic_client import Client, JetError
from sonic_client.events.formats import store_gate
from sonic_client.events.formats.physlite import FORMAT
from sonic_client.tag_file import Job, examine
from tests.clients.jets import narrow_jets
from tests.clients.test_formats import COUNTS, agree, angles, double, shuffled, tag, write_tree

UFO_KEY, TRUTH_KEY = 1036585512, 662974859
LARGE = "AnalysisLargeRJetsAuxDyn"
CHARGED_KEY, NEUTRAL_KEY = (min(store_gate.keys(f"CHSG{kind}ParticleFlowObjects")) for kind in ("Charged", "Neutral"))


def momenta(prefix: str, candidates: Any) -> dict[str, Any]:
    """An event's candidates in MeV, as flow objects have them."""
    parts = angles(double(candidates))
    names = {"pt": parts["pt"] * 1000, "m": parts["mass"] * 1000, "eta": parts["eta"], "phi": parts["phi"]}
    return {f"{prefix}{name}": values for name, values in names.items()}


def links(key: int) -> Any:
    """Events x jets x {m_persKey, m_persIndex} into the candidates of `shuffled`, unsigned as ROOT has them."""
    _, jet, place = shuffled()
    numbers = ak.Array([
        [[p for j, p in zip(js, ps, strict=True) if j == n] for n in range(count)]
        for js, ps, count in zip(jet.to_list(), place.to_list(), COUNTS, strict=True)
    ])  # fmt: skip
    members = {"m_persKey": numbers * 0 + key, "m_persIndex": numbers}
    return ak.zip({name: ak.values_astype(values, np.uint32) for name, values in members.items()})


def others() -> Any:
    """Five events' candidates that no jet is made of."""
    return narrow_jets(5, seed=8, most=30)


def derivation(path: Path, key: int = UFO_KEY, **more: Any) -> Path:
    candidates = shuffled()[0]
    columns = momenta("CHSGNeutralParticleFlowObjectsAuxDyn:", others()) | momenta("UFOCSSKAuxDyn:", candidates)
    return write_tree(path, columns | {f"{LARGE}:constituentLinks": links(key)} | more, "EventData", "RNTuple")


@pytest.mark.parametrize(
    ("collection", "kind", "key"),
    [
        ("InDetTrackParticles", "TrackParticleContainer", 490246363),
        ("TruthParticles", "TruthParticleContainer", TRUTH_KEY),
        ("UFOCSSK", "FlowElementContainer", UFO_KEY),
        ("UFOCSSK", "TrackCaloClusterContainer", 246385482),  # releases before 22
    ],
)
def test_keys_are_those_of_real_files(collection: str, kind: str, key: int) -> None:
    assert kind in store_gate.CLASSES
    assert key in store_gate.keys(collection)
    assert store_gate.described(key) == f"'{collection}', key {key}"
    assert store_gate.described(77) == "key 77"


@pytest.mark.parametrize("chunk", [1, 5])
def test_the_collection_that_the_links_name_is_followed(
    tmp_path: Path, url: str, expected: np.ndarray, chunk: int
) -> None:
    path = derivation(tmp_path / "in.root")
    plan, found = examine(Job(path, tmp_path / "out.root", url))
    assert (found.format, found.unit, found.tree) == ("ATLAS PHYSLITE, AnalysisLargeRJets", "MeV", "EventData")
    assert set(plan.reading.columns) == {
        *(f"UFOCSSKAuxDyn:{name}" for name in ("pt", "eta", "phi", "m")), f"{LARGE}:constituentLinks.m_persIndex",
        f"{LARGE}:constituentLinks.m_persKey",
    }  # fmt: skip
    agree(tag(path, url, chunk=chunk), expected)


def test_a_static_store_is_a_record_in_an_rntuple(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    """`Aux:.constituentLinks`; and a collection of an older release's class."""
    for key in sorted(store_gate.keys("UFOCSSK"))[:2]:
        columns = momenta("UFOCSSKAuxDyn:", shuffled()[0]) | momenta("CHSGNeutralParticleFlowObjectsAuxDyn:", others())
        columns["AntiKt10UFOCSSKJetsAux:"] = ak.zip({"constituentLinks": links(key)}, depth_limit=1)
        agree(tag(write_tree(tmp_path / "in.root", columns, "EventData", "RNTuple"), url), expected)


def test_first_jets_without_links_leave_the_choice_open(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    """Nothing is looked at but events without jets, then come the jets."""
    columns = momenta("CHSGNeutralParticleFlowObjectsAuxDyn:", others()) | momenta("UFOCSSKAuxDyn:", shuffled()[0])
    columns[f"{LARGE}:constituentLinks"] = links(UFO_KEY)
    late = {name: ak.concatenate([values[1:2]] * 210 + [values]) for name, values in columns.items()}
    scores = tag(write_tree(tmp_path / "in.root", late, "EventData", "RNTuple"), url, chunk=50)
    assert not ak.num(scores[:210]).to_numpy().any()
    agree(scores[210:], expected)


def split(key_of_neutrals: int = NEUTRAL_KEY) -> dict[str, Any]:
    """The candidates of `shuffled` in two collections, every third a neutral one, and links into both."""
    candidates, linked = shuffled()[0], links(CHARGED_KEY)
    place = ak.local_index(candidates)
    neutral = place % 3 == 0
    numbers = linked["m_persIndex"]
    is_neutral = numbers % 3 == 0
    linked["m_persKey"] = ak.values_astype(ak.where(is_neutral, key_of_neutrals, CHARGED_KEY), np.uint32)
    linked["m_persIndex"] = ak.values_astype(ak.where(is_neutral, numbers // 3, numbers - 1 - numbers // 3), np.uint32)
    return {
        **momenta("CHSGNeutralParticleFlowObjectsAuxDyn:", candidates[neutral]),
        **momenta("CHSGChargedParticleFlowObjectsAuxDyn:", candidates[~neutral]),
        **momenta("UFOCSSKAuxDyn:", others()),
        f"{LARGE}:constituentLinks": linked,
    }


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_jet_may_have_candidates_of_several_collections(
    tmp_path: Path, url: str, expected: np.ndarray, chunk: int
) -> None:
    path = write_tree(tmp_path / "in.root", split(), "EventData", "RNTuple")
    plan, _ = examine(Job(path, tmp_path / "out.root", url))
    assert not any("UFO" in column for column in plan.reading.columns)
    agree(tag(path, url, chunk=chunk), expected)


@pytest.mark.parametrize("bad", ["raise", "mask"])
def test_a_collection_that_comes_late_is_refused(tmp_path: Path, url: str, bad: str) -> None:
    """Its columns are not read any more; no jet loses a part of itself in silence."""
    both = split()
    early = both | {f"{LARGE}:constituentLinks": both[f"{LARGE}:constituentLinks"][:, :0]}
    only = ak.ones_like(both[f"{LARGE}:constituentLinks"]["m_persIndex"]) * 0
    early[f"{LARGE}:constituentLinks"] = ak.zip({
        "m_persKey": ak.values_astype(only + CHARGED_KEY, np.uint32)[:, :1, :1],
        "m_persIndex": ak.values_astype(only, np.uint32)[:, :1, :1],
    })  # fmt: skip
    late = {name: ak.concatenate([early[name]] * 45 + [both[name]]) for name in both}
    path = write_tree(tmp_path / "in.root", late, "EventData", "RNTuple")
    with pytest.raises(
        JetError, match=r"points into 'CHSGNeutral\w+', key \d+ here, and in the file's first events into 'CHSGC"
    ):
        tag(path, url, bad=bad, chunk=50)


def test_a_number_beyond_its_own_collection_takes_nothing_of_the_next(tmp_path: Path, url: str) -> None:
    columns = split()
    linked = columns[f"{LARGE}:constituentLinks"]
    there = ak.num(columns["CHSGChargedParticleFlowObjectsAuxDyn:pt"])
    first = ak.local_index(linked, axis=1) == 0
    linked["m_persIndex"] = ak.values_astype(
        ak.where(first & (linked["m_persKey"] == CHARGED_KEY), there, linked["m_persIndex"]), np.uint32
    )
    reading = FORMAT.readings([*columns, f"{LARGE}:constituentLinks"])[0]
    assembled = reading.pinned(ak.zip(columns, depth_limit=1)).assemble(ak.zip(columns, depth_limit=1))
    flags, words = assembled.faults[0]
    assert "not there" in words
    assert flags.to_list() == [[n == 0 for n in range(count)] for count in COUNTS]


def test_calibrated_clusters_have_names_of_their_own() -> None:
    names = [f"CaloCalTopoClustersAuxDyn.cal{part}" for part in ("E", "Eta", "Phi", "M")]
    (clusters,) = FORMAT.candidates(names)
    assert clusters.components == dict(zip(("E", "eta", "phi", "mass"), names, strict=True))
    events = ak.zip({name: ak.Array([[value]]) for name, value in zip(names, (5e3, 0.0, 0.0, 3e3), strict=True)},
                    depth_limit=1)  # fmt: skip
    assert ak.to_list(clusters.momenta(events)) == [[{"E": 5.0, "px": pytest.approx(4.0), "py": 0.0, "pz": 0.0}]]


@pytest.mark.parametrize("bad", ["raise", "mask"])
def test_a_collection_that_is_not_there(tmp_path: Path, url: str, bad: str) -> None:
    path = derivation(tmp_path / "in.root", key=TRUTH_KEY)
    words = r"not in this file \('TruthParticles', key 662974859\); there are 'CHSGNeutral"
    with pytest.raises(JetError, match=words):
        tag(path, url, bad=bad)
    only = momenta("CHSGNeutralParticleFlowObjectsAuxDyn:", shuffled()[0]) | {
        f"{LARGE}:constituentLinks": links(UFO_KEY)
    }
    with pytest.raises(JetError, match=r"'UFOCSSK', key 1036585512"):
        tag(write_tree(tmp_path / "one.root", only, "EventData", "RNTuple"), url, bad=bad)


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_physlite_as_it_is_published_has_no_constituents(tmp_path: Path, url: str, kind: str) -> None:
    mark = "." if kind == "TTree" else ":"
    columns = {f"{LARGE}{mark}{name}": ak.Array([[3e5, 2e5], []]) for name in ("pt", "eta", "phi", "m")}
    columns |= {"EventInfoAuxDyn.runNumber".replace(".", mark): np.ones(2, np.uint32)}
    tree = "CollectionTree" if kind == "TTree" else "EventData"
    path = write_tree(tmp_path / "in.root", columns, tree, kind)
    with pytest.raises(JetError, match="holds no constituents of jets: PHYSLITE keeps links"):
        tag(path, url)


def test_links_in_a_ttree(expected: np.ndarray, url: str) -> None:
    """uproot reads `vector<vector<ElementLink>>` of a TTree, whose name has a dot, and cannot write it: from memory."""
    columns = momenta("UFOCSSKAuxDyn.", shuffled()[0]) | momenta("CHSGNeutralParticleFlowObjectsAuxDyn.", others())
    columns |= {f"{LARGE}.constituentLinks": ak.with_name(links(UFO_KEY), "ElementLink<DataVector<xAOD::IParticle>>")}
    reading = FORMAT.readings(list(columns))[0]
    events = ak.zip(columns, depth_limit=1)
    jets = reading.pinned(events).assemble(events).jets
    with Client(url) as client:
        agree(client.tag(jets), expected)


def test_what_is_clustered_counts_every_particle_once() -> None:
    def prefixes(*collections: str) -> list[str]:
        names = [f"{name}AuxDyn.{part}" for name in collections for part in ("pt", "eta", "phi", "m")]
        return [one.columns[0].partition("Aux")[0] for one in FORMAT.candidates(names)]

    charged, neutral = "CHSGChargedParticleFlowObjects", "CHSGNeutralParticleFlowObjects"
    assert prefixes(charged, "UFOCSSK", neutral) == ["UFOCSSK"]
    assert prefixes(neutral, charged, "AnalysisJets", "AntiKt10UFOCSSKJets") == [charged, neutral]
    assert prefixes("GlobalFlowObjects") == ["GlobalFlowObjects"]
    assert prefixes(neutral, "GlobalFlowElements") == []
