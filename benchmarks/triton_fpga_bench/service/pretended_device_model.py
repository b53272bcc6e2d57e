"""The project's plugin over a pretended device, which leaves the processor alone: what the service itself costs.

`pretended_device` copies this file into a model repository as a model of Triton's Python backend; it is run by Triton,
and never imported here. The device takes the milliseconds of TRITON_FPGA_PRETENDED_MS for each image, one image after
the other. Like an FPGA it begins with a batch that is there when the one before ends at once, whatever its host does
meanwhile. Its answer to a row are the row's last two numbers.

For each image the processor works for TRITON_FPGA_PRETENDED_HOST_MS before, in numpy, as for quantisation and packing.

TRITON_FPGA_PRETENDED_CLOCK is a file in which the processes of several instances keep the time at which their one
device is free; without it the device is this process's own.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from typing import Any

import numpy as np

import fpga_ops
from triton_server.server.installation import backend_folder

_load = fpga_ops.load
_MS = float(os.environ["TRITON_FPGA_PRETENDED_MS"])
_HOST_MS = float(os.environ.get("TRITON_FPGA_PRETENDED_HOST_MS", "0"))


class _Clock:
    """When the device is free: `time.monotonic`, which all processes of a machine share."""

    def __init__(self, path: str | None) -> None:
        self._lock = threading.Lock()
        self._free = 0.0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600) if path else None

    def book(self, seconds: float) -> float:
        """The device's next `seconds`; returns when they end."""
        with self._lock:
            if self._file is None:
                self._free = max(time.monotonic(), self._free) + seconds
                return self._free
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                told = os.pread(self._file, 8, 0)
                free = max(time.monotonic(), struct.unpack("<d", told)[0] if told else 0.0) + seconds
                os.pwrite(self._file, struct.pack("<d", free), 0)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            return free


class _PretendedDevice:
    """What fpga_ops.load returns, of a device that is only a time."""

    def __init__(self, network: Any) -> None:
        self._description = {**network.describe(), "device": "pretended", "kernel": "none", "isa": ""}
        ((self._output, _),) = self._description["outputs"].items()
        network.close()
        self._clock = _Clock(os.environ.get("TRITON_FPGA_PRETENDED_CLOCK"))

    def run_timed(self, inputs: Any) -> Any:
        (rows,) = inputs.values()
        began = time.perf_counter()
        _work(len(rows) * _HOST_MS / 1e3)
        end = self._clock.book(len(rows) * _MS / 1e3)
        answer = {self._output: np.array(rows.reshape(len(rows), -1)[:, -2:], np.float32)}
        while (left := end - time.monotonic()) > 0:
            time.sleep(left)
        return answer, time.perf_counter() - began

    def features(self, inputs: Any) -> Any:
        return {}

    def describe(self) -> Any:
        return self._description

    def close(self) -> None:
        """Nothing is held."""


def _work(seconds: float) -> None:
    """Use the processor for so long, without Python's lock for the most part."""
    values = np.zeros(1 << 15, np.float32)
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        np.rint(values, out=values)


def load(path: Any, device: str | None = None, **options: Any) -> Any:
    """As fpga_ops.load; the file says what comes in and goes out."""
    return _PretendedDevice(_load(path, "reference", **options))


fpga_ops.load = load
_PLUGIN = backend_folder() / "model.py"
exec(compile(_PLUGIN.read_text(), str(_PLUGIN), "exec"))  # noqa: S102 - the plugin itself, in this module's place
