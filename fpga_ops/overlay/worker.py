"""The process that holds an overlay device: `python -m fpga_ops.overlay.worker READ_FD WRITE_FD`.

A kernel that waits on a channel for ever cannot be stopped from its own process, and the emulator brings its own
OpenCL and onnxruntime libraries; so each device lives in a child. Messages on the two pipes are a JSON header with
the sizes of the byte blocks that follow it.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

COUNTERS = ("params", "weights", "features", "array", "requant", "sink")
"""Loop counters of a layer, in the order in which `sink` writes them."""

KERNELS = ("fetch", "params", "weights", "features", "array", "requant", "sink")
AUTORUN = ("features", "array", "requant")
STAGES = (("fetch", "params", "weights"), AUTORUN, ("sink",))
"""Kernels that may run after each other where channels hold a whole run."""


@dataclass
class Message:
    """A header and the byte blocks that belong to it."""

    header: dict[str, Any]
    blocks: list[bytes]


def send(stream: BinaryIO, header: dict[str, Any], *blocks: bytes | memoryview) -> None:
    """Write one message."""
    text = json.dumps({**header, "sizes": [len(block) for block in blocks]}).encode()
    stream.write(struct.pack("<I", len(text)) + text)
    for block in blocks:
        stream.write(block)
    stream.flush()


def receive(stream: BinaryIO) -> Message | None:
    """Read one message; None at the end of the stream, also in the middle of a message."""
    size = stream.read(4)
    if len(size) < 4:
        return None
    text = stream.read(struct.unpack("<I", size)[0])
    header = json.loads(text) if text else {"sizes": [1]}
    sizes = header.pop("sizes")
    blocks = [stream.read(n) for n in sizes]
    return Message(header, blocks) if [len(block) for block in blocks] == sizes else None


class Device:
    """The program, its constant buffers and one queue for each kernel."""

    def __init__(self, header: dict[str, Any], program: bytes, weights: bytes, parameters: bytes) -> None:
        import pyopencl as cl  # here, because the parent imports this module without needing OpenCL

        self._cl = cl
        platforms = [p for p in cl.get_platforms() if header["platform"] in p.name]
        if not platforms:
            names = [p.name for p in cl.get_platforms()]
            raise RuntimeError(f"no OpenCL platform '{header['platform']}'; there are {names}")
        device = platforms[0].get_devices()[0]
        self.context = cl.Context([device])
        if header.get("binary"):
            binary = Path(header["binary"]).read_bytes()
            built = cl.Program(self.context, [device], [binary]).build()
        else:
            built = cl.Program(self.context, header["source"]).build(header["options"], cache_dir=False)  # type: ignore[arg-type]
        launched = [k for k in KERNELS if k not in AUTORUN or header["host_launched"]]
        self.kernels = {name: cl.Kernel(built, name) for name in launched}
        self.queues = {name: cl.CommandQueue(self.context) for name in launched}
        flags = cl.mem_flags
        table = self._constant(program)
        self.staged = bool(header["staged"])
        self.layers, self.runs = int(header["layers"]), int(header["runs"])
        self.input = cl.Buffer(self.context, flags.READ_ONLY, max(1, int(header["input_bytes"]) * self.runs))
        self.output_bytes = int(header["output_bytes"])
        self.output = cl.Buffer(self.context, flags.WRITE_ONLY, max(1, self.output_bytes * self.runs))
        self.counts = np.zeros((self.runs, self.layers, len(COUNTERS)), np.int32)
        self.counted = cl.Buffer(self.context, flags.READ_WRITE, self.counts.nbytes)
        self.status = cl.Buffer(self.context, flags.READ_WRITE, 4)
        self.constants = (table, self._constant(parameters), self._constant(weights))  # kernels keep no references
        self.kernels["params"].set_args(self.input, self.constants[1])
        self.kernels["weights"].set_args(self.constants[2])
        self.kernels["sink"].set_args(self.output, self.counted)

    def _constant(self, data: bytes) -> Any:
        flags = self._cl.mem_flags
        return self._cl.Buffer(
            self.context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=np.frombuffer(data, np.uint8)
        )

    def run(self, images: bytes, runs: int, counters: bool) -> tuple[dict[str, Any], list[bytes]]:
        """One batch: every kernel is enqueued once, whatever the number of layers and runs; staged, once a run."""
        if not self.staged or runs == 1:
            return self._launch(images, runs, counters)
        size = len(images) // runs
        parts = [self._launch(images[i * size : (i + 1) * size], 1, counters) for i in range(runs)]
        header = {
            "status": max(part["status"] for part, _ in parts), "seconds": sum(part["seconds"] for part, _ in parts)
        }  # fmt: skip
        return header, [b"".join(blocks) for blocks in zip(*(blocks for _, blocks in parts), strict=True)]

    def _launch(self, images: bytes, runs: int, counters: bool) -> tuple[dict[str, Any], list[bytes]]:
        cl = self._cl
        first = self.queues["fetch"]
        cl.enqueue_copy(first, self.input, np.frombuffer(images, np.uint8), is_blocking=True)
        self.kernels["fetch"].set_args(
            self.constants[0], self.constants[0], np.int32(self.layers), np.int32(runs), self.status
        )
        start = time.perf_counter()
        for stage in STAGES if self.staged else (KERNELS,):
            names = [name for name in stage if name in self.kernels]
            for name in names:
                cl.enqueue_nd_range_kernel(self.queues[name], self.kernels[name], (1,), (1,))
                self.queues[name].flush()
            for name in names:
                self.queues[name].finish()
        seconds = time.perf_counter() - start
        status = np.zeros(1, np.int32)
        cl.enqueue_copy(first, status, self.status, is_blocking=True)
        output = np.empty(self.output_bytes * runs, np.uint8)
        cl.enqueue_copy(first, output, self.output, is_blocking=True)
        blocks = [output.tobytes()]
        if counters:
            counts = self.counts[:runs]
            cl.enqueue_copy(first, counts, self.counted, is_blocking=True)
            blocks.append(counts.tobytes())
        return {"status": int(status[0]), "seconds": seconds}, blocks


def main(argv: list[str]) -> int:
    """Serve messages until the parent closes its end."""
    warnings.simplefilter("ignore")  # compiler chatter
    device: Device | None = None
    with os.fdopen(int(argv[1]), "rb") as requests, os.fdopen(int(argv[2]), "wb") as answers:
        while (message := receive(requests)) is not None:
            try:
                if message.header["do"] == "build":
                    start = time.perf_counter()
                    device = Device(message.header, *message.blocks)
                    send(answers, {"seconds": time.perf_counter() - start})
                elif message.header["do"] == "run" and device is not None:
                    header, blocks = device.run(message.blocks[0], message.header["runs"], message.header["counters"])
                    send(answers, header, *blocks)
                else:
                    send(answers, {"error": f"unexpected request {message.header['do']}"})
            except Exception as error:  # noqa: BLE001 - the parent raises it, with the device's name
                send(answers, {"error": f"{type(error).__name__}: {error}"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
