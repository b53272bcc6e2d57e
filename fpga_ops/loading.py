"""From a file to a network on a device, with what can be done at the same time done at the same time."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from fpga_ops import opencl, targets
from fpga_ops.errors import DeviceError, InputError

if TYPE_CHECKING:
    from fpga_ops.model import Network


def load(
    path: str | Path, device: str | None = None, *, max_batch: int = 8, cache_dir: str | Path | None = None
) -> Network:
    """Import a QDQ ONNX file and make it ready on a device.

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
    with ThreadPoolExecutor(1) as beside:
        if device != targets.REFERENCE:
            beside.submit(_load_drivers)
        # these bring onnx, which takes as long as the drivers do
        from fpga_ops.importer import import_model
        from fpga_ops.model import Network

        partition = import_model(path)
    folder = None if cache_dir is None else Path(cache_dir)
    return Network(partition, device if device is not None else targets.best_device(), max_batch, folder)


def _load_drivers() -> None:
    """Load the OpenCL drivers' libraries. What is wrong with them is said when a device is looked for."""
    with contextlib.suppress(DeviceError):
        opencl.load_drivers()
