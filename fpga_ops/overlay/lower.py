"""Integer network -> stages: the forms that the overlay's one pipeline executes.

- An input goes over as the bytes of the image. The device forms what a pixel of its map holds: the pixel's own planes,
  or all planes of the row's window that its only reader, a convolution, needs (a 7x7 stride-2 convolution on one plane
  becomes a 7x1 on 7 channels, and more of VEC is used), or those of several rows (7 of them: a 1x1 on 49 channels).
  Chosen by cycles.
- A grouped convolution becomes a dense one on a sliding range of channels with zeros off the blocks.
- Max-pooling and stand-alone additions pass the requantiser with constants that leave a byte unchanged.
- A residual operand must not lie in the memory that the source is read from; where no placement does it, a copy is
  inserted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from fpga_ops.errors import ModelError
from fpga_ops.ir.network import (
    Add,
    AddRule,
    Conv,
    ExactAffine,
    GlobalAveragePool,
    IntegerNetwork,
    MaxPool,
    Requantise,
    Step,
    Tensor,
    sources,
)
from fpga_ops.overlay.descriptor import Op
from fpga_ops.overlay.geometry import STACK_COLS, Geometry, ceil_div

MAX_STEP = 8
"""Bytes from a pixel's window to the next that the device can form (MAX_STEP in overlay.h)."""
WORD_BYTES = 64
"""External-memory word of images (BYTES in overlay.h); padding before a row stays below it."""


@dataclass(frozen=True)
class Formed:
    """What a pixel of an input's map is made of: `taps` bytes of its row, from `x * step - pad` on.

    With several `rows`, row y of the map has those of the image from y down to y - rows + 1 behind each other; it has
    rows - 1 more of them than the image, and outside of that there are only fill bytes.

    Attributes:
        row_bytes: Bytes of a row of the image: width times planes.
        step: Bytes from a pixel's window to the next.
        taps: Bytes of a window.
        pad: Bytes before the row that the first window begins with.
        fill: The byte outside a row.
        rows: Rows of the image.
    """

    row_bytes: int
    step: int
    taps: int
    pad: int
    fill: int
    rows: int = 1


@dataclass(frozen=True)
class Stage:
    """One layer of the overlay, before addresses. `height`, `width`, `channels` are the result's."""

    op: Op
    name: str
    source: str
    output: str
    height: int = 0
    width: int = 0
    channels: int = 0
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    tap_step: int = 1
    stack: int = 1
    pad_value: int = 0
    residual: str | None = None
    add: AddRule | None = None
    conv: Conv | None = None
    requantise: Requantise | None = None
    reduced_vectors: int = 1
    vector_step: int = 0
    macs: int = 0

    @property
    def taps(self) -> int:
        """Positions of the window."""
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class Lowered:
    """Stages in order, and the stored shape (height, width, channels) of every map.

    Attributes:
        stages: LOADs first, STOREs last.
        shapes: Stored shape of each tensor; an input whose windows the device forms has those as channels.
        formed: Inputs that go over as they are; the others have too many planes and are packed by the host.
        zero_points: Of each tensor.
    """

    stages: tuple[Stage, ...]
    shapes: dict[str, tuple[int, int, int]]
    formed: dict[str, Formed]
    zero_points: dict[str, int]


def identity(channels: int) -> Requantise:
    """Constants that hand a byte through the requantiser unchanged: (x * 1 + 0) >> 0 = x."""
    zeros = np.zeros(channels, np.int64)
    exact = ExactAffine((1,) * channels, (0,) * channels, 1, 0, zeros, zeros + 255)
    return Requantise(
        exact, zeros.astype(np.int32) + 1, zeros, zeros.astype(np.uint8), zeros - 1, 0,
        np.ones(channels), np.zeros(channels),
    )  # fmt: skip


