"""Integer network -> stages: the forms that the overlay's one pipeline executes.

- The first convolution of an input may be *folded*: the host lays out the input as im2col, so that a 7x7 stride-2
  convolution on one plane becomes a 1x1 on 49 (or, rows only, a 7x1 on 7) and more of VEC is used. Chosen by cycles.
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
    Tensor,
    UInt8Array,
    sources,
)
from fpga_ops.overlay.descriptor import Op
from fpga_ops.overlay.geometry import Geometry, ceil_div

_X_BIAS = 64
"""Padding to the left must stay below this many pixel groups (X_BIAS in overlay.h)."""


@dataclass(frozen=True)
class Fold:
    """How an input is laid out as im2col: every output pixel holds its window (or its row), channels innermost."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    fill: int

    def apply(self, x: UInt8Array) -> UInt8Array:
        """`uint8[N, H, W, C]` to `uint8[N, OH, OW, KH * KW * C]`."""
        top, left, bottom, right = self.pads
        padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=self.fill)
        view: npt.NDArray[np.uint8] = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, axis=(1, 2))  # type: ignore[call-overload]
        view = view[:, :: self.strides[0], :: self.strides[1]].transpose(0, 1, 2, 4, 5, 3)
        return np.ascontiguousarray(view).reshape(*view.shape[:3], -1)


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
        shapes: Stored shape of each tensor; a folded input's is its im2col.
        folds: Inputs that the host lays out as im2col.
        zero_points: Of each tensor.
    """

    stages: tuple[Stage, ...]
    shapes: dict[str, tuple[int, int, int]]
    folds: dict[str, Fold]
    zero_points: dict[str, int]


def identity(channels: int) -> Requantise:
    """Constants that hand a byte through the requantiser unchanged: ((x << 6) * 2^14 >> 16) >> 4 = x."""
    return Requantise(
        np.zeros(channels, np.int32), np.full(channels, 2**14, np.int16), np.zeros(channels, np.uint8), pre_shift=6
    )


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


def _load_cycles(geometry: Geometry, height: int, width: int, channels: int) -> int:
    return height * ceil_div(width, geometry.pix) * ceil_div(channels, geometry.vec) * geometry.nh


def _map_fits(geometry: Geometry, *shapes: tuple[int, int, int]) -> bool:
    if geometry.map_words is None:
        return True
    words = sorted((h * ceil_div(w, geometry.pix) * ceil_div(c, geometry.vec) for h, w, c in shapes), reverse=True)
    return all(n <= m for n, m in zip(words, sorted(geometry.map_words, reverse=True), strict=False))


def folded_conv(step: Conv, fold: Fold) -> Conv:
    """The convolution that is left to do on the im2col."""
    outputs, kernel_h, _, _ = step.weights.shape
    if fold.kernel[0] > 1 or kernel_h == 1:
        return replace(
            step, weights=step.weights.reshape(outputs, 1, 1, -1), strides=(1, 1), pads=(0, 0, 0, 0)
        )  # fmt: skip
    pads = (step.pads[0], 0, step.pads[2], 0)
    return replace(
        step, weights=step.weights.reshape(outputs, kernel_h, 1, -1), strides=(step.strides[0], 1), pads=pads
    )


def _folds(step: Conv, fill: int) -> tuple[Fold, ...]:
    """The layouts that the host can make: whole windows, or rows of windows only."""
    _, kernel_h, kernel_w, _ = step.weights.shape
    if step.groups != 1 or step.residual is not None or (kernel_h, kernel_w) == (1, 1) == step.strides:
        return ()
    whole = Fold((kernel_h, kernel_w), step.strides, step.pads, fill)
    rows = Fold((1, kernel_w), (1, step.strides[1]), (0, step.pads[1], 0, step.pads[3]), fill)
    return (whole, rows) if kernel_h > 1 else (whole,)


def _choose_fold(network: IntegerNetwork, step: Conv, geometry: Geometry) -> Fold | None:
    """The quickest layout of a network input for its only reader, among those that fit; None: as it is."""
    source, out = network.tensors[step.source], network.tensors[step.output]

    def cycles(height: int, width: int, conv: Conv) -> int:
        outputs, kernel_h, kernel_w, channels = conv.weights.shape
        return _load_cycles(geometry, height, width, channels) + _features_cycles(
            geometry, out.height, out.width, kernel_h * kernel_w, channels, outputs
        )

    possible = gcd(step.strides[1], geometry.pix) == 1 and step.pads[1] < _X_BIAS * geometry.pix
    best: tuple[float, Fold | None] = (cycles(source.height, source.width, step) if possible else float("inf"), None)
    for fold in _folds(step, source.zero_point):
        left = folded_conv(step, fold)
        height = out.height if fold.kernel[0] > 1 or left.weights.shape[1] == 1 else source.height
        if _map_fits(geometry, (height, out.width, left.weights.shape[3]), out.shape):
            need = cycles(height, out.width, left)
            if need < best[0]:
                best = (need, fold)
    return best[1]


def _check(step: Conv | MaxPool, kernel: tuple[int, int], geometry: Geometry) -> None:
    if gcd(step.strides[1], geometry.pix) != 1:
        raise ModelError(
            f"a horizontal stride of {step.strides[1]} puts several of {geometry.pix} pixels into one memory bank; "
            f"use a geometry whose pix has no common factor with it",
            node=step.name,
        )
    limit = _X_BIAS * geometry.pix
    if max(step.pads[1], kernel[1]) >= limit:
        raise ModelError(f"padding {step.pads[1]} or kernel {kernel[1]} is not below {limit}", node=step.name)


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
    folds: dict[str, Fold] = {}
    for step in network.steps:
        if (
            isinstance(step, Conv)
            and step.source in network.inputs
            and readers[step.source] == 1
            and step.source not in network.outputs
        ):
            fold = _choose_fold(network, step, geometry)
            if fold is not None:
                folds[step.source] = fold
    shapes = {name: tensor.shape for name, tensor in network.tensors.items()}
    zero_points = {name: tensor.zero_point for name, tensor in network.tensors.items()}
    stages: list[Stage] = []
    for step in network.steps:
        if isinstance(step, Conv) and step.source in folds:
            source, out, left = network.tensors[step.source], network.tensors[step.output], folds[step.source]
            rows = source.height if left.kernel[0] == 1 < step.weights.shape[1] else out.height
            shapes[step.source] = (rows, out.width, folded_conv(step, left).weights.shape[3])
    for name in network.inputs:
        h, w, c = shapes[name]
        stages.append(Stage(Op.LOAD, "load", "", name, h, w, c))
    for step in network.steps:
        stages.append(_stage(network, step, geometry, shapes, folds))
    for name in network.outputs:
        h, w, c = shapes[name]
        stages.append(Stage(Op.STORE, "store", name, name, h, w, c))
    return Lowered(_with_copies(tuple(stages), shapes, zero_points), shapes, folds, zero_points)


def _stage(
    network: IntegerNetwork,
    step: Step,
    geometry: Geometry,
    shapes: dict[str, tuple[int, int, int]],
    folds: dict[str, Fold],
) -> Stage:
    out: Tensor = network.tensors[step.output]
    size = out.shape
    if isinstance(step, Conv):
        macs = out.height * out.width * step.weights.size
        vectors = ceil_div(shapes[step.source][2], geometry.vec)
        conv = folded_conv(step, folds[step.source]) if step.source in folds else step
        kernel = (conv.weights.shape[1], conv.weights.shape[2])
        _check(conv, kernel, geometry)
        reduced, moved = _group_vectors(conv, geometry, vectors)
        return Stage(
            Op.CONV, step.name, step.source, step.output, *size, kernel=kernel, strides=conv.strides,
            pads=conv.pads[:2], pad_value=network.tensors[step.source].zero_point, residual=step.residual, add=step.add,
            conv=conv, requantise=step.requantise, reduced_vectors=reduced, vector_step=moved, macs=macs,
        )  # fmt: skip
    if isinstance(step, MaxPool):
        _check(step, step.kernel, geometry)
        return Stage(
            Op.MAX, step.name, step.source, step.output, *size, kernel=step.kernel, strides=step.strides,
            pads=step.pads[:2], requantise=identity(out.channels), vector_step=1,
        )  # fmt: skip
    if isinstance(step, GlobalAveragePool):
        height, width, _ = shapes[step.source]
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
