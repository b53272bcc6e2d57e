"""Stages -> descriptors with addresses: everything about an inference except its data.

The two map memories are filled first-fit in program order. A tensor's memory is free unless a residual addition
forces it away from another tensor; the choice that keeps the deeper use lowest wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from fpga_ops.errors import ModelError
from fpga_ops.ir.network import AddRule, IntegerNetwork, Requantise
from fpga_ops.overlay.descriptor import Descriptor, Op
from fpga_ops.overlay.errors import DoesNotFitError
from fpga_ops.overlay.geometry import Geometry, ceil_div
from fpga_ops.overlay.lower import WORD_BYTES, Formed, Lowered, Stage, lower, memory_constraints

LIMIT = 2**16 - 1
PADDING = 2**14
"""Pixels before a map's first that a window may begin with (BIAS in sender.sv)."""
COUNTED = (
    "images", "rows", "cols", "taps_y", "taps_x", "red_vecs", "acts", "period", "out_words", "parts", "groups", "pad_x",
    "stride_x", "in_vecs",
)  # fmt: skip
"""Fields that the kernels count in 16 bits."""


@dataclass(frozen=True)
class Region:
    """Where a tensor lies: memory 0 or 1, first word, words of one image."""

    memory: int
    base: int
    words: int


@dataclass(frozen=True)
class Plan:
    """A compiled network without its data.

    Attributes:
        geometry: What it is compiled for.
        images: Images interleaved in each run of the program.
        lowered: The stages it came from.
        descriptors: One per stage (more where a layer is done image by image), in order.
        map_words: Words used in each map memory.
        weight_words: External-memory words of weights.
        parameter_blocks: Groups of requantisation constants.
    """

    geometry: Geometry
    images: int
    lowered: Lowered
    descriptors: tuple[Descriptor, ...]
    map_words: tuple[int, int]
    weight_words: int
    parameter_blocks: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the network asks for, one image."""
        return sum(d.macs for d in self.descriptors) // self.images

    @property
    def input_bytes(self) -> int:
        """Bytes sent to the device for one run."""
        return sum(d["load_size"] for d in self.descriptors) * WORD_BYTES

    @property
    def output_bytes(self) -> int:
        """Bytes that come back from one run."""
        words = sum(d["outputs"] * d["acts"] for d in self.descriptors if d.op is Op.STORE)
        return words * self.geometry.stored_bytes


class _Memory:
    """First-fit allocation in one memory."""

    def __init__(self, limit: int | None) -> None:
        self.used: list[tuple[int, int]] = []
        self.peak = 0
        self.limit = limit

    def fit(self, words: int) -> int:
        """First word of the lowest gap that holds `words`."""
        at = 0
        for base, size in sorted(self.used):
            if at + words <= base:
                break
            at = max(at, base + size)
        return at

    def take(self, base: int, words: int) -> None:
        self.used.append((base, words))
        self.peak = max(self.peak, base + words)

    def free(self, base: int, words: int) -> None:
        self.used.remove((base, words))


def _allocate(lowered: Lowered, geometry: Geometry, images: int) -> tuple[list[dict[str, Region]], tuple[int, int]]:
    """For each stage the regions of the tensors it touches, and the peak of both memories."""
    colours = memory_constraints(lowered.stages)
    fixed: dict[str, int] = {}  # representative of a constraint group -> memory of parity 0
    limits = geometry.map_words or (None, None)
    memories = (_Memory(limits[0]), _Memory(limits[1]))
    last: dict[str, int] = {}
    for index, stage in enumerate(lowered.stages):
        for name in (stage.source, stage.residual, stage.output):
            if name:
                last[name] = index
    regions: dict[str, Region] = {}
    result: list[dict[str, Region]] = []
    for index, stage in enumerate(lowered.stages):
        if stage.op is not Op.STORE:
            words = _words(lowered.shapes[stage.output], geometry)
            root, parity = colours.find(stage.output)
            allowed = [fixed[root] ^ parity] if root in fixed else [0, 1]
            options = []
            for memory in allowed:
                over = stage.residual
                in_place = over is not None and last[over] == index and regions[over].memory == memory
                base = regions[over].base if in_place and over is not None else memories[memory].fit(words * images)
                top = base + words * images
                limit = memories[memory].limit
                grown = max(0, top - memories[memory].peak)
                options.append((limit is not None and top > limit, grown, top, memory, base))
            beyond, _, top, memory, base = min(options)
            if beyond:
                limit = memories[memory].limit or 0
                width = geometry.map_word_bytes
                raise DoesNotFitError(f"bytes of feature-map memory {memory}", top * width, limit * width, stage.name)
            fixed.setdefault(root, memory ^ parity)
            regions[stage.output] = Region(memory, base, words)
            memories[memory].take(base, words * images)
        result.append({name: regions[name] for name in {stage.source, stage.residual, stage.output} if name})
        for name in {stage.source, stage.residual, stage.output}:
            if name and last[name] == index:
                memories[regions[name].memory].free(regions[name].base, regions[name].words * images)
    return result, (memories[0].peak, memories[1].peak)


def _words(shape: tuple[int, int, int], geometry: Geometry) -> int:
    rows, width = geometry.stored_rows(shape)
    return rows * ceil_div(width, geometry.pix) * ceil_div(shape[2], geometry.vec)


def plan(network: IntegerNetwork, geometry: Geometry, images: int = 1, max_lag: int | None = None) -> Plan:
    """Compile a network for a geometry.

    Args:
        network: What to run.
        geometry: The bitstream's shape.
        images: Images interleaved in one run: they share each group of weights.
        max_lag: None for hardware, where results always come `geometry.lag` iterations later. The emulator's
            results come at any time; there a lag of this size, at most a whole layer, lets kernels run freely.

    Raises:
        ModelError: A step that the pipeline cannot do.
        DoesNotFitError: Maps or weights are larger than the geometry's memories.
    """
    lowered = lower(network, geometry)
    regions, peak = _allocate(lowered, geometry, images)
    descriptors: list[Descriptor] = []
    weight_word = parameter = 0
    for stage, at in zip(lowered.stages, regions, strict=True):
        made = _describe(stage, at, lowered, geometry, images, weight_word, parameter)
        descriptors += made
        if stage.op is Op.CONV:
            weight_word += made[0]["w_words"]
        if stage.op in (Op.CONV, Op.MAX, Op.SUM):
            parameter += made[0]["groups"]
    if geometry.resident_words:
        _resident_first(descriptors)
    _schedule(descriptors, geometry, max_lag)
    return Plan(geometry, images, lowered, tuple(descriptors), peak, weight_word, parameter)


def _resident_first(descriptors: list[Descriptor]) -> None:
    """Order weight memory so that what waits most for each word comes first: the layers of the fewest pixel groups."""
    layers: dict[str, list[Descriptor]] = {}
    for d in descriptors:
        if d.op is Op.CONV:
            layers.setdefault(d.tensor, []).append(d)
    at = 0
    for made in sorted(layers.values(), key=lambda made: made[0]["images"] * made[0]["rows"] * made[0]["cols"]):
        for d in made:
            d.values["w_base"] = at
        at += made[0]["w_words"]


def _describe(
    stage: Stage,
    at: dict[str, Region],
    lowered: Lowered,
    geometry: Geometry,
    images: int,
    weight_word: int,
    parameter: int,
) -> list[Descriptor]:
    vectors = ceil_div(stage.channels, geometry.vec)
    values = {
        "op": int(stage.op), "images": images, "parts": 1,
        "taps_y": stage.kernel[0], "taps_x": stage.kernel[1], "stride_y": stage.strides[0],
        "stride_x": stage.strides[1], "tap_step": stage.tap_step, "stack": stage.stack,
        "pad_y": stage.pads[0], "pad_x": stage.pads[1], "pad_value": stage.pad_value,
        "group_vecs": stage.vector_step, "red_vecs": stage.reduced_vectors,
    }  # fmt: skip
    if stage.source:
        place, channels = at[stage.source], lowered.shapes[stage.source][2]
        values |= {
            "in_mem": place.memory, "in_base": place.base, "in_step": place.words,
            "in_vecs": ceil_div(channels, geometry.vec),
        }  # fmt: skip
    values |= _rows(stage, lowered, geometry)
    if stage.op is Op.STORE:
        values |= {"groups": 1, "red_vecs": vectors, "acts": vectors, "period": vectors}
    else:
        place = at[stage.output]
        values |= {"out_mem": place.memory, "out_base": place.base, "out_step": place.words, "out_vecs": vectors}
    if stage.op is Op.LOAD:
        values |= {"groups": vectors, "out_words": geometry.nh, "period": geometry.nh}
        values |= _load(lowered.formed.get(stage.output), stage.height, images)
    if stage.op in (Op.CONV, Op.MAX, Op.SUM):
        acts = stage.taps * stage.reduced_vectors
        convolution = stage.op is Op.CONV
        out_words = geometry.result_words if convolution else geometry.nh
        values |= {
            "groups": ceil_div(stage.channels, geometry.lane) if convolution else vectors,
            "out_words": out_words, "acts": acts, "period": max(acts, out_words), "last_acts": acts,
            "par_base": parameter,
        }  # fmt: skip
        if stage.requantise is not None:
            rule = stage.requantise
            values |= {"increment": rule.increment, "low": rule.low, "high": rule.high}
            _demand_widths(rule, geometry, stage.name)
        if stage.residual is not None and stage.add is not None:
            place = at[stage.residual]
            values |= {"add": 1, "skip_base": place.base, "skip_step": place.words}
            values |= _addition(stage.add, geometry, stage.name)
    repeat = 1
    if stage.op is Op.CONV:
        repeat = _weights(values, stage, geometry, weight_word)
    values["outputs"] = values["groups"] * values["images"] * values["rows"] * values["cols"]
    if stage.op is Op.LOAD and not values["byte_step"]:
        values["load_words"] = values["outputs"] * geometry.nh * (geometry.packed_bytes // WORD_BYTES)
        values["load_size"] = values["load_words"]
    for field in COUNTED:
        if values.get(field, 0) > LIMIT:
            raise DoesNotFitError(f"descriptor field {field}", values[field], LIMIT, stage.name)
    made = []
    for image in range(repeat):
        own = dict(values)
        for base, step in (("in_base", "in_step"), ("out_base", "out_step"), ("skip_base", "skip_step")):
            own[base] = values.get(base, 0) + image * values.get(step, 0)
        made.append(Descriptor(own, stage.name, stage.output, stage.macs * images // repeat))
    return made


def _rows(stage: Stage, lowered: Lowered, geometry: Geometry) -> dict[str, int]:
    """Fields of the result's rows and the source's.

    With joined rows, what looks at single pixels takes its map for one row; a window whose result has the source's size
    lets groups of pixels run over the rows' ends (`wrap`); the others (strides, LOADs) begin a group with every row.
    """
    height, width = stage.height, stage.width
    in_h, in_w = lowered.shapes[stage.source][:2] if stage.source else (0, 0)
    in_pitch = out_pitch = wrap = 0
    if geometry.joined_rows:
        single = stage.op is Op.STORE or (stage.taps == 1 and stage.strides == (1, 1) and not any(stage.pads))
        if stage.source and (single or stage.op is Op.SUM):
            in_h, in_w = geometry.stored_rows((in_h, in_w))
            height, width = geometry.stored_rows((height, width))
        elif stage.strides == (1, 1) and (in_h, in_w) == (height, width):
            wrap = in_pitch = width
            height, width = geometry.stored_rows((height, width))
        else:
            in_pitch, out_pitch = in_w, width
    cols, in_cols = ceil_div(width, geometry.pix), ceil_div(in_w, geometry.pix)
    in_pitch = in_pitch or in_cols * geometry.pix
    before = stage.pads[0] * in_pitch + stage.pads[1]
    if before > PADDING or in_pitch * stage.strides[0] > LIMIT:
        raise DoesNotFitError("pixels of padding before a map", before, PADDING, stage.name)
    return {
        "rows": height, "cols": cols, "in_h": in_h, "in_w": in_w, "in_cols": in_cols, "in_pitch": in_pitch,
        "out_pitch": out_pitch or cols * geometry.pix, "wrap": wrap,
    }  # fmt: skip


def tie(mask: int, shift: int) -> int:
    """How the kernels are told which bits of a fraction are zero at a tie: 0 for no ties, else 1 + the lowest bit.

    Raises:
        ModelError: The bits are not those below `shift` but for the lowest few.
    """
    if mask == -1:
        return 0
    lowest = (mask & -mask).bit_length() - 1
    if mask <= 0 or mask != (1 << shift) - (1 << lowest):
        raise ModelError(f"a rule with the tie mask {mask:#x} for a shift of {shift} has no form here")
    return lowest + 1


def _demand_widths(rule: Requantise, geometry: Geometry, name: str) -> None:
    """Raise DoesNotFitError for constants or sums that the geometry's widths do not hold."""
    bits = max(int(rule.exact.most.max(initial=0)).bit_length(), int(-1 - rule.exact.least.min(initial=0)).bit_length())
    if bits + 1 > geometry.accumulator_bits:
        raise DoesNotFitError("bits of an accumulator", bits + 1, geometry.accumulator_bits, name)
    _demand_multiplier(int(rule.multiplier.max(initial=0)), geometry, name)


