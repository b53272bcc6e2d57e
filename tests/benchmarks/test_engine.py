"""What `bench engine` measures beside speed."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

import fpga_ops
from fpga_ops import FpgaOpsError
from fpga_ops.devices import find
from fpga_ops.runtime.cache_directory import cache_directory
from fpga_ops.vector import isa
from tests.fpga_ops.onnx_models import quantise, resnet
from triton_fpga_bench.engine import command, race


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


@pytest.mark.skipif(
    not any(info.name == "cpu" and info.usable for info in fpga_ops.devices()), reason="no OpenCL CPU device"
)
def test_each_instruction_set_is_raced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that others read in the JSON; every set gives the reference's bits, near the file's meaning."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FPGA_OPS_ISA", raising=False)
    model = quantise(resnet(softmax=True), tmp_path / "model.onnx")
    parser = argparse.ArgumentParser()
    command.register(parser)
    options = ["--what", "isas", "--peers", "ort_int8", "--rounds", "1", "--patience", "0", "--model", str(model)]
    found = command.measure(parser.parse_args(options))
    device = find("cpu")[1]
    assert device is not None
    assert list(found["isas"]) == [entry.name for entry in isa.SETS if isa.may_work(entry, device)]
    assert found["isa"] == next(iter(found["isas"]))
    for one in found["isas"].values():
        assert one["ms"] > 0
        assert one["ratio"].keys() == {"ort_int8"}
    assert found["bit_exact"]
    assert found["isas_race"]["wrong"] == 0
    assert found["off"]["ours"] < 1.01 / 255  # the output has 8 bits, and onnxruntime sums in float32


@pytest.mark.skipif(
    not any(info.name == "cpu" and info.usable for info in fpga_ops.devices()), reason="no OpenCL CPU device"
)
def test_rows_of_a_file_are_what_every_contestant_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = quantise(resnet(softmax=True), tmp_path / "model.onnx")
    rows = np.random.default_rng(0).normal(0, 3, (3, 3, 32, 32)).astype(np.float32)
    file = tmp_path / "golden.npz"
    np.savez(file, input=rows, other=np.zeros(3))
    parser = argparse.ArgumentParser()
    command.register(parser)
    options = ["--what", "latency", "--peers", "ort_int8", "--rounds", "1", "--patience", "0", "--model", str(model)]
    found = command.measure(parser.parse_args([*options, "--batch", "2", "--inputs", str(file)]))
    assert found["compared"]
    assert found["bit_exact"]
    with fpga_ops.load(model, "reference") as network:  # the second input goes on from the file's first row
        expected = [network.run({"images": rows[[0, 1]]}), network.run({"images": rows[[2, 0]]})]
    kept = np.load(race.expected_output(model, 2, cache_directory(), file))["output"]
    for want, got in zip(expected, kept, strict=True):
        np.testing.assert_array_equal(next(iter(want.values())), got)
    np.save(tmp_path / "wrong.npy", rows[:, :, :16])
    for name in ("wrong.npy", "none.npy"):
        with pytest.raises(FpgaOpsError, match=f"{name}: expected"):
            command.measure(parser.parse_args([*options, "--inputs", str(tmp_path / name)]))
