"""What experiments write, in small files of their layouts made of our own jets: the scores are those of the jets."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pytest
import uproot

from sonic_client import Client, JetError
from sonic_client.events.files import open_source
from sonic_client.events.formats import store_gate
from sonic_client.tag_file import Job, examine, run_job
from tests.clients.jets import LAYOUT_JETS as JETS
from tests.clients.jets import narrow_jets

COUNTS = np.array([2, 0, 3, 1, 3])
EVENTS = ak.unflatten(JETS, COUNTS)
"""Five events with jets."""
FLOW_KEY = max(store_gate.keys("GlobalFlowObjects"))
"""What ATLAS links into these flow objects say."""


def angles(momenta: Any) -> dict[str, Any]:
    pt = np.hypot(momenta.px, momenta.py)
    square = momenta.E**2 - momenta.px**2 - momenta.py**2 - momenta.pz**2
    return {
        "pt": pt, "eta": np.arcsinh(momenta.pz / pt), "phi": np.arctan2(momenta.py, momenta.px),
        "mass": np.sqrt(np.maximum(square, 0)),
    }  # fmt: skip


def double(array: Any) -> Any:
    return ak.values_astype(array, np.float64)


def shuffled() -> tuple[Any, Any, Any]:
    """The candidates of each event in an order of their own, with some in no jet; jet and place of the links."""
    rng = np.random.default_rng(3)
    candidates, jet_numbers, places = [], [], []
    for event in EVENTS:
        rows = [(number, one) for number, jet in enumerate(event) for one in jet.to_list()]
        rows += [(-1, {"E": 9.0, "px": 1.0, "py": 2.0, "pz": -8.0})] * 2
        order = rng.permutation(len(rows))
        candidates.append([rows[i][1] for i in order])
        where = {int(i): place for place, i in enumerate(order)}
        links = [i for i in range(len(rows)) if rows[i][0] >= 0]
        rng.shuffle(links)
        jet_numbers.append([rows[i][0] for i in links])
        places.append([where[i] for i in links])
    return ak.Array(candidates), ak.Array(jet_numbers), ak.Array(places)


def write_tree(path: Path, columns: dict[str, Any], tree: str = "Events", kind: str = "TTree") -> Path:
    with uproot.recreate(path) as file:
        if kind == "RNTuple":
            file.mkrntuple(tree, columns)
        else:
            kinds = {name: ak.Array(values).type.content for name, values in columns.items()}
            file.mktree(tree, kinds).extend(columns)
    return path


def pfnano(**changes: Any) -> dict[str, Any]:
    candidates, jet, place = shuffled()
    columns = {f"PFCands_{name}": values for name, values in angles(double(candidates)).items()}
    columns |= {"FatJetPFCands_jetIdx": jet, "FatJetPFCands_pFCandsIdx": place}
    columns |= {f"FatJet_{name}": ak.sum(EVENTS[name[-2:]], axis=-1) for name in ("px", "py")}
    columns |= {"FatJet_pt": np.hypot(columns.pop("FatJet_px"), columns.pop("FatJet_py"))}
    columns |= {"run": np.ones(5, np.int32), "event": np.arange(5), "luminosityBlock": np.ones(5, np.int32)}
    return columns | changes


def scores_of(path: Path, name: str = "top_score") -> Any:
    with open_source(path, None) as source:
        return source.read([name], 0, source.entries)[name]


def tag(path: Path, url: str, **settings: Any) -> Any:
    out = path.with_name(f"out_{path.name}")
    run_job(Job(path, out, url, chunk=settings.pop("chunk", 2), **settings), overwrite=True)
    return scores_of(out)


def agree(scores: Any, expected: np.ndarray, counts: Any = COUNTS) -> None:
    """Equal up to the rounding of the coordinates, in the shape of the jets."""
    assert ak.num(scores).to_list() == list(counts)
    assert np.allclose(ak.flatten(scores), expected, atol=2e-6)


# ---- CMS


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_pfnano(tmp_path: Path, url: str, expected: np.ndarray, kind: str, chunk: int) -> None:
    path = write_tree(tmp_path / "in.root", pfnano(), kind=kind)
    plan, found = examine(Job(path, tmp_path / "out.root", url))
    assert found.format == "CMS PFNano, FatJet"
    assert (found.events, found.jets_per_event, found.unit) == (5, 9 / 5, "GeV")
    assert {"PFCands_pt", "FatJetPFCands_jetIdx", "FatJetPFCands_pFCandsIdx"} <= set(plan.reading.columns)
    agree(tag(path, url, chunk=chunk), expected)
    with uproot.open(tmp_path / "out_in.root") as file:
        assert file.classnames(cycle=False) == {"Events": "TTree", "provenance": "TObjString"}


def test_other_jets_of_cms(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    columns = pfnano()
    renamed = {
        name.replace("FatJetPFCands_", "JetPFCands_").replace("FatJet_", "Jet_"): values
        for name, values in columns.items()
    }  # fmt: skip
    generated = {}
    for name, values in columns.items():
        for old, new in (("FatJetPFCands", "GenFatJetCands"), ("PFCands", "GenCands"), ("FatJet", "GenJetAK8")):
            if name.startswith(f"{old}_"):
                name = name.replace(old, new, 1)
                break
        generated[name] = values
    empty = columns | {"FatJetPFCands_jetIdx": columns["FatJetPFCands_jetIdx"] * 0 - 1}
    agree(tag(write_tree(tmp_path / "jet.root", renamed), url), expected)
    agree(tag(write_tree(tmp_path / "gen.root", generated), url), expected)
    both = write_tree(tmp_path / "both.root", renamed | empty)
    agree(tag(both, url, jets="Jet"), expected)
    scores = tag(both, url, bad="mask")  # FatJet is the usual one, and none of them has constituents here
    assert ak.num(scores).to_list() == COUNTS.tolist()
    assert np.isnan(ak.to_numpy(ak.flatten(scores))).all()
    with pytest.raises(JetError, match="no jets 'CaloJet' with constituents; there are 'FatJet', 'Jet'"):
        tag(both, url, jets="CaloJet")


def pfnano_records() -> dict[str, Any]:
    """The same with a record for each collection."""
    columns = pfnano()
    groups: dict[str, dict[str, Any]] = {"FatJet": {}, "FatJetPFCands": {}, "PFCands": {}}
    for name in [name for name in columns if "_" in name]:
        group, _, member = name.partition("_")
        groups[group][member] = columns.pop(name)
    return {name: ak.zip(members) for name, members in groups.items()} | columns


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
def test_pfnano_as_records(tmp_path: Path, url: str, expected: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"in{suffix}"
    if suffix == ".root":
        write_tree(path, pfnano_records(), kind="RNTuple")
    else:
        ak.to_parquet(ak.zip(pfnano_records(), depth_limit=1), path)
    agree(tag(path, url, keep=("FatJet.pt",)), expected)
    with open_source(path.with_name(f"out_{path.name}"), None) as source:
        assert source.read(["FatJet.pt"], 0, 5)["FatJet.pt"].to_list() == pfnano()["FatJet_pt"].to_list()


def broken(column: str, event: int, entry: int, value: int) -> dict[str, Any]:
    columns = pfnano()
    lists = ak.to_list(columns[column])
    lists[event][entry] = value
    return pfnano(**{column: ak.Array(lists)})


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("FatJetPFCands_pFCandsIdx", 4000, r"event 2 jet \d has a link in 'FatJetPFCands_pFCandsIdx' to a candidate"),
        ("FatJetPFCands_pFCandsIdx", -1, r"event 2 jet \d has a link in 'FatJetPFCands_pFCandsIdx' to a candidate"),
        ("FatJetPFCands_jetIdx", 3, "event 2 jet 0 is in an event where 'FatJetPFCands_jetIdx' points to a jet"),
        ("FatJetPFCands_jetIdx", -7, "event 2 jet 0 is in an event where 'FatJetPFCands_jetIdx' points to a jet"),
    ],
)
def test_links_that_point_outside(
    tmp_path: Path, url: str, expected: np.ndarray, column: str, value: int, words: str
) -> None:
    path = write_tree(tmp_path / "in.root", broken(column, 2, 0, value))
    with pytest.raises(JetError, match=words):
        tag(path, url)
    scores = tag(path, url, bad="mask")
    assert ak.num(scores).to_list() == COUNTS.tolist()
    left = ~np.isnan(ak.to_numpy(ak.flatten(scores)))
    other_events = np.repeat(np.arange(5), COUNTS) != 2
    assert left[other_events].all()
    assert left.sum() == (8 if "pFCands" in column else 6)
    assert np.allclose(ak.to_numpy(ak.flatten(scores))[left], expected[left], atol=2e-6)


def test_a_candidate_in_several_jets(tmp_path: Path, url: str) -> None:
    columns = pfnano()
    jet, place = (ak.to_list(columns[f"FatJetPFCands_{name}"]) for name in ("jetIdx", "pFCandsIdx"))
    other = next(i for i in range(len(jet[2])) if jet[2][i] != jet[2][0])
    place[2][other] = place[2][0]
    path = write_tree(tmp_path / "in.root", pfnano(FatJetPFCands_pFCandsIdx=ak.Array(place)))
    with pytest.raises(
        JetError, match=r"event 2 jet . has a candidate that .* gives to several jets, or twice; 2 such jets"
    ):
        tag(path, url)
    missing = np.isnan(ak.to_numpy(ak.flatten(tag(path, url, bad="mask"))))
    assert missing.sum() == 2
    assert np.repeat(np.arange(5), COUNTS)[missing].tolist() == [2, 2]


def test_candidates_that_nothing_ties_to_jets_are_refused(tmp_path: Path, url: str) -> None:
    tied = pfnano()
    untied = {name: values for name, values in tied.items() if not name.startswith("FatJetPFCands")}
    path = write_tree(tmp_path / "untied.root", untied)
    with pytest.raises(JetError, match=r"no constituents that are tied to jets.*FatJetPFCands_jetIdx"):
        tag(path, url)
    with pytest.raises(JetError, match="further than 2 from their axis, so they are no jets"):
        tag(path, url, one_jet_per_event=True)
    bare = {name: values for name, values in untied.items() if not name.startswith("PFCands")}
    with pytest.raises(JetError, match="this is a CMS NanoAOD file, and this file has no constituents"):
        tag(write_tree(tmp_path / "bare.root", bare), url)
    lists = {f"part_{name}": values for name, values in angles(double(ak.flatten(EVENTS, axis=2))).items()}
    plain = write_tree(tmp_path / "plain.root", lists | {"jet_pt": tied["FatJet_pt"]})
    with pytest.raises(JetError, match=r"several jets an event \('jet_pt'\).*--one-jet-per-event"):
        tag(plain, url)


def test_errors_stay_short_in_a_file_of_hundreds_of_branches(tmp_path: Path, url: str) -> None:
    numbers = {f"HLT_{i}": np.zeros(2, bool) for i in range(300)}
    path = write_tree(tmp_path / "in.root", numbers | {"Muon_pt": ak.Array([[1.0], []])})
    wanted: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "no branches E, px, py, pz"),
        ({"keep": ("Muon_px",)}, "'Muon_pt'"),
        ({"constituents": "Muon_"}, "'Muon_pt'"),
    )
    for settings, words in wanted:
        with pytest.raises(JetError, match=words) as error:
            tag(path, url, **settings)
        assert len(str(error.value)) < 800  # ten lines


def test_one_jet_an_event_has_to_be_said_of_candidates(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    path = write_tree(tmp_path / "in.root", {f"PFCands_{name}": JETS[name] for name in JETS.fields})
    with pytest.raises(JetError, match="nothing in it ties 'PFCands_E' and its like to jets"):
        tag(path, url)
    assert np.array_equal(tag(path, url, one_jet_per_event=True), expected)


@pytest.mark.parametrize("prefix", ["Jet_", "SubJet_", "ak8jets.", "selectedMuons_", "el_", "Photon."])
def test_objects_of_an_event_are_no_constituents(tmp_path: Path, url: str, expected: np.ndarray, prefix: str) -> None:
    """Two jets are no jet of two constituents, even where they are near enough to each other."""
    path = write_tree(tmp_path / "in.root", {f"{prefix}{name}": double(JETS[name]) for name in JETS.fields})
    with pytest.raises(JetError, match="is of an event's objects, not of the constituents of a jet"):
        tag(path, url)
    assert np.allclose(tag(path, url, one_jet_per_event=True), expected, atol=2e-6)


@pytest.mark.parametrize("prefix", ["jet_constituents_", "met_particles_", "jet_pfcand_", "p_", "Constit."])
def test_other_names_are_taken(tmp_path: Path, url: str, expected: np.ndarray, prefix: str) -> None:
    path = write_tree(tmp_path / "in.root", {f"{prefix}{name}": double(JETS[name]) for name in JETS.fields})
    assert np.allclose(tag(path, url, one_jet_per_event="pfcand" in prefix), expected, atol=2e-6)


@pytest.mark.parametrize("jets", ["ScoutingPFJet_", "SubJet_", "GenJetAK8_"])
def test_nanoaod_of_other_jets_is_nanoaod(tmp_path: Path, url: str, jets: str) -> None:
    columns = {f"{jets}{name}": values for name, values in angles(double(JETS)).items()}
    columns |= {name: np.arange(9) for name in ("run", "luminosityBlock", "event")}
    with pytest.raises(JetError, match="this is a CMS NanoAOD file, and this file has no constituents"):
        tag(write_tree(tmp_path / "in.root", columns), url)


def test_a_jet_too_wide_is_never_scored(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    lists = {name: ak.to_list(JETS[name]) for name in JETS.fields}
    total = {name: float(ak.sum(JETS[4][name])) for name in JETS.fields}
    phi, rapidity = np.arctan2(total["py"], total["px"]) + 2.1, np.arctanh(total["pz"] / total["E"])
    soft = {"px": np.cos(phi), "py": np.sin(phi), "pz": np.sinh(rapidity), "E": np.cosh(rapidity)}
    for name, value in soft.items():  # 0.1 GeV do not move the axis, 2.1 is beyond what a jet may have
        lists[name][4].append(0.1 * value)
    jets = {f"constituent_{name}": ak.values_astype(ak.Array(values), np.float32) for name, values in lists.items()}
    path = write_tree(tmp_path / "in.root", jets)
    with pytest.raises(JetError, match="event 4 has constituents further than 2 from its axis"):
        tag(path, url)
    scores = tag(path, url, bad="mask")
    assert np.flatnonzero(np.isnan(scores)).tolist() == [4]
    assert np.array_equal(np.delete(ak.to_numpy(scores), 4), np.delete(expected, 4))


# ---- others


def test_jetclass_prefers_what_the_detector_saw(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    columns: dict[str, Any] = {}
    for prefix, scale in (("part_", 1.0), ("genpart_", 2.0), ("aux_genpart_", 3.0)):
        columns |= {f"{prefix}{name}": JETS[name] * np.float32(scale) for name in ("px", "py", "pz")}
        columns[f"{prefix}energy"] = JETS["E"] * np.float32(scale)
    columns |= {"part_deta": JETS.px, "jet_pt": np.arange(9.0), "label_QCD": np.arange(9)}
    assert np.array_equal(tag(write_tree(tmp_path / "in.root", columns, "tree"), url), expected)


@pytest.mark.parametrize("layout", ["pytables", "table", "array", "flat"])
def test_the_top_tagging_reference_set(tmp_path: Path, url: str, expected: np.ndarray, layout: str) -> None:
    padded = np.zeros((9, 200, 4), np.float32)
    for i, jet in enumerate(JETS):
        for j, name in enumerate(("E", "px", "py", "pz")):
            padded[i, : len(jet), j] = jet[name]
    names = [f"{name}_{n}" for n in range(200) for name in ("E", "PX", "PY", "PZ")]
    path = tmp_path / "in.h5"
    with h5py.File(path, "w") as file:
        if layout == "array":
            file["constituents"] = padded
        elif layout == "flat":
            for name, column in zip(names, padded.reshape(9, -1).T, strict=True):
                file[name] = column
        elif layout == "pytables":  # as the published files: one block with the true momentum behind, pickled names
            names += [f"truth{name}" for name in ("E", "PX", "PY", "PZ")]
            rows = np.zeros(9, [("index", "i8"), ("values_block_0", "f4", (804,)), ("values_block_1", "i8", (2,))])
            rows["values_block_0"][:, :800], rows["values_block_0"][:, 800:] = padded.reshape(9, -1), 1000.0
            table = file.create_dataset("table/table", data=rows, chunks=(4,), compression="gzip")
            table.attrs["values_block_0_kind"] = np.bytes_(pickle.dumps(names, 0))
            table.attrs["values_block_1_kind"] = np.bytes_(pickle.dumps(["ttv", "is_signal_new"], 0))
        else:
            file["table/block0_items"], file["table/block0_values"] = np.array(names, "S"), padded.reshape(9, -1)
    assert np.array_equal(tag(path, url), expected)


def test_atlas_physlite_in_mev(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    candidates, jet, place = shuffled()
    components = angles(double(candidates))
    prefix, jets = "GlobalFlowObjectsAuxDyn:", "AnalysisLargeRJetsAuxDyn:"
    columns = {
        f"{prefix}{name}": components[name] * (1 if name in ("eta", "phi") else 1000) for name in ("pt", "eta", "phi")
    }
    columns[f"{prefix}m"] = components["mass"] * 1000
    links = [[[p for j, p in zip(js, ps, strict=True) if j == n] for n in range(count)]
             for js, ps, count in zip(jet.to_list(), place.to_list(), COUNTS, strict=True)]  # fmt: skip
    numbers = ak.Array(links)
    columns[f"{jets}constituentLinks"] = ak.zip({"m_persKey": numbers * 0 + FLOW_KEY, "m_persIndex": numbers})
    path = write_tree(tmp_path / "in.root", columns, "CollectionTree", "RNTuple")
    _, found = examine(Job(path, tmp_path / "out.root", url))
    assert (found.unit, found.format) == ("MeV", "ATLAS PHYSLITE, AnalysisLargeRJets")
    agree(tag(path, url), expected)


@pytest.mark.parametrize("kind", ["TTree", "RNTuple", "old TTree"])
def test_fcc_edm4hep(tmp_path: Path, url: str, expected: np.ndarray, kind: str) -> None:
    candidates, jet, place = shuffled()
    order = ak.argsort(jet, axis=1, stable=True)
    sizes = ak.num(EVENTS, axis=2)
    ends = ak.Array([np.cumsum(row).tolist() for row in sizes.to_list()])
    members = {"energy": double(candidates.E)}
    momentum = {axis: double(candidates[f"p{axis}"]) for axis in "xyz"}
    if "TTree" in kind:
        columns = {f"ReconstructedParticles.momentum.{axis}": values for axis, values in momentum.items()}
        columns |= {f"ReconstructedParticles.{name}": values for name, values in members.items()}
        columns |= {
            "Jet.particles_begin": ends - sizes,
            "Jet.particles_end": ends,
            "_Jet_particles.index": place[order],
        }
        if kind == "old TTree":  # with links to tracks before those to particles, and Delphes' names for other things
            columns["Jet#2.index"] = columns.pop("_Jet_particles.index")
            columns |= {
                "Jet#1.index": columns["Jet#2.index"][:, ::-1],
                "EFlowTrack.type": place,
                "EFlowTrack.chi2": place,
            }
    else:
        records = ak.zip(members | {"momentum": ak.zip(momentum)})
        columns = {
            "ReconstructedParticles": records,
            "Jet": ak.zip({"particles_begin": ends - sizes, "particles_end": ends}),
            "_Jet_particles": ak.zip({"index": place[order]}),
        }
    path = write_tree(tmp_path / "in.root", columns, "events", kind.removeprefix("old "))
    agree(tag(path, url), expected)


def test_a_range_that_is_not_there(tmp_path: Path, url: str) -> None:
    columns = {f"ReconstructedParticles.momentum.{axis}": ak.Array([[3.0, 3.1]] * 2) for axis in "xyz"}
    columns |= {"ReconstructedParticles.energy": ak.Array([[9.0, 9.0]] * 2)}
    columns |= {"Jet.particles_begin": ak.Array([[0], [0]]), "Jet.particles_end": ak.Array([[2], [3]])}
    columns |= {"_Jet_particles.index": ak.Array([[0, 1], [1, 0]])}
    path = write_tree(tmp_path / "in.root", columns, "events")
    with pytest.raises(JetError, match=r"event 1 jet 0 has a range 'Jet\.particles_begin'"):
        tag(path, url)
    assert np.isnan(ak.flatten(tag(path, url, bad="mask"))).tolist() == [False, True]


def test_mev_is_noticed(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    path = write_tree(tmp_path / "in.root", {f"part_{name}": JETS[name] * 1024 for name in JETS.fields})
    with pytest.raises(JetError, match="probably in MeV; say --unit MeV"):
        tag(path, url)
    scores = tag(path, url, unit="MeV")
    with Client(url) as client:
        scaled = ak.zip({name: double(JETS[name] * 1024) * 1e-3 for name in JETS.fields})
        assert np.array_equal(scores, client.tag(scaled))
    tag(path, url, unit="GeV")


def test_delphes_wants_clustering(tmp_path: Path, url: str) -> None:
    columns = {f"EFlowTrack.{name}": ak.Array([[1.0]]) for name in ("PT", "Eta", "Phi")}
    with pytest.raises(JetError, match="Delphes file, and the energy-flow objects are those of whole events"):
        tag(write_tree(tmp_path / "in.root", columns, "Delphes"), url)


def energy_flow(momenta: Any) -> dict[str, Any]:
    """Delphes: spread over three branches."""
    parts = angles(double(momenta))
    number = ak.local_index(momenta.E) % 3
    columns: dict[str, Any] = {}
    for i, (branch, pt) in enumerate((("EFlowTrack", "PT"), ("EFlowPhoton", "ET"), ("EFlowNeutralHadron", "ET"))):
        for name, component in ((pt, "pt"), ("Eta", "eta"), ("Phi", "phi")):
            columns[f"{branch}.{name}"] = parts[component][number == i]
    return columns


def candidates(names: str, **more: Any) -> Callable[[Any], dict[str, Any]]:
    """Massless candidates of an event in the columns `names`, where {} is a component."""

    def columns(momenta: Any) -> dict[str, Any]:
        parts = angles(double(momenta))
        style = {"pt": "PT", "eta": "Eta", "phi": "Phi"} if "Flow" in names else {name: name for name in parts}
        found = {names.format(style[name]): parts[name] for name in ("pt", "eta", "phi")}
        return found | {name: np.full(len(momenta), value) for name, value in more.items()}

    return columns


def podio(momenta: Any) -> dict[str, Any]:
    """EDM4hep without jets."""
    massless = double(momenta)
    columns = {f"ReconstructedParticles.momentum.{axis}": massless[f"p{axis}"] for axis in "xyz"}
    return columns | {"ReconstructedParticles.energy": np.sqrt(massless.px**2 + massless.py**2 + massless.pz**2)}


@pytest.mark.training
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(energy_flow, id="Delphes"),
        pytest.param(candidates("ParticleFlowCandidate.{}"), id="Delphes, particle flow"),
        pytest.param(candidates("PFCands_{}", run=1, event=2, luminosityBlock=3, nJet=0), id="NanoAOD"),
        pytest.param(candidates("GlobalFlowObjectsAuxDyn:{}"), id="PHYSLITE"),
        pytest.param(podio, id="EDM4hep"),
        pytest.param(candidates("my_pf_{}"), id="lists"),
    ],
)
def test_clustering_finds_the_jets_again(tmp_path: Path, url: str, layout: Callable[[Any], dict[str, Any]]) -> None:
    # Two jets back to back in transverse momentum, in each event but one, which is empty.
    near = narrow_jets(4, seed=2, most=20)
    far = ak.zip({"E": near.E, "px": -near.px, "py": -near.py, "pz": near.pz})
    both = ak.concatenate([near, far], axis=1)
    both = ak.concatenate([both[:2], both[:1][:, :0], both[2:]])
    columns = layout(both)
    unit = "GeV" if any("AuxDyn" in name for name in columns) else None
    path = write_tree(tmp_path / "in.root", columns, "Delphes")
    out = tmp_path / "out.root"
    run_job(Job(path, out, url, cluster="antikt:0.8:20", unit=unit, chunk=3))
    with open_source(out, None) as source:
        back = source.read(source.columns, 0, 5)
        assert source.tree == "Delphes"
    assert ak.num(back["top_score"]).to_list() == [2, 2, 0, 2, 2]
    near, far = (ak.zip({name: double(jet[name]) for name in ("px", "py", "pz")}) for jet in (near, far))
    near["E"], far["E"] = (np.sqrt(jet.px**2 + jet.py**2 + jet.pz**2) for jet in (near, far))
    with Client(url) as client:
        scores = np.asarray(client.tag(near)), np.asarray(client.tag(far))
    for i, event in enumerate((0, 1, 3, 4)):
        pt = float(np.hypot(ak.sum(near[i].px), ak.sum(near[i].py)))
        phi = float(np.arctan2(ak.sum(near[i].py), ak.sum(near[i].px)))
        assert np.allclose(back["jet_pt"][event], pt, rtol=1e-5)
        assert np.allclose(back["jet_eta"][event], np.arcsinh(float(ak.sum(near[i].pz)) / pt), atol=1e-5)
        first = int(abs(np.cos(back["jet_phi"][event][0] - phi) - 1) > 0.1)  # which of the equally hard ones came first
        assert np.allclose(np.cos(back["jet_phi"][event] - phi), [1, -1] if first == 0 else [-1, 1], atol=1e-5)
        assert np.allclose(back["top_score"][event], [scores[first][i], scores[1 - first][i]], atol=2e-6)


# ---- in an analysis


@pytest.mark.filterwarnings("ignore:Missing cross-reference index:RuntimeWarning")
def test_pfnano_in_a_coffea_processor(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    """Unmodified coffea, its runner and its events, in chunks, gives the scores that the file gives."""
    from coffea import processor
    from coffea.nanoevents import PFNanoAODSchema

    class Tagger(processor.ProcessorABC):  # type: ignore[misc]
        def process(self, events: Any) -> Any:
            links = events.FatJetPFCands
            order = ak.argsort(links.jetIdx, axis=1, stable=True)
            links = links[order]
            sizes = ak.sum(links.jetIdx[:, np.newaxis] == ak.local_index(events.FatJet.pt)[:, :, np.newaxis], axis=2)
            candidates = {
                name: ak.unflatten(events.PFCands[links.pFCandsIdx][name], ak.flatten(sizes), axis=1)
                for name in ("pt", "eta", "phi", "mass")
            }
            with Client(url) as client:
                scores = client.tag(candidates)
            counts, flat = (ak.to_numpy(values) for values in (ak.num(scores), ak.flatten(scores)))
            return {"counts": processor.column_accumulator(counts), "scores": processor.column_accumulator(flat)}

        def postprocess(self, accumulator: Any) -> Any:
            return accumulator

    path = tmp_path / "in.root"
    with uproot.recreate(path) as file:
        file["Events"] = pfnano_records()
    run = processor.Runner(processor.IterativeExecutor(status=False), schema=PFNanoAODSchema, chunksize=2)
    found = run({"jets": {"files": {str(path): "Events"}}}, Tagger())
    scores = ak.unflatten(found["scores"].value, found["counts"].value)
    agree(scores, expected)
    assert np.array_equal(ak.flatten(tag(path, url)), found["scores"].value)
