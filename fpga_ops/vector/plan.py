"""From an integer network to a plan: layers with their tensors' layouts in memory, packed constants and tasks.

Passes, in this order: fuse each stem with its max-pool, decide channels and frames of the tensors, make the layers
(quantise inputs, the network's steps, emit outputs), place the tensors, pack constants, write the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import ModelError
from fpga_ops.ir.network import (
    Add,
    AddRule,
    Conv,
    GlobalAveragePool,
    IntegerNetwork,
    MaxPool,
    Requantise,
    Step,
    sources,
    step_operations,
)
from fpga_ops.vector import endings, packing, winograd
from fpga_ops.vector.isa import InstructionSet
from fpga_ops.vector.layout import ALIGNMENT, VECTOR, Arena, Layout, round_up, stored_channels
from fpga_ops.vector.shapes import ConvShape, geometry, pool_constants
from fpga_ops.vector.tiles import TileTable

FIELDS = (
    "KIND", "TASKS", "FIRST", "WAIT", "HEAVY", "SOURCE", "SOURCE_STEP", "OTHER", "OTHER_STEP", "OUTPUT",
    "OUTPUT_STEP", "WEIGHTS", "PARAMETERS", "ROWS", "ROWS_PER_TASK", "GROUPS", "STRIPS", "GROUP_BYTES", "PANELS",
    "DIRECT", "SCRATCH", "RULE",
)  # fmt: skip
"""Longs of a layer's record, in order; RULE opens those of its rule (kernels/vector/endings.cl)."""

RULE_LONGS = 11
RECORD = len(FIELDS) + RULE_LONGS
MAX_ARENA = 1 << 34
FUSED_WEIGHTS = 1 << 16
"""A convolution is fused with its max-pool if its weights, read once per row, are at most this many bytes."""


