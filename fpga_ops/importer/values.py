"""What the importer knows about each tensor of the file while it walks the graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fpga_ops.importer.graph import Array
from fpga_ops.ir.exact import Dyadics
from fpga_ops.ir.network import Float64Array, Int8Array

Shape: TypeAlias = tuple[int, int, int]
"""(height, width, channels)"""


class UnsupportedError(Exception):
    """A node cannot be part of the integer network; the message is the reason."""


@dataclass(frozen=True)
class Failure:
    """Why a tensor could not be taken into the integer network."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Opaque:
    """A tensor that onnxruntime would have to make.

    Attributes:
        cause: The node that stopped the integer network, None if nothing integer is upstream.
    """

    cause: Failure | None = None


@dataclass(frozen=True)
class Constant:
    """Weights as stored, or folded from such."""

    value: Array


@dataclass(frozen=True)
class QuantisedConstant:
    """Weights behind a DequantizeLinear: `(value - zero_point) * scale`, along `axis` if they are arrays."""

    value: Array
    scale: Float64Array
    zero_point: npt.NDArray[np.int64]
    axis: int | None

    def along(self, parameter: npt.NDArray[np.generic]) -> Array:
        """A scale or zero point shaped to broadcast against `value`."""
        if self.axis is None or parameter.size == 1:
            return parameter.reshape(())
        shape = [1] * self.value.ndim
        shape[self.axis] = parameter.size
        return parameter.reshape(shape)

    def exact(self) -> Dyadics:
        """The same, without any rounding, flattened."""
        scale = np.broadcast_to(self.along(self.scale).astype(np.float64), self.value.shape)
        zero = np.broadcast_to(self.along(self.zero_point).astype(np.int64), self.value.shape)
        return Dyadics.of(scale).times(self.value.astype(np.int64) - zero)

    def real(self) -> Float64Array:
        """The values that the integers stand for."""
        centred = self.value.astype(np.float64) - self.along(self.zero_point).astype(np.float64)
        return centred * self.along(self.scale).astype(np.float64)


@dataclass(frozen=True)
class Integers:
    """A quantised tensor of the integer network, maybe reshaped: `flat` means the file now holds it as `[N, C*H*W]`."""

    tensor: str
    flat: bool


@dataclass(frozen=True)
class Leaf:
    """A dequantised tensor, unchanged."""

    source: str


@dataclass(frozen=True)
class Linear:
    """`real y = (sum over raw bytes - correction) * scale[c] / divisor + bias[c]`, by a convolution or a mean.

    Attributes:
        source: Tensor read.
        weights: `int8[OC, KH, KW, IC / groups]`; None means the sum over the whole map.
        scale: Real value of `divisor` accumulator steps, per output channel.
        bias: Real, per output channel.
        strides, pads, groups: As in `network.Conv`.
        divisor: How many values an average is over.
    """

    source: str
    weights: Int8Array | None
    scale: Dyadics
    bias: Dyadics
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    divisor: int = 1


@dataclass(frozen=True)
class Maximum:
    """Maximum over windows of a tensor."""

    source: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class Sum:
    """Sum of two dequantised tensors of one shape."""

    first: str
    second: str


@dataclass(frozen=True)
class Joined:
    """Dequantised tensors of one height and width, side by side along the channels."""

    sources: tuple[str, ...]


@dataclass(frozen=True)
class Real:
    """A float tensor between DequantizeLinear and QuantizeLinear that one step can make.

    Attributes:
        form: How it is made from integer tensors.
        shape: Of one image.
        flat: The file holds it as `[N, C]`.
        low, high: Bounds by ReLU and Clip.
        nodes: The nodes it stands for.
    """

    form: Leaf | Linear | Maximum | Sum | Joined
    shape: Shape
    flat: bool
    low: float = -math.inf
    high: float = math.inf
    nodes: tuple[str, ...] = ()

    @property
    def clipped(self) -> bool:
        """Whether a ReLU or Clip was applied."""
        return self.low > -math.inf or self.high < math.inf


Value: TypeAlias = Opaque | Constant | QuantisedConstant | Integers | Real
