import json
from pathlib import Path

import numpy as np
import pytest

from retrain.data import production
from retrain.data.jets import chunk_seeds
from retrain.data.production import Production
from retrain.errors import DataError


def test_chunks_hold_what_was_asked_for(tmp_path: Path) -> None:
    chunks = Production(tmp_path, 4500, seed=7, jets_per_chunk=2000).chunks()
    assert [(chunk.process, chunk.jets) for chunk in chunks] == [
        ("qcd", 2000), ("top", 2000), ("qcd", 2000), ("top", 2000), ("qcd", 500), ("top", 500),
    ]  # fmt: skip
    assert len({chunk.path for chunk in chunks}) == len(chunks)


def test_only_missing_chunks_are_made(tmp_path: Path) -> None:
    wanted = Production(tmp_path, 10, seed=1, jets_per_chunk=5)
    wanted.claim_folder()
    wanted.chunks()[2].path.touch()
    assert wanted.chunks()[2] not in wanted.missing()
    assert len(wanted.missing()) == 3
    more = Production(tmp_path, 20, seed=1, jets_per_chunk=5)
    more.claim_folder()
    assert len(more.missing()) == 7


def test_a_chunk_that_was_not_full_is_replaced_and_its_jets_count_once(tmp_path: Path) -> None:
    """Both files were read, and the first jets of the chunk were there twice: in the training, and held out."""
    few = Production(tmp_path, 7, seed=1, jets_per_chunk=5)
    few.claim_folder()
    for chunk in few.chunks():
        chunk.path.touch()
    more = Production(tmp_path, 20, seed=1, jets_per_chunk=5)
    assert [(chunk.index, chunk.jets) for chunk in more.missing()] == [(n, 5) for n in (1, 1, 2, 2, 3, 3)]
    for chunk in more.missing()[:2]:
        chunk.path.touch()
    assert [path.name.partition("chunk")[2] for path in more.tidy()] == [
        "00000-jets5.parquet",
        "00001-jets5.parquet",
    ] * 2
    assert len(list(tmp_path.glob("*.parquet"))) == 4
    assert few.missing() == [], "there is more than is asked for"


def test_a_folder_of_another_format_is_refused(tmp_path: Path) -> None:
    made = Production(tmp_path, 10, seed=1)
    made.claim_folder()
    made.chunks()[0].path.touch()
    with pytest.raises(DataError, match="would count twice"):
        Production(tmp_path, 10, seed=1, suffix=".root").claim_folder()
    made.claim_folder()


def test_what_the_folder_remembers_is_damaged(tmp_path: Path) -> None:
    (tmp_path / production.SETTINGS_FILE).write_text('{"seed": 1')
    with pytest.raises(DataError, match="not readable"):
        Production(tmp_path, 10, seed=1).claim_folder()


@pytest.mark.training
def test_more_jets_are_added_to_real_ones_and_none_is_there_twice(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    from retrain.data.files import read_all

    production.produce(Production(tmp_path, 3, seed=5, jets_per_chunk=5), 1)
    few = read_all([tmp_path])
    production.produce(Production(tmp_path, 7, seed=5, jets_per_chunk=5), 1)
    more = read_all([tmp_path])
    assert np.bincount(more.labels).tolist() == [7, 7]
    assert len(np.unique(more.pt)) == 14
    assert set(few.pt) <= set(more.pt)


def test_a_folder_of_another_seed_is_refused(tmp_path: Path) -> None:
    Production(tmp_path, 10, seed=1).claim_folder()
    assert json.loads((tmp_path / production.SETTINGS_FILE).read_text())["seed"] == 1
    with pytest.raises(DataError, match="another seed"):
        Production(tmp_path, 10, seed=2).claim_folder()


def test_no_jets_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="positive"):
        Production(tmp_path, 0, seed=1).chunks()


def test_seeds_differ_for_every_chunk() -> None:
    seeds = {chunk_seeds(s, process, chunk)[0] for s in range(4) for process in ("qcd", "top") for chunk in range(50)}
    assert len(seeds) == 400
    assert min(seeds) >= 1
    assert max(seeds) <= 900_000_000
    one, two = chunk_seeds(1, "top", 3)[1], chunk_seeds(1, "top", 3)[1]
    np.testing.assert_array_equal(one.random(5), two.random(5))


@pytest.mark.training
def test_real_jets_are_reproducible_and_look_like_tops_and_qcd() -> None:
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    from retrain.data.jets import generate_chunk
    from retrain.evaluation.substructure import high_level_features

    top, qcd = generate_chunk("top", 60, seed=5, chunk=0), generate_chunk("qcd", 60, seed=5, chunk=0)
    np.testing.assert_array_equal(top.constituents, generate_chunk("top", 60, seed=5, chunk=0).constituents)
    assert top.is_top.all()
    assert not qcd.is_top.any()
    assert np.median(top.mass) == pytest.approx(173.0, abs=12.0)
    assert np.median(qcd.mass) < 110.0
    for jets in (top, qcd):
        assert np.all((jets.pt > 550) & (jets.pt < 650) & (np.abs(jets.eta) < 2))
        pt = np.hypot(jets.constituents[..., 1], jets.constituents[..., 2])
        assert np.all(np.diff(pt, axis=1) <= 1e-3)
    tau32 = [high_level_features(jets)[:, 2].mean() for jets in (top, qcd)]
    assert tau32[0] < tau32[1]
