"""From a file to a network on a device, with what can be done at the same time done at the same time."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from fpga_ops.devices import REFERENCE
from fpga_ops.errors import DeviceError, InputError
from fpga_ops.plan_cache import cache
from fpga_ops.runtime import memory, opencl

if TYPE_CHECKING:
    from fpga_ops.importer.partition import Partition
    from fpga_ops.model_parts import Contents
    from fpga_ops.network import Network
    from fpga_ops.vector.plan import Plan


def load(
    path: str | Path, device: str | None = None, *, max_batch: int = 8, cache_dir: str | Path | None = None
) -> Network:
    """Import a QDQ ONNX file and make it ready on a device; from the plan that is kept if it was before.

    Args:
        path: The `.onnx` file.
        device: A name that `fpga_ops.devices()` gives, or `"reference"`; None takes the best usable one.
        max_batch: Most images in one call of `run`.
        cache_dir: Where compiled plans are kept; None means the target's default.

    Raises:
        ModelError: The file cannot be served.
        DeviceError: The device is missing or cannot run it.
    """
    if not isinstance(max_batch, Integral) or isinstance(max_batch, bool) or max_batch < 1:
        raise InputError(f"max_batch is {max_batch!r}; a whole number, at least 1, is needed")
    max_batch = int(max_batch)
    folder = None if cache_dir is None else Path(cache_dir)
    request = cache.Request(device, max_batch)
    with ThreadPoolExecutor(2) as beside:
        if device != REFERENCE:
            beside.submit(_load_drivers)
        reading = beside.submit(cache.read, path, request, folder) if request.keeps else None
        from fpga_ops import targets  # numpy and pyopencl take as long to import as what goes on beside

        name = device if device is not None else targets.best_device()
        with contextlib.suppress(DeviceError):
            opencl.module()
        entry = reading.result() if reading is not None else None
    if not cache.keeps(name):
        from fpga_ops.importer import import_model

        return make(import_model(path), name, max_batch, folder)
    kept = cache.restored(entry) if entry is not None else None
    network = _serve(*kept, name, max_batch, folder) if kept is not None else None
    if network is None:
        planned = _plan(path, request, name, folder)
        memory.give_back()  # what importing took, before compiling takes some
        network = _serve(*planned, name, max_batch, folder)
        memory.give_back()
    if network is None:
        raise DeviceError(f"device '{name}' is not what it was when loading began: load again")
    return network


def make(partition: Partition, device: str | None = None, max_batch: int = 8, cache_dir: Path | None = None) -> Network:
    """An imported file on a device; `device`, `max_batch`, `cache_dir` and errors as of `load`."""
    from fpga_ops import targets
    from fpga_ops.model_parts import contents
    from fpga_ops.network import Network, make_sessions

    name = device if device is not None else targets.best_device()
    served = contents(partition)
    sessions = make_sessions(served)
    executable = targets.compile_network(partition.network, max_batch, name, cache_dir, served.head)
    return Network(served, sessions, executable, name, max_batch)


def _plan(path: str | Path, request: cache.Request, device: str, cache_dir: Path | None) -> tuple[Contents, Plan]:
    """Import a file, plan it and keep the plan. What the file takes is free again before the plan is compiled."""
    from fpga_ops import vector
    from fpga_ops.importer import import_original
    from fpga_ops.model_parts import contents

    partition, origin = import_original(path)
    served = contents(partition)
    plan = vector.prepare(partition.network, request.max_batch, device, cache_dir)
    cache.write(origin, request, cache_dir, served, plan)
    return served, plan


def _serve(served: Contents, plan: Plan, device: str, max_batch: int, cache_dir: Path | None) -> Network | None:
    """A plan on a device; None if it is not for the device as it is now."""
    from fpga_ops import vector
    from fpga_ops.network import Network, make_sessions

    with ThreadPoolExecutor(1) as beside:
        sessions = beside.submit(make_sessions, served)
        executable = vector.restore(plan, max_batch, device, cache_dir, served.head)
    return None if executable is None else Network(served, sessions.result(), executable, device, max_batch)


def _load_drivers() -> None:
    """Load the OpenCL drivers' libraries. What is wrong with them is said when a device is looked for."""
    with contextlib.suppress(DeviceError):
        opencl.load_drivers()
