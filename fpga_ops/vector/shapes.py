"""Compile-time shape of one convolution, and how it is cut into register tiles and tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpga_ops.ir.network import Conv, MaxPool, Tensor
from fpga_ops.vector import winograd
from fpga_ops.vector.isa import InstructionSet
from fpga_ops.vector.layout import VECTOR, Layout, round_up
from fpga_ops.vector.packing import limit_bytes

FLOAT_EXACT = 512
"""Products of uint8 and int8 whose sum float32 holds exactly: 512 * 255 * 128 < 2^24."""


MANY_PIXELS = 100
"""From here on a map does not fit the first-level cache, and its next pixels are fetched ahead."""


SHORT_WINDOW = 256
"""Bytes: after so few products an ending takes a noticeable time even where nothing is added."""

CHECKED_CHANNELS = 32
"""Bytes of a vector in which pixels are checked."""
CHECKED_SEGMENT = 4 << 16
"""Its steps are numbered in 16 bits."""


@dataclass(frozen=True)
class Tile:
    """How a convolution is cut.

    Attributes:
        pixels, vectors: Register tile: output pixels x 16-channel vectors.
        strip: Output pixels per task (output rows for a convolution with a fused pool).
        panels: Panels of 16*vectors channels per task.
        pixels_outer: Loop order inside a task.
        winograd: By fewer products in 16 bits (winograd.py): then `pixels` are tiles of 4x4 outputs in registers,
            `strip` rows of such tiles per task.
        transforms: Tasks transform their weights themselves, beside products.
    """

    pixels: int
    vectors: int
    strip: int
    panels: int
    pixels_outer: bool
    winograd: bool = False
    transforms: bool = False


@dataclass(frozen=True)
class Form:
    """In what form a convolution multiplies (kernels/vector/conv.cl).

    Attributes:
        step_bytes: Bytes of the window that are multiplied at a time.
        weight_bytes: Of one packed weight.
        checked: The pixels decide which steps are summed in 16 bits.
        window_bytes: Of one byte of the window where it is made wider before it is multiplied, else 0.
    """

    step_bytes: int
    weight_bytes: int
    checked: bool = False
    window_bytes: int = 0


WORDS = Form(2, 2, window_bytes=2)
CHECKED = Form(4, 1, checked=True)


@dataclass(frozen=True)
class Geometry:
    """What a convolution reads and writes, tiling aside.

    Attributes:
        in_channels, out_channels: Stored bytes per pixel.
        kernel, strides: (vertical, horizontal).
        height, width: Of the output map.
        rows, segment, row_taps: The window as runs of contiguous bytes (see kernels/vector/conv.cl).
        group_out, group_in: Output channels per group, and source bytes from group to group.
        pooled_rows: Output rows of the fused pool; 0 without one.
        winograd: Whether the weights allow that form.
        relu: Whether the source is what a ReLU left: many zeros and few large values.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    height: int
    width: int
    rows: int
    segment: int
    row_taps: int
    group_out: int
    group_in: int
    residual: bool
    pooled_rows: int = 0
    winograd: bool = False
    relu: bool = False

    def form(self, entry: InstructionSet) -> Form:
        """How an instruction set multiplies for it, Winograd's form aside.

        Where sums of 16 bits saturate, checking the pixels pays if these are mostly small; and it takes whole vectors.
        """
        if not entry.saturates:
            return Form(entry.step_bytes, entry.weight_bytes, window_bytes=4 if entry.flushes else 0)
        whole = self.in_channels % CHECKED_CHANNELS == 0 and not self.group_in and not self.pooled_rows
        return CHECKED if self.relu and whole and self.segment < CHECKED_SEGMENT else WORDS

    def defers(self, entry: InstructionSet) -> bool:
        """Whether a tile's sums end while the next is multiplied: where an ending costs as much as many products."""
        one_run = self.rows == 1 and not self.group_in and not self.pooled_rows
        return one_run and entry.defers and (self.residual or self.window <= SHORT_WINDOW)

    @property
    def pixels(self) -> int:
        """Output pixels of one image."""
        return self.height * self.width

    @property
    def window(self) -> int:
        """Bytes of one window as read."""
        return self.rows * self.segment

    @property
    def row_list(self) -> int:
        """Ushorts of the lists of a row's steps: of twos, of narrow ones, of wide ones, each written by eights."""
        steps = self.segment // 4
        return steps // 2 + 2 * steps + 3 * 8

    @property
    def lists(self) -> int:
        """Ushorts of the lists of a window's steps, and how long those of each row are."""
        return round_up(self.rows * (3 + self.row_list), 32)

    @property
    def key(self) -> str:
        """Names the geometry in a tile table."""
        kernel, strides = "x".join(map(str, self.kernel)), "x".join(map(str, self.strides))
        text = f"{self.height}x{self.width} k{kernel} s{strides} c{self.in_channels}-{self.out_channels}"
        if self.group_in:
            text += f" g{self.group_out}-{self.group_in}"
        if self.residual:
            text += " add"
        if self.pooled_rows:
            text += f" pool{self.pooled_rows}"
        return text