@dataclass
class Layer:
    """One entry of the plan: a fused step, an input's quantisation or an output's emission.

    Attributes:
        name: For tables: the step's name.
        kind: "conv", "conv_pool", "max_pool", "average_pool", "add", "quantise" or "emit".
        reads, writes: Tensors; `writes` is empty for "emit".
        step: The network's step, if it stands for one.
        pool: The max-pool fused into "conv_pool".
        shape: Compile-time shape of a convolution.
        operations: Multiplications and additions per image.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: str
    step: Step | None = None
    pool: MaxPool | None = None
    shape: ConvShape | None = None
    operations: int = 0
    wait: int = -1
    tasks: int = 1
    rows: int = 0
    rows_per_task: int = 0
    groups: int = 1
    group_bytes: int = 0
    panels: int = 1
    weights: int = 0
    panel_bytes: int = 0
    parameters: int = 0
    ring: int = 0
    ring_step: int = 0
    scratch: int = 0
    scratch_step: int = 0
    case: int = 0
    rule: tuple[int, ...] = (0,) * RULE_LONGS
    argument: int = -1
    """Number of the input or output argument that it reads or writes."""


@dataclass
class Plan:
    """What an executable needs, for one device and one largest batch.

    Attributes:
        layers: In execution order.
        layouts: Layout of every stored tensor; of a direct output, within its argument.
        direct: Outputs written straight to their argument, with the argument's number.
        shapes: Distinct convolution shapes with the fused-pool flag, in order of their case.
        constants: Packed weights and parameters, where a CPU may read them as they are.
        records: `int64[layers + 1, RECORD]`.
        arena_size: Bytes of activations for `max_batch` images.
        build_key: Names device, tiles and options that it was made for; empty if it is not to be kept.
    """

    network: IntegerNetwork
    max_batch: int
    isa: str
    workers: int
    layers: list[Layer]
    layouts: dict[str, Layout]
    direct: dict[str, int]
    shapes: list[ConvShape]
    constants: npt.NDArray[np.uint8]
    records: npt.NDArray[np.int64]
    arena_size: int
    build_key: str = ""

    def without_weights(self) -> Plan:
        """The same without what the weights were packed from, which is not needed to run it."""
        layers = [replace(layer, step=None) if isinstance(layer.step, Conv) else layer for layer in self.layers]
        return replace(self, network=replace(self.network, steps=()), layers=layers)


@dataclass
class _Context:
    """What the details of every layer are made from, and collect.

    Attributes:
        network: What is planned.
        table: Tiles of the device.
        isa: What to pack for.
        layouts: Layouts of the tensors placed so far.
        constants: Packed weights and parameters.
        cases: Number of each distinct shape.
    """

    network: IntegerNetwork
    table: TileTable
    isa: InstructionSet
    layouts: dict[str, Layout] = field(default_factory=dict)
    constants: packing.Constants = field(default_factory=packing.Constants)
    cases: dict[ConvShape, int] = field(default_factory=dict)


def make_plan(network: IntegerNetwork, max_batch: int, table: TileTable, *, serial: bool = False) -> Plan:
    """Compile a network.

    Args:
        network: What to execute.
        max_batch: Largest number of images of one inference.
        table: Tiles of the device, for one instruction set.
        serial: Each layer waits for the one before, so that time stamps belong to one layer.

    Raises:
        ModelError: A shape is beyond what the kernels hold.
    """
    layers = _layers(network)
    channels, frames = _storage(network, layers)
    produced = {layer.writes: index for index, layer in enumerate(layers) if layer.writes}
    direct = _direct_outputs(network, layers, channels)  # an emission reads too, so it comes before the last uses
    last_use = dict(produced)
    for index, layer in enumerate(layers):
        layer.wait = max((produced[name] for name in layer.reads), default=-1)
        for name in layer.reads:
            last_use[name] = index
    arena = Arena(max_batch)
    context = _Context(network, table, table.isa)
    layouts = context.layouts
    scratch = 0
    for index, layer in enumerate(layers):
        if layer.writes:
            tensor = network.tensors[layer.writes]
            if layer.writes in direct:
                layouts[layer.writes] = Layout(0, tensor.size, tensor.channels, 1, 1, (0, 0, 0, 0), tensor.zero_point)
            else:
                layouts[layer.writes] = arena.place(
                    tensor, channels[layer.writes], frames[layer.writes], layer.wait, last_use[layer.writes]
                )
        _detail(context, layer)
        if layer.kind == "conv_pool" and isinstance(layer.step, Conv) and layer.pool and layer.shape:
            ring = round_up(layer.pool.kernel[0] * layer.shape.geometry.width * layer.shape.geometry.out_channels, 64)
            layer.ring_step = ring * layer.tasks
            layer.ring = arena.take(layer.ring_step * max_batch, None, layer.wait, index)
        if layer.shape is not None:
            scratch = max(scratch, round_up(layer.shape.scratch_bytes(table.isa), 4096))
    for layer in layers:  # one place per worker for all layers: it stays in that core's cache
        layer.scratch, layer.scratch_step = arena.size, scratch
    # with a launch for each layer, each of its tasks is a worker
    arena.size += scratch * (table.workers if table.persistent else max_batch * max(layer.tasks for layer in layers))
    if arena.size > MAX_ARENA:
        raise ModelError(f"{max_batch} images would need {arena.size >> 30} GB of activations: lower max_batch")
    for number, layer in enumerate(item for item in layers if item.shape is None):
        layer.case = len(context.cases) + number
    if serial:
        for index, layer in enumerate(layers):
            layer.wait = index - 1
    records = _records(network, layers, layouts, direct)
    return Plan(
        network, max_batch, table.isa.name, table.workers, layers, layouts, direct, list(context.cases),
        context.constants.joined(), records, arena.size + ALIGNMENT,
    )  # fmt: skip


def _layers(network: IntegerNetwork) -> list[Layer]:
    """Layers in order, with stems and their pools fused."""
    readers: dict[str, list[Step]] = {}
    for step in network.steps:
        for name in sources(step):
            readers.setdefault(name, []).append(step)
    fused: dict[str, MaxPool] = {}
    for step in network.steps:
        if isinstance(step, Conv) and step.output not in network.outputs and _fusible(network, step):
            after = readers.get(step.output, [])
            if len(after) == 1 and isinstance(after[0], MaxPool) and after[0].strides[0] <= after[0].kernel[0] <= 4:
                fused[step.output] = after[0]
    skipped = {pool.name for pool in fused.values()}
    layers = [
        Layer(f"quantise {name}", "quantise", (), name, argument=number) for number, name in enumerate(network.inputs)
    ]
    for step in network.steps:
        operations = step_operations(network, step)
        if isinstance(step, Conv) and step.output in fused:
            pool = fused[step.output]
            layers.append(Layer(step.name, "conv_pool", sources(step), pool.output, step, pool, operations=operations))
        elif isinstance(step, Conv):
            layers.append(Layer(step.name, "conv", sources(step), step.output, step, operations=operations))
        elif isinstance(step, MaxPool):
            if step.name not in skipped:
                layers.append(Layer(step.name, "max_pool", sources(step), step.output, step))
        elif isinstance(step, GlobalAveragePool):
            layers.append(Layer(step.name, "average_pool", sources(step), step.output, step))
        else:
            layers.append(Layer(step.name, "add", sources(step), step.output, step))
    return layers


def _fusible(network: IntegerNetwork, step: Conv) -> bool:
    output = network.tensors[step.output]
    return step.residual is None and step.weights.size <= FUSED_WEIGHTS and output.height > 1 and output.width >= 4


def _storage(
    network: IntegerNetwork, layers: list[Layer]
) -> tuple[dict[str, int], dict[str, tuple[int, int, int, int]]]:
    """Stored channels and frame of every tensor that is stored."""
    channels: dict[str, int] = {}
    frames: dict[str, tuple[int, int, int, int]] = {}
    for layer in layers:
        tensor = network.tensors[layer.writes]
        only_convolved = all(
            isinstance(other.step, Conv) and layer.writes != other.step.residual
            for other in layers
            if layer.writes in other.reads
        )
        raw = layer.kind == "quantise" and only_convolved and tensor.channels < VECTOR
        channels[layer.writes] = tensor.channels if raw else stored_channels(tensor.channels)
        frames[layer.writes] = (0, 0, 0, 0)
    for layer in layers:
        if isinstance(layer.step, Conv):
            name = layer.step.source
            top, left, bottom, right = (max(pair) for pair in zip(frames[name], layer.step.pads, strict=True))
            frames[name] = (top, left, bottom, right)
        elif isinstance(layer.step, (Add, MaxPool)):
            widest = max(channels[name] for name in (*layer.reads, layer.writes))
            if any(channels[name] != widest for name in (*layer.reads, layer.writes)):
                raise ModelError(f"step '{layer.name}': operands are stored with different channels")
    return channels, frames


def _direct_outputs(network: IntegerNetwork, layers: list[Layer], channels: Mapping[str, int]) -> dict[str, int]:
    """Outputs that a layer can write to their argument; appends an emission for the others."""
    direct: dict[str, int] = {}
    kinds = {layer.writes: layer.kind for layer in layers}
    produced = {layer.writes: index for index, layer in enumerate(layers)}
    for number, name in enumerate(network.outputs):
        tensor = network.tensors[name]
        unread = not any(name in layer.reads for layer in layers)
        plain = (tensor.height, tensor.width) == (1, 1) and channels[name] == tensor.channels
        if unread and plain and kinds[name] in ("conv", "average_pool") and name not in direct:
            direct[name] = number
        else:
            layers.append(Layer(f"emit {name}", "emit", (name,), "", argument=number, wait=produced[name]))
    return direct


def _split(layer: Layer, rows: int, tasks: int) -> None:
    layer.rows = rows
    layer.rows_per_task = max(1, -(-rows // max(1, tasks)))
    layer.tasks = -(-rows // layer.rows_per_task)


def _detail(context: _Context, layer: Layer) -> None:
    """Tasks, shape, constants and rule of one layer."""
    table, layouts, constants = context.table, context.layouts, context.constants
    step, few, many = layer.step, 2 * table.workers, 4 * table.workers
    if isinstance(step, Conv):
        _detail_convolution(context, layer, step)
    elif isinstance(step, MaxPool):
        _split(layer, layouts[layer.writes].height, many)
    elif isinstance(step, GlobalAveragePool):
        stored = layouts[step.source].channels
        layer.parameters = constants.put(
            packing.PARAMETER_BYTES * stored,
            partial(packing.pack_parameters, step.requantise, stored, stored // VECTOR),
        )
        _split(layer, stored // VECTOR, few)
        layer.rule = _rule(None, step.requantise)
    elif isinstance(step, Add):
        _split(layer, layouts[layer.writes].height, many)
        layer.rule = _rule(step.add, None)
    else:
        tensor = context.network.tensors[layer.writes or layer.reads[0]]
        _split(layer, tensor.height, many if layer.kind == "quantise" else few)
        layer.rule = (_bits(tensor.scale), tensor.zero_point, *(0,) * (RULE_LONGS - 2))


def _bits(value: float) -> int:
    """A float64 as the long of its bits."""
    return int(np.float64(value).view(np.int64))


def _rule(add: AddRule | None, requantise: Requantise | None) -> tuple[int, ...]:
    """Slopes and intercept of the sum, then coarse constant, increment and bounds of requantisation and of the sum."""
    sum_ = (0, 0, 0) if add is None else tuple(map(_bits, (add.slope, add.residual_slope, add.intercept)))
    ends = [
        (0, 0, 0, 255) if one is None else (_bits(one.coarse), one.increment, one.low, one.high)
        for one in (requantise, add)
    ]
    return (*sum_, *ends[0], *ends[1])


def _plain(rule: Requantise | AddRule | None) -> bool:
    """Whether rounding and saturation are all there is to a rule's end."""
    return rule is None or (rule.coarse, rule.increment, rule.low, rule.high) == (0.0, 0, 0, 255)


