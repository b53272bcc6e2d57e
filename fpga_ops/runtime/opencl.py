"""A small layer over pyopencl: find the platforms, build programs through a cache, turn every status into an error.

OpenCL is touched when a function here is called, never on import. Nothing needs root or environment variables: the
ICD loader inside pyopencl's wheel is pointed at a folder of `.icd` files that is written here, before the first call.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from fpga_ops.errors import DeviceError
from fpga_ops.runtime import emulator_place
from fpga_ops.runtime.cache_directory import cache_directory, write_atomically

VENDORS_VARIABLE = "OCL_ICD_VENDORS"
SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
CPU_LIBRARY = "libintelocl.so"
TARGET_VARIABLE = "CL_CONFIG_CPU_TARGET_ARCH"
"""Instruction set that Intel's drivers for the CPU compile for, if not the CPU's own; read with a context."""
NOT_INSTALLED = "pyopencl is not installed: pip install 'triton-fpga[engine]'"

_SETTING_UP = Lock()
_LOADING = Lock()
_BUILDING = Lock()
_CHANGING_ENVIRONMENT = Lock()


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of this machine's first CPU, as Linux names them; empty where they cannot be read."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


@cache
def cpu_name() -> str:
    """The CPU's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cpu_driver() -> Path | None:
    """The OpenCL library of the `intel-opencl-rt` wheel in this environment."""
    for prefix in (sys.prefix, sys.base_prefix):
        library = Path(prefix) / "lib" / CPU_LIBRARY
        if library.is_file():
            return library
    try:  # slower
        files = importlib.metadata.files("intel-opencl-rt") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    candidates = (Path(str(f.locate())).resolve() for f in files if f.name == CPU_LIBRARY)
    return next((path for path in candidates if path.is_file()), None)


def driver_libraries() -> list[str]:
    """OpenCL drivers to load: the CPU driver's wheel, the FPGA emulator, then what the system has registered."""
    found = [str(path) for path in (_cpu_driver(), emulator_place.find()) if path is not None]
    if SYSTEM_VENDORS.is_dir():
        for entry in sorted(SYSTEM_VENDORS.glob("*.icd")):
            try:
                library = entry.read_text().strip()
            except OSError:
                continue
            if Path(library).name not in {Path(path).name for path in found}:
                found.append(library)
    return found


def foreign_tbb() -> str | None:
    """A TBB that another library has loaded, in whose place Intel's drivers for the CPU cannot load their own.

    They need symbols of the newest one, and a process has one library of a name.
    """
    try:
        mapped = {Path(line.split(maxsplit=5)[5]) for line in Path("/proc/self/maps").read_text().splitlines()
                  if "libtbb.so" in line}  # fmt: skip
    except (OSError, IndexError):
        return None
    ours = {Path(library).resolve().parent for library in driver_libraries()}
    return next((str(path) for path in sorted(mapped) if path.resolve().parent not in ours), None)


def set_up_vendors() -> None:
    """Point the ICD loader at the drivers found. A value that the user has set is respected."""
    with _SETTING_UP:
        if os.environ.get(VENDORS_VARIABLE):
            return
        libraries = driver_libraries()
        key = hashlib.sha256("\n".join(libraries).encode()).hexdigest()[:12]
        folder = cache_directory() / f"vendors-{key}"
        folder.mkdir(exist_ok=True)
        for index, library in enumerate(libraries):
            entry = folder / f"{index}-{Path(library).stem}.icd"
            if not entry.is_file():
                write_atomically(entry, f"{library}\n".encode())
        os.environ[VENDORS_VARIABLE] = str(folder)


def module() -> Any:
    """pyopencl, imported with the drivers set up.

    Raises:
        DeviceError: pyopencl is not installed.
    """
    if "pyopencl.invoker" in sys.modules:
        return sys.modules["pyopencl"]
    set_up_vendors()
    try:
        import pyopencl
    except ImportError as error:
        raise DeviceError(NOT_INSTALLED) from error
    _import_invoker(str(cache_directory()))
    return pyopencl


def _import_invoker(folder: str) -> None:
    """Import the part of pyopencl that opens a cache of its own, and fails where it cannot, with that cache in ours.

    A full disc or a damaged file costs only the cache.
    """
    import sqlite3

    import platformdirs
    import pyopencl

    own = platformdirs.user_cache_dir

    def ours(name: str | None = None, *rest: Any, **options: Any) -> str:
        return os.path.join(folder, name) if name == "pytools" else own(name, *rest, **options)  # noqa: PTH118

    with _SETTING_UP:
        platformdirs.user_cache_dir = ours  # type: ignore[assignment]
        try:
            invoker: Any = importlib.import_module("pyopencl.invoker")
            if hasattr(invoker, "invoker_cache"):  # else the user wants none
                invoker.invoker_cache = _Dispensable(invoker.invoker_cache, sqlite3.Error)
        except sqlite3.Error:
            pyopencl._PYOPENCL_NO_CACHE = True
            importlib.import_module("pyopencl.invoker")
        finally:
            platformdirs.user_cache_dir = own