def geometry(
    step: Conv, source_channels: int, out_channels: int, output: Tensor, pooled_rows: int = 0, *, relu: bool = False
) -> tuple[Geometry, npt.NDArray[np.int8]]:
    """Geometry of a convolution and its weights as `int8[out_channels, window bytes]`, padded with zeros."""
    count, kernel_height, kernel_width, per_group = step.weights.shape
    group_out = count // step.groups
    dense = _expand(step, source_channels)
    rows, row_taps, segment, group_in = kernel_height, 1, round_up(kernel_width * source_channels, 4), 0
    if step.groups > 1:
        # a panel of one vector must lie in one group, or hold whole groups
        whole = VECTOR % group_out == 0
        if whole or group_out % VECTOR == 0:
            groups_read = VECTOR // group_out if whole else 1
            rows, row_taps = kernel_height * kernel_width, kernel_width
            segment = round_up(groups_read * per_group, 4)
            group_in = groups_read * per_group
            group_out = VECTOR if whole else group_out
    shape = Geometry(
        source_channels, out_channels, (kernel_height, kernel_width), step.strides, output.height, output.width, rows,
        segment, row_taps, group_out if group_in else out_channels, group_in, step.residual is not None, pooled_rows,
        not pooled_rows and winograd.suits(step, source_channels, out_channels, output.height, output.width),
        relu,
    )  # fmt: skip
    matrix = np.zeros((out_channels, rows, segment), np.int8)
    if group_in:
        # each panel reads its groups' channels only
        for first in range(0, count, group_out):
            channels = slice(first, min(first + group_out, count))
            start = first // group_out * group_in
            taps = dense[channels, :, :, start : start + group_in]
            matrix[channels, :, : taps.shape[3]] = taps.reshape(taps.shape[0], rows, taps.shape[3])
    else:
        matrix[:count, :, : kernel_width * source_channels] = dense.reshape(count, rows, -1)
    return shape, matrix.reshape(out_channels, -1)


def _expand(step: Conv, source_channels: int) -> npt.NDArray[np.int8]:
    """Weights over all stored source channels: `int8[OC, KH, KW, source_channels]`."""
    count, height, width, per_group = step.weights.shape
    if step.groups == 1 and per_group == source_channels:
        return step.weights
    full = np.zeros((count, height, width, source_channels), np.int8)
    per_output = count // step.groups
    for group in range(step.groups):
        chosen = slice(group * per_output, (group + 1) * per_output)
        full[chosen, :, :, group * per_group : (group + 1) * per_group] = step.weights[chosen]
    return full


