"""Flipped bits in the device's own memory: every flip that changes an answer on the golden set is caught.

`pytest -s tests/backends/test_bit_flips.py` prints the rates.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpga_ops
from tests.fpga_ops.onnx_models import quantise, resnet
from triton_server.plugin.failover import Failover, Failure
from triton_server.repository.known_answers import Golden

FLIPS = 300


class DeviceMemory:
    """The weights, biases and multipliers of a network on an OpenCL device, bit by bit."""

    def __init__(self, network: Any) -> None:
        import pyopencl  # only now: fpga_ops tells it first where the drivers are

        self.copy = pyopencl.enqueue_copy
        self.queue = network._executable._queue
        self.buffer = network._executable._constants
        self.bytes = np.empty(self.buffer.size, np.uint8)
        self.copy(self.queue, self.bytes, self.buffer)

    def flip(self, bit: int) -> None:
        self.bytes[bit // 8] ^= 1 << (bit % 8)
        self.copy(self.queue, self.buffer, self.bytes)
        self.queue.finish()


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips")
    return quantise(resnet((1,), 16, (3, 32, 32), classes=2, softmax=True), folder / "model.onnx")


def known_answers(path: Path) -> Golden:
    inputs = {"images": np.random.default_rng(2).random((4, 3, 32, 32)).astype(np.float32)}
    with fpga_ops.load(path, "reference") as network:
        features = next(iter(network.features(inputs).values()))
        return Golden(inputs, network.run(inputs), features)


def test_flips_that_change_an_answer_are_caught(
    onnx_file: Path, record_property: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = known_answers(onnx_file)
    rng = np.random.default_rng(11)
    changed = caught = outputs_caught = 0
    with fpga_ops.load(onnx_file, "cpu") as network:
        memory = DeviceMemory(network)
        assert golden.difference(network.run(golden.inputs), features_of(network, golden)) is None
        for bit in rng.integers(0, memory.bytes.size * 8, FLIPS):
            memory.flip(int(bit))
            features, outputs = features_of(network, golden), network.run(golden.inputs)
            wrong = not np.array_equal(features, golden.features)
            changed += wrong
            caught += wrong and golden.difference(outputs, features) is not None
            memory.flip(int(bit))
            came = features_of(network, golden).copy()  # and one bit of what the device made
            came.reshape(-1)[int(rng.integers(came.size))] ^= 1 << int(rng.integers(8))
            outputs_caught += golden.difference(network.run(golden.inputs), came) is not None
        assert golden.difference(network.run(golden.inputs), features_of(network, golden)) is None, "all undone"
    assert changed > 0
    assert caught == changed
    assert outputs_caught == FLIPS
    record_property("flips", FLIPS)  # type: ignore[operator]
    record_property("flips_that_change_an_answer", changed)  # type: ignore[operator]
    with capsys.disabled():
        print(
            f"\ncpu: weights: {FLIPS} flips, {changed} change an answer on the golden set, {caught} of these are caught"
        )
        print(f"cpu: output: {FLIPS} flips, {outputs_caught} caught")


@pytest.mark.emulator
@pytest.mark.timeout(900)  # the emulator's threads spin, which a busy machine makes slow
def test_flips_in_an_overlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Descriptors have a checksum that no flip of one bit survives; the rest is for the known answers to find."""
    command = [sys.executable, "-m", "tests.backends.overlay_flips", "40", str(tmp_path)]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=800, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout)
    assert found["descriptors"]["refused"] == found["descriptors"]["flips"] == 40
    for name in ("parameters", "weights", "output"):
        assert found[name]["refused"] == 0
        assert found[name]["caught"] == found[name]["changed"] > 0
    assert found["output"]["caught"] == 40
    with capsys.disabled():
        for name, counts in found.items():
            print(f"\noverlay: {name}: {', '.join(f'{count} {what}' for what, count in counts.items())}", end="")


def features_of(network: Any, golden: Golden) -> np.ndarray:
    return np.asarray(next(iter(network.features(golden.inputs).values())))


def test_a_flip_takes_the_device_out_and_the_reference_takes_over(onnx_file: Path) -> None:
    golden = known_answers(onnx_file)
    opened: list[Any] = []
    seen: list[Failure] = []

    def load(device: str | None) -> Any:
        opened.append(fpga_ops.load(onnx_file, device))
        return opened[-1]

    chain = Failover(load, ("cpu", "reference"), timeout_s=60, on_failure=seen.append)
    chain.set_golden(golden)
    assert (chain.device, seen) == ("cpu", [])
    memory = DeviceMemory(opened[0])
    rng = np.random.default_rng(3)
    while chain.device == "cpu":  # until one is hit that matters
        memory.flip(int(rng.integers(0, memory.bytes.size * 8)))
        chain.self_test()
    assert (chain.device, seen[0].cause) == ("reference", "wrong_answer")
    outputs, _, _ = chain.run(golden.inputs)
    for name, expected in golden.outputs.items():
        np.testing.assert_array_equal(outputs[name], expected)
    chain.close()
