"""The pages on measuring, with their numbers made small: each command works, and nothing is measured that counts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.clients.models import write_repository
from tests.docs.pages import DOCS
from tests.docs.running import read
from tests.fpga_ops.onnx_models import quantise, resnet
from triton_fpga_bench.service import far_link

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(900)]

HOW_TO = DOCS / "how-to"
TEST = "tests/benchmarks/test_pages.py"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A tiny tagger on the CPU."""
    written = write_repository(tmp_path / "both", device="cpu")
    (tmp_path / "tiny").mkdir()
    return (written / "top_tagger").rename(tmp_path / "tiny" / "top_tagger").parent


def test_measure(models: Path, tmp_path: Path) -> None:
    model = quantise(resnet(softmax=True), tmp_path / "model.onnx")
    rows = tmp_path / "golden.npz"
    np.savez(rows, input=np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32))
    small = f"--rounds 1 --patience 0 --model {model} --others {model} --inferences 200"
    replaced = (
        ("bench service --quick", f"bench service --quick --model-repository {models} --only breakdown"),
        ("bench engine", f"bench engine {small}"),
        ("--model model.onnx", f"--model {model}"),
        ("--inputs golden.npz", f"--inputs {rows}"),
    )
    with read(HOW_TO / "measure.md", tmp_path / "reader", replaced, test=TEST) as reader:
        assert (reader.folder / "engine.png").is_file()
        report = json.loads((reader.folder / "bench-output" / "service" / "report.json").read_text())
        assert report["breakdown"]["top_tagger"]["total_ms"] > 0


def test_measure_the_service(models: Path, tmp_path: Path) -> None:
    """Each kind of measurement once: the four commands share them."""
    few = f"--model-repository {models} --seconds 0.3 --rounds 2 --connections 1 --loads 0.5"
    replaced = (
        ("bench service  ", f"bench service {few} --only scaling table  "),
        ("bench service --quick", f"bench service {few} --quick --only overlap"),
        ("bench service --json", f"bench service {few} --only breakdown --json"),
        ("bench service --only latency remote", f"bench service {few} --only latency remote"),
        (
            "--concurrency-range 1:8 --measurement-interval 5000",
            "--concurrency-range 1:2 --measurement-interval 500 --stability-percentage 900 -f measured.csv",
        ),
        # Only root installs packages; for others it must be there.
        ("apt-get update &&", "apt-get update &&" if os.getuid() == 0 else "ldconfig -p | grep libb64.so.0d #"),
    )
    with read(HOW_TO / "measure-the-service.md", tmp_path / "reader", replaced, test=TEST) as reader:
        report = json.loads((reader.folder / "bench-output" / "service" / "report.json").read_text())
        assert report["failed"] == {}
        points = report["remote"].get("top_tagger", {}).get("points", [])
        assert [point["rtt_ms"] for point in points] == ([] if far_link.why_not() else [0, 60])
        header, *rows = (reader.folder / "measured.csv").read_text().splitlines()
        # Its rows are in the order of what was measured.
        assert sorted(row.split(",")[0] for row in rows) == ["1", "2"]
        assert all(float(row.split(",")[header.split(",").index("Inferences/Second")]) > 0 for row in rows)
