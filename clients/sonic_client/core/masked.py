"""numpy's masked arrays: what a mask hides is never used."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sonic_client.errors import JetError

Bad = Literal["raise", "mask"]
"""What a jet that cannot be tagged does: raise JetError, or give a missing score."""
Masked = np.ma.MaskedArray[Any, Any]

_ma: Any = np.ma  # its functions have no types in numpy 1.26


def make_masked(data: NDArray[Any], mask: NDArray[np.bool_]) -> Masked:
    """A masked array of data and a mask of the same shape."""
    return cast(Masked, _ma.array(data, mask=mask))


def mask_of(values: Any) -> NDArray[np.bool_]:
    """What is hidden: bool, of the values' shape."""
    return np.asarray(_ma.getmaskarray(values))


def data_of(values: Any) -> Any:
    """The values, hidden ones among them."""
    return _ma.getdata(values)


def real_numbers(values: Any, dtype: Any) -> NDArray[Any]:
    """The values as real numbers. Raises TypeError or ValueError for complex numbers, words, times and the like."""
    array = np.asarray(values)
    if array.dtype.kind not in "biufO":
        raise TypeError(f"{array.dtype} is no type of real numbers")
    return np.asarray(array, dtype=dtype)


def holds_mask(values: Any) -> bool:
    """Whether the values are a masked array, or a list (of lists) with one in it."""
    if isinstance(values, (list, tuple)):
        return any(holds_mask(value) for value in values)
    return isinstance(values, np.ma.MaskedArray)


def gather(values: Any) -> Masked:
    """One masked array of what `holds_mask` found, masks of parts included. Raises ValueError for ragged lists."""
    if isinstance(values, (list, tuple)):
        return cast(Masked, _ma.stack([gather(value) for value in values]))
    return cast(Masked, _ma.asarray(values))


def split_mask(values: Masked, axes: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which entries are hidden as a whole (over ``axes``), which in part: both bool, of the shape without ``axes``."""
    mask = mask_of(values)
    whole = mask.all(axis=axes) & bool(np.prod([mask.shape[axis] for axis in axes]))
    return whole, mask.any(axis=axes) & ~whole


def refuse_mask(name: str, values: Any) -> Any:
    """The values of a tensor, in which nothing can be missing. Raises JetError where a mask hides any."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    hidden = int(np.count_nonzero(mask_of(values)))
    if hidden:
        raise JetError(
            f"input '{name}': {hidden} of its {values.size} values are masked, and a tensor has no missing values; "
            "leave those rows out, or fill them (numpy.ma.filled)"
        )
    return values.data