def _demand_multiplier(multiplier: int, geometry: Geometry, name: str) -> None:
    if multiplier.bit_length() > geometry.multiplier_bits:
        raise DoesNotFitError("bits of a multiplier", multiplier.bit_length(), geometry.multiplier_bits, name)


def _addition(rule: AddRule, geometry: Geometry, name: str) -> dict[str, int]:
    """Fields of an addition; its 64-bit offset is two words."""
    _demand_multiplier(max(rule.multiplier, rule.residual_multiplier), geometry, name)
    low = rule.offset & 0xFFFFFFFF
    return {
        "add_first": rule.multiplier, "add_second": rule.residual_multiplier,
        "add_offset_low": low - (low >> 31 << 32), "add_offset_high": rule.offset >> 32,
        "add_shift": rule.shift, "add_tie": tie(rule.mask, rule.shift), "add_increment": rule.increment,
        "add_low": rule.low, "add_high": rule.high,
    }  # fmt: skip


def _load(formed: Formed | None, height: int, images: int) -> dict[str, int]:
    """Fields of a LOAD of rows of raw bytes: each is read from its first byte's word to its last's."""
    if formed is None:
        return {"byte_step": 0}
    size, rows = formed.row_bytes, images * (height - formed.rows + 1)
    words = sum(((y + 1) * size - 1) // WORD_BYTES - y * size // WORD_BYTES + 1 for y in range(rows))
    return {
        "row_bytes": size, "byte_step": formed.step, "byte_taps": formed.taps, "byte_pad": formed.pad,
        "pad_value": formed.fill, "stack": formed.rows, "load_words": words,
        "load_size": ceil_div(rows * size, WORD_BYTES),
    }  # fmt: skip


def _weights(values: dict[str, int], stage: Stage, geometry: Geometry, weight_word: int) -> int:
    """Fill in how weights are loaded; returns into how many single-image layers this one is split.

    A reduction of more tiles than a buffer holds is loaded in parts while one pixel group keeps its accumulators,
    which needs a layer of a single pixel group: a fully connected one, image by image.
    """
    acts, repeat = values["acts"], 1
    parts = ceil_div(acts, geometry.weight_tiles)
    if parts > 1:
        if values["rows"] * values["cols"] > 1:
            raise DoesNotFitError("weight tiles of a lane group", acts, geometry.weight_tiles, stage.name)
        repeat, values["images"] = values["images"], 1
    part_acts = ceil_div(acts, parts)
    parts = ceil_div(acts, part_acts)
    last_acts = acts - (parts - 1) * part_acts
    values |= {
        "parts": parts, "part_acts": part_acts, "last_acts": last_acts, "w_base": weight_word,
        "part_words": part_acts * geometry.tile_words, "last_words": last_acts * geometry.tile_words,
        "w_words": values["groups"] * acts * geometry.tile_words,
    }  # fmt: skip
    return repeat


def array_parts(descriptor: Descriptor) -> list[tuple[int, int, int]]:
    """(times, steps, words loaded meanwhile) of `array`'s parts, in classes: what its loop goes through."""
    d = descriptor
    if d.op is Op.STORE:
        return []
    if d.op is Op.LOAD:
        return [(1, 0, d["next_words"])]
    pixel_groups = d["images"] * d["rows"] * d["cols"]
    first_words = d["part_words"] if d["parts"] > 1 else d["last_words"]
    classes = [
        (d["groups"] * (d["parts"] - 2), pixel_groups * d["part_acts"], d["part_words"]),
        (d["groups"] * min(d["parts"] - 1, 1), pixel_groups * d["part_acts"], d["last_words"]),
        (d["groups"] - 1, pixel_groups * d["last_acts"], first_words),
        (1, pixel_groups * d["last_acts"], d["next_words"]),
    ]
    return [c for c in classes if c[0] > 0]


def _schedule(descriptors: list[Descriptor], geometry: Geometry, max_lag: int | None) -> None:
    """Fill in what depends on the neighbours: prefetched weights, lags and trip counts."""
    for before, after in pairwise(descriptors):
        if after.op is Op.CONV:
            before.values["next_words"] = after["part_words"] if after["parts"] > 1 else after["last_words"]
    for d in descriptors:
        work = d["outputs"] * d["period"]
        lag = 0
        if d.op not in (Op.LOAD, Op.STORE):
            lag = geometry.lag if max_lag is None else min(max_lag, work)
        d.values["lag"] = lag
        d.values["trips"] = work if d.op is Op.STORE else work + lag + d["out_words"] - 1
        d.values["array_trips"] = sum(times * max(steps, words) for times, steps, words in array_parts(d))
