"""A compiled network on an overlay device: the emulator, or a board with its bitstream."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import DeviceError
from fpga_ops.ir import reference
from fpga_ops.ir.network import Float32Array, IntegerNetwork, UInt8Array
from fpga_ops.overlay import device_process, packing
from fpga_ops.overlay.build import bitstream as bitstreams
from fpga_ops.overlay.build import emulator
from fpga_ops.overlay.descriptor import encode, verify
from fpga_ops.overlay.geometry import Geometry
from fpga_ops.overlay.kernels import definitions, digest, kernel_source
from fpga_ops.overlay.plan import Plan, plan
from fpga_ops.runtime.cache_directory import cache_directory

_EMULATOR_PLATFORM = "FPGA Emulation"
_BOARD_PLATFORM = "FPGA SDK"
_EMULATOR_DEPTH = 8192
"""Channel depth of the emulator unless strict: a blocked kernel spins there for a whole time slice."""

_SMALLEST = 1024
"""Sizes of the emulator's memories and channels start here."""

BOARD_TIMEOUT = 30.0
"""Seconds that building or a batch may take on a board before it counts as hung: a thousand times the expected."""

EMULATOR_TIMEOUT = 180.0
EMULATOR_TIMEOUT_PER_GMAC = 30.0
"""The same on the emulator, and more for each 10^9 multiply-accumulates: about a hundred times what an idle CPU takes,
because the emulator's threads wait by spinning and a busy machine slows them out of proportion."""


@dataclass(frozen=True)
class EmulatorSettings:
    """How the emulator imitates the hardware.

    Attributes:
        strict: Channels as deep as on the board, and the board's lag: shows that depths do not deadlock. Slow.
        autorun: Keep the autorun attribute, as on the board. Such kernels spin while idle.
        counters: Count the iterations of every loop (`OverlayExecutable.trip_counts`).
        unrolled: Compile what the hardware's compiler gets, with all loops unrolled: for small geometries.
        timeout: Seconds that a batch may take; None: by the batch's size.
    """

    strict: bool = False
    autorun: bool = False
    counters: bool = False
    unrolled: bool = False
    timeout: float | None = None


def _rounded(size: int) -> int:
    """A power of two: networks of similar size share a program of the emulator."""
    return max(_SMALLEST, 1 << (size - 1).bit_length())


