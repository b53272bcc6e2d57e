"""Where tensors live in the activation arena: NHWC with channels padded and a frame of zero points around the map."""

from __future__ import annotations

from dataclasses import dataclass, field

from fpga_ops.ir.network import Tensor

ALIGNMENT = 64
"""Bytes; of every tensor, and what kernels may read past one."""

VECTOR = 16
"""Channels of the smallest vector."""


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple that is not less than `value`."""
    return -(-value // multiple) * multiple


def stored_channels(channels: int) -> int:
    """Channels as stored: a multiple of 64 where that costs little (so wide tiles fit), else of 32 or 16."""
    for multiple in (64, 32):
        padded = round_up(channels, multiple)
        if padded <= 1.07 * channels:
            return padded
    return round_up(channels, VECTOR)


@dataclass(frozen=True)
class Layout:
    """One tensor's place. All in bytes except where noted.

    Attributes:
        offset: Of image 0 in the arena (or in an output argument).
        step: From one image to the next.
        channels: Stored bytes per pixel.
        width, height: Of the map, pixels.
        pads: (top, left, bottom, right) pixels of frame, which hold `fill`.
        fill: The tensor's zero point.
    """

    offset: int
    step: int
    channels: int
    height: int
    width: int
    pads: tuple[int, int, int, int]
    fill: int

    @property
    def pitch(self) -> int:
        """Pixels per stored row."""
        return self.width + self.pads[1] + self.pads[3]

    def pixel(self, y: int, x: int) -> int:
        """Offset of a pixel of image 0; negative coordinates are in the frame."""
        return self.offset + ((y + self.pads[0]) * self.pitch + x + self.pads[1]) * self.channels

    @property
    def size(self) -> int:
        """Bytes of one image with its frame."""
        return (self.height + self.pads[0] + self.pads[2]) * self.pitch * self.channels

    @property
    def framed(self) -> bool:
        """True if the frame is not empty."""
        return any(self.pads)


@dataclass
class _Block:
    offset: int
    size: int
    free_after: int
    """Last layer that may touch it; the layer that takes it over must wait for that one."""
    geometry: tuple[int, ...] | None


@dataclass
class Arena:
    """Hands out memory and takes it back, by layer number.

    A framed tensor is only ever replaced by one of the same geometry and fill, so frames are written once, at load.
    Memory is reused soon, so that it is still in the cache.
    """

    images: int
    size: int = 0
    blocks: list[_Block] = field(default_factory=list)

    def place(
        self, tensor: Tensor, channels: int, pads: tuple[int, int, int, int], waits: int, last_use: int
    ) -> Layout:
        """A place for a tensor written by a layer that waits for all layers up to `waits`.

        Args:
            tensor: Its map and zero point.
            channels: Stored channels.
            pads: Frame, pixels.
            waits: Every layer up to this one is done when the writer starts.
            last_use: The last layer that reads the tensor.
        """
        blank = Layout(0, 0, channels, tensor.height, tensor.width, pads, tensor.zero_point)
        step = round_up(blank.size + ALIGNMENT, ALIGNMENT)
        geometry = (channels, tensor.height, tensor.width, *pads, tensor.zero_point) if blank.framed else None
        offset = self.take(step * self.images, geometry, waits, last_use)
        return Layout(offset, step, channels, tensor.height, tensor.width, pads, tensor.zero_point)

    def take(self, size: int, geometry: tuple[int, ...] | None, waits: int, last_use: int) -> int:
        """Offset of `size` bytes, reused where a block of the same geometry (or none) is free."""
        fitting = [b for b in self.blocks if b.free_after <= waits and b.geometry == geometry and b.size >= size]
        if fitting:
            block = min(fitting, key=lambda b: (b.size, -b.free_after))
            if block.size <= 2 * size:
                block.free_after = last_use
                return block.offset
        offset, self.size = self.size, self.size + round_up(size, ALIGNMENT)
        self.blocks.append(_Block(offset, size, last_use, geometry))
        return offset
