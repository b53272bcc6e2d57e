"""Device kinds and the module that compiles an integer network for each. Adding a target is adding a line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from fpga_ops.errors import DeviceError
from fpga_ops.ir.classifier_head import Head
from fpga_ops.ir.network import Float32Array, IntegerNetwork, UInt8Array
from fpga_ops.ir.reference import ReferenceExecutable

REFERENCE = "reference"
TARGETS: dict[str, str] = {
    "cpu": "fpga_ops.vector",
    "gpu": "fpga_ops.vector",
    "fpga": "fpga_ops.overlay",
    "fpga-emulator": "fpga_ops.overlay",
    "fpga-rtl": "fpga_ops.rtl",
}
"""Kind (what is before ':' in a device's name) to a module with `compile`, which `compile_network` calls."""

_ON_HOST = frozenset({REFERENCE, "cpu", "fpga-emulator", "fpga-rtl"})


def on_host(device: str) -> bool:
    """Whether a device computes on the processor of the host, which then has less for anything else."""
    return device.partition(":")[0] in _ON_HOST


class Executable(Protocol):
    """An integer network made ready for one device.

    An executable may have `concurrent = True` if several threads may call `run` at once; else calls are taken in turn.
    It may have `at_once`, how many of them it has under way together; `kernel_hash`, which names the compiled kernels
    in `describe()`; `isa`, the CPU's instruction set that they use; `checks_values = True` if `run` itself raises
    `NotFiniteError` for NaN and infinities; and `makes_scores = True` with a method `scores`, which is `run` and the
    head in one. With a method `run_single` it has a shorter way for an array of `image_size` numbers: `scores` if it
    makes them, else `run`, or None.
    """

    def run(self, inputs: Mapping[str, Float32Array]) -> dict[str, UInt8Array]:
        """Float inputs `float32[N, C, H, W]`, quantised on the way in, to uint8 outputs in ONNX layout."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


def compile_network(
    network: IntegerNetwork, max_batch: int, device: str, cache_dir: Path | None, head: Head | None = None
) -> Executable:
    """Compile a network for a device.

    Args:
        network: The integer network.
        max_batch: Most images in one run.
        device: `"reference"`, `"cpu"`, `"cpu:1"`, `"fpga-emulator"`, `"fpga-rtl"`, `"fpga"`, ...
        cache_dir: Where compiled plans are kept; None means the target's default.
        head: What follows the network, for a target that can do it as well.

    Raises:
        DeviceError: No such device, or it cannot run the network.
    """
    kind = device.partition(":")[0]
    if device == REFERENCE:
        return ReferenceExecutable(network)
    if kind not in TARGETS:
        kinds = ", ".join(sorted({*TARGETS, REFERENCE}))
        raise DeviceError(f"no device '{device}': the kind is one of {kinds}; `triton-fpga devices` lists what is here")
    try:
        module = importlib.import_module(TARGETS[kind])
    except ImportError as error:
        raise DeviceError(f"device '{device}' needs a package that is missing: {error}") from error
    executable: Executable = module.compile(network, max_batch=max_batch, device=device, cache_dir=cache_dir, head=head)
    return executable


def best_device() -> str:
    """The name of the best usable device."""
    from fpga_ops.devices import find

    return find(None)[0].name
