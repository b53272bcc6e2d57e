"""The usual end of a classifier, done without onnxruntime: dequantise, flatten, a small Gemm, softmax.

A session of onnxruntime takes longer for these few numbers than the arithmetic itself. Dequantised values are the very
float32 that onnxruntime gives. Sums and exponentials are taken in float64 and rounded to float32 once, by rules that
depend neither on the device, the CPU nor the batch; tests/fpga_ops/test_head.py holds them against onnxruntime's. This
module defines the bits; an executable may make them on the device (`kernels/vector/head.cl`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpga_ops.ir.network import UInt8Array

Float64Array = npt.NDArray[np.float64]

SUM_LANES = 8
LEAST = -700.0
"""Exponentials below it are taken for its own."""
LOG2_E = 1.4426950408889634
LN2_HIGH = float.fromhex("0x1.62e42feep-1")
"""ln 2 to 32 bits: its product with the exponent of a power of two is exact."""
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
TAYLOR = tuple(1.0 / math.factorial(n) for n in range(13, -1, -1))
"""Of the exponential, highest order first; for |x| <= ln(2) / 2 it is exact to 5e-18."""


@dataclass(frozen=True)
class Head:
    """One quantised tensor to one output of the file.

    Attributes:
        source: The network's output.
        output: The file's output.
        shape: Of the output, for one image.
        values: `float32[256]`, what each stored byte stands for.
        powers: `float64[256]`, for a softmax right behind: their exponentials, over that of the largest.
        flat: Channels, height and width become one axis.
        weights: `float64[outputs, inputs]` of a Gemm, with `bias` `float64[outputs]`.
        softmax: Over the last axis.
    """

    source: str
    output: str
    shape: tuple[int, ...]
    values: npt.NDArray[np.float32]
    flat: bool
    powers: Float64Array | None = None
    weights: Float64Array | None = None
    bias: Float64Array | None = None
    softmax: bool = False

    def table(self) -> Float64Array:
        """Its numbers for `kernels/vector/head.cl`: of each byte, then bias and weights."""
        bytes_ = self.values.astype(np.float64) if self.powers is None else self.powers
        if self.weights is None:
            return bytes_
        bias = np.zeros(len(self.weights)) if self.bias is None else self.bias
        return np.concatenate([bytes_, bias, self.weights.ravel()])

    def run(self, integers: Mapping[str, UInt8Array]) -> dict[str, npt.NDArray[np.float32]]:
        """The file's output float32[N, classes] from the executable's bytes uint8[N, C] or [N, 1, 1, C]."""
        stored = integers[self.source]
        if self.flat:
            stored = stored.reshape(len(stored), -1)
        if self.powers is not None:
            x = self.powers[stored]
            return {self.output: (x / ordered_sum(x)[..., None]).astype(np.float32)}
        single = self.values[stored]
        if self.weights is None and not self.softmax:
            return {self.output: single}
        x = single.astype(np.float64)
        if self.weights is not None:
            # not a matrix product: its order of summation changes with the batch
            x = ordered_sum(x[:, None, :] * self.weights)
            if self.bias is not None:
                x += self.bias
            x = x.astype(np.float32).astype(np.float64)
        if self.softmax:
            x = exponential(x - x.max(-1, keepdims=True))
            x /= ordered_sum(x)[..., None]
        return {self.output: x.astype(np.float32)}


def ordered_sum(values: Float64Array) -> Float64Array:
    """Sums over the last axis: each eighth value in turn, then the eight sums by halves."""
    *outer, count = values.shape
    padded = np.zeros((*outer, -(-count // SUM_LANES) * SUM_LANES))
    padded[..., :count] = values
    lanes: Float64Array = np.add.reduce(padded.reshape(*outer, -1, SUM_LANES), -2)
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return np.asarray(lanes[..., 0])


def exponential(x: Float64Array) -> Float64Array:
    """e^x for x <= 0, in multiplications and additions alone: IEEE 754 says every bit of them."""
    bounded = np.maximum(x, LEAST)
    whole = np.rint(bounded * LOG2_E)
    rest = (bounded - whole * LN2_HIGH) - whole * LN2_LOW
    power = np.full_like(rest, TAYLOR[0])
    for factor in TAYLOR[1:]:
        power = power * rest + factor
    return np.asarray(np.ldexp(power, whole.astype(np.int32)))
