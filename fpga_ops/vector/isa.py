"""The CPU's instruction sets that kernels are made for, and which of them a device is driven with.

A set is one file of primitives in `kernels/vector/isa` and one record here. Sets beyond standard OpenCL C are reached
through names that OpenCL does not document, and where CPU or compiler lack them the process may die rather than raise.
So the CPU's flags are looked at first, then a child process computes with the set, and the verdict is kept per CPU,
driver, platform and what was tried.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from fpga_ops.errors import DeviceError
from fpga_ops.runtime.cache_directory import write_atomically
from fpga_ops.runtime.opencl import OpenCLDevice, cpu_flags
from fpga_ops.runtime.warn_once import warn_once

TIMEOUT_S = 20
"""Long beside the second that a verdict takes, and short beside a server's patience with a device that opens."""
ISA_VARIABLE = "FPGA_OPS_ISA"
"""Names the set to use: the operator's way out, and how sets are tested and timed."""

log = logging.getLogger("fpga_ops")


@dataclass(frozen=True)
class InstructionSet:
    """What the plan must know of a set.

    Attributes:
        name: As `FPGA_OPS_ISA` takes it, and of its file in `kernels/vector/isa`.
        title: For people.
        flags: The CPU has it with all flags of one of these, as Linux names them.
        registers: Vector registers.
        step_bytes: Bytes of the window that are multiplied at a time.
        weight_bytes: Of one packed weight.
        saturates: Sums of 16 bits do: bytes are multiplied where they cannot, elsewhere words (`shapes.Form`).
        flushes: Sums are float32 and must move to integers before they leave 2^24.
        pairs: It sums products of words in pairs, which Winograd's form takes.
        target: What the driver compiles for on CPUs that have no better set, as `opencl.TARGET_VARIABLE` takes it:
            elsewhere it uses what such CPUs lack. Empty where that is not so, or it has no name for them.
    """

    name: str
    title: str
    flags: tuple[frozenset[str], ...] = ()
    registers: int = 16
    step_bytes: int = 4
    weight_bytes: int = 1
    saturates: bool = False
    flushes: bool = False
    pairs: bool = True
    target: str = ""

    @property
    def defers(self) -> bool:
        """Whether units for vectors are idle while it multiplies: one instruction takes a whole step."""
        return not self.saturates and not self.flushes

    @property
    def transforms(self) -> bool:
        """Whether it has registers, and an instruction, to transform weights beside products (winograd.cl)."""
        return self.registers == 32

    @property
    def portable(self) -> bool:
        """Whether it is standard OpenCL C, for any device."""
        return not self.flags

    @property
    def files(self) -> tuple[str, ...]:
        """The kernel files in front of every program for it, in order."""
        shared = () if self.portable else ("isa/x86.cl", f"isa/x86_{self.registers * 16}.cl")
        return ("types.cl", *shared, f"isa/{self.name}.cl", "endings.cl")


PORTABLE = InstructionSet("portable", "standard OpenCL C", step_bytes=1, weight_bytes=4, flushes=True, pairs=False)
SETS = (
    InstructionSet("avx512_vnni", "AVX-512 VNNI", (frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}),), 32),
    InstructionSet(
        "avx_vnni", "AVX-VNNI, 256 bits", (frozenset({"avx2", "avx_vnni"}), frozenset({"avx512vl", "avx512_vnni"}))
    ),
    InstructionSet(
        "avx512bw",
        "AVX-512 without VNNI",
        (frozenset({"avx512f", "avx512bw", "avx512vl"}),),
        32,
        saturates=True,
        target="skx",
    ),
    InstructionSet("avx2", "AVX2", (frozenset({"avx2", "fma"}),), saturates=True, target="core-avx2"),
    PORTABLE,
)
"""Best first. `portable` works everywhere."""


def by_name(name: str) -> InstructionSet:
    """A set by its name.

    Raises:
        KeyError: There is none.
    """
    return {entry.name: entry for entry in SETS}[name]