class _Dispensable:
    """A cache whose faults are misses."""

    def __init__(self, cache: Any, faults: type[Exception]) -> None:
        self._cache, self._faults = cache, faults

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._cache[key]
        except self._faults as error:
            raise KeyError(key) from error

    def store_if_not_present(self, key: Any, value: Any) -> None:
        with suppress(self._faults):
            self._cache.store_if_not_present(key, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def load_drivers() -> None:
    """Load the drivers' libraries, which takes a while, without holding up other threads of Python (pyopencl would).

    Raises:
        DeviceError: pyopencl is not installed.
    """
    set_up_vendors()
    library = _library()
    with _LOADING:
        library.clGetPlatformIDs(ctypes.c_uint(0), None, ctypes.byref(ctypes.c_uint()))


def _library() -> ctypes.CDLL:
    """OpenCL itself: what pyopencl is linked with is found through it. Importing pyopencl is not needed for that."""
    package = importlib.util.find_spec("pyopencl")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    linked = importlib.machinery.PathFinder.find_spec("_cl", folders)
    if linked is None or linked.origin is None:
        raise DeviceError(NOT_INSTALLED)
    os.environ.setdefault("PYOPENCL_HOME", folders[0])  # as pyopencl does: its ICD loader crashes without
    return ctypes.CDLL(linked.origin)


@contextmanager
def checked(doing: str) -> Iterator[None]:
    """Turn OpenCL's statuses into `DeviceError`: 'doing: what failed (STATUS)'."""
    cl = module()
    try:
        yield
    except cl.Error as error:
        raise device_error(doing, error) from error


def device_error(doing: str, error: Exception) -> DeviceError:
    """The typed error for a status of OpenCL."""
    if isinstance(error, module().MemoryError):
        return DeviceError(f"{doing}: the device is out of memory ({error})")
    return DeviceError(f"{doing}: {str(error).strip()[:2000]}")


@dataclass(frozen=True)
class OpenCLDevice:
    """One device of one platform, with what identifies the code made for it.

    Attributes:
        handle: The `pyopencl.Device`.
        name, platform, vendor, driver, version: As OpenCL reports them.
        units: Compute units.
        is_cpu: True for a CPU (also an emulator that runs on one).
        isa: What distinguishes CPUs of one name: a digest of the CPU's own name, its flags and what the
            compiler is told to make code for; empty for other devices.
    """

    handle: Any
    name: str
    platform: str
    vendor: str
    driver: str
    version: str
    units: int
    is_cpu: bool
    isa: str

    @property
    def key(self) -> str:
        """Names the device, its driver and its instruction set in caches."""
        text = "\n".join((self.platform, self.name, self.driver, self.version, self.isa))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def is_intel_cpu(self) -> bool:
        """True for Intel's CPU runtime (which also drives other vendors' x86 CPUs)."""
        return self.is_cpu and self.platform == "Intel(R) OpenCL"

    @property
    def is_emulator(self) -> bool:
        """True for Intel's FPGA emulator."""
        return "FPGA Emulation" in self.platform

    @property
    def float_lanes(self) -> int:
        """Floats that a vector register holds."""
        return int(self.handle.native_vector_width_float)

    @property
    def language(self) -> tuple[int, int]:
        """Highest OpenCL C version that programs may ask for."""
        text = str(self.handle.opencl_c_version).removeprefix("OpenCL C").split()[0]
        major, _, minor = text.partition(".")
        return int(major), int(minor or 0)


def list_devices() -> list[OpenCLDevice]:
    """All devices of all platforms; empty where no driver is found.

    Raises:
        DeviceError: pyopencl is missing or a driver fails.
    """
    cl = module()
    load_drivers()
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        if "PLATFORM_NOT_FOUND" in str(error):
            return []
        raise DeviceError(f"OpenCL platforms cannot be listed: {error}") from error
    result = []
    for entry in platforms:
        try:
            handles = entry.get_devices()
        except cl.Error:
            continue  # a driver without a device
        for handle in handles:
            kind = handle.type
            is_cpu = bool(kind & cl.device_type.CPU) or "Emulation" in entry.name
            cpu = (cpu_name(), os.environ.get(TARGET_VARIABLE, ""), *sorted(cpu_flags()))
            isa = hashlib.sha256(" ".join(cpu).encode()).hexdigest()[:12] if is_cpu else ""
            result.append(
                OpenCLDevice(
                    handle, handle.name.strip(), entry.name.strip(), handle.vendor.strip(),
                    handle.driver_version.strip(), handle.version.strip(), handle.max_compute_units, is_cpu, isa,
                )
            )  # fmt: skip
    return result


def open_context(device: OpenCLDevice) -> Any:
    """A `pyopencl.Context` of one device.

    Raises:
        DeviceError: The driver refuses it.
    """
    with _environment(_target(device)), checked("opening the device"):
        return module().Context([device.handle])


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Some more environment variables; they are the process's, so one thread at a time."""
    if not changes:
        yield
        return
    with _CHANGING_ENVIRONMENT:
        os.environ.update(changes)
        try:
            yield
        finally:
            for name in changes:
                del os.environ[name]


def _target(device: OpenCLDevice) -> dict[str, str]:
    """Environment that tells a driver what to compile for; empty where it finds that out by itself, or the user says.

    The emulator's compiler (2025.0) goes by the CPU, and for one that it does not know (AMD's family 26) it makes code
    that it cannot finish, and ends the process. So it is told, the same on every CPU.
    """
    if not device.is_emulator or TARGET_VARIABLE in os.environ:
        return {}
    return {TARGET_VARIABLE: "core-avx2" if "avx2" in cpu_flags() else "corei7"}


def build(
    context: Any, device: OpenCLDevice, source: str, options: Sequence[str], cache_dir: Path | None
) -> tuple[Any, str]:
    """Build a program, from the cache where its binary is there.

    Args:
        context: Of `device`, made by `open_context`.
        device: Its key is part of the cache's key, so code never meets a CPU it was not made for.
        source: OpenCL C.
        options: Compiler options.
        cache_dir: Where binaries are kept; None builds afresh.

    Returns:
        The `pyopencl.Program` and its key, a hexadecimal digest of all that went into it.

    Raises:
        DeviceError: The compiler refused the source; the message holds its log.
    """
    cl = module()
    parts = (device.key, *_target(device).values(), *options, source)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    path = cache_dir / f"program-{key}.bin" if cache_dir is not None else None
    if path is not None and path.is_file():
        try:
            program = cl.Program(context, [device.handle], [path.read_bytes()])
            _quiet_build(program, options)
        except (cl.Error, OSError):
            path.unlink(missing_ok=True)  # truncated, or of another driver: make it again
        else:
            return program, key
    with checked("building a program"):
        program = cl.Program(context, source)
        _quiet_build(program, options)
    if path is not None:
        with checked("reading a program's binary"):
            write_atomically(path, program.get_info(cl.program_info.BINARIES)[0])
    return program, key


class Launch:
    """A one-dimensional launch of a kernel, made again and again with the least work.

    It asks the driver directly: the event that pyopencl makes for each launch costs 20 us to free when the caches are
    cold.

    Args:
        queue: A `pyopencl.CommandQueue`, in order.
        kernel: A `pyopencl.Kernel` with its arguments set.
        groups: Work-groups, of one work-item each.
    """

    def __init__(self, queue: Any, kernel: Any, groups: int) -> None:
        library = _library()
        one = ctypes.c_size_t(1)
        self._keep = (queue, kernel)
        self._enqueue, self._finish = library.clEnqueueNDRangeKernel, library.clFinish
        self._queue = ctypes.c_void_p(queue.int_ptr)
        self._arguments = (
            self._queue, ctypes.c_void_p(kernel.int_ptr), ctypes.c_uint(1), None, ctypes.byref(ctypes.c_size_t(groups)),
            ctypes.byref(one), ctypes.c_uint(0), None, None,
        )  # fmt: skip

    def run(self) -> None:
        """Launch, and wait for the end. The thread that waits is one of the workers on a CPU.

        Raises:
            DeviceError: Names the driver's status.
        """
        status = self._enqueue(*self._arguments) or self._finish(self._queue)
        if status:
            name = module().status_code.to_string(status, "status %d")
            raise DeviceError(f"running the network: {name}")


def _quiet_build(program: Any, options: Sequence[str]) -> None:
    """Build without pyopencl's own cache (its key knows no instruction set) and its notice of compiler remarks."""
    import warnings

    with _BUILDING, warnings.catch_warnings():  # the filters are the process's, so one thread at a time
        warnings.simplefilter("ignore")
        program.build(options=list(options), cache_dir=False)
