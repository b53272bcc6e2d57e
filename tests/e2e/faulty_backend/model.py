"""The real plugin over a device that breaks on demand, for the tests of fail-over.

The device "first" is the reference under another name. What the file named by TRITON_FPGA_TEST_FAULT says, it does:
missing (it does not open), lost, memory, hang, lock (it hangs with Python's lock), wrong, poison, sleep, abort, held
(it computes until the file says something else), pair and pair-lost (two calls wait for each other; and are lost).
"lost" may be followed by what tests/support/faulty_driver.c shall do. "unbuildable" never opens. In ".calls" beside the
file is how many calls are under way, and how many requests' rows they hold.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path
from typing import Any

import fpga_ops

_load = fpga_ops.load


class FaultyNetwork:
    def __init__(self, network: Any, name: str) -> None:
        self.network, self.name = network, name
        self.answers: dict[int, Any] = {}
        self.meeting, self.met = threading.Barrier(2), False
        self.calls, self.rows, self.lock = 0, 0, threading.Lock()
        self.one_at_a_time = threading.Lock()

    def run_timed(self, inputs: Any) -> Any:
        rows = len(inputs["images"])
        self.count(1, rows)
        try:
            return self.run_faulty(inputs)
        finally:
            self.count(-1, -rows)

    def count(self, calls: int, rows: int) -> None:
        with self.lock:
            self.calls += calls
            self.rows += rows
            part = Path(os.environ["TRITON_FPGA_TEST_FAULT"]).with_suffix(".part")
            part.write_text(f"{self.calls} {self.rows}")
            part.rename(part.with_suffix(".calls"))

    def run_faulty(self, inputs: Any) -> Any:
        fault = _fault()
        if fault.startswith("pair"):
            if not self.met:
                self.meeting.wait(20)
                self.met = True
            if fault == "pair-lost":
                raise fpga_ops.DeviceError("device lost")
        while _fault() == "held":
            time.sleep(0.01)
        if fault.startswith("lost"):
            raise fpga_ops.DeviceError("device lost")
        if fault == "memory":
            raise MemoryError("out of device memory")
        if fault == "hang":
            time.sleep(3600)
        if fault == "lock":
            ctypes.PyDLL(None).sleep(3600)
        if fault.startswith("sleep"):
            seconds = float(fault.partition(" ")[2] or 0.05)
            with self.one_at_a_time:
                time.sleep(seconds)
            if fault != "sleep":  # a device that leaves the processor alone: it answers what it answered first
                if len(inputs["images"]) not in self.answers:
                    self.answers[len(inputs["images"])] = self.network.run_timed(inputs)[0]
                return self.answers[len(inputs["images"])], seconds
        if fault == "busy":
            end = time.monotonic() + 20
            while time.monotonic() < end:
                pass
        if fault == "abort":
            os.abort()
        outputs, seconds = self.network.run_timed(inputs)
        if fault == "poison" and float(inputs["images"].max()) > 1000:
            raise RuntimeError("clEnqueueNDRangeKernel failed: INVALID_VALUE")
        if fault == "wrong":
            outputs = {name: values[:, ::-1].copy() for name, values in outputs.items()}
        return outputs, seconds

    def features(self, inputs: Any) -> Any:
        return self.network.features(inputs)

    def describe(self) -> Any:
        return {**self.network.describe(), "device": self.name}

    def close(self) -> None:
        self.network.close()


def _fault() -> str:
    try:
        return Path(os.environ["TRITON_FPGA_TEST_FAULT"]).read_text().strip()
    except OSError:
        return ""


def load(path: Any, device: str | None = None, **options: Any) -> Any:
    if device == "unbuildable" or (device == "first" and _fault() == "missing"):
        raise fpga_ops.DeviceError("no bitstream for this board")
    if device == "first":
        return FaultyNetwork(_load(path, "reference", **options), device)
    return _load(path, device, **options)


fpga_ops.load = load
_PLUGIN = Path(__file__).resolve().parents[3] / "backends" / "fpga" / "model.py"
exec(compile(_PLUGIN.read_text(), str(_PLUGIN), "exec"))  # noqa: S102 - the plugin itself, in this module's place
