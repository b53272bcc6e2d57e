"""One Verilated overlay in this process, through the C interface of `bench.cpp`."""

from __future__ import annotations

import ctypes
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import DeviceError
from fpga_ops.rtl.model import PORT

WAITS = ("weights", "activations", "constants")
"""What a cycle may be lost to: the array without weights or activations, the requantiser without constants."""

QUEUES = ("image", "constants", "weights", "act", "acc", "result")
"""Queues whose fullest state is recorded."""

_HANGS, _OUTSIDE = -1, -2
_PROGRAM, _CONSTANTS, _WEIGHTS = 0, 2, 3


@dataclass(frozen=True)
class Memory:
    """External memory as the test bench makes it.

    Attributes:
        channels: Memories of their own; port i of the weights is on channel i mod channels, the others on the last.
        latency: Cycles from a request to its first beat.
        row_bytes, row_miss: A burst in another row of its bank costs so many cycles; 0: rows do not matter.
        refresh_every, refresh_for: Cycles between refreshes, and what one takes; 0: none.
        bytes_per_cycle: Of one channel, on average.
        stall: Share of cycles in which it refuses requests or holds data back, at random.
    """

    channels: int = 1
    latency: int = 40
    row_bytes: int = 0
    row_miss: int = 0
    refresh_every: int = 0
    refresh_for: int = 0
    bytes_per_cycle: float = 1e9
    stall: float = 0.0


@dataclass(frozen=True)
class Batch:
    """What a batch gave.

    Attributes:
        status: 0, or 1 + the index of the descriptor that failed its checksum.
        output: `uint8[runs * output bytes]`.
        cycles: From `start` to `done`.
        begun: The cycle of the first request for images: until then descriptors are checked.
        records: `int64[runs, layers, 1 + WAITS + QUEUES]`: the cycle of the layer's end, cycles lost, most words.
    """

    status: int
    output: npt.NDArray[np.uint8]
    cycles: int
    begun: int
    records: npt.NDArray[np.int64]


class Simulation:
    """A Verilated overlay with its constant memory. Not for several threads at once.

    Raises:
        DeviceError: The library cannot be loaded.
    """

    def __init__(
        self, library: Path, wb: int, layers: int, program: bytes, weights: bytes, constants: bytes, memory: Memory
    ) -> None:
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise DeviceError(f"the simulated overlay cannot be loaded: {error}") from error
        self._layers = layers
        self._library.rtl_open.restype = ctypes.c_void_p
        self._library.rtl_load.restype = ctypes.c_int64
        self._fields = int(self._library.rtl_record())
        if self._fields != 1 + len(WAITS) + len(QUEUES):
            raise DeviceError(
                f"{library.name} records {self._fields} numbers a layer, not {1 + len(WAITS) + len(QUEUES)}"
            )
        self._bench = ctypes.c_void_p(self._library.rtl_open())
        width = min(wb, PORT)
        lanes = np.frombuffer(weights, np.uint8).reshape(-1, wb // width, width).transpose(1, 0, 2)
        ports = {_PROGRAM: program, _CONSTANTS: constants}
        ports |= {_WEIGHTS + i: np.ascontiguousarray(lane).tobytes() for i, lane in enumerate(lanes)}
        for port, data in ports.items():
            self._library.rtl_constant(self._bench, port, data, ctypes.c_size_t(len(data)))
        *whole, rate, stall = astuple(memory)
        self._library.rtl_timing(self._bench, (ctypes.c_int64 * 6)(*whole), (ctypes.c_double * 2)(rate, stall))

    def load(self, words: int, beats: int, patience: int) -> int:
        """Bring the first words of weights and beats of constants onto the chip; returns the cycles that it takes.

        Raises:
            DeviceError: They did not come within `patience` cycles, or memory was read outside its buffers.
        """
        if not words and not beats:
            return 0
        cycles = int(self._library.rtl_load(self._bench, words, beats, ctypes.c_int64(patience)))
        if cycles == _HANGS:
            raise DeviceError(f"the simulated overlay hangs: its weights did not come in {patience} cycles")
        if cycles == _OUTSIDE:
            raise DeviceError("the simulated overlay read outside its buffers, or across 4 KiB in a burst")
        return cycles

    def run(self, images: bytes, output_bytes: int, runs: int, patience: int) -> Batch:
        """Simulate one batch; `patience` is how many cycles may pass without a layer's end.

        Raises:
            DeviceError: No layer ended for that long, or memory was read or written outside its buffers.
        """
        output = np.zeros(max(1, output_bytes * runs), np.uint8)
        records = np.zeros((runs, self._layers, self._fields), np.int64)
        totals = np.zeros(2, np.int64)
        size = ctypes.c_size_t
        status = int(
            self._library.rtl_run(
                self._bench, self._layers, runs, images, size(len(images)), output.ctypes.data_as(ctypes.c_void_p),
                size(output_bytes * runs), records.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(patience),
                totals.ctypes.data_as(ctypes.c_void_p),
            )
        )  # fmt: skip
        if status == _HANGS:
            ended = int((records[..., 0] > 0).sum())
            raise DeviceError(f"the simulated overlay hangs: layer {ended} did not end in {patience} cycles")
        if status == _OUTSIDE:
            raise DeviceError("the simulated overlay read or wrote outside its buffers, or across 4 KiB in a burst")
        return Batch(status, output[: output_bytes * runs], int(totals[0]), int(totals[1]), records)

    def close(self) -> None:
        """Free the model."""
        if self._bench.value is not None:
            self._library.rtl_close(self._bench)
            self._bench = ctypes.c_void_p(None)
