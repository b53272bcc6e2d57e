"""The data of a plan in the order in which the kernels read it: weights, constants, images; and results back."""

from __future__ import annotations

import numpy as np

from fpga_ops.ir.network import Conv, Int8Array, UInt8Array
from fpga_ops.overlay.descriptor import Op
from fpga_ops.overlay.geometry import Geometry, ceil_div
from fpga_ops.overlay.lower import WORD_BYTES, Stage
from fpga_ops.overlay.plan import Plan, tie


def dense_weights(stage: Stage, conv: Conv, geometry: Geometry) -> Int8Array:
    """`int8[groups * LANE, taps, reduced vectors * VEC]`: groups of channels become zeros off the blocks."""
    outputs, kernel_h, kernel_w, inputs = conv.weights.shape
    lanes = ceil_div(outputs, geometry.lane) * geometry.lane
    taps = kernel_h * kernel_w
    full = np.zeros((lanes, taps, stage.reduced_vectors * geometry.vec), np.int8)
    if conv.groups == 1:
        flat = conv.weights.reshape(outputs, taps, -1)
        full[:outputs, :, : flat.shape[2]] = flat
        return full
    per_group = outputs // conv.groups
    flat = conv.weights.reshape(outputs, taps, inputs)
    for output in range(outputs):
        start = output // per_group * inputs - output // geometry.lane * stage.vector_step * geometry.vec
        full[output, :, start : start + inputs] = flat[output]
    return full


def weights(plan: Plan) -> Int8Array:
    """External memory of weights: for each convolution `[group][tap][vector][LANE][VEC]` bytes, where `w_base` says."""
    geometry = plan.geometry
    base = {d.tensor: d["w_base"] for d in plan.descriptors if d.op is Op.CONV}
    blocks: list[tuple[int, Int8Array]] = []
    for stage in plan.lowered.stages:
        if stage.op is Op.CONV and stage.conv is not None:
            full = dense_weights(stage, stage.conv, geometry)
            full = full.reshape(-1, geometry.lane, full.shape[1], stage.reduced_vectors, geometry.vec)
            packed = np.ascontiguousarray(full.transpose(0, 2, 3, 1, 4)).ravel()
            blocks.append((base[stage.output], packed))
    blocks.sort(key=lambda block: block[0])
    return np.concatenate([packed for _, packed in blocks]) if blocks else np.zeros(geometry.wb, np.int8)


def parameters(plan: Plan) -> UInt8Array:
    """External memory of requantisation constants: par_t (16 LANE bytes) for each group."""
    geometry = plan.geometry
    lanes = (geometry.lane,)
    layout = np.dtype([
        ("offset", "<i8", lanes), ("multiplier", "<u4", lanes), ("shift", "u1", lanes), ("tie", "u1", lanes),
        ("spare", "u1", (2 * geometry.lane,)),
    ])  # fmt: skip
    blocks = []
    for stage in plan.lowered.stages:
        if stage.op not in (Op.CONV, Op.MAX, Op.SUM) or stage.requantise is None:
            continue
        rule = stage.requantise
        per_group = geometry.lane if stage.op is Op.CONV else geometry.vec
        groups = ceil_div(stage.channels, per_group)
        block = np.zeros(groups, layout)
        # the kernels add half an accumulator's range to make it unsigned
        offset = rule.offset - (rule.multiplier.astype(np.int64) << (geometry.accumulator_bits - 1))
        ties = np.array(
            [tie(int(mask), int(shift)) for mask, shift in zip(rule.mask, rule.shift, strict=True)], np.uint8
        )
        columns = (("offset", offset), ("multiplier", rule.multiplier), ("shift", rule.shift), ("tie", ties))
        for field, values in columns:
            padded = np.zeros(groups * per_group, values.dtype)
            padded[: stage.channels] = values
            block[field][:, :per_group] = padded.reshape(groups, per_group)
        blocks.append(block)
    if not blocks:
        return np.zeros(layout.itemsize, np.uint8)
    return np.concatenate(blocks).view(np.uint8)


def image(geometry: Geometry, x: UInt8Array) -> UInt8Array:
    """`uint8[images, H, W, C]`, packed: `[vector][image][row][pixel group][word][PIX][CW]`, words of whole 64 bytes."""
    n, height, width, channels = x.shape
    cols, vectors = ceil_div(width, geometry.pix), ceil_div(channels, geometry.vec)
    full = np.zeros((n, height, cols * geometry.pix, vectors * geometry.vec), np.uint8)
    full[:, :, :width, :channels] = x
    split = full.reshape(n, height, cols, geometry.pix, vectors, geometry.nh, geometry.cw)
    words = split.transpose(4, 0, 1, 2, 5, 3, 6).reshape(-1, geometry.cw * geometry.pix)
    return np.pad(words, ((0, 0), (0, geometry.packed_bytes - words.shape[1]))).ravel()


def raw(x: UInt8Array) -> UInt8Array:
    """`uint8[images, H, W, C]` as it is, up to a whole word of external memory."""
    flat = np.ascontiguousarray(x).reshape(-1)
    rest = -len(flat) % WORD_BYTES
    return np.concatenate([flat, np.zeros(rest, np.uint8)]) if rest else flat


def inputs(plan: Plan, values: dict[str, UInt8Array]) -> UInt8Array:
    """All LOADs of one run, from quantised inputs `uint8[images, H, W, C]` by name."""
    parts = []
    for stage in plan.lowered.stages:
        if stage.op is Op.LOAD:
            x = values[stage.output]
            parts.append(raw(x) if stage.output in plan.lowered.formed else image(plan.geometry, x))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def outputs(plan: Plan, stored: UInt8Array) -> dict[str, UInt8Array]:
    """What the STOREs of one run wrote, as `uint8[images, H, W, C]` by name."""
    geometry, at, result = plan.geometry, 0, {}
    for stage in plan.lowered.stages:
        if stage.op is Op.STORE:
            rows, width = geometry.stored_rows((stage.height, stage.width))
            cols, vectors = ceil_div(width, geometry.pix), ceil_div(stage.channels, geometry.vec)
            words = plan.images * rows * cols * vectors
            size = words * geometry.stored_bytes
            kept = stored[at : at + size].reshape(words, -1)[:, : geometry.map_word_bytes]
            shape = (plan.images, rows, cols, vectors, geometry.pix, geometry.vec)
            block = kept.reshape(shape).transpose(0, 1, 2, 4, 3, 5)
            full = block.reshape(plan.images, rows, cols * geometry.pix, vectors * geometry.vec)
            full = full[:, :, :width, : stage.channels]
            result[stage.source] = full.reshape(plan.images, stage.height, stage.width, stage.channels)
            at += size
    return result
