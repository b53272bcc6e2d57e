"""Where Intel's FPGA emulator is, for whoever looks for drivers; `overlay/emulator.py` installs it."""

from __future__ import annotations

import os
from pathlib import Path

from fpga_ops.runtime.cache_directory import user_cache

VERSION = "2025.0.5"
DIRECTORY_VARIABLE = "FPGA_OPS_EMULATOR_DIR"
LIBRARY = "libintelocl_emu.so"


def directory() -> Path:
    """Where the emulator is, or would be, installed."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return Path(chosen)
    return user_cache() / f"emulator-{VERSION}"


def find() -> Path | None:
    """The emulator's OpenCL library, for an `.icd` file; None if it is not installed."""
    library = directory() / "lib" / LIBRARY
    return library if library.is_file() else None
