"""The integer network: what every device executes, to the same bit.

An `IntegerNetwork` is a list of steps over 8-bit tensors in NHWC order. It holds no floating point except the
scales, which say what the integers mean and are never used in the arithmetic. `reference.py` defines the meaning of
each step; `requantise.py` makes the fixed-point constants from real scales; the importer makes networks from QDQ ONNX.

All activations are uint8 (an int8 tensor of the file is shifted by 128, together with its zero point), weights int8,
accumulators and biases int32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int8Array: TypeAlias = npt.NDArray[np.int8]
Int16Array: TypeAlias = npt.NDArray[np.int16]
Int32Array: TypeAlias = npt.NDArray[np.int32]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Float32Array: TypeAlias = npt.NDArray[np.float32]


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
class Requantise:
    """From an int32 accumulator to uint8, per output channel. All shifts are arithmetic (they floor).

    The accumulator is `a = sum((uint8 x) * (int8 w))` over raw bytes; what zero points add is inside `bias`, and so
    are the output's zero point and the halves that turn the floors into rounding::

        t = clip((a + bias[c]) << pre_shift >> shift[c], -2^15, 2^15 - 1)
        u = (t * multiplier[c]) >> 16                # 4 fractional bits
        y = clip(u >> 4, low, high)

    Attributes:
        bias: `int32[C]`.
        multiplier: `int16[C]`, 2^14 <= multiplier < 2^15.
        shift: `uint8[C]`, 0..31.
        pre_shift: One constant per step, 0 unless a scale is 1/32 or more.
        low, high: Bounds of the result (ReLU and Clip live here), 0 <= low <= high <= 255.
    """

    bias: Int32Array
    multiplier: Int16Array
    shift: UInt8Array
    pre_shift: int = 0
    low: int = 0
    high: int = 255


@dataclass(frozen=True)
class AddRule:
    """Sum of two uint8 tensors of different scales, in 16-bit arithmetic that is proven not to overflow.

    The rule, with arithmetic shifts::

        v = ((y * multiplier) >> 8) + ((r * residual_multiplier) >> 8) + offset
        out = clip(v >> fraction_bits, low, high)

    Attributes:
        multiplier: For the first operand (a fused convolution's own output), 0..65535.
        residual_multiplier: For the second operand, 0..65535.
        offset: int16; holds the zero points, the half and the mean of what the floors lose.
        fraction_bits: 1..7; as many as 16 bits hold.
        low, high: Bounds of the result.
    """

    multiplier: int
    residual_multiplier: int
    offset: int
    fraction_bits: int
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
