"""Files that are wrong on purpose: an error that says what came, or a missing score, and never another jet's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from sonic_client import Client, JetError
from sonic_client.errors import FileError
from sonic_client.events.files import open_source
from sonic_client.tag_file import Job, examine
from tests.clients.jets import narrow_jets
from tests.clients.test_formats import (
    COUNTS,
    EVENTS,
    FLOW_KEY,
    JETS,
    agree,
    angles,
    double,
    pfnano,
    pfnano_records,
    shuffled,
    tag,
    write_tree,
)


def lists(jets: Any = JETS, **more: Any) -> dict[str, Any]:
    return {f"part_{name}": double(jets[name]) for name in jets.fields} | {f"part_{k}": v for k, v in more.items()}


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    ak.to_parquet(ak.zip(columns, depth_limit=1), path, extensionarray=False)
    return path


# ---- numbers that no momentum has


def test_a_negative_pt_is_one_jets_fault(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    """It would turn a constituent round without anybody noticing."""
    parts = {name: double(values) for name, values in angles(double(JETS)).items()}
    pt = ak.to_list(parts["pt"])
    pt[4][0] *= -1
    path = write_tree(tmp_path / "in.root", {f"part_{k}": v for k, v in (parts | {"pt": ak.Array(pt)}).items()})
    with pytest.raises(JetError, match=r"jet \d .*has a None, NaN or infinite component, or a negative pt"):
        tag(path, url)
    scores = ak.to_numpy(tag(path, url, bad="mask"))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [4]
    assert np.allclose(np.delete(scores, 4), np.delete(expected, 4), atol=2e-6)
    with Client(url) as client, pytest.raises(JetError, match="negative pt"):
        client.tag(parts | {"pt": ak.Array(pt)})


@pytest.mark.parametrize("event", [3, 215])
def test_masses_of_another_unit_behind_what_is_looked_at_first(tmp_path: Path, url: str, event: int) -> None:
    jets = narrow_jets(220, seed=5, most=8)
    parts = {name: double(values) for name, values in angles(double(jets)).items()}
    parts["mass"] = ak.where(ak.local_index(jets.E, axis=0) == event, parts["mass"] * 0 + 1e6, parts["mass"])
    path = write_tree(tmp_path / "in.root", {f"part_{name}": values for name, values in parts.items()})
    with pytest.raises(JetError, match=f"event {event} has constituents most of whose energies are more than 5 times"):
        tag(path, url, chunk=50)
    assert np.flatnonzero(np.isnan(ak.to_numpy(tag(path, url, chunk=50, bad="mask")))).tolist() == [event]
    tag(path, url, chunk=50, unit="GeV")


# ---- more components than four


def test_an_energy_and_a_mass_that_agree_are_fine(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    mass = angles(double(JETS))["mass"]
    agree(ak.unflatten(tag(write_tree(tmp_path / "in.root", lists(mass=mass)), url), COUNTS), expected)
    both = lists() | {f"part_{name}": values for name, values in angles(double(JETS)).items()}
    agree(ak.unflatten(tag(write_tree(tmp_path / "in.root", both), url), COUNTS), expected)


def test_an_energy_and_a_mass_that_disagree_are_named(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    path = write_tree(tmp_path / "in.root", lists(mass=double(JETS.E)))
    words = "part_E, part_px, part_py, part_pz, part_mass describe the momenta more than once.*--constituents 'part_:E,"
    with pytest.raises(JetError, match=words):
        tag(path, url)
    agree(ak.unflatten(tag(path, url, constituents="part_:E,px,py,pz"), COUNTS), expected)
    with Client(url) as client:
        heavy = client.tag({name: lists(mass=double(JETS.E))[f"part_{name}"] for name in ("px", "py", "pz", "mass")})
    assert np.allclose(tag(path, url, constituents="part_:px,py,pz,mass"), heavy, atol=2e-6)


def test_a_negative_mass_is_a_negative_squared_mass_in_files_too(tmp_path: Path, url: str) -> None:
    columns = {name: double(values) for name, values in angles(double(JETS)).items()} | {
        "mass": double(JETS.E) * 0 - 0.01
    }
    path = write_tree(tmp_path / "in.root", {f"part_{name}": values for name, values in columns.items()})
    with Client(url) as client:
        assert np.allclose(tag(path, url), client.tag(columns), atol=2e-6)


# ---- units


def test_gev_in_a_format_of_mev(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    path = physlite(tmp_path / "in.root", scale=1.0)
    with pytest.raises(
        JetError, match=r"median pT would be 0\.\d+ GeV, so the file is probably in GeV; say --unit GeV"
    ):
        tag(path, url)
    agree(tag(path, url, unit="GeV"), expected)


def test_energies_in_mev_beside_momenta_in_gev(tmp_path: Path, url: str) -> None:
    columns = angles(double(JETS)) | {"E": double(JETS.E) * 1000}
    del columns["mass"]
    path = write_tree(tmp_path / "in.root", {f"part_{name}": values for name, values in columns.items()})
    with pytest.raises(JetError, match="energies or masses are in another unit than momenta"):
        tag(path, url)
    reverse = {name: values * (1000 if name in ("px", "py", "pz") else 1) for name, values in lists().items()}
    reverse |= {f"part_{name}": reverse[f"part_{name}"] * 1000 for name in ("px", "py", "pz")}
    with pytest.raises(JetError, match=r"MeV|less energy than momentum"):
        tag(write_tree(tmp_path / "in.root", reverse), url)


def test_some_jets_in_mev(tmp_path: Path, url: str) -> None:
    """Behind what is looked at first: merged from two files, say."""
    jets = narrow_jets(230, seed=6, most=5)
    late = ak.local_index(jets.E, axis=0) == 220
    columns = {f"part_{name}": double(ak.where(late, jets[name] * 1000, jets[name])) for name in jets.fields}
    path = write_tree(tmp_path / "in.root", columns)
    with pytest.raises(JetError, match=r"event 220 has a pT above 10000 GeV: is it in MeV\?"):
        tag(path, url, chunk=100)
    scores = ak.to_numpy(tag(path, url, chunk=100, bad="mask"))
    with Client(url) as client:
        right = np.asarray(client.tag(jets))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [220]
    assert np.array_equal(np.delete(scores, 220), np.delete(right, 220))


def test_a_negative_energy_is_one_jets_fault(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    energies = ak.to_list(JETS.E)
    energies[3][0] = -energies[3][0]
    path = write_tree(tmp_path / "in.root", lists() | {"part_E": ak.Array(energies)})
    with pytest.raises(JetError, match="negative energy"):
        tag(path, url)
    scores = ak.to_numpy(tag(path, url, bad="mask"))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3]
    assert np.allclose(np.delete(scores, 3), np.delete(expected, 3), atol=2e-6)


# ---- links


def physlite(path: Path, scale: float = 1000.0, **changes: Any) -> Path:
    candidates, jet, place = shuffled()
    components = angles(double(candidates))
    prefix = "GlobalFlowObjectsAuxDyn:"
    columns = {f"{prefix}{name}": components[name] * (scale if name == "pt" else 1) for name in ("pt", "eta", "phi")}
    columns[f"{prefix}m"] = components["mass"] * scale
    numbers = ak.Array([
        [[p for j, p in zip(js, ps, strict=True) if j == n] for n in range(count)]
        for js, ps, count in zip(jet.to_list(), place.to_list(), COUNTS, strict=True)
    ])  # fmt: skip
    keys = ak.to_list(numbers * 0 + FLOW_KEY)
    for (event, number, entry), key in changes.get("keys", {}).items():
        keys[event][number][entry] = key
    links = ak.zip({"m_persKey": ak.Array(keys), "m_persIndex": numbers})
    columns["AnalysisLargeRJetsAuxDyn:constituentLinks"] = links
    return write_tree(path, columns, "CollectionTree", "RNTuple")


def test_a_link_to_nothing_is_one_jets_fault(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    """An element link of key 0 was valid once, before the candidates were thinned."""
    path = physlite(tmp_path / "in.root", keys={(2, 1, 0): 0})
    with pytest.raises(JetError, match=r"event 2 jet 1 has a link in .* to a candidate that is not there; 1 such"):
        tag(path, url)
    scores = ak.to_numpy(ak.flatten(tag(path, url, bad="mask")))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3]
    assert np.allclose(np.delete(scores, 3), np.delete(expected, 3), atol=2e-6)


@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize("whole", [True, False])
def test_links_into_another_collection_are_refused_whatever_the_chunks(
    tmp_path: Path, url: str, chunk: int, whole: bool
) -> None:
    sizes = ak.to_list(ak.num(EVENTS, axis=2))
    entries = [(4, jet, n) for jet, size in enumerate(sizes[4]) for n in range(size)]
    path = physlite(tmp_path / "in.root", keys=dict.fromkeys(entries if whole else entries[:1], 78))
    for bad in ("raise", "mask"):
        with pytest.raises(JetError, match=r"points into a collection that is not in this file \(key 78\)"):
            tag(path, url, chunk=chunk, bad=bad)


def test_the_collection_is_the_same_behind_what_is_looked_at_first(tmp_path: Path, url: str) -> None:
    momenta = ak.Array([[3.0, 3.1]] * 220)
    columns = {f"ReconstructedParticles.momentum.{axis}": momenta for axis in "xyz"}
    columns |= {"ReconstructedParticles.energy": momenta * 2, "_Jet_particles.index": ak.Array([[0, 1]] * 220)}
    columns |= {"Jet.particles_begin": ak.Array([[0]] * 220), "Jet.particles_end": ak.Array([[2]] * 220)}
    for late, words in ((7, None), (8, r"points into several collections \(7, 8\)")):
        ids = ak.Array([[7, 7]] * 215 + [[late, late]] * 5)
        path = write_tree(tmp_path / "in.root", columns | {"_Jet_particles.collectionID": ids}, "events")
        if words is None:
            assert len(tag(path, url, chunk=5)) == 220
        else:
            with pytest.raises(JetError, match=words):
                tag(path, url, chunk=5)


@pytest.mark.parametrize("column", ["FatJetPFCands.jetIdx", "FatJetPFCands.pFCandsIdx", "PFCands.pt", "FatJet.pt"])
def test_a_null_where_lists_are_tied_together_is_an_error(tmp_path: Path, url: str, column: str) -> None:
    """pyarrow gives a null list any length: counting on would shift all events behind it."""
    table = pa.Table.from_pylist(ak.to_list(ak.zip(pfnano_records(), depth_limit=1)))
    group, _, member = column.partition(".")
    flat = {f"{name}_{key}": [[one[key] for one in row] for row in table[name].to_pylist()]
            for name in ("FatJet", "FatJetPFCands", "PFCands") for key in table[name].to_pylist()[0][0]}  # fmt: skip
    flat[f"{group}_{member}"][1] = None
    flat |= {name: table[name].to_pylist() for name in ("run", "event", "luminosityBlock")}
    pq.write_table(pa.table(flat), tmp_path / "in.parquet")
    for bad in ("raise", "mask"):
        with pytest.raises((JetError, FileError), match=f"{group}_{member}|lists of other lengths"):
            tag(tmp_path / "in.parquet", url, bad=bad)


def test_links_are_integers(tmp_path: Path, url: str) -> None:
    columns = pfnano(FatJetPFCands_pFCandsIdx=double(pfnano()["FatJetPFCands_pFCandsIdx"]) + 0.4)
    with pytest.raises(JetError, match=r"'FatJetPFCands_pFCandsIdx' .* holds no integers"):
        tag(write_tree(tmp_path / "in.root", columns), url)


def test_unsigned_links_that_mean_none(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    places = ak.to_list(pfnano()["FatJetPFCands_pFCandsIdx"])
    places[2][0] = 2**32 - 1
    columns = pfnano(FatJetPFCands_pFCandsIdx=ak.values_astype(ak.Array(places), np.uint32))
    scores = ak.to_numpy(ak.flatten(tag(write_tree(tmp_path / "in.root", columns), url, bad="mask")))
    assert np.isnan(scores).sum() == 1
    assert np.allclose(scores[~np.isnan(scores)], expected[~np.isnan(scores)], atol=2e-6)


def test_a_jet_without_candidates_is_one_jets_fault(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    columns = pfnano()
    jets = ak.to_list(columns["FatJetPFCands_jetIdx"])
    jets[2] = [-1 if jet == 1 else jet for jet in jets[2]]
    path = write_tree(tmp_path / "in.root", pfnano(FatJetPFCands_jetIdx=ak.Array(jets)))
    with pytest.raises(JetError, match="has no constituents"):
        tag(path, url)
    scores = ak.to_numpy(ak.flatten(tag(path, url, bad="mask")))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3]
    assert np.allclose(np.delete(scores, 3), np.delete(expected, 3), atol=2e-6)


# ---- columns that do not fit together


@pytest.mark.parametrize("extra", ["PX_3", "E_3"])
def test_flat_columns_of_other_numbers_are_no_jets(tmp_path: Path, url: str, extra: str) -> None:
    names = [f"{name}_{n}" for n in range(3) for name in ("E", "PX", "PY", "PZ")]
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for name in [*names, extra]:
            file[name] = np.ones(4)
    with pytest.raises(JetError, match="are not there for the same n"):
        tag(tmp_path / "in.h5", url)


def test_lists_of_other_lengths(tmp_path: Path, url: str) -> None:
    columns = lists()
    columns["part_px"] = ak.concatenate([columns["part_px"][1:], columns["part_px"][:1]])
    with pytest.raises(JetError, match="lists of other lengths"):
        tag(parquet(tmp_path / "in.parquet", columns), url, bad="mask")


@pytest.mark.training
def test_a_candidate_that_is_no_number_is_not_left_out_of_its_jet(tmp_path: Path, url: str) -> None:
    jets = narrow_jets(3, seed=2, most=20)
    energies = ak.to_list(double(jets.E))
    energies[1][0] = np.nan
    columns = {f"my_pf_{name}": double(jets[name]) for name in jets.fields} | {"my_pf_E": ak.Array(energies)}
    path = write_tree(tmp_path / "in.root", columns)
    with pytest.raises(JetError, match="event 1 jet 0 is in an event with a candidate that has a NaN"):
        tag(path, url, cluster="antikt:0.8:20")
    scores = tag(path, url, cluster="antikt:0.8:20", bad="mask")
    assert [np.isnan(one).tolist() for one in ak.to_list(scores)] == [[False], [True], [False]]


# ---- trees


def test_cycles_and_trees_in_folders(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    other = narrow_jets(9, seed=99, most=12)
    path = tmp_path / "in.root"
    with uproot.recreate(path) as file:
        for name, jets in (("Events", other), ("Events", JETS), ("deep/Events", other)):
            columns = lists(jets)
            file.mktree(name, {key: values.type.content for key, values in columns.items()}).extend(columns)
        assert {"Events;1", "Events;2", "deep/Events;1"} <= set(file.classnames())
    with Client(url) as client:
        others = np.asarray(client.tag(other))
    with pytest.raises(FileError, match=r"a tree must be named with --tree; it holds Events, deep/Events"):
        tag(path, url)
    assert np.allclose(tag(path, url, tree="Events"), expected, atol=2e-6), "the newest cycle"
    assert np.allclose(tag(path, url, tree="Events;1"), others, atol=2e-6)
    assert np.allclose(tag(path, url, tree="deep/Events"), others, atol=2e-6)
    with uproot.open(tmp_path / "out_in.root") as file:
        assert file.classnames(cycle=False)["deep/Events"] == "TTree"
    with pytest.raises(FileError, match=r"there is no tree 'Events;3'"):
        tag(path, url, tree="Events;3")


def test_an_empty_tree_and_one_without_jets(tmp_path: Path, url: str) -> None:
    nothing = write_tree(tmp_path / "in.root", {name: values[:0] for name, values in pfnano().items()})
    with pytest.raises(JetError, match="no events; nothing was written"):
        tag(nothing, url)
    assert not (tmp_path / "out_in.root").exists()
    none = {name: values[1:2] for name, values in pfnano().items()}
    for suffix in (".root", ".h5", ".parquet"):
        path = tmp_path / f"none{suffix}"
        if suffix == ".root":
            write_tree(path, none)
        elif suffix == ".parquet":
            parquet(path, {name: ak.Array(values) for name, values in none.items()})
        else:
            continue
        assert tag(path, url).to_list() == [[]]


def test_what_is_understood_of_a_file_without_a_jet(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "in.root", {name: values[1:2] for name, values in pfnano().items()})
    _, found = examine(Job(path, tmp_path / "out.root", "grpc://127.0.0.1:9/top_tagger"))
    assert (found.events, found.jets_per_event, found.median_pt) == (1, 0.0, 0.0)
    with open_source(path, None) as source:
        assert source.entries == 1
