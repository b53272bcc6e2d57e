"""From a file to a network on a device, with what can be done at the same time done at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fpga_ops import opencl, plans
from fpga_ops.devices import REFERENCE
from fpga_ops.errors import DeviceError, InputError

if TYPE_CHECKING:
    from fpga_ops.contents import Contents
    from fpga_ops.importer.partition import Partition
    from fpga_ops.model import Network
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
    if max_batch < 1:
        raise InputError(f"max_batch is {max_batch}; at least 1 is needed")
    folder = None if cache_dir is None else Path(cache_dir)
    request = plans.Request(device, max_batch)
    with ThreadPoolExecutor(2) as beside:
        if device != REFERENCE:
            beside.submit(_load_drivers)
        reading = beside.submit(plans.read, path, request, folder) if request.keeps else None
        with contextlib.suppress(DeviceError):
            opencl.module()  # brings numpy: this takes as long as what goes on beside
        entry = reading.result() if reading is not None else None
        network = _restore(entry, request, folder) if entry is not None else None
        if network is not None:
            return network
        from fpga_ops.importer import import_original

        partition, origin = import_original(path)
    keep = partial(plans.write, origin, request, folder) if request.keeps else None
    return make(partition, device, max_batch, folder, keep)


def make(
    partition: Partition, device: str | None = None, max_batch: int = 8, cache_dir: Path | None = None,
    keep: Callable[[Contents, Plan], None] | None = None,
) -> Network:  # fmt: skip
    """An imported file on a device; errors as of `load`.

    Args:
        partition: The file.
        device: As of `load`, and so are `max_batch` and `cache_dir`.
        max_batch: Most images in one call of `run`.
        cache_dir: Where compiled plans are kept.
        keep: Called with the plan that an executable made, if it made one.
    """
    from fpga_ops import targets
    from fpga_ops.contents import contents
    from fpga_ops.model import Network, make_sessions

    name = device if device is not None else targets.best_device()
    served = contents(partition)
    sessions = make_sessions(served)
    executable = targets.compile_network(partition.network, max_batch, name, cache_dir, served.head)
    plan = getattr(executable, "plan", None)
    if keep is not None and plan is not None:
        keep(served, plan)
    return Network(served, sessions, executable, name, max_batch)


def _restore(entry: plans.Entry, request: plans.Request, cache_dir: Path | None) -> Network | None:
    """A network from a kept plan; None if that is not for the device as it is now."""
    from fpga_ops import model, targets, vector

    kept = plans.restored(entry)
    if kept is None:
        return None
    contents, plan = kept
    device = request.device if request.device is not None else targets.best_device()
    with ThreadPoolExecutor(1) as beside:
        sessions = beside.submit(model.make_sessions, contents)
        executable = vector.restore(plan, request.max_batch, device, cache_dir, contents.head)
    if executable is None:
        return None
    return model.Network(contents, sessions.result(), executable, device, request.max_batch)


def _load_drivers() -> None:
    """Load the OpenCL drivers' libraries. What is wrong with them is said when a device is looked for."""
    with contextlib.suppress(DeviceError):
        opencl.load_drivers()
