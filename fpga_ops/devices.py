"""Devices that can run integer networks, and why others cannot. Names are what `fpga_ops.load` takes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fpga_ops.errors import DeviceError
from fpga_ops.moved_modules import former_names
from fpga_ops.runtime import emulator_place, opencl
from fpga_ops.runtime.cache_directory import cache_directory

REFERENCE = "reference"
KINDS = ("fpga", "cpu", "gpu", "fpga-emulator", "fpga-rtl", REFERENCE)
"""Kinds, best first. An emulator or simulation is for checking, so it comes after a CPU; the reference always works."""
AUTOMATIC = ("cpu", REFERENCE)
"""Kinds that are taken unasked: a board needs a bitstream, and no GPU has been measured, or even tried."""


@dataclass(frozen=True)
class DeviceInfo:
    """One device.

    Attributes:
        name: "cpu", "cpu:1", "fpga", ...: the kind, with a number from the second on.
        kind: One of `KINDS`.
        platform: The OpenCL platform's name, or "numpy".
        usable: Whether `fpga_ops.load` can run a network on it.
        reason: Why not, and what to do about it; or how it will run.
        description: The vendor's name of the device.
        driver: The driver's version.
        compute_units: What the driver reports; 1 for the reference.
        target: "vector" (NDRange kernels), "overlay" (FPGA kernels) or "reference".
        holds_bytes: Feature maps, weights and constants that it can hold together: its memory, as the driver reports
            it. Of a board: feature maps on the chip, modelled (weights stay in its external memory). None: not known.
        isa: Of a CPU, the instruction set that kernels use (`FPGA_OPS_ISA`).
    """

    name: str
    kind: str
    platform: str
    usable: bool
    reason: str
    description: str = ""
    driver: str = ""
    compute_units: int = 1
    target: str = REFERENCE
    holds_bytes: int | None = None
    isa: str = ""


def _kind(device: opencl.OpenCLDevice) -> str:
    if device.is_emulator:
        return "fpga-emulator"
    if device.is_cpu:
        return "cpu"
    cl = opencl.module()
    return "fpga" if device.handle.type & cl.device_type.ACCELERATOR else "gpu"


def _survey() -> list[tuple[DeviceInfo, opencl.OpenCLDevice | None]]:
    """Every device with its OpenCL handle, numbered within its kind, best kind first."""
    found: list[tuple[DeviceInfo, opencl.OpenCLDevice | None]] = []
    counts: dict[str, int] = {}
    try:
        handles = opencl.list_devices()
        problem = "no OpenCL CPU driver: pip install 'triton-fpga[engine]' (intel-opencl-rt, intel-cmplr-lib-rt)"
    except DeviceError as error:
        handles, problem = [], str(error)
    # Intel's CPU runtime is the fast one: it is 'cpu', any other CPU driver 'cpu:1'
    for handle in sorted(handles, key=lambda d: not d.is_intel_cpu):
        kind = _kind(handle)
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        usable, reason, isa = _verdict(handle, kind)
        found.append(
            (
                DeviceInfo(
                    f"{kind}:{number}" if number else kind, kind, handle.platform, usable, reason, handle.name,
                    handle.driver, handle.units, "overlay" if kind.startswith("fpga") else "vector",
                    int(handle.handle.global_mem_size), isa,
                ),
                handle,
            )
        )  # fmt: skip
    reason = "not installed: triton-fpga emulator install"
    replaced = _replaced_tbb()
    if replaced is not None:
        problem = replaced
        reason = replaced if emulator_place.find() is not None else reason
    if "cpu" not in counts:
        found.append((DeviceInfo("cpu", "cpu", "", False, problem, target="vector"), None))
    if "fpga-emulator" not in counts:
        found.append((DeviceInfo("fpga-emulator", "fpga-emulator", "", False, reason, target="overlay"), None))
    if "fpga" not in counts:
        reason = "no OpenCL driver of an FPGA board is registered in /etc/OpenCL/vendors"
        found.append((DeviceInfo("fpga", "fpga", "", False, reason, target="overlay"), None))
    found.append((_simulated(), None))
    reference = DeviceInfo(
        REFERENCE, REFERENCE, "numpy", True, "plain numpy, slow: the definition", "numpy integers",
        holds_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )  # fmt: skip
    found.append((reference, None))
    return sorted(found, key=lambda pair: KINDS.index(pair[0].kind))


def _replaced_tbb() -> str | None:
    """Why the drivers for the CPU are not found where another library's TBB was loaded first."""
    other = opencl.foreign_tbb()
    if other is None:
        return None
    return (
        f"{other} was loaded first, and the OpenCL driver needs a newer TBB: call fpga_ops.devices() or "
        "fpga_ops.load() before the library that brought it is imported"
    )


def _simulated() -> DeviceInfo:
    """The overlay's RTL under Verilator."""
    from fpga_ops.rtl import model

    try:
        tools = model.find_tools()
    except DeviceError as error:
        return DeviceInfo("fpga-rtl", "fpga-rtl", "", False, str(error), target="overlay")
    return DeviceInfo(
        "fpga-rtl", "fpga-rtl", "Verilator", True, "counts the overlay's cycles; slow", "the overlay's RTL, simulated",
        tools.version, 1, "overlay",
    )  # fmt: skip


def _verdict(device: opencl.OpenCLDevice, kind: str) -> tuple[bool, str, str]:
    """Whether it is usable, why or how, and the instruction set."""
    handle = device.handle
    if not handle.available:
        return False, "the driver says it is not available", ""
    if not handle.compiler_available and kind != "fpga":
        return False, "its driver has no compiler", ""
    if kind == "cpu":
        from fpga_ops.vector import isa

        try:
            chosen = isa.choose(device, cache_directory())
        except DeviceError as error:
            return False, str(error), ""
        return True, f"{chosen.title} ({chosen.name})", chosen.name
    if kind == "fpga":
        return True, "needs a bitstream of the overlay", ""
    return (
        True,
        "checks FPGA kernels; slow" if kind == "fpga-emulator" else "untested; only where it is asked for by name",
        "",
    )


def devices() -> list[DeviceInfo]:
    """All devices, usable or not, best kind first. Never raises: what is missing is a `reason`."""
    return [info for info, _ in _survey()]


def find(name: str | None = None) -> tuple[DeviceInfo, opencl.OpenCLDevice | None]:
    """A usable device by name, with its OpenCL handle (None for the reference); None means the best.

    Raises:
        DeviceError: No such device, or it is not usable; says why.
    """
    survey = _survey()
    if name is None:
        from fpga_ops.vector.isa import ISA_VARIABLE

        for kind in AUTOMATIC:
            for info, handle in survey:
                if info.kind == kind and info.usable:
                    return info, handle
                if info.name == "cpu" and os.environ.get(ISA_VARIABLE) and handle is not None:
                    raise DeviceError(info.reason)  # a wrong name must not end on the slow reference
    for info, handle in survey:
        if info.name == name:
            if not info.usable:
                raise DeviceError(f"device '{name}' is not usable: {info.reason}")
            return info, handle
    usable = ", ".join(info.name for info, _ in survey if info.usable)
    raise DeviceError(f"no device '{name}'; usable here: {usable}")


__getattr__ = former_names("fpga_ops.devices", "fpga_ops.commands.devices")
"""What the command does was in here."""
