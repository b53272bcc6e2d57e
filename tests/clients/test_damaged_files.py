"""Files that were damaged on the way, and runs that were."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from sonic_client.errors import FileError
from sonic_client.tag_file import Job, run_job
from tests.clients.damaged_files import sound, tag_damaged
from tests.clients.fake_server import FakeTriton, serving

TAG = """
import sys
from argparse import ArgumentParser
from sonic_client.commands import tag
parser = ArgumentParser()
tag.register(parser)
sys.exit(tag.run(parser.parse_args()))
"""


def test_damaged_root_files_are_typed_errors(tmp_path: Path) -> None:
    seen = tag_damaged(tmp_path, 80, seed=3)
    assert seen.total() == 80
    assert seen["FileError"] > 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_half_way_is_resumed(tmp_path: Path, number: int) -> None:
    sound(tmp_path / "in.root", None)
    out = tmp_path / "out.parquet"
    with serving(FakeTriton(delay=0.15)) as (_, address):
        job = Job(tmp_path / "in.root", out, f"grpc://{address}/top_tagger", "Events", keep=("jet_pt",), chunk=1)
        by_default = ["env", "--default-signal=INT"]  # a shell's background ignores it
        command = [*by_default, sys.executable, "-c", TAG, str(job.source), "--tree", "Events", "--out", str(out),
                   "--keep", "jet_pt", "--chunk", "1", "--server", job.url]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            until = time.monotonic() + 60
            while len(list(job.parts.glob("*.parquet"))) < 3:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)
        finally:
            process.send_signal(number)
            process.communicate(timeout=30)
        assert not out.exists()
        summary = run_job(job)
        assert 3 <= summary.resumed_events < 12
        assert ak.from_parquet(out)["jet_pt"].to_list() == list(range(12))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.root", "out.parquet"]


def test_a_tree_that_grows_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "in.root"
    sound(path, None)

    def grow(_: int) -> None:
        with uproot.update(path) as file:
            file["more"] = {"x": np.arange(1000.0)}

    with serving(FakeTriton()) as (_, address):
        job = Job(path, tmp_path / "out.parquet", f"grpc://{address}/top_tagger", "Events", chunk=5)
        with pytest.raises(FileError, match="changed while it was read"):
            run_job(job, done=grow)
    assert not job.output.exists()
