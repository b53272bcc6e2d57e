"""Several input files: one output in their order, and nothing begun where one of them is another tree."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pytest
import uproot

from sonic_client import Client, ConfigurationError, JetError
from sonic_client.commands import tag as command
from sonic_client.errors import FileError
from sonic_client.tag_file import Job, examine, expand, run_job
from tests.clients.fake_server import FakeTriton, serving
from tests.clients.jets import narrow_jets
from tests.clients.test_tag_jobs import columns_of, interrupt, provenance

SIZES = (5, 0, 3, 7)
JETS = narrow_jets(sum(SIZES), seed=17, most=9)
NUMBERS = np.arange(sum(SIZES), dtype=np.int64)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeTriton, str]]:
    fake = FakeTriton()
    with serving(fake) as (_, address):
        yield fake, f"grpc://{address}/top_tagger"


def write_file(path: Path, jets: Any, numbers: Any, tree: str = "Events", **more: Any) -> Path:
    columns = {f"constituent_{name}": jets[name] for name in jets.fields} | {"n": ak.Array(numbers)} | more
    if path.suffix == ".root":
        with uproot.recreate(path) as file:
            file.mktree(tree, {name: values.type.content for name, values in columns.items()}).extend(columns)
    else:
        ak.to_parquet(ak.zip(columns, depth_limit=1), path, extensionarray=False)
    return path


@pytest.fixture(params=[".root", ".parquet"])
def files(tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    """One of them is empty."""
    starts = np.cumsum([0, *SIZES])
    return [
        write_file(tmp_path / f"run{i}{request.param}", JETS[a:b], NUMBERS[a:b])
        for i, (a, b) in enumerate(itertools.pairwise(starts))
    ]


def expected(url: str) -> list[float]:
    with Client(url) as client:
        return np.asarray(client.tag(JETS)).tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_events_follow_each_other_in_the_order_of_the_files(
    files: list[Path], tmp_path: Path, server: tuple[FakeTriton, str], workers: int
) -> None:
    out = tmp_path / "out.root"
    job = Job(files, out, server[1], keep=("n",), chunk=4)
    plan, found = examine(job)
    assert [(chunk.file.location, chunk.start, chunk.stop) for chunk in plan.chunks] == [
        (files[0], 0, 4), (files[0], 4, 5), (files[2], 0, 3), (files[3], 0, 4), (files[3], 4, 7)
    ]  # fmt: skip
    assert (found.events, found.files) == (15, 4)
    summary = run_job(job, workers=workers)
    assert (summary.events, summary.tagged) == (15, 15)
    assert columns_of(out) == {"n": NUMBERS.tolist(), "top_score": expected(server[1])}
    sources = provenance(out)["sources"]
    assert [(one["file"], one["events"]) for one in sources] == [
        (str(file), size) for file, size in zip(files, SIZES, strict=True)
    ]
    assert [one["size"] for one in sources] == [file.stat().st_size for file in files]


def test_a_chain_resumes(files: list[Path], tmp_path: Path, server: tuple[FakeTriton, str]) -> None:
    fake, url = server
    job = Job(tuple(files), tmp_path / "out.parquet", url, keep=("n",), chunk=4)
    interrupt(job, 2)
    asked = len(fake.requests)
    assert run_job(job).resumed_events == 5
    assert len(fake.requests) - asked == 10
    assert columns_of(job.output) == {"n": NUMBERS.tolist(), "top_score": expected(url)}
    other = replace(job, output=tmp_path / "other.parquet")
    interrupt(other, 2)
    with pytest.raises(FileError, match="unfinished run with other entries, modified_ns, size, sources"):
        run_job(replace(other, source=(files[2], files[0], files[3])))


def test_a_file_that_changes_meanwhile_stops_the_chain(
    files: list[Path], tmp_path: Path, server: tuple[FakeTriton, str]
) -> None:
    def touch(_events: int) -> None:
        os.utime(files[3], ns=(1, 1))

    job = Job(tuple(files), tmp_path / "out.parquet", server[1], chunk=4)
    with pytest.raises(FileError, match=r"run3\.\w+ changed while it was read"):
        run_job(job, done=touch)
    assert not job.output.exists()


def test_a_tree_that_changes_is_an_error_before_the_first_request(
    tmp_path: Path, server: tuple[FakeTriton, str]
) -> None:
    fake, url = server
    first = write_file(tmp_path / "a.root", JETS[:5], NUMBERS[:5])
    lacking = write_file(tmp_path / "lacking.root", JETS[5:][["E", "px", "py"]], NUMBERS[5:])
    typed = write_file(tmp_path / "typed.root", JETS[5:], NUMBERS[5:].astype(np.float64))
    named = write_file(tmp_path / "named.root", JETS[5:], NUMBERS[5:], tree="Other")
    scale = {f"constituent_{name}": JETS[name][5:] * np.float32(1024) for name in JETS.fields}
    mev = write_file(tmp_path / "mev.root", JETS[5:], NUMBERS[5:], **scale)
    (tmp_path / "broken.root").write_bytes(first.read_bytes()[:700])
    asked = len(fake.requests)
    for second, kind, words in (
        (lacking, FileError, r"lacking\.root: there is no branch 'constituent_pz', which .*a\.root has"),
        (typed, FileError, r"typed\.root: 'n' is float64, and int64 in .*a\.root"),
        (named, FileError, r"named\.root: there is no tree 'Events'; it holds Other"),
        (mev, JetError, r"mev\.root: the jets' median pT .* probably in MeV"),
        (tmp_path / "broken.root", FileError, r"broken\.root: not a readable root file"),
        (tmp_path / "absent.root", FileError, r"absent\.root: no such file"),
    ):
        for bad in ("raise", "mask"):
            job = Job((first, second), tmp_path / "out.root", url, keep=("n",), bad=bad)
            with pytest.raises(kind, match=words):
                run_job(job)
            assert not job.output.exists()
            assert not job.parts.exists()
    assert len(fake.requests) == asked


def test_what_cannot_follow_each_other(tmp_path: Path) -> None:
    out = tmp_path / "out.root"
    for sources, words in (
        (("a.root", "b.root", "a.root"), "a.root is named twice"),
        (("a.root", "b.h5"), r"files of one kind can follow each other, got \.h5, \.root"),
        (("a.root", str(out)), "the output would replace the input"),
        ((), "expected the name of a file"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Job(tuple(Path(one) for one in sources), out, "grpc://127.0.0.1:9/m")


def test_patterns_are_names_in_their_order(
    files: list[Path], tmp_path: Path, server: tuple[FakeTriton, str], capsys: pytest.CaptureFixture[str]
) -> None:
    suffix = files[0].suffix
    assert expand([str(files[2]), str(tmp_path / f"run[01]{suffix}")]) == (files[2], files[0], files[1])
    with pytest.raises(FileError, match="no file has such a name"):
        expand([str(tmp_path / "walk*.root")])
    parser = ArgumentParser()
    command.register(parser)
    out = tmp_path / "out.h5"
    pattern = str(tmp_path / f"run*{suffix}")
    assert command.run(parser.parse_args([pattern, "--out", str(out), "--server", server[1], "--json"])) == 0
    assert [Path(one["file"]) for one in json.loads(capsys.readouterr().out)["provenance"]["sources"]] == files
    with h5py.File(out) as file:
        assert file["top_score"][:].tolist() == expected(server[1])


def test_a_protocol_without_its_package_names_the_extra() -> None:
    """In a process of its own, which has no fsspec-xrootd whatever is installed here."""
    program = (
        "import sys; sys.modules['fsspec_xrootd'] = None\n"
        "from sonic_client.events.files import open_source\n"
        "open_source('root://127.0.0.1:9//store/in.root', None)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert "FileError: root://127.0.0.1:9//store/in.root: reading by this protocol needs another package" in last
    assert "pip install 'triton-fpga[xrootd]'" in last
