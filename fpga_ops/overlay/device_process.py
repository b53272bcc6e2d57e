"""The process that holds an overlay device: `python -m fpga_ops.overlay.device_process READ_FD WRITE_FD`.

A kernel that waits on a channel for ever cannot be stopped from its own process, and the emulator brings its own
OpenCL and onnxruntime libraries; so each device lives in a child. Messages on the two pipes are a JSON header with
the sizes of the byte blocks that follow it.

Batches pass three threads: one receives and sends the images to the device, one launches the kernels, one reads the
results back and answers. Each batch has a slot of `SLOTS` with buffers of its own, so while one computes, the next is
on its way in and the one before on its way out. Answers come in the order of the requests.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

COUNTERS = ("params", "weights", "former", "features", "array", "requant", "sink")
"""Loop counters of a layer, in the order in which `sink` writes them."""

SLOTS = 2
"""Batches under way at once: one computes, one travels."""

KERNELS = ("fetch", "params", "weights", "former", "features", "array", "requant", "sink")
AUTORUN = ("former", "features", "array", "requant")
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


Answer: TypeAlias = tuple[dict[str, Any], list[bytes]]


@dataclass
class Slot:
    """Device memory of one batch: a buffer for each launch it takes.

    Attributes:
        inputs, outputs: One for each launch.
        status: What `fetch` says of the descriptors.
    """

    inputs: list[Any]
    outputs: list[Any]
    status: Any


@dataclass
class Launched:
    """A batch whose kernels are enqueued or done.

    Attributes:
        slot: Its memory.
        runs: Runs of the program.
        counters: Whether the trip counts are asked for.
        started: When its first kernel was enqueued, by `time.perf_counter`.
        end: The event of its last `sink`; None if it is done.
        seconds: How long it took, if it is done.
        counts: Trip counts, if it is done and they were asked for.
    """

    slot: Slot
    runs: int
    counters: bool
    started: float
    end: Any = None
    seconds: float = 0.0
    counts: bytes = b""


class Device:
    """The program, its constant buffers, a queue for each kernel and one for each direction of transfers.

    Staged (in the emulator), a batch is a launch for each run, and each launch three stages after each other. Else a
    batch is one enqueue of every kernel, and the next batch's may be enqueued before it ends: the in-order queues and
    the channels keep them apart as they keep the runs of one batch apart.
    """

    def __init__(self, header: dict[str, Any], program: bytes, weights: bytes, parameters: bytes) -> None:
        from fpga_ops.runtime import opencl  # here, because the parent imports this module without needing OpenCL

        self._cl = cl = opencl.module()
        found = opencl.list_devices()
        device = next((d for d in found if header["platform"] in d.platform), None)
        if device is None:
            raise RuntimeError(f"no OpenCL platform '{header['platform']}'; there are {[d.platform for d in found]}")
        self.context = opencl.open_context(device)
        if header.get("binary"):
            binary = Path(header["binary"]).read_bytes()
            built = cl.Program(self.context, [device.handle], [binary]).build()
        else:
            cache = Path(header["cache"]) if header.get("cache") else None
            built, _ = opencl.build(self.context, device, header["source"], header["options"], cache)
        launched = [k for k in KERNELS if k not in AUTORUN or header["host_launched"]]
        self.kernels = {name: cl.Kernel(built, name) for name in launched}
        self.queues = {name: cl.CommandQueue(self.context) for name in (*launched, "in", "out")}
        self.staged = bool(header["staged"])
        self.layers, self.runs = int(header["layers"]), int(header["runs"])
        self.input_bytes, self.output_bytes = int(header["input_bytes"]), int(header["output_bytes"])
        self.counts = np.zeros((self.runs, self.layers, len(COUNTERS)), np.int32)
        self.counted = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, self.counts.nbytes)
        self.constants = [self._constant(x) for x in (program, parameters, weights)]  # kernels keep no references
        self.kernels["weights"].set_args(self.constants[2])
        self.slots = [self._slot() for _ in range(SLOTS)]

    def _constant(self, data: bytes) -> Any:
        flags = self._cl.mem_flags
        return self._cl.Buffer(
            self.context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=np.frombuffer(data, np.uint8)
        )

    def _slot(self) -> Slot:
        flags = self._cl.mem_flags
        launches, each = (self.runs, 1) if self.staged else (1, self.runs)

        def buffers(access: int, size: int) -> list[Any]:
            return [self._cl.Buffer(self.context, access, max(1, size * each)) for _ in range(launches)]

        status = self._cl.Buffer(self.context, flags.READ_WRITE, 4)
        inputs, outputs = buffers(flags.READ_ONLY, self.input_bytes), buffers(flags.WRITE_ONLY, self.output_bytes)
        return Slot(inputs, outputs, status)

    def load(self, slot: Slot, images: bytes) -> None:
        """Send a batch's images; returns when they are there."""
        size = self.input_bytes if self.staged else len(images)
        for buffer, start in zip(slot.inputs, range(0, len(images), size), strict=False):
            part = np.frombuffer(images, np.uint8, min(size, len(images) - start), start)
            self._cl.enqueue_copy(self.queues["in"], buffer, part, is_blocking=True)

    def launch(self, slot: Slot, runs: int, counters: bool) -> Launched:
        """Start a batch. Staged, or with counters, it is done on return."""
        batch = Launched(slot, runs, counters, time.perf_counter())
        if not self.staged:
            batch.end = self._enqueue(slot, 0, runs, KERNELS)["sink"]
            if counters:
                batch.end.wait()
                batch.counts = self._read_counts(runs)
            return batch
        for index in range(runs):
            for stage in STAGES:
                for event in self._enqueue(slot, index, 1, stage).values():
                    event.wait()
            if counters:
                batch.counts += self._read_counts(1)
        batch.seconds = time.perf_counter() - batch.started
        return batch

    def _enqueue(self, slot: Slot, index: int, runs: int, names: tuple[str, ...]) -> dict[str, Any]:
        """Enqueue kernels, each on its own queue; returns their events."""
        self.kernels["fetch"].set_args(
            self.constants[0], self.constants[0], np.int32(self.layers), np.int32(runs), slot.status
        )
        self.kernels["params"].set_args(slot.inputs[index], self.constants[1])
        self.kernels["sink"].set_args(slot.outputs[index], self.counted)
        events = {}
        for name in names:
            if name in self.kernels:
                events[name] = self._cl.enqueue_nd_range_kernel(self.queues[name], self.kernels[name], (1,), (1,))
                self.queues[name].flush()
        return events

    def _read_counts(self, runs: int) -> bytes:
        counts = self.counts[:runs]
        self._cl.enqueue_copy(self.queues["out"], counts, self.counted, is_blocking=True)
        return counts.tobytes()

    def collect(self, batch: Launched) -> Answer:
        """Wait for a batch and read its results back."""
        cl, back = self._cl, self.queues["out"]
        if batch.end is not None:
            batch.end.wait()
            batch.seconds = time.perf_counter() - batch.started
        status = np.zeros(1, np.int32)
        cl.enqueue_copy(back, status, batch.slot.status, is_blocking=True)
        pieces, each = (batch.runs, 1) if self.staged else (1, batch.runs)
        output = np.empty((pieces, self.output_bytes * each), np.uint8)
        for index in range(pieces):
            cl.enqueue_copy(back, output[index], batch.slot.outputs[index], is_blocking=True)
        blocks = [output.tobytes(), *([batch.counts] if batch.counters else [])]
        return {"status": int(status[0]), "seconds": batch.seconds}, blocks


