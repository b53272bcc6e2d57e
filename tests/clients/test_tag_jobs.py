"""What a job of tagging does when the server, its output or another job is not as expected."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import awkward as ak
import grpc
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot
from tritonclient.grpc import service_pb2 as pb

from sonic_client import Client, ConfigurationError, ServerUnavailableError
from sonic_client.commands import tag as command
from sonic_client.errors import FileError
from sonic_client.events.files import open_source
from sonic_client.options import Options
from sonic_client.tag_file import Job, finish_parts, run_job
from sonic_client.tag_parts import Parts, VersionError
from tests.clients.fake_server import FakeTriton, answer_to, serving
from tests.clients.jets import narrow_jets

JETS = narrow_jets(12, seed=3, most=10)
LABELS = ak.Array([None if i == 7 else 2**53 + i for i in range(12)])


@dataclass
class Versioned(FakeTriton):
    """Answers as the model's version `version`, which takes batches of up to `most`."""

    version: str = "1"
    most: int = 4
    said: list[dict[str, str]] = field(default_factory=list)
    """Response parameters of the answers, taken in turn."""

    def __post_init__(self) -> None:
        self.behaviour = self._answer

    def _answer(self, number: int, request: Any, _context: grpc.ServicerContext) -> Any:
        answer = answer_to(request)
        answer.model_version = self.version
        for name, value in (self.said[(number - 1) % len(self.said)] if self.said else {}).items():
            answer.parameters[name].string_param = value
        return answer

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return pb.ModelConfigResponse(config={"name": request.name, "max_batch_size": self.most})


@pytest.fixture
def server() -> Iterator[tuple[Versioned, str]]:
    fake = Versioned()
    with serving(fake) as (_, address):
        yield fake, f"grpc://{address}/top_tagger"


@pytest.fixture
def job(tmp_path: Path, server: tuple[Versioned, str]) -> Job:
    path = tmp_path / "in.parquet"
    columns = {f"constituent_{name}": JETS[name] for name in JETS.fields} | {"n": LABELS}
    ak.to_parquet(ak.zip(columns, depth_limit=1), path, extensionarray=False)
    return Job(path, tmp_path / "out.root", server[1], keep=("n",), chunk=4)


def stop_after(job: Job, chunks: int) -> Callable[[int], None]:
    def interrupt(_events: int) -> None:
        if len(list(job.parts.glob("*.parquet"))) == chunks:
            raise KeyboardInterrupt

    return interrupt


