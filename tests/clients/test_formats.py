"""What experiments write, in small files of their layouts made of our own jets: the scores are those of the jets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from sonic_client import Client, JetError
from sonic_client.events.files import open_source
from sonic_client.tag_file import Job, examine, run_job
from tests.clients.fake_server import FakeTriton, serving
from tests.clients.jets import narrow_jets

JETS = narrow_jets(9, seed=11, most=12)
COUNTS = np.array([2, 0, 3, 1, 3])
EVENTS = ak.unflatten(JETS, COUNTS)
"""Five events with jets."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeTriton()) as (_, address):
        yield f"grpc://{address}/top_tagger"


@pytest.fixture(scope="module")
def expected(url: str) -> np.ndarray:
    with Client(url) as client:
        return np.asarray(client.tag(JETS))


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
        assert file.classnames(cycle=False) == {"Events": "TTree"}


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