@dataclass(frozen=True)
class ConvShape:
    """All compile-time constants of one copy of kernels/vector/conv.cl (and conv_pool.cl)."""

    geometry: Geometry
    tile: Tile
    pitch: int
    out_pitch: int
    residual_pitch: int
    plain: bool
    plain_sum: bool
    fixed: bool = False
    """Requantisation ends in integers."""
    float_sum: bool = False
    """The sum ends in float32."""
    pool: tuple[int, ...] = ()
    """kernel y, x, stride y, x, top, left, output width of a fused pool."""

    def scratch_bytes(self, entry: InstructionSet) -> int:
        """What one worker needs for a task, besides its tensors."""
        g = self.geometry
        if self.tile.winograd:
            t, count = self.tile, self.tile.strip * winograd.tiles(g.width)
            return winograd.scratch_bytes(count, g.in_channels, transforms=t.transforms)
        form = g.form(entry)
        if form.checked:  # lists, and for one tile what is multiplied as words; or lists for each tile of a task
            tiles = -(-self.tile.strip // self.tile.pixels)
            return 2 * g.lists + 2 * self.tile.pixels * g.window if self.tile.pixels_outer else 2 * g.lists * tiles
        return form.window_bytes * (self.tile.pixels * g.window + 16)

    def defines(self, identity: int, entry: InstructionSet) -> dict[str, int]:
        """Macros for the kernel file."""
        g, t = self.geometry, self.tile
        window_step = g.strides == (1, 1) and g.kernel == (1, 1) and self.pitch == g.width
        macros = {
            "ID": identity, "CIN": g.in_channels, "COUT": g.out_channels, "ROWS": g.rows, "SEGMENT": g.segment,
            "ROW_TAPS": g.row_taps, "STRIDE_Y": g.strides[0], "STRIDE_X": g.strides[1], "PITCH": self.pitch,
            "OUT_PITCH": self.out_pitch, "RES_PITCH": self.residual_pitch, "OW": g.width, "MR": t.pixels,
            "NV": t.vectors, "PIXELS_OUTER": int(t.pixels_outer), "GROUP_OUT": g.group_out, "GROUP_IN": g.group_in,
            "ONE_ROW": int(window_step or bool(self.pool) or (g.width % t.pixels == 0 and t.strip % t.pixels == 0)),
            "CONTIGUOUS": int(window_step and g.pixels > MANY_PIXELS),
            "RESIDUAL": int(g.residual), "FIXED": int(self.fixed), "FLOAT_SUM": int(self.float_sum),
            "PLAIN": int(self.plain),
            "PLAIN_SUM": int(self.plain_sum), "AHEAD": int(g.window * t.vectors * 16 >= 16000 and not self.pool),
            "BLOCK": g.segment, "CHECKED": int(g.form(entry).checked), "LIMIT_BYTES": limit_bytes(g.window),
            "ROW_LIST": g.row_list, "LISTS": g.lists, "DEFERRED": int(g.defers(entry)),
        }  # fmt: skip
        if entry.flushes:
            macros["BLOCK"] = max(d for d in range(1, FLOAT_EXACT + 1) if g.segment % d == 0)
        if t.winograd:
            macros |= {
                "TILE_COLUMNS": winograd.tiles(g.width), "TILE_ROWS": t.strip, "OH": g.height,
                "AHEAD": int(g.in_channels > winograd.STREAMED), "TRANSFORMS": int(t.transforms),
            }  # fmt: skip
        if self.pool:
            names = ("KERNEL_Y", "KERNEL_X", "STRIDE_Y", "STRIDE_X", "TOP", "LEFT", "WIDTH")
            macros |= {f"POOL_{name}": value for name, value in zip(names, self.pool, strict=True)}
            macros["OH"] = g.height
        return macros


def pool_constants(pool: MaxPool, output: Layout) -> tuple[int, ...]:
    """The fused pool's constants in `ConvShape.pool`'s order."""
    return (*pool.kernel, *pool.strides, pool.pads[0], pool.pads[1], output.width)
