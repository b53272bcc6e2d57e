"""Cycle model of the overlay: trip counts exactly, then time on a board.

Trip counts (a test compares them with counters in every loop on the emulator), for a layer of G groups, P pixel
groups in each (images * rows * ceil(width / PIX)), A array steps a pixel group, r result words, T = max(A, r):

    features = G P T + lag + r - 1                          requant = G P r
    array    = sum over weight parts of max(steps, words)   params = G, weights = G A LANE VEC / WB, sink = stored words

    former   = words of an image + result words of its LOAD

Time: all loops of a layer run together at one iteration a cycle, so a layer takes what `features` takes, longer by
what it waits for weights. While one part of the weights is used the next is loaded: that takes at least its words, and
at least (bytes - bytes already in the reader's channel) / external-memory bytes a cycle; what memory delivers beyond
the need waits in the channel (`weight_depth`) for the next part, but not more than the layers need whose descriptors
are here; what stays on the chip needs no bytes. Each group's constants come with its weights, from the same memory: in
OpenCL spread as they are, in RTL from one bank, whose ports of weights have so much less. The next layer's first
weights are loaded during the last part and the drain; what is then missing is counted to that layer. Of the RTL, whose
array does not wait for the drain, time that is left there goes to the weights of that layer's second part.
The last `lag + r - 1` iterations are the drain: the array is idle, because the next layer may read what is still on
its way. From there to the first iteration of the next layer it takes the board's `restart`. Interleaved images share
weights and drains.

The host's part is not the device's: see `Prediction`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fpga_ops.overlay.boards import Board
from fpga_ops.overlay.descriptor import Descriptor, Op
from fpga_ops.overlay.geometry import Geometry
from fpga_ops.overlay.lower import WORD_BYTES
from fpga_ops.overlay.plan import Plan, array_parts

SERVICE_MS = 0.428
"""What two cores take to receive, check, send and answer a request of an image (602 KB): 2335 a second were served
before a pretended device of 0.1 ms, to eight clients on a quiet machine (docs/benchmarks/service-overlap.md)."""
SERVICE_POWER = 3
"""How the service and the device wait for each other: a request takes the root of the sum of their powers. With this
one the 1712 a second that were served before a pretended device of 0.5 ms, and the 993 before one of 1 ms, come out
to 2%."""


def trips(descriptor: Descriptor) -> dict[str, int]:
    """Iterations of every kernel's loop for one layer; the keys of `worker.COUNTERS`."""
    d = descriptor
    results = 0 if d.op is Op.STORE else d["outputs"] * d["out_words"]
    return {
        "params": {Op.LOAD: d["load_words"], Op.STORE: 0}.get(d.op, d["groups"]),
        "weights": d["w_words"],
        "former": d["load_words"] + results if d.op is Op.LOAD else 0,
        "features": d["trips"],
        "array": d["array_trips"],
        "requant": results,
        "sink": d["outputs"] * d["acts"] if d.op is Op.STORE else 0,
    }


@dataclass(frozen=True)
class LayerTime:
    """Where a layer's cycles go (all interleaved images together).

    Attributes:
        name, tensor, op: Which layer.
        cycles: Total.
        ideal: macs / (macs a cycle): what a perfectly busy array would need.
        shape: Lost to channels and widths that do not divide by VEC, LANE and PIX, and to layers without products.
        results: Lost because a pixel group yields more result words than it has array steps.
        ddr: Waiting for weights or images from external memory.
        fill: Drain at the layer's end, and the next one's start.
        macs: Multiply-accumulates of the network.
        bytes: External-memory traffic that the layer asks for.
        delivered: Bytes of weights that external memory delivers while it runs, for this layer and for later ones.
    """

    name: str
    tensor: str
    op: str
    cycles: float
    ideal: float
    shape: float
    results: float
    ddr: float
    fill: float
    macs: int
    bytes: int
    delivered: float = 0.0

    @property
    def bound_by(self) -> str:
        """The largest share: "macs" is the good answer."""
        shares = {
            "macs": self.ideal, "shape": self.shape, "results": self.results, "ddr": self.ddr, "fill": self.fill
        }  # fmt: skip
        return max(shares, key=lambda name: shares[name])

    @property
    def utilisation(self) -> float:
        """Share of multiplier cycles that do the network's products."""
        return self.ideal / self.cycles if self.cycles else 0.0