class _Child:
    """The worker process and the two pipes to it. Any thread may ask; answers come in the order of the requests."""

    def __init__(self, name: str, environment: dict[str, str], module: str = "fpga_ops.overlay.device_process") -> None:
        self.name = name
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        package_root = str(Path(str(files("fpga_ops"))).parent)
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs_read), str(theirs_write)],
                pass_fds=(theirs_read, theirs_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path, **environment},
            )  # fmt: skip
        finally:
            os.close(theirs_read)
            os.close(theirs_write)
        self._owner = os.getpid()
        self._answers = os.fdopen(ours_read, "rb")
        self._requests = os.fdopen(ours_write, "wb")
        self._sending = threading.Lock()
        self._waiting: deque[Future[device_process.Message | None]] = deque()
        self._ended = False  # no answer will come any more; guarded by _sending, as is _waiting's right end
        self._reader = threading.Thread(target=self._read, name=f"{name} answers", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while (message := device_process.receive(self._answers)) is not None:
            self._waiting.popleft().set_result(message)
        with self._sending:
            self._ended = True
            for future in self._waiting:
                future.set_result(None)

    def ask(
        self, header: dict[str, object], blocks: list[bytes | memoryview], timeout: float
    ) -> device_process.Message:
        """Send a request and wait for its answer.

        Raises:
            DeviceError: The device failed, died or took longer than `timeout` seconds. It is then closed.
        """
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.process.kill()  # ends whatever this thread waits for, in either direction

        watchdog = threading.Timer(timeout, give_up)
        watchdog.daemon = True
        watchdog.start()
        answer: Future[device_process.Message | None] = Future()
        try:
            with self._sending:
                if self._ended:
                    answer.set_result(None)
                else:
                    self._waiting.append(answer)
                    with contextlib.suppress(BrokenPipeError, ValueError):  # the reader sees the end
                        device_process.send(self._requests, header, *blocks)
            message = answer.result()
        finally:
            watchdog.cancel()
        if message is None:
            code = self.kill()
            if late.is_set():
                raise DeviceError(f"{self.name}: no answer in {timeout:g} s; the device hangs and is out of use")
            raise DeviceError(f"{self.name}: its process ended (exit code {code})")
        if "error" in message.header:
            raise DeviceError(f"{self.name}: {message.header['error']}")
        return message

    def is_ours(self) -> bool:
        """False in a fork of the process that started this one: answers go to that one's thread."""
        return os.getpid() == self._owner

    def kill(self) -> int:
        """End the process and both pipes; returns its exit code."""
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        self._reader.join()
        for stream in (self._answers, self._requests):
            with contextlib.suppress(BrokenPipeError):  # what was buffered for a dead process
                stream.close()
        return code


class OverlayExecutable:
    """Runs one network on one overlay device. Any thread may call `run`: a batch travels while another computes.

    Attributes:
        concurrent: Calls may overlap.
        plan: What was compiled.
        emulated: Whether this is the emulator.
        staged: Readers, pipeline and writer run after each other through deep channels, one run at a time: a kernel
            that waits spins on the emulator, so the fewer the better. Not on a board, nor in strict emulation.
        usable: False once the device hung, died or was closed.
        kernel_hash: Names the kernels: digest of sources and parameters, or the bitstream's key.
        build_seconds: How long the device took to make ready.
        trip_counts: With counters: `int32[runs, layers, 6]` of the last batch (`device_process.COUNTERS`).
        run_seconds: Time from the first kernel's enqueue to the last one's end, in the last batch.
    """

    concurrent = True

    def __init__(
        self,
        network: IntegerNetwork,
        max_batch: int,
        geometry: Geometry | None = None,
        *,
        device: str = "fpga-emulator",
        images: int = 1,
        settings: EmulatorSettings | None = None,
        bitstream: Path | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self.network, self.max_batch, self.device = network, max_batch, device
        self.settings = settings or EmulatorSettings()
        self.geometry = geometry or Geometry()
        if self.geometry.joined_rows or self.geometry.stacked_rows:
            raise DeviceError(f"overlay geometry {self.geometry.name}: rows are joined in RTL alone, not in OpenCL")
        self.emulated = emulated = bitstream is None
        free_running = emulated and not self.settings.strict
        self.staged = free_running and not self.settings.autorun
        self.plan: Plan = plan(network, self.geometry, images, _EMULATOR_DEPTH // 2 if free_running else None)
        self._slots = threading.BoundedSemaphore(device_process.SLOTS)
        self._lock = threading.Lock()
        self._closed = False
        self._patience = 0.0  # seconds that the batches under way may take together; guarded by _lock
        self.trip_counts: npt.NDArray[np.int32] | None = None
        self.run_seconds = 0.0
        table = encode(list(self.plan.descriptors))
        if (bad := verify(table)) >= 0:
            raise DeviceError(f"{device}: descriptor {bad} has a wrong checksum")
        runs = -(-max_batch // images)
        header: dict[str, object] = {
            "do": "build", "layers": len(table), "runs": runs, "input_bytes": self.plan.input_bytes,
            "output_bytes": self.plan.output_bytes, "host_launched": emulated and not self.settings.autorun,
            "staged": self.staged,
        }  # fmt: skip
        if emulated:
            options = self._options()
            header |= {"platform": _EMULATOR_PLATFORM, "source": kernel_source(), "options": options,
                       "cache": str(cache_dir) if cache_dir is not None else ""}  # fmt: skip
            self.kernel_hash = digest(options)
            environment = self._emulator_environment()
        else:
            header |= {"platform": _BOARD_PLATFORM, "binary": str(bitstream)}
            self.kernel_hash = bitstreams.key(self.geometry)
            environment = {}
        self._child = _Child(device, environment)
        self.usable = True
        blocks: list[bytes | memoryview] = [
            table.tobytes(), packing.weights(self.plan).tobytes(), packing.parameters(self.plan).tobytes()
        ]  # fmt: skip
        try:
            self.build_seconds = float(self._child.ask(header, blocks, self._timeout(0)).header["seconds"])
        except DeviceError:
            self.close()
            raise

    def _timeout(self, runs: int) -> float:
        """Seconds to wait for a batch of so many runs; 0 runs: for the build."""
        if self.settings.timeout is not None:
            return self.settings.timeout
        if not self.emulated:
            return BOARD_TIMEOUT
        return EMULATOR_TIMEOUT + EMULATOR_TIMEOUT_PER_GMAC * runs * self.plan.images * self.plan.macs / 1e9

    def _options(self) -> list[str]:
        depths = self.geometry.depths()
        if not self.settings.strict:
            depths = dict.fromkeys(depths, _EMULATOR_DEPTH)
        if self.staged:  # what the readers send in a whole run, so that they end before the others start
            plan, layers = self.plan, len(self.plan.descriptors) + 2
            words = {
                "DESCRIPTOR_DEPTH": layers, "TRIPS_DEPTH": layers,
                "PARAM_DEPTH": plan.parameter_blocks * plan.images + 2,
                "WEIGHT_DEPTH": sum(d["w_words"] for d in plan.descriptors) + 2,
                "BYTES_DEPTH": sum(d["load_words"] for d in plan.descriptors) + 2,
                "STORE_DEPTH": plan.output_bytes // self.geometry.stored_bytes + 2,
            }  # fmt: skip
            depths |= {name: _rounded(size) for name, size in words.items()}
        map0, map1 = (_rounded(words) for words in self.plan.map_words)
        options = [f"-D{k}={v}" for k, v in definitions(self.geometry, (map0, map1), depths).items()]
        if not self.settings.unrolled:
            options.append("-DEMULATOR")
        if self.settings.counters:
            options.append("-DCOUNT_TRIPS")
        if not self.settings.autorun:
            options.append("-DHOST_LAUNCHED")
        return options

    def _emulator_environment(self) -> dict[str, str]:
        weights = 2 * self.geometry.weight_tiles * self.geometry.lane * self.geometry.vec
        maps = sum(_rounded(words) for words in self.plan.map_words) * self.geometry.map_word_bytes
        megabytes = 32 + 2 * (weights + maps) // 2**20
        environment = {
            "OCL_ICD_VENDORS": str(emulator.icd_directory()),
            "CL_CONFIG_CPU_FORCE_LOCAL_MEM_SIZE": f"{megabytes}MB",
            "CL_CONFIG_CPU_FORCE_PRIVATE_MEM_SIZE": f"{megabytes}MB",
        }
        if self.settings.strict:
            environment["CL_CONFIG_CHANNEL_DEPTH_EMULATION_MODE"] = "strict"
        return environment

    def run(self, inputs: Mapping[str, Float32Array]) -> dict[str, UInt8Array]:
        """Float inputs `float32[N, C, H, W]`, N <= max_batch, to the outputs in ONNX layout.

        Raises:
            DeviceError: The device failed, hung or is out of use, or the batch is too large.
        """
        tensors = self.network.tensors
        quantised = {name: reference.quantise_input(inputs[name], tensors[name]) for name in self.network.inputs}
        values = self.run_integers(quantised)
        return {name: reference.to_onnx_layout(values[name], tensors[name]) for name in self.network.outputs}

    def run_integers(self, inputs: Mapping[str, UInt8Array]) -> dict[str, UInt8Array]:
        """The same from and to `uint8[N, H, W, C]`."""
        count = len(next(iter(inputs.values())))
        if count > self.max_batch:
            raise DeviceError(f"{self.device}: a batch of {count} is beyond max_batch {self.max_batch}")
        if count == 0:
            return {name: np.empty((0, *self.network.tensors[name].shape), np.uint8) for name in self.network.outputs}
        images = self.plan.images
        runs = -(-count // images)
        packed = []
        for run in range(runs):
            part = {name: x[run * images : (run + 1) * images] for name, x in inputs.items()}
            short = images - len(next(iter(part.values())))
            if short:  # the last run of an odd batch repeats its last image
                part = {name: np.concatenate([x, *([x[-1:]] * short)]) for name, x in part.items()}
            packed.append(packing.inputs(self.plan, part))
        raw = self._ask(np.concatenate(packed), runs)
        results = [packing.outputs(self.plan, block) for block in raw.reshape(runs, -1)]
        return {name: np.concatenate([r[name] for r in results])[:count] for name in self.network.outputs}

    def _ask(self, images: UInt8Array, runs: int) -> UInt8Array:
        header: dict[str, object] = {"do": "run", "runs": runs, "counters": self.settings.counters}
        own = self._timeout(runs)
        if not self._child.is_ours():
            raise DeviceError(
                f"{self.device}: this process is a fork of the one that loaded the network: load it here too, or start "
                "processes with multiprocessing's 'spawn'"
            )
        with self._slots:
            if not self.usable:
                raise DeviceError(f"{self.device}: out of use since an earlier failure or close()")
            with self._lock:  # the batches ahead come first
                self._patience += own
                patience = self._patience
            try:
                answer = self._child.ask(header, [images.tobytes()], patience)
            except DeviceError:
                self.usable = False
                self._child.kill()
                raise
            finally:
                with self._lock:
                    self._patience -= own
        self.run_seconds = float(answer.header["seconds"])
        if answer.header["status"]:
            bad = int(answer.header["status"]) - 1
            raise DeviceError(f"{self.device}: descriptor {bad} failed its checksum; nothing was run")
        if self.settings.counters:
            self._keep(answer, runs)
        return np.frombuffer(answer.blocks[0], np.uint8)

    def _keep(self, answer: device_process.Message, runs: int) -> None:
        """Keep what the device counted."""
        shape = (runs, len(self.plan.descriptors), len(device_process.COUNTERS))
        self.trip_counts = np.frombuffer(answer.blocks[1], np.int32).reshape(shape)

    def close(self) -> None:
        """End the device's process, after the batches under way. The executable can not be used again."""
        if not self._child.is_ours():
            return
        self.usable = False
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        for _ in range(device_process.SLOTS):
            self._slots.acquire()
        self._child.kill()
        for _ in range(device_process.SLOTS):
            self._slots.release()


def compile(  # noqa: A001
    network: IntegerNetwork,
    max_batch: int,
    *,
    device: str = "fpga-emulator",
    cache_dir: Path | None = None,
    head: object = None,
) -> OverlayExecutable:
    """Make a network ready on an overlay device.

    Args:
        network: The integer network.
        max_batch: Most images in one run.
        device: "fpga-emulator", or "fpga" for a board whose bitstream `triton-fpga build` has made.
        cache_dir: Where the emulator's programs are kept; None means the user's cache. Bitstreams have their own.
        head: What follows the network; it stays on the host.

    Raises:
        ModelError: A step that the pipeline cannot do.
        DoesNotFitError: The network needs more memory than the bitstream has.
        DeviceError: Emulator, board or bitstream are missing or do not match.
    """
    kind, _, number = device.partition(":")
    if number not in ("", "0"):
        raise DeviceError(f"device '{device}': only the first {kind} is supported")
    if kind == "fpga-emulator":
        return OverlayExecutable(network, max_batch, device=device, cache_dir=cache_directory(cache_dir))
    if kind != "fpga":
        raise DeviceError(f"the overlay has no device '{device}'; it has fpga-emulator and fpga")
    path, manifest = bitstreams.find()
    return OverlayExecutable(network, max_batch, manifest.geometry, device=device, bitstream=path)
