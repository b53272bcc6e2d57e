"""The demonstration, with the real server and a tiny model."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from sonic_client.commands import demo
from sonic_client.errors import FileError, JetError
from tests.clients.jets import random_jets

pytestmark = pytest.mark.server


def write_sample(path: Path, jets: int = 40) -> Path:
    constituents = random_jets(jets, seed=9, most=40)
    ak.to_parquet(
        ak.zip({f"constituent_{n}": constituents[n] for n in constituents.fields}
               | {"is_top": np.arange(jets) % 2 == 0}, depth_limit=1), path,
    )  # fmt: skip
    return path


def run(*arguments: str) -> int:
    parser = ArgumentParser()
    demo.register(parser)
    return demo.run(parser.parse_args(arguments))


def test_everything_is_written(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    sample = write_sample(tmp_path / "jets.parquet")
    assert run("--model-repository", str(repository), "--jets", str(sample), "--output", str(out)) == 0
    shown = capsys.readouterr().out
    for words in ("AUC", "throughput", "p50", "version 1", "int8", "ran on the CPU", "the same scores, to the bit"):
        assert words in shown
    report = json.loads((out / "report.json").read_text())
    assert report["jets"] == 40
    assert 0 <= report["auc"] <= 1
    assert report["device"] == "reference"
    assert report["model_version"] == "1"
    assert 0 < report["p50_ms"] <= report["p99_ms"]
    assert report["throughput_per_s"] > 0
    with uproot.open(out / "scores.root") as file:
        scores = file["scores"]["score"].array(library="np")
    assert np.array_equal(scores, ak.to_numpy(ak.from_parquet(out / "scores.parquet")["score"]))
    assert len(scores) == 40
    for plot in ("roc.png", "scores.png"):
        assert (out / plot).read_bytes().startswith(b"\x89PNG")


def test_a_sample_that_is_none(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        run("--model-repository", str(repository), "--jets", str(tmp_path / "none.root"), "--output", str(tmp_path))
    jets = random_jets(3)
    ak.to_parquet(ak.zip({name: jets[name] for name in jets.fields}, depth_limit=1), tmp_path / "unlabelled.parquet")
    with pytest.raises(JetError, match="no branch is_top"):
        run("--model-repository", str(repository), "--jets", str(tmp_path / "unlabelled.parquet"))