def _detail_convolution(context: _Context, layer: Layer, step: Conv) -> None:
    layouts, constants, isa = context.layouts, context.constants, context.isa
    output = context.network.tensors[step.output]
    source, written = layouts[step.source], layouts[layer.writes]
    pooled = written.height if layer.pool else 0
    relu = _after_relu(context.network, step.source)
    shape, matrix = geometry(step, source.channels, written.channels, output, pooled, relu=relu)
    tile = context.table.choose(shape)
    rule, add = step.requantise, step.add
    fixed = endings.fixed_point(rule)
    sums = endings.float_sum(add) if add is not None else None
    vectors = 4 if tile.winograd else tile.vectors
    conv_shape = ConvShape(
        shape, tile, source.pitch, shape.width if layer.pool else written.pitch,
        layouts[step.residual].pitch if step.residual is not None else shape.width, _plain(rule), _plain(add),
        fixed is not None, sums is not None, pool_constants(layer.pool, written) if layer.pool else (),
    )  # fmt: skip
    layer.shape = conv_shape
    layer.case = context.cases.setdefault(conv_shape, len(context.cases))
    if tile.winograd:
        full = matrix.reshape(shape.out_channels, 3, 3, shape.in_channels)
        each = 2 * len(winograd.PAIRS) if tile.transforms else 2 * winograd.FREQUENCIES
        pack = partial(winograd.pack_taps, full) if tile.transforms else partial(winograd.pack, full, tile.vectors)
        layer.weights = constants.put(each * shape.in_channels * shape.out_channels, pack)
        layer.group_bytes = each * shape.in_channels * winograd.PANEL
    else:
        panels = shape.out_channels // (16 * tile.vectors)
        form = shape.form(isa)
        layer.panel_bytes = shape.window * 16 * tile.vectors * form.weight_bytes
        if form.checked:
            front, pack = 2 * packing.limit_bytes(shape.window), partial(packing.pack_checked, matrix, tile.vectors)
        else:
            front, pack = 0, partial(packing.pack_weights, matrix, tile.vectors, form.step_bytes)
        layer.weights = front + constants.put(front + panels * layer.panel_bytes, pack)
        layer.group_bytes = layer.panel_bytes * tile.panels
    layer.parameters = constants.put(
        packing.PARAMETER_BYTES * written.channels,
        partial(packing.pack_fixed, fixed, written.channels, vectors)
        if fixed is not None
        else partial(packing.pack_parameters, rule, written.channels, vectors),
    )
    layer.rule = _rule(add, rule)
    if sums is not None:
        layer.rule = (*map(_bits, sums), *layer.rule[len(sums) :])
    panels = written.channels // (16 * vectors)
    layer.panels, layer.groups = tile.panels, panels // tile.panels
    if tile.winograd:
        layer.rows, layer.rows_per_task = winograd.tiles(shape.height), tile.strip
        layer.tasks = -(-layer.rows // tile.strip) * layer.groups
    elif layer.pool:
        _split(layer, pooled, -(-pooled // tile.strip))
    else:
        layer.rows, layer.rows_per_task = shape.pixels, tile.strip
        layer.tasks = -(-shape.pixels // tile.strip) * layer.groups


def _after_relu(network: IntegerNetwork, name: str) -> bool:
    """Whether a tensor is what a convolution's or a sum's ReLU left."""
    made = any(isinstance(step, (Conv, Add)) and step.output == name for step in network.steps)
    return made and network.tensors[name].zero_point == 0


def _records(
    network: IntegerNetwork, layers: list[Layer], layouts: Mapping[str, Layout], direct: Mapping[str, int]
) -> npt.NDArray[np.int64]:
    records = np.zeros((len(layers) + 1, RECORD), np.int64)
    place_of = {name: index for index, name in enumerate(FIELDS)}
    first = 0
    for row, layer in zip(records, layers, strict=False):
        values = {
            "KIND": layer.case, "TASKS": layer.tasks, "FIRST": first, "WAIT": layer.wait, "ROWS": layer.rows,
            "ROWS_PER_TASK": layer.rows_per_task, "WEIGHTS": layer.weights, "PARAMETERS": layer.parameters,
            "GROUPS": layer.groups, "STRIPS": layer.tasks // layer.groups, "GROUP_BYTES": layer.group_bytes,
            "PANELS": layer.panels,
            # consecutive tasks share weights where these weigh more than the source
            "HEAVY": int(layer.shape is not None and _heavy(layer.shape)), "DIRECT": 0,
        }  # fmt: skip
        if layer.reads:
            source = layouts[layer.reads[0]]
            values |= {"SOURCE": _window_start(layer, source), "SOURCE_STEP": source.step}
        values["SCRATCH"] = layer.scratch
        if layer.kind == "conv_pool":
            values |= {"OTHER": layer.ring, "OTHER_STEP": layer.ring_step}
        elif len(layer.reads) > 1:
            other = layouts[layer.reads[1]]
            values |= {"OTHER": other.pixel(0, 0), "OTHER_STEP": other.step}
        if layer.writes:
            output = layouts[layer.writes]
            values |= {"OUTPUT": output.pixel(0, 0), "OUTPUT_STEP": output.step}
            values["DIRECT"] = direct[layer.writes] + 1 if layer.writes in direct else 0
        for name, value in values.items():
            row[place_of[name]] = value
        row[place_of["RULE"] :] = (*layer.rule, layer.panel_bytes)
        first += layer.tasks
    records[-1, place_of["FIRST"]] = first
    return records


def _window_start(layer: Layer, source: Layout) -> int:
    """First byte of the first window; of the map for steps that cut windows at its edge."""
    if isinstance(layer.step, Conv):
        return source.pixel(-layer.step.pads[0], -layer.step.pads[1])
    return source.pixel(0, 0)


def _heavy(convolution: ConvShape) -> bool:
    shape = convolution.geometry
    if convolution.tile.winograd:
        return True
    read = shape.height * shape.strides[0] * shape.width * shape.strides[1] * shape.in_channels
    return shape.window * shape.out_channels > read
