"""A compiled network on the simulated RTL: the bits of the overlay and its cycles."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import DeviceError
from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.overlay import device_process, packing
from fpga_ops.overlay.descriptor import RTL_FIELDS, encode
from fpga_ops.overlay.executable import EmulatorSettings, OverlayExecutable, _Child
from fpga_ops.overlay.geometry import Geometry
from fpga_ops.overlay.plan import plan
from fpga_ops.rtl import model
from fpga_ops.rtl.simulation import QUEUES, WAITS, Memory

_SLOWEST = 1000.0
"""Cycles a second that even a full-size array on a busy machine reaches: what a batch's time-out is made from."""


@dataclass(frozen=True)
class RtlSettings:
    """How the RTL is simulated.

    Attributes:
        form: What makes the products.
        memory: External memory.
        timeout: Seconds that a batch may take; None: by the batch's size.
        patience: Cycles that may pass without a layer's end before the simulation counts as hung; None: by the size.
    """

    form: model.Form = "plain"
    memory: Memory = field(default_factory=Memory)
    timeout: float | None = None
    patience: int | None = None


@dataclass(frozen=True)
class LayerCycles:
    """What the simulation counted of one layer of one run.

    Attributes:
        name, tensor, op: Which layer.
        cycles: From the end of the layer before it to its own.
        waits: Cycles lost, by `WAITS`.
        peaks: Most words in each of the queues `QUEUES`.
    """

    name: str
    tensor: str
    op: str
    cycles: int
    waits: dict[str, int]
    peaks: dict[str, int]


class RtlExecutable(OverlayExecutable):
    """Runs one network on the simulated RTL. Any thread may call `run`; batches are simulated one by one.

    Attributes:
        layers: Of the last batch: for each run the layers in order.
        cycles: Of the last batch, from start to done.
        checking_cycles: Of these, those that pass before the first layer, while descriptors are checked.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        max_batch: int,
        geometry: Geometry | None = None,
        *,
        device: str = "fpga-rtl",
        images: int = 1,
        settings: RtlSettings | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self.network, self.max_batch, self.device = network, max_batch, device
        self.rtl = settings or RtlSettings()
        self.settings = EmulatorSettings(counters=True, timeout=self.rtl.timeout)
        self.geometry = geometry or Geometry()
        self.emulated, self.staged = True, False
        self.plan = plan(network, self.geometry, images)
        self._slots = threading.BoundedSemaphore(device_process.SLOTS)
        self._lock = threading.Lock()
        self._closed = False
        self._patience = 0.0
        self.trip_counts = None
        self.run_seconds = 0.0
        self.layers: tuple[tuple[LayerCycles, ...], ...] = ()
        self.cycles = self.checking_cycles = 0
        table = encode(list(self.plan.descriptors), RTL_FIELDS)
        values = model.parameters(self.geometry, self.plan.map_words, self.rtl.form)
        start = time.perf_counter()
        library = model.build(values, cache_dir)
        self.kernel_hash = library.stem.removeprefix("rtl-")
        self._child = _Child(device, {}, "fpga_ops.rtl.device_process")
        self.usable = True
        resident = min(self.geometry.resident_blocks, self.plan.parameter_blocks)
        header: dict[str, object] = {
            "do": "build", "library": str(library), "wb": self.geometry.wb, "layers": len(table),
            "resident_words": min(self.geometry.resident_words, self.plan.weight_words),
            "resident_beats": resident * (16 * self.geometry.lane // model.PORT),
            "output_bytes": self.plan.output_bytes, "memory": asdict(self.rtl.memory),
            "patience": self.rtl.patience or 1_000_000 + 20 * self._work(),
        }  # fmt: skip
        blocks: list[bytes | memoryview] = [
            table.tobytes(), packing.weights(self.plan).tobytes(), packing.parameters(self.plan).tobytes()
        ]  # fmt: skip
        try:
            self._child.ask(header, blocks, self._timeout(0))
        except DeviceError:
            self.close()
            raise
        self.build_seconds = time.perf_counter() - start

    def _work(self) -> int:
        """Cycles of one run that the array or the results take."""
        return sum(max(d["outputs"] * d["period"], d["w_words"]) for d in self.plan.descriptors)

    def _timeout(self, runs: int) -> float:
        if self.rtl.timeout is not None:
            return self.rtl.timeout
        return 60.0 + (runs + 1) * self._work() / _SLOWEST

    def _keep(self, answer: device_process.Message, runs: int) -> None:
        """Keep what the simulation counted."""
        shape = (runs, len(self.plan.descriptors), 1 + len(WAITS) + len(QUEUES))
        records: npt.NDArray[np.int64] = np.frombuffer(answer.blocks[1], np.int64).reshape(shape)
        self.cycles, self.checking_cycles = int(answer.header["cycles"]), int(answer.header["begun"])
        before, made = self.checking_cycles, []
        for run in records.tolist():
            layers = []
            for d, (end, *counts) in zip(self.plan.descriptors, run, strict=True):
                waits = dict(zip(WAITS, counts, strict=False))
                peaks = dict(zip(QUEUES, counts[len(WAITS) :], strict=True))
                layers.append(LayerCycles(d.name, d.tensor, d.op.name, end - before, waits, peaks))
                before = end
            made.append(tuple(layers))
        self.layers = tuple(made)


def compile(  # noqa: A001
    network: IntegerNetwork,
    max_batch: int,
    *,
    device: str = "fpga-rtl",
    cache_dir: Path | None = None,
    head: object = None,
) -> RtlExecutable:
    """Make a network ready on the simulated RTL.

    Args:
        network: The integer network.
        max_batch: Most images in one run.
        device: "fpga-rtl".
        cache_dir: Where models are kept; None means the user's cache.
        head: What follows the network; it stays on the host.

    Raises:
        ModelError: A step that the pipeline cannot do.
        DoesNotFitError: The network needs more memory than the geometry has.
        DeviceError: Verilator or a C++ compiler is missing or fails.
    """
    if device not in ("fpga-rtl", "fpga-rtl:0"):
        raise DeviceError(f"device '{device}': there is one simulated overlay, 'fpga-rtl'")
    return RtlExecutable(network, max_batch, device=device, cache_dir=cache_dir)