def on(entry: InstructionSet, device: OpenCLDevice) -> InstructionSet:
    """A set as a device has it: where registers hold 16 floats they are 32; standard OpenCL tells no more of them."""
    return replace(entry, registers=32) if entry.portable and device.float_lanes >= 16 else entry


def may_work(entry: InstructionSet, device: OpenCLDevice) -> bool:
    """Whether the CPU has a set and the device's compiler is one through which such sets were reached."""
    return entry.portable or (device.is_intel_cpu and any(cpu_flags() >= flags for flags in entry.flags))


def works(entry: InstructionSet, device: OpenCLDevice, cache_dir: Path) -> bool:
    """Whether a child process has computed the right answers with a set on this device."""
    if entry.portable:
        return True
    return may_work(entry, device) and _ask(device, entry.name, cache_dir)


def usable(device: OpenCLDevice, cache_dir: Path) -> list[InstructionSet]:
    """The sets that work on a device, best first."""
    return [entry for entry in SETS if works(entry, device, cache_dir)]


def choose(device: OpenCLDevice, cache_dir: Path) -> InstructionSet:
    """The best set that works on a device, or the one that `FPGA_OPS_ISA` names.

    Raises:
        DeviceError: It names none, or one that does not work here; those that work are listed.
    """
    name = os.environ.get(ISA_VARIABLE, "")
    if not name:
        return next(entry for entry in SETS if works(entry, device, cache_dir))
    wanted = next((entry for entry in SETS if entry.name == name), None)
    if wanted is not None and works(wanted, device, cache_dir):
        return wanted
    problem = "is no instruction set" if wanted is None else f"does not work on {device.name}"
    here = ", ".join(entry.name for entry in usable(device, cache_dir))
    raise DeviceError(f"{ISA_VARIABLE}: '{name}' {problem}; those that work on it: {here}")


def can_yield(device: OpenCLDevice, cache_dir: Path) -> bool:
    """True if kernels may call the C library's `sched_yield` on this device."""
    return device.is_intel_cpu and sys.platform == "linux" and _ask(device, "yield", cache_dir)


def _interpreter() -> str:
    """A Python to start; inside an embedding server `sys.executable` may be the server's own program."""
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return str(Path(sys.prefix) / "bin" / "python3")


def _ask(device: OpenCLDevice, feature: str, cache_dir: Path) -> bool:
    path = cache_dir / f"{feature}-{_trial_digest(feature)}-{device.key}.json"
    try:
        works = bool(json.loads(path.read_text())["works"])
    except (OSError, ValueError, KeyError, TypeError):
        works = _try(device, feature, path)  # not asked yet, or the file is damaged
    if not works:
        warn_once(f"{device.name}: '{feature}' does not work, though the CPU has it; the next best is used")
    return works


@cache
def _trial_digest(feature: str) -> str:
    """Of what a trial compiles and computes: another release asks again."""
    folder = files("fpga_ops")
    kernels = next((entry.files for entry in SETS if entry.name == feature), PORTABLE.files)
    parts = ["vector/isa_trial.py", *(f"kernels/vector/{name}" for name in kernels)]
    return hashlib.sha256(b"".join(folder.joinpath(part).read_bytes() for part in parts)).hexdigest()[:8]


def _try(device: OpenCLDevice, feature: str, path: Path) -> bool:
    """Ask a child process, and keep what it says."""
    command = [
        _interpreter(), "-m", "fpga_ops.vector.isa_trial", feature, device.platform, device.name, str(os.getpid())
    ]  # fmt: skip
    search = os.pathsep.join([str(Path(str(files("fpga_ops"))).parent), *filter(None, sys.path)])
    try:
        outcome = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            env={**os.environ, "PYTHONPATH": search},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s: does without '%s', which could not be tried: %s", device.name, feature, error)
        return False  # nothing was learned: ask again next time
    verdict = {"works": outcome.returncode == 0, "exit_code": outcome.returncode, "detail": outcome.stderr[-500:]}
    write_atomically(path, json.dumps(verdict).encode())
    return bool(verdict["works"])