PORT = 64
"""Bytes a cycle of a port of the RTL (PORT in overlay_pkg.sv)."""
LATENCY_NS = 200.0
"""Of external memory, from a request to its first beat: an assumption for DDR4 and HBM behind their controllers."""
TRANSFER = 12
"""Cycles of the RTL's own that a LOAD or a STORE takes to begin and to end."""
BLOCKS = 3
"""Of constants on the chip that the requantiser has before it begins a layer (`gearbox` of constants.sv)."""
BUFFERED = 4096
"""Bytes that external memory takes at once after it was idle (the simulation's, `bench.cpp`)."""
SUMS = 8
"""Results of the array that wait for the requantiser at most (QUEUE in array.sv)."""
SETUP = 4
"""Cycles from a layer to the next in the array."""
AHEAD = 3
"""Layers after the present one whose descriptors the readers may have."""


@dataclass(frozen=True)
class External:
    """External memory as the readers see it.

    Attributes:
        rate: Bytes a cycle, all banks.
        constants: Bytes a cycle of the constants' reader.
        burden: Bytes of all banks that a byte of constants costs: 1 where everything is spread over them, their number
            where constants lie in one that weights share, 0 where they have one of their own.
        latency: Cycles from a request to its first beat, which an image waits for. 0: the OpenCL kernels, where it is
            taken for a part of the launch.
    """

    rate: float
    constants: float
    burden: float = 1.0
    latency: int = 0


