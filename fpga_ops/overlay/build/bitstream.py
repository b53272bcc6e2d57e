"""Bitstreams by key: what a `.aocx` was built from decides whether it may be loaded.

The key is a digest of the kernel sources and of every -D that shapes them. `build` writes `<board>-<key>.aocx` and
beside it a manifest; the runtime computes the key from the sources it was shipped with and refuses any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from fpga_ops.errors import DeviceError
from fpga_ops.overlay.geometry import Geometry
from fpga_ops.overlay.kernels import definitions, kernel_source
from fpga_ops.runtime.cache_directory import user_cache

DIRECTORY_VARIABLE = "FPGA_OPS_BITSTREAMS"
BOARD_VARIABLE = "FPGA_OPS_BOARD"


@dataclass(frozen=True)
class Manifest:
    """What a bitstream is.

    Attributes:
        board: Name of the board file.
        key: `key(geometry)` at build time.
        geometry: With `map_words` set.
        aocx_sha256: Digest of the bitstream itself.
        clock_mhz: What the compiler reported; None if it did not.
    """

    board: str
    key: str
    geometry: Geometry
    aocx_sha256: str
    clock_mhz: float | None = None

    def write(self, path: Path) -> None:
        """Store as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Manifest:
        """Load from JSON.

        Raises:
            DeviceError: The file is not a manifest.
        """
        try:
            table = json.loads(path.read_text())
            shape = table.pop("geometry")
            words = shape.pop("map_words")
            geometry = Geometry(**shape, map_words=(int(words[0]), int(words[1])))
            return Manifest(geometry=geometry, **table)
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise DeviceError(f"{path}: not a bitstream manifest: {error}") from error


def directory() -> Path:
    """Where bitstreams are kept: `$FPGA_OPS_BITSTREAMS`, or a folder in the user's cache."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return Path(chosen)
    return user_cache() / "bitstreams"


def key(geometry: Geometry) -> str:
    """Digest of the kernel sources and the parameters, 16 hexadecimal digits.

    Raises:
        DeviceError: The geometry has no map sizes: those are part of a bitstream.
    """
    if geometry.map_words is None:
        raise DeviceError(f"geometry {geometry.name} has no map_words, which a bitstream fixes")
    options = definitions(geometry, geometry.map_words, geometry.depths())
    text = kernel_source() + json.dumps([options, geometry.lag], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(board: str | None = None) -> tuple[Path, Manifest]:
    """The bitstream for a board (`$FPGA_OPS_BOARD`, or the only one there is), checked against these sources.

    Raises:
        DeviceError: There is none, several, or it was built from other sources or parameters, or is damaged.
    """
    wanted = board or os.environ.get(BOARD_VARIABLE)
    manifests = [(path, Manifest.read(path)) for path in sorted(directory().glob("*.json"))]
    chosen = [(path, m) for path, m in manifests if wanted is None or m.board == wanted]
    if not chosen:
        raise DeviceError(
            f"no bitstream{f' for {wanted}' if wanted else ''} in {directory()}: "
            f"triton-fpga build MODEL.onnx --board {wanted or 'NAME'}"
        )
    matching = [(path, m) for path, m in chosen if m.key == key(m.geometry)]
    if not matching:
        path, manifest = chosen[-1]
        raise DeviceError(
            f"{path.name}: built from other sources or parameters (key {manifest.key}, these sources give "
            f"{key(manifest.geometry)}); build it again"
        )
    if len({m.board for _, m in matching}) > 1:
        raise DeviceError(f"bitstreams for several boards in {directory()}: choose one with {BOARD_VARIABLE}")
    path, manifest = matching[-1]
    aocx = path.with_suffix(".aocx")
    if not aocx.is_file():
        raise DeviceError(f"{aocx} is missing, its manifest is there")
    digest = hashlib.sha256(aocx.read_bytes()).hexdigest()
    if digest != manifest.aocx_sha256:
        raise DeviceError(f"{aocx.name} is damaged: SHA-256 {digest}, expected {manifest.aocx_sha256}")
    return aocx, manifest
