"""Where the time of an inference goes: by layer and by worker, from time stamps inside the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import DeviceError
from triton_fpga_bench import machine

if TYPE_CHECKING:
    from fpga_ops.vector import VectorExecutable


def layer_table(model: Path, seconds: float = 3.0) -> dict[str, Any]:
    """Where the time goes, from time stamps inside the kernel: layers, against the measured ceiling, and workers."""
    from fpga_ops import vector
    from fpga_ops.devices import find
    from fpga_ops.importer import import_model
    from fpga_ops.vector import isa

    network = import_model(model).network
    device = find("cpu")[1]
    if device is None:
        raise DeviceError("the layer table needs an OpenCL CPU device")
    executable = vector.compile(network, 1, device, profile=True, serial=True)
    trace = _trace(executable, seconds)
    limit = machine.ceiling(device, isa.on(isa.by_name(executable.isa), device), executable.plan.workers)
    spent = np.percentile(np.diff(np.array(trace.layers), axis=1), 10, axis=0) / trace.hertz
    rows = [
        {
            "layer": layer.name, "kind": layer.kind, "us": float(t * 1e6), "tasks": layer.tasks,
            "gops": layer.operations / t / 1e9 if t > 0 else 0.0,
            "share": layer.operations / t / 1e9 / limit.gops if t > 0 else 0.0,
            "shape": layer.shape.geometry.key if layer.shape else "",
        }
        for layer, t in zip(executable.plan.layers, spent, strict=True)
    ]  # fmt: skip
    executable.close()
    overlapped = vector.compile(network, 1, device, profile=True)
    free = _trace(overlapped, seconds)
    overlapped.close()
    whole = float(np.median(free.walls))
    return {
        "layers": rows, "ceiling_gops": limit.gops, "instruction": limit.instruction,
        "gop": network.operations / 1e9, "layers_ms": float(spent.sum() * 1e3), "device_ms": whole * 1e3,
        "share": network.operations / whole / 1e9 / limit.gops, "workers": _occupation(free),
    }  # fmt: skip


@dataclass
class _Trace:
    """Time stamps of many inferences.

    Attributes:
        walls: Seconds of `run`.
        layers: Start, then end of each layer, in cycles.
        tasks: `VectorExecutable.task_times`.
        hertz: The counter's frequency, from the run itself.
    """

    walls: list[float]
    layers: list[npt.NDArray[np.int64]]
    tasks: list[npt.NDArray[np.int64]]
    hertz: float


def _trace(executable: VectorExecutable, seconds: float) -> _Trace:
    import time

    rng = np.random.default_rng(0)
    tensors = [(name, executable.network.tensors[name]) for name in executable.network.inputs]
    inputs = {
        name: rng.standard_normal((1, t.channels, t.height, t.width)).astype(np.float32) * np.float32(50 * t.scale)
        for name, t in tensors
    }
    trace = _Trace([], [], [], 0.0)
    begins: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(begins) < 2:
        begins.append(time.perf_counter())
        executable.run(inputs)
        trace.walls.append(time.perf_counter() - begins[-1])
        trace.layers.append(executable.layer_times().astype(np.int64))
        trace.tasks.append(executable.task_times().astype(np.int64))
    trace.hertz = (trace.layers[-1][0] - trace.layers[0][0]) / (begins[-1] - begins[0])
    return trace


def _occupation(trace: _Trace) -> dict[str, float]:
    """Median ms of an inference: the workers' mean time at tasks and waiting for each other, and what is outside."""
    tasks = np.array(trace.tasks) / trace.hertz * 1e3
    free, begun, ended = tasks[..., 0], tasks[..., 1], tasks[..., 2]
    workers = len(np.unique(np.array(trace.tasks)[..., 3]))
    span = ended.max(1) - free.min(1)
    work, wait = (ended - begun).sum(1) / workers, (begun - free).sum(1) / workers
    outside = np.array(trace.walls) * 1e3 - span
    return {
        "work_ms": float(np.median(work)), "wait_ms": float(np.median(wait)), "span_ms": float(np.median(span)),
        "outside_ms": float(np.median(outside)),
    }  # fmt: skip
