"""`triton-fpga tag` on files, through the real server."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pytest
import uproot

from sonic_client import Client, ClientError, ConfigurationError, JetError
from sonic_client.commands import tag as command
from sonic_client.errors import FileError
from sonic_client.tag_file import Job, run_job
from tests.clients.jets import narrow_jets

pytestmark = pytest.mark.server
JETS = narrow_jets(50, seed=5, most=30)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.root"
    columns = {f"constituent_{name}": JETS[name] for name in JETS.fields}
    columns |= {"jet_pt": np.arange(50, dtype=np.float32), "is_top": np.arange(50) % 2 == 0}
    with uproot.recreate(path) as file:
        file.mktree("Events", {name: ak.Array(values).type.content for name, values in columns.items()}).extend(columns)
    return path


@pytest.fixture
def url(grpc_url: str) -> str:
    return f"{grpc_url}/top_tagger"


@pytest.fixture
def expected(url: str) -> np.ndarray:
    with Client(url) as client:
        return np.asarray(client.tag(JETS))


def scores_of(path: Path) -> np.ndarray:
    if path.suffix == ".root":
        with uproot.open(path) as file:
            return file["Events"]["top_score"].array(library="np")
    if path.suffix == ".parquet":
        return np.asarray(ak.from_parquet(path)["top_score"])
    with h5py.File(path) as file:
        return file["top_score"][:]


@pytest.mark.parametrize(("suffix", "workers"), [(".root", 1), (".parquet", 1), (".h5", 1), (".root", 2)])
def test_scores_and_kept_branches_in_every_format(
    source: Path, url: str, expected: np.ndarray, suffix: str, workers: int
) -> None:
    out = source.with_name("out" + suffix)
    done: list[int] = []
    job = Job(source, out, url, "Events", keep=("jet_*", "constituent_E"), chunk=12)
    summary = run_job(job, workers=workers, done=done.append)
    assert (summary.events, summary.jets, summary.tagged, sum(done)) == (50, 50, 50, 50)
    assert np.array_equal(scores_of(out), expected)
    assert sorted(p.name for p in out.parent.iterdir()) == ["in.root", out.name]
    if suffix == ".root":
        with uproot.open(out) as file:
            assert np.array_equal(file["Events"]["jet_pt"].array(library="np"), np.arange(50))
            assert ak.all(file["Events"]["constituent_E"].array() == JETS.E)


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
def test_other_inputs(tmp_path: Path, url: str, expected: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"in{suffix}"
    if suffix == ".parquet":
        columns = ak.zip({f"part_{name}": JETS[name] for name in JETS.fields}, depth_limit=1)
        ak.to_parquet(columns, path, row_group_size=7)
    else:
        with h5py.File(path, "w") as file:
            for name in JETS.fields:
                file[name] = ak.to_numpy(ak.fill_none(ak.pad_none(JETS[name], 30), 0.0))
    run_job(Job(path, tmp_path / "out.parquet", url, chunk=20))
    assert np.array_equal(scores_of(tmp_path / "out.parquet"), expected)


def test_an_interrupted_run_is_resumed(source: Path, url: str, expected: np.ndarray) -> None:
    job = Job(source, source.with_name("out.root"), url, "Events", chunk=10)

    def interrupt(_: int) -> None:
        if len(list(job.parts.glob("*.parquet"))) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, done=interrupt)
    assert not job.output.exists()
    with pytest.raises(FileError, match="unfinished run with other chunk"):
        run_job(Job(source, job.output, url, "Events", chunk=11))
    done: list[int] = []
    assert run_job(job, done=done.append).resumed_events == 30
    assert done == [30, 10, 10]
    assert np.array_equal(scores_of(job.output), expected)
    with pytest.raises(FileError, match="exists"):
        run_job(job)
    assert run_job(job, overwrite=True).resumed_events == 0


def test_a_file_that_changes_meanwhile_is_noticed(source: Path, url: str) -> None:
    job = Job(source, source.with_name("out.root"), url, "Events", chunk=10)

    def touch(_: int) -> None:
        os.utime(source, ns=(1, 1))

    with pytest.raises(FileError, match="changed while it was read"):
        run_job(job, done=touch)
    with pytest.raises(FileError, match="modified_ns"):
        run_job(job)


def test_bad_jets_stop_the_job_or_are_masked(tmp_path: Path, url: str) -> None:
    energy = ak.to_list(JETS.E)
    energy[3][0] = float("nan")
    path = tmp_path / "in.parquet"
    momenta = {name: JETS[name] for name in ("px", "py", "pz")}
    ak.to_parquet(ak.zip({"E": ak.Array(energy)} | momenta, depth_limit=1), path)
    with pytest.raises(JetError, match=r"in\.parquet, events from 0: constituents: jet 3"):
        run_job(Job(path, tmp_path / "out.root", url, "Events"))
    summary = run_job(Job(path, tmp_path / "masked.root", url, "Events", bad="mask"))
    assert (summary.jets, summary.tagged) == (50, 49)
    assert np.flatnonzero(np.isnan(scores_of(tmp_path / "masked.root"))).tolist() == [3]


def test_events_with_several_jets(tmp_path: Path, url: str, expected: np.ndarray) -> None:
    counts = [0, 20, 0, 29, 1]
    path = tmp_path / "in.parquet"
    ak.to_parquet(ak.zip({name: ak.unflatten(JETS[name], counts) for name in JETS.fields}, depth_limit=1), path)
    run_job(Job(path, tmp_path / "out.parquet", url, chunk=2))
    scores = ak.from_parquet(tmp_path / "out.parquet")["top_score"]
    assert ak.num(scores).to_list() == counts
    assert np.array_equal(ak.flatten(scores), expected)


def test_wrong_requests(source: Path, url: str, tmp_path: Path) -> None:
    out = tmp_path / "out.root"
    with pytest.raises(FileError, match="no tree 'Nope'; it holds Events"):
        run_job(Job(source, out, url, "Nope"))
    with pytest.raises(JetError, match="no branch matches 'mass'"):
        run_job(Job(source, out, url, "Events", keep=("mass",)))
    with pytest.raises(JetError, match="'cand_E'"):
        run_job(Job(source, out, url, "Events", constituents="cand_"))
    with pytest.raises(ConfigurationError, match="replace the input"):
        Job(source, source, url)
    with pytest.raises(ConfigurationError, match="ending in"):
        Job(source, tmp_path / "out.csv", url)
    (tmp_path / "broken.root").write_bytes(b"root, but not really")
    with pytest.raises(FileError, match="not a readable root file"):
        run_job(Job(tmp_path / "broken.root", out, url))
    with pytest.raises(FileError, match="no such file"):
        run_job(Job(tmp_path / "missing.root", out, url))
    assert not out.exists()


def test_numbers_are_not_taken_for_constituents(tmp_path: Path, url: str) -> None:
    path = tmp_path / "in.parquet"
    ak.to_parquet(ak.zip({f"jet_{name}": np.ones(3) for name in ("pt", "eta", "phi", "mass")}), path)
    with pytest.raises(JetError, match="'jet_pt' is one number an event"):
        run_job(Job(path, tmp_path / "out.root", url))


def test_the_command(source: Path, url: str, expected: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    command.register(parser)
    out = source.with_name("scores.parquet")
    assert (
        command.run(parser.parse_args([str(source), "--out", str(out), "--server", url, "--keep", "is_top", "--json"]))
        == 0
    )
    assert json.loads(capsys.readouterr().out)["tagged"] == 50
    assert np.array_equal(scores_of(out), expected)
    with pytest.raises(ClientError, match="exists"):
        command.run(parser.parse_args([str(source), "--out", str(out), "--server", url]))