def external(board: Board, geometry: Geometry, clock_mhz: float) -> External:
    """What a board's memory is for a geometry at a clock."""
    rate = board.bytes_per_cycle(clock_mhz)
    if not board.takes_rtl:
        return External(rate, rate)
    channels, one = rtl_channels(board, geometry, clock_mhz)
    ports = max(1, geometry.wb // PORT)
    burden = 0.0 if channels > ports else float(channels)
    return External(one * min(channels, ports), min(float(PORT), one), burden, round(LATENCY_NS * clock_mhz / 1e3))


def rtl_channels(board: Board, geometry: Geometry, clock_mhz: float) -> tuple[int, float]:
    """Memories that the RTL's ports have, and bytes a cycle of each.

    A bank or more for every port of weights and one for the rest; where there are fewer, ports share what there is.
    """
    channels = min(board.banks, max(1, geometry.wb // PORT) + 1)
    return channels, board.bytes_per_cycle(clock_mhz) / board.banks * (board.banks // channels)


class _Weights:
    """The stream of weights: how many bytes are in the reader's channel."""

    def __init__(self, geometry: Geometry, memory: External) -> None:
        self.wb, self.rate = geometry.wb, min(memory.rate, float(geometry.wb))
        self.capacity, self.ahead = float(geometry.weight_depth * geometry.wb), 0.0
        self.delivered = 0.0
        self.late = 0.0  # cycles that the next layer waits for its first weights
        self.head = 0.0  # cycles that the array loads for the next layer's second part before the layer begins

    def part(self, steps: float, words: int, outside: float, beside: float = 0.0) -> float:
        """Cycles of a part that has so many steps while so many words are loaded, a share of them from outside.

        `beside` is what memory must deliver besides, in bytes of weights.
        """
        needed = words * self.wb * outside
        cycles = max(steps, float(words) - self.head, (needed + beside - self.ahead) / self.rate)
        self.head = 0.0
        before = self.ahead
        self.ahead = min(self.capacity, self.ahead + self.rate * cycles - needed - beside)
        self.delivered += self.ahead - before + needed
        return cycles

    def limit(self, following: float) -> None:
        """Nothing is here but what the layers ahead need."""
        before = self.ahead
        self.ahead = min(self.ahead, following)
        self.delivered += self.ahead - before

    def idle(self, cycles: float) -> None:
        """Cycles in which none are taken."""
        before = self.ahead
        self.ahead = min(self.capacity, self.ahead + self.rate * cycles)
        self.delivered += self.ahead - before


def outside_share(descriptor: Descriptor, geometry: Geometry) -> float:
    """Share of a layer's weights that comes from external memory."""
    words, base = descriptor["w_words"], descriptor["w_base"]
    return (words - min(words, max(0, geometry.resident_words - base))) / words if words else 1.0


def _rtl_transfer(descriptor: Descriptor, geometry: Geometry) -> float:
    """Cycles of a LOAD or a STORE in RTL where memory keeps up.

    `former` takes the words of a row while it gives out its groups, but for those that the first one needs. A STORE has
    ended when its last word is in the sink.
    """
    d = descriptor
    if d.op is Op.STORE:
        return max(0.0, float((d["outputs"] * d["acts"] * geometry.stored_bytes - _kept(geometry)) // PORT))
    results = d["outputs"] * geometry.nh
    if not d["byte_step"]:
        return float(max(results, d["load_words"]))
    first = (geometry.pix - 1) * d["byte_step"] + max(d["byte_taps"], d["byte_step"]) - d["byte_pad"]
    return float(results + d["images"] * (d["rows"] - d["stack"] + 1) * -(-first // PORT))


def _kept(geometry: Geometry) -> int:
    """Bytes that the sink holds (`gearbox` of sink.sv)."""
    return 2 * geometry.stored_bytes + PORT


def _constants_outside(descriptor: Descriptor, geometry: Geometry) -> int:
    """Groups of a layer whose constants come from external memory."""
    groups, base = descriptor["groups"], descriptor["par_base"]
    return groups - min(groups, max(0, geometry.resident_blocks - base))


def layer_time(
    geometry: Geometry,
    descriptor: Descriptor,
    memory: External,
    weights: _Weights,
    following: float = 1.0,
    restart: int = 0,
) -> LayerTime:
    """Time of one layer; moves the stream of weights on.

    Args:
        geometry: The overlay's.
        descriptor: The layer.
        memory: External memory.
        weights: The stream.
        following: Share of the next convolution's weights that comes from outside.
        restart: `Board.restart`.
    """
    d = descriptor
    ideal = d.macs / geometry.macs
    if d.op in (Op.LOAD, Op.STORE):
        count = trips(d)
        moved = d["load_words"] * WORD_BYTES if d.op is Op.LOAD else count["sink"] * geometry.stored_bytes
        work = float(max(d["outputs"] * d["period"], count["former"]))
        rate = memory.rate
        if memory.latency:
            work, rate, restart = _rtl_transfer(d, geometry), memory.constants, TRANSFER
            restart += memory.latency if d.op is Op.LOAD else 0
            moved -= min(moved, BUFFERED + _kept(geometry)) if d.op is Op.STORE else 0
        # images and weights share external memory; nothing is put aside for later
        ahead = d["next_words"] * geometry.wb * following / weights.rate
        wait = max(0.0, max(moved / rate, ahead, float(d["next_words"])) - work)
        cycles = work + wait + restart
        weights.late = 0.0
        weights.head = cycles - float(d["next_words"]) if memory.latency else 0.0
        return LayerTime(d.name, d.tensor, d.op.name, cycles, 0.0, work, 0.0, wait, restart, 0, moved)
    work = float(d["outputs"] * d["period"])
    busy, own, delivered = 0.0, outside_share(d, geometry), weights.delivered
    parts = array_parts(d)
    outside = _constants_outside(d, geometry)
    beside = outside * 16 * geometry.lane * memory.burden / max(1, sum(times for times, _, _ in parts))
    beyond = 0.0  # what the last part, whose steps are done, takes to load the next layer's first weights
    for index, (times, steps, words) in enumerate(parts):
        for _ in range(times):
            needed = steps * d["period"] / d["acts"]
            took = weights.part(needed, words, following if index == len(parts) - 1 else own, beside)
            busy, beyond = busy + took, took - needed
    fill = float(d["lag"] + d["out_words"] - 1 + restart)
    late = weights.late
    # a layer's first constants come while the one before it drains
    constants = outside * 16 * geometry.lane / memory.constants
    if geometry.resident_blocks and outside:
        constants += (d["groups"] - outside) * 16 * geometry.lane / PORT
    elif geometry.resident_blocks:  # the first is given back with the first group, and so on
        constants = work / d["groups"] + fill + max(0, d["groups"] - BLOCKS) * 16 * geometry.lane / PORT
    loading = late + max(0.0, busy - beyond - work)
    wait = max(loading, constants - work - fill)
    ahead = wait - loading  # results drain meanwhile, and the array is ahead of a requantiser that waits
    if memory.latency:
        block = 16 * geometry.lane / (memory.constants if outside else PORT)
        ahead = min(ahead, SUMS * block * d["groups"] / d["outputs"])
    spare = fill + ahead - beyond
    weights.late = max(0.0, -spare)
    weights.head = max(0.0, spare - SETUP) if memory.latency else 0.0
    later = (weights.late - late) * weights.rate  # bytes that come in the next layer instead
    weights.idle(max(0.0, fill - beyond) + (wait - loading if not beside else 0.0))
    results = float(d["outputs"] * (d["period"] - d["acts"]))
    shape = work - results - ideal
    moved = round(d["w_words"] * geometry.wb * own) + outside * 16 * geometry.lane
    return LayerTime(
        d.name, d.tensor, d.op.name, work + wait + fill, ideal, shape, results, wait, fill, d.macs, moved,
        weights.delivered - delivered - later,
    )  # fmt: skip


def layer_times(plan: Plan, memory: External, restart: int = 0) -> tuple[LayerTime, ...]:
    """Time of every layer of a run, in order."""
    geometry, descriptors = plan.geometry, plan.descriptors
    weights = _Weights(geometry, memory)
    shares = [outside_share(d, geometry) for d in descriptors]
    needs = [d["w_words"] * geometry.wb * share for d, share in zip(descriptors, shares, strict=True)]
    made = []
    for i, d in enumerate(descriptors):
        made.append(layer_time(geometry, d, memory, weights, [*shares, 1.0][i + 1], restart))
        weights.limit(sum(needs[i + 1 : i + 1 + AHEAD]) - d["next_words"] * geometry.wb * [*shares, 1.0][i + 1])
    return tuple(made)


@dataclass(frozen=True)
class Prediction:
    """A network on a board at a clock.

    Attributes:
        plan: What was modelled.
        clock_mhz: Kernel clock.
        layers: Per layer, all interleaved images together.
        cycles: Of one run (`plan.images` images).
        device_ms: Of one run, kernels alone.
        transfer_ms: Of one run, over PCIe both ways.
        launch_ms: From the host's enqueue to the first cycle, and back.
        inferences_per_s: Of the engine: runs follow each other, transfers overlap with the kernels of the run before.
        mac_utilisation: Over the whole run, drains, loads and stores included.
        bound_by: What the run loses most to, or "macs".
    """

    plan: Plan
    clock_mhz: float
    layers: tuple[LayerTime, ...]
    cycles: float
    device_ms: float
    transfer_ms: float
    launch_ms: float
    inferences_per_s: float
    mac_utilisation: float
    bound_by: str

    @property
    def latency_ms(self) -> float:
        """From the executable's call to its result for one run: launch, transfers, kernels."""
        return self.device_ms + self.transfer_ms + self.launch_ms

    @property
    def serial_inferences_per_s(self) -> float:
        """Throughput if launch, transfers and kernels follow each other."""
        return self.plan.images * 1e3 / self.latency_ms

    def served_per_s(self, host_ms: float) -> float:
        """Requests of one image that the service answers, which sends the next while the device computes.

        Args:
            host_ms: What the host does for an image (quantisation), measured.
        """
        device = self.device_ms / self.plan.images
        sending = host_ms + self.transfer_ms / self.plan.images + self.launch_ms
        powers = float(max(device, sending) ** SERVICE_POWER + SERVICE_MS**SERVICE_POWER)
        return 1e3 / math.pow(powers, 1 / SERVICE_POWER)


def predict(plan: Plan, board: Board, clock_mhz: float | None = None) -> Prediction:
    """Model one run of a plan on a board; `clock_mhz` defaults to the upper end of the board's range."""
    clock = clock_mhz or board.clock_mhz
    layers = layer_times(plan, external(board, plan.geometry, clock), board.restart)
    cycles = sum(layer.cycles for layer in layers)
    device_ms = cycles / clock / 1e3
    losses = {
        "macs": sum(x.ideal for x in layers), "shape": sum(x.shape for x in layers), "ddr": sum(x.ddr for x in layers),
        "results": sum(x.results for x in layers), "fill": sum(x.fill for x in layers),
    }  # fmt: skip
    bound = max(losses, key=lambda name: losses[name])
    slowest = max(device_ms, plan.input_bytes / board.pcie_gbs / 1e6)
    if slowest > device_ms:
        bound = "pcie"
    return Prediction(
        plan=plan,
        clock_mhz=clock,
        layers=layers,
        cycles=cycles,
        device_ms=device_ms,
        transfer_ms=(plan.input_bytes + plan.output_bytes) / board.pcie_gbs / 1e6,
        launch_ms=board.launch_us / 1e3,
        inferences_per_s=plan.images * 1e3 / slowest,
        mac_utilisation=losses["macs"] / cycles,
        bound_by=bound,
    )
