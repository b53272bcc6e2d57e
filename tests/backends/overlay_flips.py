"""Flip bits in the memory of the FPGA emulator, one at a time; a process of its own, since the emulator needs one.

usage: python -m tests.backends.overlay_flips FLIPS CACHE

Prints for each buffer how many flips there were, how many were refused by the device (checksum of the descriptors), how
many changed an answer on the golden set, and how many of these the known-answer test caught.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fpga_ops.errors import DeviceError
from fpga_ops.ir import reference
from fpga_ops.overlay import Geometry, device_process, executable
from tests.support import networks
from triton_server.repository.known_answers import Golden

BUFFERS = ("descriptors", "parameters", "weights", "output")


class Here:
    """Stands for the child process: the device is opened in this one, where its buffers can be reached."""

    device: device_process.Device

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        os.environ.update(environment)

    def ask(self, header: dict[str, Any], blocks: list[bytes], timeout: float) -> device_process.Message:
        if header["do"] == "build":
            Here.device = device_process.Device(header, *blocks)
            return device_process.Message({"seconds": 0.0}, [])
        slot = self.device.slots[0]
        self.device.load(slot, blocks[0])
        return device_process.Message(
            *self.device.collect(self.device.launch(slot, header["runs"], header["counters"]))
        )

    def is_ours(self) -> bool:
        return True

    def kill(self) -> int:
        return 0


class Memory:
    """One buffer of the device, bit by bit."""

    def __init__(self, device: device_process.Device, buffer: Any) -> None:
        import pyopencl

        self.copy, self.queue, self.buffer = pyopencl.enqueue_copy, device.queues["in"], buffer
        self.bytes = np.empty(buffer.size, np.uint8)
        self.copy(self.queue, self.bytes, buffer)

    def flip(self, bit: int) -> None:
        self.bytes[bit // 8] ^= 1 << (bit % 8)
        self.copy(self.queue, self.buffer, self.bytes)
        self.queue.finish()


def main(flips: int, cache: Path) -> dict[str, dict[str, int]]:
    rng = np.random.default_rng(17)
    builder = networks.Builder(np.random.default_rng(0))
    network = builder.build(builder.conv(builder.conv(builder.input(8, 8, 16), 16, (3, 3)), 16, (1, 1)))
    (input_name,), (output_name,) = network.inputs, network.outputs
    shape = network.tensors[input_name].shape
    inputs = {input_name: rng.integers(0, 256, (1, *shape)).astype(np.uint8)}
    expected = reference.run_integers(network, inputs)[output_name]
    golden = Golden(inputs, {}, expected)
    executable._Child = Here  # type: ignore[misc,assignment]
    device = executable.OverlayExecutable(network, 1, Geometry(16, 16, 7), cache_dir=cache)

    def wrong() -> bool | None:
        """Whether an answer on the golden set is wrong; None when the device refused to compute."""
        try:
            came = device.run_integers(inputs)[output_name]
        except DeviceError:
            return None
        differs = not np.array_equal(came, expected)
        if differs:
            counts["caught"] += golden.difference({}, came) is not None
        return differs

    counts = {"caught": 0}
    assert wrong() is False, "it is right before anything is flipped"
    memories = {name: Memory(Here.device, buffer) for name, buffer in zip(BUFFERS, Here.device.constants, strict=False)}
    found: dict[str, dict[str, int]] = {}
    for name in BUFFERS:
        counts = {"flips": 0, "refused": 0, "changed": 0, "caught": 0}
        for _ in range(flips):
            counts["flips"] += 1
            if name == "output":  # between the device and the answer
                came = device.run_integers(inputs)[output_name].copy()
                came.reshape(-1).view(np.uint8)[int(rng.integers(came.nbytes))] ^= 1 << int(rng.integers(8))
                counts["changed"] += 1
                counts["caught"] += golden.difference({}, came) is not None
                continue
            bit = int(rng.integers(8 * memories[name].bytes.size))
            memories[name].flip(bit)
            outcome = wrong()
            counts["refused"] += outcome is None
            counts["changed"] += bool(outcome)
            memories[name].flip(bit)
        found[name] = counts
    assert wrong() is False, "all undone"
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), Path(sys.argv[2]))) + "\n")
    sys.stdout.flush()
    os._exit(0)  # not through the driver's own ending
