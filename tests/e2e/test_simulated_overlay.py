"""The simulated overlay behind the real Triton: the reference's bits, also where it hangs or dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fpga_ops
from tests.e2e.conftest import COMPLETE, Service, complete, images, serving, write_model
from triton_server.supervisor.processes import descendants, state

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]  # the first use of the array builds its model

TIMES = {"open_timeout_s": 500, "device_timeout_s": 120, "self_test_interval_s": 0}
MORE = "".join(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}\n' for k, v in TIMES.items())


@pytest.fixture
def service(tmp_path: Path, tiny_onnx: Path) -> Iterator[Service]:
    with fpga_ops.load(tiny_onnx, "fpga-rtl"):
        pass  # what is built here the server finds
    repository = tmp_path / "models"
    write_model(repository, "tiny", tiny_onnx, device="fpga-rtl,reference", more=MORE + complete(tiny_onnx))
    with serving(repository, COMPLETE) as running:
        yield running


def simulation(service: Service) -> int:
    """Process of the device."""
    (pid,) = (
        pid
        for pid in descendants(service.process.pid)
        if b"fpga_ops.rtl.device_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return pid


def test_bits_of_the_reference_a_hang_and_a_death(service: Service, tiny_onnx: Path) -> None:
    """One image over each protocol; a simulation that stands still costs a restart, one that dies not one request."""
    with fpga_ops.load(tiny_onnx, "reference") as network:
        expected = [next(iter(network.run({"images": images(seed=seed)}).values())) for seed in (5, 6)]
    assert service.metric("fpga_model_info", 'device="fpga-rtl"') == 1
    for kind, number in (("grpc", 0), ("http", 1)):
        answer = service.infer(kind, "tiny", images(seed=5 + number))
        np.testing.assert_array_equal(answer, expected[number])
    assert service.metric("fpga_model_info", 'device="fpga-rtl"') == 1
    assert not service.restarts()

    stopped = simulation(service)
    os.kill(stopped, signal.SIGSTOP)
    service.wait_for(
        lambda: np.array_equal(service.infer("grpc", "tiny", images(seed=5)), expected[0]), 300, "an answer"
    )
    service.wait_for(lambda: state(stopped) in ("", "Z"), 300, "the end of what hangs")
    service.wait_for(lambda: service.metric("fpga_model_info", 'device="fpga-rtl"') == 1, 300, "the simulation")
    restarts = service.restarts()

    os.kill(simulation(service), signal.SIGKILL)
    np.testing.assert_array_equal(service.infer("http", "tiny", images(seed=6)), expected[1])
    service.wait_for(lambda: service.metric("fpga_model_info", 'device="reference"') == 1, what="the reference")
    assert service.restarts() == restarts
