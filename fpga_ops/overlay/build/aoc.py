"""The vendor's offline compiler (`aoc`, Intel FPGA SDK for OpenCL): calling it and reading its report.

Untested here: the compiler needs a licence and hours. The tests run a stand-in that writes files of the same form.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fpga_ops.errors import DeviceError
from fpga_ops.overlay.boards import Board
from fpga_ops.overlay.build import bitstream
from fpga_ops.overlay.geometry import Geometry
from fpga_ops.overlay.kernels import definitions, source_directory

COMPILER = "aoc"
SOURCES = ("overlay.cl", "overlay.h", "arithmetic.h")


@dataclass(frozen=True)
class Report:
    """What the compiler says a bitstream takes (its acl_quartus_report.txt); None where it does not say.

    Attributes:
        alm, dsp, m20k: Blocks used, shell included.
        clock_mhz: Kernel clock that closed timing.
    """

    alm: int | None
    dsp: int | None
    m20k: int | None
    clock_mhz: float | None


_PATTERNS = {
    "alm": r"Logic utilization[^:]*:\s*([\d,]+)",
    "dsp": r"DSP blocks\s*:\s*([\d,]+)",
    "m20k": r"(?:RAM|M20K) blocks\s*:\s*([\d,]+)",
    "clock_mhz": r"(?:Actual clock freq|Kernel fmax)\s*:\s*([\d.]+)",
}


def parse_report(text: str) -> Report:
    """Read acl_quartus_report.txt."""
    found = {name: re.search(pattern, text) for name, pattern in _PATTERNS.items()}
    numbers = {name: match.group(1).replace(",", "") if match else None for name, match in found.items()}
    blocks = {name: int(numbers[name] or 0) if numbers[name] else None for name in ("alm", "dsp", "m20k")}
    clock = numbers["clock_mhz"]
    return Report(blocks["alm"], blocks["dsp"], blocks["m20k"], float(clock) if clock else None)


def compiler() -> str:
    """Path of `aoc`.

    Raises:
        DeviceError: It is not installed.
    """
    path = shutil.which(COMPILER)
    if path is None:
        raise DeviceError(
            f"'{COMPILER}' is not on PATH. It is of the Intel FPGA SDK for OpenCL, which Intel has discontinued: where "
            "a site still has it with the card's board support package (Quartus 20.2 or older for most), source its "
            "init_opencl.sh and run this again; for other cards see docs/explanation/fpga-overlay.md"
        )
    return path


def options(geometry: Geometry, board: Board) -> list[str]:
    """Options of both stages."""
    if geometry.map_words is None:
        raise DeviceError(f"geometry {geometry.name} has no map_words, which a bitstream fixes")
    shaped = definitions(geometry, geometry.map_words, geometry.depths())
    return [f"-board={board.aoc_board}", *(f"-D{name}={value}" for name, value in shaped.items())]


def build(
    geometry: Geometry, board: Board, directory: Path, *, report_only: bool = False, say: Callable[[str], None] = print
) -> tuple[Path | None, Report]:
    """Build a bitstream, report stage first, and store it under its key.

    Args:
        geometry: With `map_words`.
        board: For the compiler's board name.
        directory: Where `<board>-<key>.aocx` and its manifest go.
        report_only: Stop after the compiler's first stage (minutes instead of hours).
        say: Told what is being run.

    Returns:
        The bitstream (None after the first stage alone) and the report.

    Raises:
        DeviceError: The compiler is missing or failed; its own messages are in the log that is named.
    """
    aoc, key = compiler(), bitstream.key(geometry)
    name = f"{board.name}-{key}"
    work = directory / f"{name}.build"
    work.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        shutil.copy(source_directory() / source, work / source)
    first = [aoc, "-rtl", "-report", "-v", *options(geometry, board), "overlay.cl", "-o", f"{name}.aocr"]
    _run(first, work, say)
    say(f"report of the first stage: {work / name / 'reports' / 'report.html'}")
    if report_only:
        return None, _report(work)
    _run([aoc, "-v", f"{name}.aocr", "-o", f"{name}.aocx"], work, say)
    built = work / f"{name}.aocx"
    if not built.is_file():
        raise DeviceError(f"{COMPILER} ended without error but wrote no {built}")
    report = _report(work)
    target = directory / f"{name}.aocx"
    shutil.copy(built, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    bitstream.Manifest(board.name, key, geometry, digest, report.clock_mhz).write(target.with_suffix(".json"))
    return target, report


def _report(work: Path) -> Report:
    texts = [path.read_text(errors="replace") for path in sorted(work.rglob("acl_quartus_report.txt"))]
    return parse_report(texts[-1] if texts else "")


def _run(command: list[str], work: Path, say: Callable[[str], None]) -> None:
    say(" ".join(command))
    log = work / "aoc.log"
    with log.open("ab") as stream:
        outcome = subprocess.run(command, cwd=work, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if outcome.returncode != 0:
        raise DeviceError(f"{COMPILER} failed with exit code {outcome.returncode}; see {log}")


def with_map_words(geometry: Geometry, words: list[tuple[int, int]]) -> Geometry:
    """The geometry whose map memories hold each of several plans."""
    return replace(geometry, map_words=(max(w[0] for w in words), max(w[1] for w in words)))
