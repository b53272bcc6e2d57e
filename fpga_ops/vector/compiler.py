"""From a network to its executable on a device: what was not asked for is chosen, the plan made, the program built."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from fpga_ops.errors import DeviceError
from fpga_ops.ir.classifier_head import Head
from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.runtime import opencl
from fpga_ops.runtime.cache_directory import cache_directory
from fpga_ops.vector import isa as isas
from fpga_ops.vector import tiles
from fpga_ops.vector.executable import VectorExecutable, works_in_place
from fpga_ops.vector.plan import Plan, make_plan

WORKERS_VARIABLE = "FPGA_OPS_WORKERS"
"""How many cores an inference uses on a CPU, if not all."""

MOST_TOGETHER = 8
"""Images of one launch, at most: each has activations of its own."""
TOGETHER_PER_WORKER = 2
"""Images of one launch for each core: so weights are read seldom, and cores seldom wait for each other."""


def default_workers(device: opencl.OpenCLDevice) -> int:
    """Work-groups of the one-launch kernel: the cores, or fewer if `FPGA_OPS_WORKERS` says so."""
    wanted = os.environ.get(WORKERS_VARIABLE, "")
    if not wanted:
        return max(1, device.units)
    if not wanted.isdecimal() or not 1 <= int(wanted) <= 1024:
        raise DeviceError(f"{WORKERS_VARIABLE} is '{wanted}': a number of cores, 1 or more, is expected")
    return int(wanted)


def compile(  # noqa: A001 (the name that every target has)
    network: IntegerNetwork,
    max_batch: int = 8,
    device: opencl.OpenCLDevice | str | None = None,
    cache_dir: Path | None = None,
    *,
    isa: str | None = None,
    persistent: bool | None = None,
    workers: int | None = None,
    profile: bool = False,
    serial: bool = False,
    table: tiles.TileTable | None = None,
    head: Head | None = None,
) -> VectorExecutable:
    """Compile a network for an OpenCL device.

    Args:
        network: What to execute.
        max_batch: Largest number of images of one inference.
        device: A device's name or an OpenCL device (`devices.find` gives both); None takes the CPU.
        cache_dir: Where programs and verdicts are kept; None is the user's cache.
        isa: Name of the instruction set to use, one that works on the device; None lets `isa.choose` decide.
        persistent: One launch per inference; None decides by what the device offers.
        workers: Concurrent work-groups; None is the device's compute units.
        profile: Record the time of each task (`task_times`, `layer_times`); needs the one-launch kernel.
        serial: Layers do not overlap, so that `layer_times` are theirs.
        table: Tiles to use instead of those by rule, with their instruction set and workers.
        head: What follows the network, for `scores`.

    Raises:
        DeviceError: No device, or it cannot build or hold the network.
        ModelError: The network is beyond what the kernels hold.
    """
    setup = _set_up(device, max_batch, cache_dir, isa, persistent, workers, table)
    return setup.executable(setup.plan(network, serial=serial), max_batch, head, profile=profile)


def prepare(network: IntegerNetwork, max_batch: int, device: str, cache_dir: Path | None = None) -> Plan:
    """The plan of a network for a device, for `restore`; arguments and errors as of `compile`."""
    return _set_up(device, max_batch, cache_dir).plan(network)


def restore(
    plan: Plan, max_batch: int, device: str, cache_dir: Path | None = None, head: Head | None = None
) -> VectorExecutable | None:
    """A plan of an earlier process on a device; None if it was made for another device or setting.

    Args: as of `compile`.

    Raises:
        DeviceError: No device, or it cannot build or hold the network.
    """
    setup = _set_up(device, max_batch, cache_dir)
    return setup.executable(plan, max_batch, head) if plan.build_key == setup.build_key else None


@dataclass(frozen=True)
class _Setup:
    """A device with all that a plan depends on, the network aside."""

    device: opencl.OpenCLDevice
    folder: Path
    table: tiles.TileTable
    persistent: bool
    plan_batch: int

    @property
    def build_key(self) -> str:
        """Names it, for plans that are kept."""
        table = self.table
        options = (table.isa.name, table.workers, table.small, table.persistent)
        return hashlib.sha256(repr((self.device.key, self.persistent, self.plan_batch, options)).encode()).hexdigest()

    def plan(self, network: IntegerNetwork, *, serial: bool = False) -> Plan:
        """A network's plan for it."""
        plan = make_plan(network, self.plan_batch, self.table, serial=serial).without_weights()
        return plan if serial else replace(plan, build_key=self.build_key)

    def executable(self, plan: Plan, max_batch: int, head: Head | None, *, profile: bool = False) -> VectorExecutable:
        """A plan made for it, ready to run."""
        standard = self.table.isa.portable  # and nothing else
        gives_way = self.persistent and not standard and isas.can_yield(self.device, self.folder)
        return VectorExecutable(
            plan, self.device, self.folder, max_batch, persistent=self.persistent, gives_way=gives_way,
            profile=profile, head=head,
        )  # fmt: skip


def _set_up(
    device: opencl.OpenCLDevice | str | None,
    max_batch: int,
    cache_dir: Path | None,
    isa: str | None = None,
    persistent: bool | None = None,
    workers: int | None = None,
    table: tiles.TileTable | None = None,
) -> _Setup:
    """What `compile` was not told. Arguments and errors as there."""
    folder = cache_directory(cache_dir)
    if device is None or isinstance(device, str):
        from fpga_ops.devices import find

        name = device or "cpu"
        device = find(name)[1]
        if device is None:
            raise DeviceError(f"device '{name}' is not an OpenCL device")
    if persistent is None:
        persistent = device.is_intel_cpu
    if table is None:
        count = workers or default_workers(device)
        chosen = isas.by_name(isa) if isa is not None else isas.choose(device, folder)
        if not (persistent or chosen.portable):
            raise DeviceError(f"'{chosen.name}' needs the one-launch kernel: layers one by one are for 'portable'")
        table = tiles.TileTable(count, isas.on(chosen, device), persistent=persistent, small=device.is_emulator)
    # in place, images of several callers go together, and those of one caller need not
    together = min(MOST_TOGETHER, TOGETHER_PER_WORKER * table.workers)
    return _Setup(device, folder, table, persistent, together if works_in_place(device) else max_batch)
