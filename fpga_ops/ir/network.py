"""The integer network: what every device executes, to the same bit.

An `IntegerNetwork` is a list of steps over 8-bit tensors in NHWC order. Each tensor is the exact real value of its
QuantizeLinear, rounded half to even and saturated, given the integers before it: `reference.py` defines the meaning of
each step, `requantise.py` makes the constants with which devices compute the same and proves that they do; the importer
makes networks from QDQ ONNX.

All activations are uint8 (an int8 tensor of the file is shifted by 128, together with its zero point), weights int8,
accumulators int32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int8Array: TypeAlias = npt.NDArray[np.int8]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]


INTEGER_RULE = 2
"""Number of the rule by which integers are made; known answers say which they hold.

1: 16-bit multipliers, within a sixteenth of a step of the exact value. 2: the exact value, rounded half to even.
"""


@dataclass(frozen=True)
class Tensor:
    """One activation tensor of one image: `uint8[height, width, channels]`.

    A tensor that the ONNX file holds as `[N, C]` has height = width = 1 and `flat` set.

    Attributes:
        name: The name in the ONNX file.
        scale: Real value of one integer step.
        zero_point: The uint8 that stands for real zero.
        flat: True if the ONNX file holds it as `[N, C]` rather than `[N, C, H, W]`.
    """

    name: str
    height: int
    width: int
    channels: int
    scale: float
    zero_point: int
    flat: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def size(self) -> int:
        """Bytes of one image of this tensor."""
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class ExactAffine:
    """What the file says about one channel's result, in integers of any size; the definition of `Requantise`.

    `w = (a * factor[c] + offset[c]) / divisor`, then `y = clip(round_half_even(w) + zero_point, low, high)`, for the
    accumulator `a = sum((uint8 x) * (int8 w))` over raw bytes: what zero points add is inside `offset`.

    Attributes:
        factor: Per channel, > 0.
        offset: Per channel.
        divisor: > 0.
        zero_point: Of the output. ONNX adds it after rounding, so a tie goes to an even distance from it.
        least, most: `int64[C]`, the range of `a` over all possible bytes.
    """

    factor: tuple[int, ...]
    offset: tuple[int, ...]
    divisor: int
    zero_point: int
    least: Int64Array
    most: Int64Array


@dataclass(frozen=True)
class Requantise:
    """From an int32 accumulator to uint8, per output channel: three equal forms of one rule.

    `exact` is the definition. Devices with integer multipliers compute, with arithmetic shifts, in 64 bits::

        v = a * multiplier[c] + offset[c]
        y = v >> shift[c]
        if (v & mask[c]) == 0: y = y & ~1            # ties to even; v is half a step above the exact value
        result = clip(y + increment, low, high)

    and devices with floating point, in IEEE float64::

        y = round_half_even((fma(a, slope[c], intercept[c]) + coarse) - coarse)
        result = clip(y + increment, low, high)

    Both are proven equal to the definition for every accumulator possible when a network is imported
    (`requantise.requantise`). `|v| < 2^62`, and the float64 result is within +-2^30.

    Attributes:
        exact: The definition.
        multiplier: `int32[C]`, 0 <= multiplier < 2^31; below 2^27 wherever such a one is right. 0: a constant channel.
        offset: `int64[C]`.
        shift: `uint8[C]`, 0..61.
        mask: `int64[C]`: bits of `v` that are all zero at a tie and nowhere else where it counts: those below `shift`
            but for the lowest few. -1 for a channel without ties, or whose ties the thresholds settle.
        increment: 0 or 1; 1 only with an odd zero point and ties.
        slope: `float64[C]`.
        intercept: `float64[C]`.
        coarse: 0.0, or a constant that makes near-ties of this layer true ones (`fixed_point.COARSE`).
        low, high: Bounds of the result (ReLU and Clip live here), 0 <= low <= high <= 255.
    """

    exact: ExactAffine
    multiplier: Int32Array
    offset: Int64Array
    shift: UInt8Array
    mask: Int64Array
    increment: int
    slope: Float64Array
    intercept: Float64Array
    coarse: float = 0.0
    low: int = 0
    high: int = 255


@dataclass(frozen=True)
class ExactSum:
    """What the file says about an addition; the definition of `AddRule`.

    `w = (y * first + r * second + offset) / divisor`, then `clip(round_half_even(w) + zero_point, low, high)`.
    A `second` of 0 makes it a change of scale, zero point or bounds of `y` alone.
    """

    first: int
    second: int
    offset: int
    divisor: int
    zero_point: int

    @property
    def largest(self) -> int:
        """No intermediate result of any two bytes is larger."""
        return 256 * (self.first + self.second) + abs(self.offset) + 256 * self.divisor


@dataclass(frozen=True)
class AddRule:
    """Sum of two uint8 tensors of different scales: three equal forms of one rule, as in `Requantise`.

    In integers (64 bits), and in IEEE float64::

        v = y * multiplier + r * residual_multiplier + offset
        out = v >> shift;  if (v & mask) == 0: out = out & ~1
        result = clip(out + increment, low, high)

        out = round_half_even((fma(y, slope, fma(r, residual_slope, intercept)) + coarse) - coarse)
        result = clip(out + increment, low, high)

    Both are proven equal to the definition for all 65,536 pairs of bytes (`requantise.add_rule`).

    Attributes:
        exact: The definition.
        multiplier: For the first operand (a fused convolution's own output), 0 <= multiplier < 2^31.
        residual_multiplier: For the second operand.
        offset: Below 2^62.
        shift: 0..61.
        mask: As in `Requantise`.
        increment: 0 or 1.
        slope, residual_slope, intercept: float64.
        coarse: As in `Requantise`.
        low, high: Bounds of the result.
    """

    exact: ExactSum
    multiplier: int
    residual_multiplier: int
    offset: int
    shift: int
    mask: int
    increment: int
    slope: float
    residual_slope: float
    intercept: float
    coarse: float = 0.0
    low: int = 0
    high: int = 255


@dataclass(frozen=True)
class Conv:
    """Convolution or fully connected layer, with an optional fused residual addition.

    A fully connected layer is a convolution whose kernel covers its whole input map.

    Attributes:
        name: Name of the ONNX node.
        source: Input tensor.
        output: Output tensor (after the addition, if there is one).
        weights: `int8[output channels, kernel height, kernel width, input channels / groups]`.
        requantise: Accumulator to uint8.
        strides: (vertical, horizontal).
        pads: (top, left, bottom, right); padding holds the source's zero point.
        groups: Groups of channels; output channel o reads input channels of group o // (OC / groups).
        residual: The other operand of the fused addition, a tensor of the output's shape.
        add: How the two are added; None if and only if `residual` is None.
        nodes: All ONNX nodes this step stands for.
    """

    name: str
    source: str
    output: str
    weights: Int8Array
    requantise: Requantise
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    residual: str | None = None
    add: AddRule | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaxPool:
    """Maximum over a window; padding never wins. Source and output have one scale and zero point."""

    name: str
    source: str
    output: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over the whole map: the sum of the bytes is the accumulator, then `requantise` (1/HW is in its scale)."""

    name: str
    source: str
    output: str
    requantise: Requantise
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Add:
    """Sum of two tensors that no convolution could take in: `first` plays y, `second` plays r of `AddRule`."""

    name: str
    first: str
    second: str
    output: str
    add: AddRule
    nodes: tuple[str, ...] = ()


Step: TypeAlias = Conv | MaxPool | GlobalAveragePool | Add


def sources(step: Step) -> tuple[str, ...]:
    """Names of the tensors that a step reads."""
    if isinstance(step, Add):
        return step.first, step.second
    if isinstance(step, Conv) and step.residual is not None:
        return step.source, step.residual
    return (step.source,)


@dataclass(frozen=True)
class IntegerNetwork:
    """Steps in execution order over named tensors.

    Attributes:
        inputs: Names of the input tensors. They are quantised from float32 by `requantise.quantise`.
        outputs: Names of the output tensors, handed on as uint8.
        tensors: Every tensor by name.
        steps: In an order in which each step's sources are ready.
        signed: Output tensors that the file holds as int8: subtract 128 when handing them on as such.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: dict[str, Tensor]
    steps: tuple[Step, ...]
    signed: frozenset[str] = field(default_factory=frozenset)

    @property
    def operations(self) -> int:
        """Multiplications and additions of one inference, convolutions only (2 per multiply-accumulate)."""
        return sum(step_operations(self, step) for step in self.steps)


def step_operations(network: IntegerNetwork, step: Step) -> int:
    """Multiplications plus additions of one convolution for one image; 0 for other steps."""
    if not isinstance(step, Conv):
        return 0
    out = network.tensors[step.output]
    return 2 * out.height * out.width * step.weights.size