def interrupt(job: Job, chunks: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_job(job, done=stop_after(job, chunks))
    assert sorted(path.name for path in job.parts.glob("*.parquet")) == [f"{i:06d}.parquet" for i in range(chunks)]


def columns_of(path: Path) -> dict[str, list[Any]]:
    with open_source(path, None) as source:
        events = source.read(source.columns, 0, source.entries)
    return {name: events[name].to_list() for name in events.fields}


def expected(url: str) -> list[float]:
    with Client(url) as client:
        return np.asarray(client.tag(JETS)).tolist()


# ---- versions


def test_a_resumed_job_mixes_no_versions(job: Job, server: tuple[Versioned, str]) -> None:
    fake, url = server
    interrupt(job, 1)
    assert json.loads((job.parts / "manifest.json").read_text())["answered"] == {"version": "1"}
    fake.version = "2"
    with pytest.raises(VersionError, match=r"version 1 then, 2 now.*--any-version"):
        run_job(job)
    assert not job.output.exists()
    assert [path.name for path in job.parts.glob("*.parquet")] == ["000000.parquet"]
    summary = run_job(replace(job, any_version=True))
    assert (summary.events, summary.tagged, summary.resumed_events) == (12, 12, 4)
    assert columns_of(job.output)["top_score"] == expected(url)


def test_the_version_that_began_resumes(job: Job, server: tuple[Versioned, str]) -> None:
    fake, url = server
    interrupt(job, 1)
    fake.version = "2"
    with pytest.raises(VersionError):
        run_job(job)
    fake.version = "1"
    assert run_job(job).resumed_events == 4
    assert columns_of(job.output)["top_score"] == expected(url)


def test_a_version_that_changes_in_a_job_stops_it(job: Job, server: tuple[Versioned, str]) -> None:
    fake, _ = server

    def update(_events: int) -> None:
        fake.version = "2"

    with pytest.raises(VersionError, match="version 1 then, 2 now"):
        run_job(job, done=update)
    assert [path.name for path in job.parts.glob("*.parquet")] == ["000000.parquet"]


SAID = {"device": "fpga:0", "precision": "int8", "kernel": "abc", "version": "1"}
"""Response parameters, as Triton 2.55 and later send them."""


def provenance(path: Path) -> dict[str, Any]:
    """What an output says of itself."""
    if path.suffix == ".root":
        with uproot.open(path) as file:
            text = str(file["provenance"])
    elif path.suffix == ".parquet":
        text = pq.read_schema(path).metadata[b"provenance"].decode()
    else:
        with h5py.File(path) as file:
            text = file.attrs["provenance"]
    return dict(json.loads(text))


@pytest.mark.parametrize("suffix", [".root", ".parquet", ".h5"])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_output_says_what_answered(job: Job, server: tuple[Versioned, str], suffix: str, workers: int) -> None:
    """Each device that did: one that takes over gives the same bits."""
    fake, _ = server
    fake.said = [SAID, SAID | {"device": "cpu", "kernel": "def", "isa": "avx2"}]
    out = job.output.with_suffix(suffix)
    run_job(replace(job, output=out), workers=workers)
    said = provenance(out)
    assert sorted(said["answered_by"], key=lambda one: one["device"], reverse=True) == fake.said
    assert said["answered"] == {"version": "1", "precision": "int8", "temperature": "1.0"}


def test_a_resumed_job_mixes_no_kernels_and_precisions(job: Job, server: tuple[Versioned, str]) -> None:
    fake, _ = server
    fake.said = [SAID]
    interrupt(job, 1)
    fake.said = [SAID | {"kernel": "def"}]
    with pytest.raises(VersionError, match=r"another kernel answers \(def\) than the finished chunks are of \(abc\)"):
        run_job(job)
    fake.said = [SAID | {"precision": "bfp"}]
    with pytest.raises(VersionError, match="precision int8 then, bfp now"):
        run_job(job)
    fake.said = [SAID, SAID | {"kernel": "def"}]
    fake.requests.clear()
    assert run_job(job).resumed_events == 4
    assert {one["kernel"] for one in provenance(job.output)["answered_by"]} == {"abc", "def"}


# ---- finished parts


def test_finished_parts_become_another_format_without_a_request(
    job: Job, server: tuple[Versioned, str], capsys: pytest.CaptureFixture[str]
) -> None:
    fake, url = server
    interrupt(job, 3)
    asked = len(fake.requests)
    other = job.output.with_name("other.parquet")
    parser = ArgumentParser()
    command.register(parser)
    assert command.run(parser.parse_args(["--finish", "--out", str(other), "--json"])) == 0
    assert len(fake.requests) == asked
    said = json.loads(capsys.readouterr().out)
    provenance = said.pop("provenance")
    assert [(one["file"], one["events"]) for one in provenance["sources"]] == [(str(job.source), 12)]
    assert (provenance["model"], provenance["answered"]) == ("top_tagger", {"version": "1"})
    assert said == {
        "output": str(other), "events": 12, "jets": 12, "tagged": 12, "resumed_events": 0
    }  # fmt: skip
    assert columns_of(other) == {"n": LABELS.to_list(), "top_score": expected(url)}
    assert not job.parts.exists()


def test_parts_that_are_not_all_there_are_not_finished(job: Job) -> None:
    interrupt(job, 2)
    other = job.output.with_name("other.parquet")
    with pytest.raises(FileError, match="1 of 3 chunks are not tagged yet"):
        finish_parts(job.parts, other)
    assert not other.exists()
    assert len(list(job.parts.glob("*.parquet"))) == 2
    with pytest.raises(FileError, match="there are no finished chunks"):
        finish_parts(job.output.with_name("nothing.parts"), other)
    assert not job.output.with_name("nothing.parts").exists()


def test_what_the_output_cannot_hold_comes_out_before_a_request(
    job: Job, tmp_path: Path, server: tuple[Versioned, str]
) -> None:
    path = tmp_path / "deep.parquet"
    deep = ak.Array([[[1], []]] * 12)
    columns = {f"constituent_{name}": JETS[name] for name in JETS.fields} | {"deep": deep}
    ak.to_parquet(ak.zip(columns, depth_limit=1), path, extensionarray=False)
    for suffix in (".root", ".h5"):
        with pytest.raises(FileError, match=f"{suffix[1:]} files cannot hold 'deep'"):
            run_job(replace(job, source=path, output=tmp_path / f"deep{suffix}", keep=("deep",)))
    assert server[0].requests == []
    run_job(replace(job, source=path, output=tmp_path / "out.parquet", keep=("deep",)))
    assert columns_of(tmp_path / "out.parquet")["deep"] == deep.to_list()


# ---- two jobs


def test_two_jobs_on_one_output(job: Job, server: tuple[Versioned, str]) -> None:
    refused: list[str] = []

    def second(_events: int) -> None:
        for overwrite in (False, True):
            with pytest.raises(FileError, match=r"in use by process \d+ on .*: two jobs cannot write one output") as it:
                run_job(job, overwrite=overwrite)
            refused.append(str(it.value))

    assert run_job(job, done=second).tagged == 12
    assert len(refused) == 6
    assert columns_of(job.output)["top_score"] == expected(server[1])


def test_the_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with Parts(tmp_path / "x.parts") as parts:
            parts.begin({"a": 1})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with Parts(tmp_path / "x.parts") as parts:
        assert parts.manifest == {"job": {"a": 1}}


def test_a_folder_of_somebody_elses_is_left_alone(job: Job, server: tuple[Versioned, str]) -> None:
    job.parts.mkdir()
    (job.parts / "thesis.tex").write_text("mine")
    (job.parts / "000000.parquet").write_text("also mine")
    for overwrite in (False, True):
        with pytest.raises(FileError, match=r"holds thesis\.tex, no finished chunks"):
            run_job(job, overwrite=overwrite)
    assert sorted(path.name for path in job.parts.iterdir()) == ["000000.parquet", "lock", "thesis.tex"]
    (job.parts / "thesis.tex").unlink()
    interrupt(job, 1)
    (job.parts / "notes.txt").write_text("mine")
    run_job(job)
    assert [path.name for path in job.parts.iterdir()] == ["notes.txt"]
    assert columns_of(job.output)["top_score"] == expected(server[1])


def test_a_disc_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(FileError, match="cannot be locked"), Parts(tmp_path / "x.parts"):
        pass


# ---- the server


def test_a_server_that_is_not_there_is_named_after_two_seconds(job: Job, server: tuple[Versioned, str]) -> None:
    with serving(FakeTriton()) as (_, address):
        pass  # its port is closed again
    absent = replace(job, url=f"grpc://{address}/top_tagger", patience=3.0)
    said: list[str] = []
    started: list[int] = []
    with pytest.raises(ServerUnavailableError, match=r"within 3 s \(--patience\).*" + address):
        run_job(absent, say=said.append, started=started.append)
    assert said[0].startswith(f"waiting for up to 3 s (--patience): grpc://{address}: failed to connect")
    assert started == []
    assert not job.output.exists()
    said.clear()
    assert run_job(job, say=said.append, started=started.append).tagged == 12
    assert (said, started) == ([], [12])


def test_a_batch_beyond_the_models_names_the_option(job: Job, server: tuple[Versioned, str]) -> None:
    fake, url = server
    with pytest.raises(
        ConfigurationError, match=r"batches of 5 jets \(--batch\).*at most 4 \(max_batch_size.*--batch 4"
    ):
        run_job(replace(job, options=Options(batch_size=5)))
    assert fake.requests == []
    run_job(replace(job, options=Options(batch_size=4)))
    assert columns_of(job.output)["top_score"] == expected(url)


# ---- the command


def test_a_dry_run_says_what_it_understood_and_does_nothing(
    job: Job, server: tuple[Versioned, str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = ArgumentParser()
    command.register(parser)
    arguments = [str(job.source), "--out", str(job.output), "--server", job.url, "--dry-run"]
    assert command.run(parser.parse_args([*arguments, "--json"])) == 0
    found = json.loads(capsys.readouterr().out)
    pt = np.hypot(ak.sum(JETS.px, axis=1), ak.sum(JETS.py, axis=1))
    assert found.pop("median_pt") == pytest.approx(float(np.median(pt)))
    assert found == {
        "format": "constituents as lists", "tree": "", "events": 12,
        "branches": [f"constituent_{name}" for name in ("E", "px", "py", "pz")], "unit": "GeV", "sample": 12,
        "jets_per_event": 1.0, "constituents_per_jet": float(np.median(ak.num(JETS.px))), "files": 1,
    }  # fmt: skip
    assert command.run(parser.parse_args(arguments)) == 0
    assert "constituents as lists; 12 events" in capsys.readouterr().err
    assert server[0].requests == []
    assert sorted(path.name for path in job.output.parent.iterdir()) == ["in.parquet"]


@pytest.mark.parametrize("suffix", [".root", ".h5"])
def test_missing_integers_are_masked_where_the_format_has_no_nulls(job: Job, suffix: str) -> None:
    out = job.output.with_suffix(suffix)
    run_job(replace(job, output=out))
    back = columns_of(out)
    assert back["n"] == [0 if n is None else n for n in LABELS.to_list()]
    assert back["n_mask"] == [n is None for n in LABELS.to_list()]


@pytest.mark.parametrize("sizes", [[1] * 12, [0] * 12, [2] * 12, [1] * 4 + [0] * 4 + [2] * 4])
def test_jagged_scores_in_hdf5(job: Job, tmp_path: Path, sizes: list[int]) -> None:
    """Events that all have one jet, or none, or two: each gets its own scores, as lists."""
    jets = narrow_jets(sum(sizes) + 1, seed=8, most=6)
    events = ak.unflatten(jets[:-1], sizes)
    path = tmp_path / "events.parquet"
    columns = {f"constituent_{name}": events[name] for name in jets.fields}
    ak.to_parquet(ak.zip(columns, depth_limit=1), path, extensionarray=False)
    run_job(replace(job, source=path, output=tmp_path / "out.h5", keep=()))
    scores = columns_of(tmp_path / "out.h5")["top_score"]
    with Client(job.url) as client:
        flat = np.asarray(client.tag(jets)).tolist()[:-1]
    assert scores == ak.unflatten(ak.Array([*flat, 0.0])[:-1], sizes).to_list()


def test_the_tree_keeps_its_name(job: Job, tmp_path: Path) -> None:
    columns = {f"constituent_{name}": JETS[name] for name in JETS.fields}
    with uproot.recreate(tmp_path / "in.root") as file:
        file.mktree("mine", {name: values.type.content for name, values in columns.items()}).extend(columns)
    run_job(replace(job, source=tmp_path / "in.root", keep=()))
    with uproot.open(job.output) as file:
        assert file.classnames(cycle=False) == {"mine": "TTree", "provenance": "TObjString"}
        assert json.loads(file["provenance"])["tree"] == "mine"


def test_the_folder_of_parts_is_found_by_its_input(job: Job, tmp_path: Path, server: tuple[Versioned, str]) -> None:
    path = tmp_path / "second.parquet"
    path.write_bytes(Path(job.source).read_bytes())
    second = replace(job, source=path, output=tmp_path / "second.root", keep=())
    interrupt(job, 3)
    interrupt(second, 3)
    parser = ArgumentParser()
    command.register(parser)
    out = tmp_path / "other.h5"
    with pytest.raises(FileError, match=r"found out\.root\.parts, second\.root\.parts; name it: --finish PARTS"):
        command.run(parser.parse_args(["--finish", "--out", str(out)]))
    assert command.run(parser.parse_args(["--finish", str(path), "--out", str(out)])) == 0
    assert columns_of(out) == {"top_score": expected(server[1])}
    assert job.parts.exists()
    assert not second.parts.exists()
    assert command.run(parser.parse_args(["--finish", str(job.parts), "--out", str(out), "--overwrite"])) == 0
    assert sorted(columns_of(out)) == ["n", "n_mask", "top_score"]


def test_other_processes_mix_no_versions_either(job: Job, server: tuple[Versioned, str]) -> None:
    fake, url = server
    interrupt(job, 1)
    fake.version = "2"
    with pytest.raises(VersionError, match="version 1 then, 2 now"):
        run_job(job, workers=2)
    assert [path.name for path in job.parts.glob("*.parquet")] == ["000000.parquet"]
    assert run_job(replace(job, any_version=True), workers=2).resumed_events == 4
    assert columns_of(job.output)["top_score"] == expected(url)


def test_finished_parts_survive_an_output_that_fails(job: Job, tmp_path: Path, server: tuple[Versioned, str]) -> None:
    interrupt(job, 3)
    with pytest.raises(FileError, match="there is no folder"):
        finish_parts(job.parts, tmp_path / "nowhere" / "out.root")
    (tmp_path / "there.root").touch()
    with pytest.raises(FileError, match="exists"):
        finish_parts(job.parts, tmp_path / "there.root")
    assert finish_parts(job.parts, tmp_path / "there.root", overwrite=True).tagged == 12
    assert columns_of(tmp_path / "there.root")["top_score"] == expected(server[1])


@pytest.mark.parametrize("name", ["", "  ", "a\0b"])
def test_a_score_has_a_name(job: Job, name: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a name for the new column"):
        replace(job, score=name)


def test_a_name_may_hold_what_urls_take_for_their_own(job: Job, server: tuple[Versioned, str]) -> None:
    path = Path(job.source).with_name("a?b#c%20d.parquet")
    path.write_bytes(Path(job.source).read_bytes())
    out = job.output.with_name("x?y.root.h5")
    run_job(replace(job, source=path, output=out))
    assert columns_of(out)["top_score"] == expected(server[1])
