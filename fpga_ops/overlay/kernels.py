"""The kernel sources as the compilers get them, and the -D options that shape them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from fpga_ops.overlay.geometry import Geometry


def source_directory() -> Path:
    """The folder of the kernel sources."""
    return Path(str(files("fpga_ops"))) / "kernels" / "fpga"


def kernel_source() -> str:
    """All sources as one text, includes resolved."""
    folder = source_directory()
    text = (folder / "overlay.cl").read_text()
    for header in ("overlay.h", "arithmetic.h"):
        text = text.replace(f'#include "{header}"\n', (folder / header).read_text())
    return text


def definitions(geometry: Geometry, map_words: tuple[int, int], depths: Mapping[str, int]) -> dict[str, int]:
    """The -D options that make a geometry; the same for emulator and board."""
    options = {
        "VEC": geometry.vec, "LANE": geometry.lane, "PIX": geometry.pix, "CW": geometry.cw, "WB": geometry.wb,
        "WEIGHT_TILES": geometry.weight_tiles,
        "STORED_BYTES": geometry.stored_bytes, "ACC_BITS": geometry.accumulator_bits,
        "MUL_BITS": geometry.multiplier_bits, "MAP0_WORDS": max(1, map_words[0]), "MAP1_WORDS": max(1, map_words[1]),
        **depths,
    }  # fmt: skip
    if geometry.arithmetic == "int8-pairs":
        options["MAC_PAIRS"] = 1
    return options


def digest(options: list[str]) -> str:
    """Name of a program: 16 hexadecimal digits over sources and options."""
    return hashlib.sha256("\0".join([kernel_source(), *options]).encode()).hexdigest()[:16]
