"""What a device's compiler can do beyond OpenCL: the CPU's int8 dot instruction (AVX-512 VNNI), and yielding its core.

Both are reached through names that OpenCL does not document, and where CPU or compiler lack them the process may die
rather than raise. So the CPU's flags are looked at first, then a child process tries it, and the verdict is kept per
CPU, driver and platform.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from fpga_ops.runtime.opencl import OpenCLDevice, cpu_flags, write_atomically

FLAGS = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"})
TIMEOUT_S = 20
"""Long beside the second that a verdict takes, and short beside a server's patience with a device that opens."""
PORTABLE_VARIABLE = "FPGA_OPS_PORTABLE"
"""Set to 1, kernels are standard OpenCL C only: the operator's way out, and how the benchmark times the fallback."""

log = logging.getLogger("fpga_ops")


def _interpreter() -> str:
    """A Python to start; inside an embedding server `sys.executable` may be the server's own program."""
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return str(Path(sys.prefix) / "bin" / "python3")


def may_exist(device: OpenCLDevice) -> bool:
    """True if the CPU has the instruction and the device's compiler is one through which it was reached."""
    return device.is_intel_cpu and cpu_flags() >= FLAGS


def available(device: OpenCLDevice, cache_dir: Path) -> bool:
    """True if a child process has computed the right answer with the dot instruction on this device."""
    return not _portable() and may_exist(device) and _ask(device, "dot", cache_dir)


def can_yield(device: OpenCLDevice, cache_dir: Path) -> bool:
    """True if kernels may call the C library's `sched_yield` on this device."""
    return not _portable() and device.is_intel_cpu and sys.platform == "linux" and _ask(device, "yield", cache_dir)


def _portable() -> bool:
    return os.environ.get(PORTABLE_VARIABLE, "0") not in ("", "0")


def _ask(device: OpenCLDevice, feature: str, cache_dir: Path) -> bool:
    path = cache_dir / f"{feature}-{device.key}.json"
    try:
        return bool(json.loads(path.read_text())["works"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked yet, or the file is damaged
    command = [
        _interpreter(),
        "-m",
        "fpga_ops.vector.int8_dot_trial",
        feature,
        device.platform,
        device.name,
        str(os.getpid()),
    ]
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