class Pipeline:
    """The three threads of a device; see the module's text.

    Args:
        device: What runs the batches.
        answer: Sends one answer.
    """

    def __init__(self, device: Device, answer: Callable[[dict[str, Any], list[bytes]], None]) -> None:
        self.device, self._answer = device, answer
        self._free: queue.Queue[Slot] = queue.Queue()
        for slot in device.slots:
            self._free.put(slot)
        self._loaded: queue.Queue[tuple[Slot, dict[str, Any], Exception | None]] = queue.Queue()
        self._launched: queue.Queue[tuple[Slot, Launched | Exception]] = queue.Queue()
        for work in (self._launch, self._collect):
            threading.Thread(target=work, daemon=True).start()

    def put(self, message: Message) -> None:
        """Send a batch on its way; waits for a free slot."""
        slot, problem = self._free.get(), None
        try:
            self.device.load(slot, message.blocks[0])
        except Exception as error:  # noqa: BLE001 - travels to the answer
            problem = error
        self._loaded.put((slot, message.header, problem))

    def _launch(self) -> None:
        while True:
            slot, header, problem = self._loaded.get()
            result: Launched | Exception
            try:
                result = problem or self.device.launch(slot, header["runs"], header["counters"])
            except Exception as error:  # noqa: BLE001 - travels to the answer
                result = error
            self._launched.put((slot, result))

    def _collect(self) -> None:
        while True:
            slot, launched = self._launched.get()
            answer: Answer
            if isinstance(launched, Exception):
                answer = _problem(launched), []
            else:
                try:
                    answer = self.device.collect(launched)
                except Exception as error:  # noqa: BLE001 - the parent raises it, with the device's name
                    answer = _problem(error), []
            self._free.put(slot)
            self._answer(*answer)


def _problem(error: Exception) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"}


def main(argv: list[str]) -> int:
    """Serve messages until the parent closes its end."""
    warnings.simplefilter("ignore")  # compiler chatter
    pipeline: Pipeline | None = None
    with os.fdopen(int(argv[1]), "rb") as requests, os.fdopen(int(argv[2]), "wb") as answers:

        def answer(header: dict[str, Any], blocks: list[bytes]) -> None:
            send(answers, header, *blocks)

        while (message := receive(requests)) is not None:
            if message.header["do"] == "run" and pipeline is not None:
                pipeline.put(message)
                continue
            try:
                start = time.perf_counter()
                pipeline = Pipeline(Device(message.header, *message.blocks), answer)
                answer({"seconds": time.perf_counter() - start}, [])
            except Exception as error:  # noqa: BLE001 - the parent raises it, with the device's name
                answer(_problem(error), [])
        os._exit(0)  # not through the driver's own ending, which waits for kernels that still run


if __name__ == "__main__":
    sys.exit(main(sys.argv))
