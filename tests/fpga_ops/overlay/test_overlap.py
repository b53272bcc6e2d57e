"""A batch travels while another computes, and nobody gets another's answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fpga_ops.errors import DeviceError
from fpga_ops.ir import reference
from fpga_ops.overlay import Geometry, device_process
from tests.fpga_ops.overlay.checks import integer_images
from tests.fpga_ops.overlay.conftest import Emulate
from tests.support import networks

SMALL = Geometry(16, 16, 7)
pytestmark = pytest.mark.timeout(900)


class StandIn:
    """A device whose batches compute until they are told to stop."""

    def __init__(self) -> None:
        self.slots = ["slot 0", "slot 1"]
        self.loaded: list[bytes] = []
        self.came = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def load(self, slot: str, images: bytes) -> None:
        if images == b"broken":
            raise ValueError("cannot be sent")
        self.loaded.append(images)
        self.came.release()

    def launch(self, slot: str, runs: int, counters: bool) -> str:
        self.go.acquire()
        return slot

    def collect(self, launched: str) -> tuple[dict[str, Any], list[bytes]]:
        return {"slot": launched}, []


def test_the_next_batch_is_sent_while_one_computes() -> None:
    device, answers = StandIn(), []
    answered = threading.Semaphore(0)

    def answer(header: dict[str, Any], blocks: list[bytes]) -> None:
        answers.append(header)
        answered.release()

    pipeline = device_process.Pipeline(device, answer)  # type: ignore[arg-type]
    run = {"runs": 1, "counters": False}
    pipeline.put(device_process.Message(run, [b"first"]))
    pipeline.put(device_process.Message(run, [b"second"]))
    assert device.loaded == [b"first", b"second"]
    assert not answers  # the second has arrived and the first still computes
    third = threading.Thread(target=pipeline.put, args=(device_process.Message(run, [b"broken"]),))
    third.start()
    third.join(0.2)
    assert third.is_alive()  # no slot is free
    device.go.release(2)
    third.join(10)
    for _ in range(3):
        assert answered.acquire(timeout=10)
    assert answers == [{"slot": "slot 0"}, {"slot": "slot 1"}, {"error": "ValueError: cannot be sent"}]


@pytest.mark.parametrize("settings", [{}, {"strict": True, "timeout": 240.0}], ids=["staged", "free-running"])
def test_overlapping_batches_keep_their_answers(emulate: Emulate, settings: dict[str, Any]) -> None:
    network = networks.resnet((1,), 16, (16, 16, 3), classes=10)
    device = emulate(network, SMALL, **settings)
    batches = [integer_images(network, 1 + seed % 2, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(device.run_integers, batches))
    for images, values in zip(batches, got, strict=True):
        want = reference.run_integers(network, images)
        for name in network.outputs:
            assert np.array_equal(values[name], want[name])


def test_every_waiting_batch_hears_of_a_death(emulate: Emulate) -> None:
    network = networks.resnet((1,), 16, (16, 16, 3), classes=10)
    device = emulate(network, SMALL)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(device.run_integers, integer_images(network, 2, seed)) for seed in range(12)]
        futures[0].result()
        device._child.process.kill()
        errors = [future.exception(timeout=60) for future in futures[1:]]
    assert any(isinstance(error, DeviceError) for error in errors)
    assert all(error is None or isinstance(error, DeviceError) for error in errors)
    assert not device.usable
    device.close()
    device.close()
