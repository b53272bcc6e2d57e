"""Jet images and pixel maps as analysts hold them -> the tensors that the models take, and scores in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonic_client.core.masked import Bad, data_of, gather, holds_mask, make_masked, mask_of, real_numbers, split_mask
from sonic_client.errors import JetError


@dataclass(frozen=True)
class ImageBatch:
    """Images, ready to be cut into tensors.

    images: float32[N, planes, height, width]; good: bool[N], which can be sent; masked: whether a masked array came;
    single: whether one image came, without an axis of images.
    """

    images: NDArray[np.float32]
    good: NDArray[np.bool_]
    masked: bool
    single: bool

    def __len__(self) -> int:
        return len(self.images)

    def chunks(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Tensors float32[<= size, planes, height, width] of the good images, in order."""
        whole = self.images if self.good.all() else self.images[self.good]
        for start in range(0, len(whole), size):
            yield whole[start : start + size]

    def restore(self, values: NDArray[np.float32]) -> Any:
        """float32[good] or [good, classes], for the good images -> float32[N] or [N, classes], for each image.

        Those of other images are NaN, and masked where the images came in a masked array.
        """
        every = values
        if not self.good.all():
            every = np.full((len(self.good), *values.shape[1:]), np.nan, values.dtype)
            every[self.good] = values
        if self.masked:
            missing = ~self.good.reshape(-1, *[1] * (every.ndim - 1))
            every = make_masked(every, np.broadcast_to(missing, every.shape))
        return every[0] if self.single else every


def read_images(images: Any, shape: tuple[int, int, int], *, bad: Bad = "raise") -> ImageBatch:
    """Read images: `[N, planes, H, W]`, `[planes, H, W]`, `[N, H, W]` (the plane is repeated) or `[H, W]`.

    An image that is masked as a whole is a missing one. An image that is masked in part, or empty, or has NaN, infinite
    or negative pixels raises JetError, or is missing with `bad="mask"`: the server takes none of these (contract
    "images"), and answers nothing of a request with one. Another shape raises JetError.
    """
    if bad not in ("raise", "mask"):
        raise JetError(f"bad: expected 'raise' or 'mask', got {bad!r}")
    planes, height, width = shape
    masked = holds_mask(images)
    try:
        values = gather(images) if masked else images
        array = real_numbers(data_of(values), np.float32)
    except (TypeError, ValueError) as error:
        raise JetError(
            f"images: expected numbers [N, {', '.join(map(str, shape))}], got {type(images).__name__} ({error})"
        ) from error
    hidden = mask_of(values) if masked else np.zeros(array.shape, bool)
    single = array.shape in ((planes, height, width), (height, width))
    if single:
        array, hidden = array[None], hidden[None]
    if array.shape[1:] not in (shape, (height, width)):
        raise JetError(
            f"images: expected [N, {planes}, {height}, {width}] or [N, {height}, {width}], got {list(np.shape(images))}"
        )
    if masked:
        axes = tuple(range(1, array.ndim))
        whole, in_part = split_mask(make_masked(array, hidden), axes)
    else:
        whole = in_part = np.zeros(len(array), bool)
    if array.shape[1:] == (height, width):
        array = np.repeat(array[:, None], planes, axis=1)
    reasons = (
        (in_part, "is masked in part, and an image is there or masked as a whole"),
        (~np.isfinite(array).all(axis=(1, 2, 3)), "has a NaN or infinite pixel"),
        ((array < 0).any(axis=(1, 2, 3)), "has a negative pixel"),
        (~(array != 0).any(axis=(1, 2, 3)), "is empty: no pixel is above 0"),
    )
    faulty = np.logical_or.reduce([mask for mask, _ in reasons]) & ~whole
    if bad == "raise" and faulty.any():
        first = int(np.flatnonzero(faulty)[0])
        reason = next(words for mask, words in reasons if mask[first])
        raise JetError(f"images: image {first} {reason} (bad='mask' gives such images a missing score)")
    return ImageBatch(np.ascontiguousarray(array), ~(whole | faulty), masked, single)


def prepare_images(images: Any, shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], bool]:
    """As `read_images`: float32[N, planes, height, width], and whether a single image came.

    Where the images came in a masked array, so do these; an image is there or masked as a whole.
    """
    batch = read_images(images, shape)
    if not batch.masked:
        return batch.images, batch.single
    missing = np.broadcast_to(~batch.good[:, None, None, None], batch.images.shape)
    return make_masked(batch.images, missing), batch.single