def _group_vectors(conv: Conv, geometry: Geometry, vectors: int) -> tuple[int, int]:
    """(vectors reduced, vectors that each lane group moves on): the narrowest regular window over all lane groups.

    Lane group i computes channels [i LANE, (i+1) LANE), which read a contiguous range of input channels. If those
    ranges move by a whole number of vectors, only a window of the input is read; else all of it, with zero weights.
    """
    outputs, inputs = conv.weights.shape[0], conv.weights.shape[3] * conv.groups
    per_group_in, per_group_out = inputs // conv.groups, outputs // conv.groups
    lane_groups = ceil_div(outputs, geometry.lane)
    if conv.groups == 1 or lane_groups == 1:
        return vectors, 0
    step, rest = divmod(geometry.lane * per_group_in, per_group_out * geometry.vec)
    if rest:
        return vectors, 0
    reduced = 1
    for group in range(lane_groups):
        last = min((group + 1) * geometry.lane, outputs) - 1
        top = (last // per_group_out + 1) * per_group_in
        first = (group * geometry.lane // per_group_out) * per_group_in
        if first < group * step * geometry.vec:
            return vectors, 0
        reduced = max(reduced, ceil_div(top, geometry.vec) - group * step)
    if (lane_groups - 1) * step + reduced > vectors:
        return vectors, 0
    return reduced, step


def _features_cycles(geometry: Geometry, rows: int, width: int, taps: int, channels: int, outputs: int) -> int:
    period = max(taps * ceil_div(channels, geometry.vec), geometry.result_words)
    return ceil_div(outputs, geometry.lane) * rows * ceil_div(width, geometry.pix) * period


def _load_cycles(geometry: Geometry, height: int, width: int, row_bytes: int) -> int:
    return height * (ceil_div(width, geometry.pix) * geometry.nh + ceil_div(row_bytes, WORD_BYTES) + 1)


def _map_fits(geometry: Geometry, *shapes: tuple[int, int, int]) -> bool:
    if geometry.map_words is None:
        return True
    words = sorted((h * ceil_div(w, geometry.pix) * ceil_div(c, geometry.vec) for h, w, c in shapes), reverse=True)
    return all(n <= m for n, m in zip(words, sorted(geometry.map_words, reverse=True), strict=False))


def row_conv(step: Conv, rows: int = 1) -> Conv:
    """The convolution that is left to do on a map whose pixels hold their windows of so many rows (see `Formed`)."""
    outputs, kernel_h, _, _ = step.weights.shape
    taps = ceil_div(kernel_h, rows)
    full = np.zeros((outputs, taps * rows, step.weights[0, 0].size), np.int8)
    full[:, :kernel_h] = step.weights.reshape(outputs, kernel_h, -1)
    weights = full.reshape(outputs, taps, rows, -1)[:, :, ::-1].reshape(outputs, taps, 1, -1)
    pads = (step.pads[0] - rows + 1, 0, step.pads[2] - rows + 1, 0)
    return replace(step, weights=weights, strides=(step.strides[0], 1), pads=pads)


def _form(network: IntegerNetwork, name: str, reader: Conv | None, geometry: Geometry) -> tuple[Formed | None, bool]:
    """How an input is stored, and whether its only reader then works on windows of rows: the quicker way."""
    source = network.tensors[name]
    planes, row_bytes = source.channels, source.width * source.channels
    plain = Formed(row_bytes, planes, planes, 0, source.zero_point) if planes <= min(MAX_STEP, geometry.vec) else None
    if reader is None or reader.groups != 1 or reader.residual is not None:
        return plain, False
    _, kernel_h, kernel_w, _ = reader.weights.shape
    step, taps, pad = reader.strides[1] * planes, kernel_w * planes, reader.pads[1] * planes
    if step > MAX_STEP or taps > geometry.vec or pad >= WORD_BYTES or (kernel_w, reader.strides[1]) == (1, 1):
        return plain, False
    out = network.tensors[reader.output]
    outputs = reader.weights.shape[0]
    possible = gcd(reader.strides[1], geometry.pix) == 1
    apart = _load_cycles(geometry, source.height, source.width, row_bytes) + _features_cycles(
        geometry, out.height, out.width, kernel_h * kernel_w, planes, outputs
    )
    stackable = geometry.stacked_rows and ceil_div(out.width, geometry.pix) <= STACK_COLS
    ways = []
    for rows in range(1, min(kernel_h, geometry.vec // taps) + 1 if stackable else 2):
        together = _load_cycles(geometry, source.height + rows - 1, out.width, row_bytes) + _features_cycles(
            geometry, out.height, out.width, ceil_div(kernel_h, rows), rows * taps, outputs
        )
        if _map_fits(geometry, (source.height + rows - 1, out.width, rows * taps), out.shape):
            ways.append((together, rows))
    if not ways or (possible and min(ways)[0] >= apart):
        return plain, False
    return Formed(row_bytes, step, taps, pad, source.zero_point, min(ways)[1]), True


def _check(step: Conv | MaxPool, geometry: Geometry) -> None:
    if gcd(step.strides[1], geometry.pix) != 1:
        raise ModelError(
            f"a horizontal stride of {step.strides[1]} puts several of {geometry.pix} pixels into one memory bank; "
            f"use a geometry whose pix has no common factor with it",
            node=step.name,
        )


class _Colours:
    """Which tensors must lie in different memories: union-find with parity."""

    def __init__(self) -> None:
        self._parent: dict[str, tuple[str, int]] = {}

    def find(self, name: str) -> tuple[str, int]:
        """(representative, parity to it)."""
        parity = 0
        while name in self._parent:
            name, step = self._parent[name]
            parity ^= step
        return name, parity

    def differ(self, a: str, b: str) -> bool:
        """Demand that two tensors differ; False if what was demanded before contradicts it."""
        (root_a, parity_a), (root_b, parity_b) = self.find(a), self.find(b)
        if root_a == root_b:
            return parity_a != parity_b
        self._parent[root_a] = (root_b, parity_a ^ parity_b ^ 1)
        return True


def memory_constraints(stages: tuple[Stage, ...]) -> _Colours:
    """The colouring that the residual operands ask for; `lower` has made it possible."""
    colours = _Colours()
    for stage in stages:
        if stage.residual is not None and not colours.differ(stage.source, stage.residual):
            raise ModelError("the residual operand lies in the source's memory", node=stage.name)
    return colours


def lower(network: IntegerNetwork, geometry: Geometry) -> Lowered:
    """All stages of one inference.

    Raises:
        ModelError: A step that the pipeline cannot do; the message names it.
    """
    readers = Counter(name for step in network.steps for name in sources(step))
    shapes = {name: tensor.shape for name, tensor in network.tensors.items()}
    zero_points = {name: tensor.zero_point for name, tensor in network.tensors.items()}
    stages: list[Stage] = []
    formed: dict[str, Formed] = {}
    windowed: dict[str, int] = {}  # to the rows of a pixel's windows
    for name in network.inputs:
        only = next((s for s in network.steps if isinstance(s, Conv) and s.source == name), None)
        alone = readers[name] == 1 and name not in network.outputs
        form, windows = _form(network, name, only if alone else None, geometry)
        if form is not None:
            formed[name] = form
        if windows and only is not None and form is not None:
            windowed[name] = form.rows
            height = network.tensors[name].height + form.rows - 1
            shapes[name] = (height, network.tensors[only.output].width, form.rows * form.taps)
    for name in network.inputs:
        h, w, c = shapes[name]
        stages.append(Stage(Op.LOAD, "load", "", name, h, w, c))
    for step in network.steps:
        stages.append(_stage(network, step, geometry, shapes, windowed))
    for name in network.outputs:
        h, w, c = shapes[name]
        stages.append(Stage(Op.STORE, "store", name, name, h, w, c))
    return Lowered(_with_copies(tuple(stages), shapes, zero_points), shapes, formed, zero_points)


def _stage(
    network: IntegerNetwork,
    step: Step,
    geometry: Geometry,
    shapes: dict[str, tuple[int, int, int]],
    windowed: dict[str, int],
) -> Stage:
    out: Tensor = network.tensors[step.output]
    size = out.shape
    if isinstance(step, Conv):
        macs = out.height * out.width * step.weights.size
        vectors = ceil_div(shapes[step.source][2], geometry.vec)
        stack = windowed.get(step.source, 1)
        conv = row_conv(step, stack) if step.source in windowed else step
        kernel = (conv.weights.shape[1], conv.weights.shape[2])
        _check(conv, geometry)
        reduced, moved = _group_vectors(conv, geometry, vectors)
        return Stage(
            Op.CONV, step.name, step.source, step.output, *size, kernel=kernel, strides=conv.strides,
            pads=conv.pads[:2], stack=stack, pad_value=network.tensors[step.source].zero_point,
            residual=step.residual, add=step.add, conv=conv, requantise=step.requantise, reduced_vectors=reduced,
            vector_step=moved, macs=macs,
        )  # fmt: skip
    if isinstance(step, MaxPool):
        _check(step, geometry)
        return Stage(
            Op.MAX, step.name, step.source, step.output, *size, kernel=step.kernel, strides=step.strides,
            pads=step.pads[:2], requantise=identity(out.channels), vector_step=1,
        )  # fmt: skip
    if isinstance(step, GlobalAveragePool):
        height, width = geometry.stored_rows(shapes[step.source])
        return Stage(  # each of PIX pixels sums every PIX-th column; the requantiser adds them up
            Op.SUM, step.name, step.source, step.output, *size, kernel=(height, ceil_div(width, geometry.pix)),
            tap_step=geometry.pix, requantise=step.requantise, vector_step=1,
        )  # fmt: skip
    if isinstance(step, Add):
        return Stage(
            Op.MAX, step.name, step.first, step.output, *size, requantise=identity(out.channels),
            residual=step.second, add=step.add, vector_step=1,
        )  # fmt: skip
    raise ModelError(f"the overlay has no form for {type(step).__name__}", node=getattr(step, "name", None))


def _with_copies(
    stages: tuple[Stage, ...], shapes: dict[str, tuple[int, int, int]], zero_points: dict[str, int]
) -> tuple[Stage, ...]:
    """Insert a copy of a residual operand wherever it cannot be in the other memory."""
    colours, result = _Colours(), []
    for stage in stages:
        if stage.residual is not None and not colours.differ(stage.source, stage.residual):
            copy = f"{stage.residual}#for-{stage.output}"
            shapes[copy], zero_points[copy] = shapes[stage.residual], zero_points[stage.residual]
            h, w, c = shapes[copy]
            result.append(Stage(Op.MAX, "copy", stage.residual, copy, h, w, c, requantise=identity(c), vector_step=1))
            colours.differ(stage.source, copy)
            result.append(replace(stage, residual=copy))
        else:
            result.append(stage)
    return tuple(result)
