"""What `bench engine` measures beside speed."""

from __future__ import annotations

from pathlib import Path

import pytest

import fpga_ops
from tests.fpga_ops.onnx_models import quantise, resnet
from triton_fpga_bench.engine import race


@pytest.mark.skipif(
    not any(info.name == "cpu" and info.usable for info in fpga_ops.devices()), reason="no OpenCL CPU device"
)
def test_growth_of_memory_is_watched_and_outputs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And outputs that are not the expected ones are counted."""
    monkeypatch.setattr(race, "GROWTH_STEP", 100)
    models = [quantise(resnet(softmax=True, seed=seed), tmp_path / f"{seed}.onnx") for seed in (0, 1)]
    expected = [race.expected_output(model, 1, tmp_path) for model in models]
    found = race.growth(models[0], 1000, 1, expected[0])
    assert (found["inferences"], found["wrong"], found["every"]) == (1000, 0, 100)
    resident = found["resident_mb"]
    assert len(resident) == 10
    assert resident[-1] - resident[0] < 2
    assert race.growth(models[0], 100, 1, expected[1])["wrong"] == 100
