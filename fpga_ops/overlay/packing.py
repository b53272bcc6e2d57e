"""The data of a plan in the order in which the kernels read it: weights, constants, images; and results back."""

from __future__ import annotations

import numpy as np

from fpga_ops.ir.network import Conv, Int8Array, Int32Array, Requantise, UInt8Array
from fpga_ops.overlay import block_float
from fpga_ops.overlay.descriptor import Op
from fpga_ops.overlay.geometry import Geometry, ceil_div
from fpga_ops.overlay.lower import Stage
from fpga_ops.overlay.plan import Plan


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
    """External memory of weights: for each convolution `[group][tap][vector][LANE][VEC]` bytes."""
    geometry = plan.geometry
    blocks: list[Int8Array] = []
    for stage in plan.lowered.stages:
        if stage.op is Op.CONV and stage.conv is not None:
            full = dense_weights(stage, stage.conv, geometry)
            full = full.reshape(-1, geometry.lane, full.shape[1], stage.reduced_vectors, geometry.vec)
            block = np.ascontiguousarray(full.transpose(0, 2, 3, 1, 4))
            blocks.append((block_float.encode(block) if geometry.arithmetic == "bfp" else block).ravel())
    return np.concatenate(blocks) if blocks else np.zeros(geometry.wb, np.int8)


def _bias(stage: Stage, rule: Requantise, plan: Plan) -> Int32Array:
    """The bias; with block floating point, corrected for what the rounded weights take from the zero point."""
    if plan.geometry.arithmetic != "bfp" or stage.conv is None:
        return rule.bias
    full = dense_weights(stage, stage.conv, plan.geometry)
    blocks = full.reshape(*full.shape[:2], stage.reduced_vectors, plan.geometry.vec)
    lost = full.astype(np.int64).sum((1, 2)) - block_float.round_blocks(blocks).astype(np.int64).sum((1, 2, 3))
    correction = plan.lowered.zero_points[stage.source] * lost[: len(rule.bias)]
    corrected: Int32Array = (rule.bias + correction).astype(np.int32)
    return corrected


def parameters(plan: Plan) -> UInt8Array:
    """External memory of requantisation constants: par_t (8 LANE bytes) for each group."""
    geometry = plan.geometry
    layout = np.dtype([
        ("bias", "<i4", (geometry.lane,)), ("multiplier", "<i2", (geometry.lane,)), ("shift", "u1", (geometry.lane,)),
        ("spare", "u1", (geometry.lane,)),
    ])  # fmt: skip
    blocks = []
    for stage in plan.lowered.stages:
        if stage.op not in (Op.CONV, Op.MAX, Op.SUM) or stage.requantise is None:
            continue
        rule = stage.requantise
        per_group = geometry.lane if stage.op is Op.CONV else geometry.vec
        groups = ceil_div(stage.channels, per_group)
        block = np.zeros(groups, layout)
        bias = _bias(stage, rule, plan)
        for field, values in (("bias", bias), ("multiplier", rule.multiplier), ("shift", rule.shift)):
            padded = np.zeros(groups * per_group, values.dtype)
            padded[: stage.channels] = values
            block[field][:, :per_group] = padded.reshape(groups, per_group)
        blocks.append(block)
    if not blocks:
        return np.zeros(layout.itemsize, np.uint8)
    return np.concatenate(blocks).view(np.uint8)


def image(geometry: Geometry, x: UInt8Array) -> UInt8Array:
    """`uint8[images, H, W, C]` to the order of a LOAD: `[vector][image][row][pixel group][word][PIX][CW]`."""
    n, height, width, channels = x.shape
    cols, vectors = ceil_div(width, geometry.pix), ceil_div(channels, geometry.vec)
    full = np.zeros((n, height, cols * geometry.pix, vectors * geometry.vec), np.uint8)
    full[:, :, :width, :channels] = x
    split = full.reshape(n, height, cols, geometry.pix, vectors, geometry.nh, geometry.cw)
    return np.ascontiguousarray(split.transpose(4, 0, 1, 2, 5, 3, 6)).ravel()


def inputs(plan: Plan, values: dict[str, UInt8Array]) -> UInt8Array:
    """All LOADs of one run, from quantised inputs `uint8[images, H, W, C]` by name."""
    parts = []
    for stage in plan.lowered.stages:
        if stage.op is Op.LOAD:
            fold = plan.lowered.folds.get(stage.output)
            x = values[stage.output]
            parts.append(image(plan.geometry, fold.apply(x) if fold is not None else x))
    return np.concatenate(parts)


def outputs(plan: Plan, raw: UInt8Array) -> dict[str, UInt8Array]:
    """What the STOREs of one run wrote, as `uint8[images, H, W, C]` by name."""
    geometry, at, result = plan.geometry, 0, {}
    for stage in plan.lowered.stages:
        if stage.op is Op.STORE:
            cols, vectors = ceil_div(stage.width, geometry.pix), ceil_div(stage.channels, geometry.vec)
            shape = (plan.images, stage.height, cols, vectors, geometry.pix, geometry.vec)
            size = int(np.prod(shape))
            block = raw[at : at + size].reshape(shape).transpose(0, 1, 2, 4, 3, 5)
            full = block.reshape(plan.images, stage.height, cols * geometry.pix, vectors * geometry.vec)
            result[stage.source] = np.ascontiguousarray(full[:, :, : stage.width, : stage.channels])
            at += size
    return result
