"""What an input must satisfy before it may touch a device: the caller's mistakes are the caller's errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import InputError

Array = npt.NDArray[np.generic]
Check = Callable[[str, Any], None]

MASS_SHELL_TOLERANCE = 1e-3
"""E may fall short of |p| by this fraction: single precision, and detectors that quote E and p separately."""
ORDER_TOLERANCE = 1e-5
"""A constituent's pT may exceed that of the one before by this fraction: single precision."""


def contract(name: str) -> Check:
    """The check called ``name``: "finite", "images" or "constituents". It raises InputError for the first bad row.

    Nothing at all is refused by each of them: Triton lets a request without rows through to a model without batches.
    """
    check = _CHECKS[name]

    def check_some(tensor: str, values: Any) -> None:
        if values.size == 0:
            raise InputError(f"tensor '{tensor}': expected one row or more, came shape {list(values.shape)}")
        check(tensor, values)

    return check_some


def check_finite(tensor: str, values: Any) -> None:
    """Every value is finite (integers always are)."""
    if not np.issubdtype(values.dtype, np.floating):
        return
    # The sum is finite only if every value is; it can overflow for finite values, so a miss is looked at closely.
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(values, dtype=np.float64)
    if not np.isfinite(total):
        finite = np.isfinite(values)
        if not finite.all():
            raise _bad(tensor, values, np.argwhere(~finite)[0], "finite values")


def check_images(tensor: str, values: Any) -> None:
    """``values`` float[N, C, H, W]: finite, not negative, each image with a sum above 0 (pixels are pT fractions)."""
    flat = values.reshape(values.shape[0], -1)
    highest = flat.max(axis=1)
    # minimum and maximum carry NaN along, so two passes judge everything
    if flat.min() >= 0 and np.all(highest > 0) and np.all(highest < np.inf):
        return
    check_finite(tensor, values)
    negative = np.argwhere(values < 0)
    if len(negative):
        raise _bad(tensor, values, negative[0], "pixels of 0 or more (fractions of the jet's pT)")
    row = int(np.argwhere(highest == 0)[0][0])
    raise InputError(f"tensor '{tensor}', row {row}: expected an image with a sum above 0, came an empty image")


def check_constituents(tensor: str, values: Any) -> None:
    """``values`` float[N, 200, 4], (E, px, py, pz) in GeV of each constituent, by falling pT, zero padding at the end.

    Each row must be finite, with E >= 0 and E >= |p| (within MASS_SHELL_TOLERANCE), sorted (within ORDER_TOLERANCE),
    and have at least one constituent with pT > 0.
    """
    # In few calls, since after an inference each of them finds cold caches. Comparisons with NaN are false;
    # the sum of the squares is finite only if every value is.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = values.astype(np.float64)
        np.multiply(squares, squares, out=squares)
        pt2 = squares[:, :, 1] + squares[:, :, 2]
        on_shell = squares[:, :, 0] * (1 + MASS_SHELL_TOLERANCE) ** 2 >= pt2 + squares[:, :, 3]
        in_order = pt2[:, 1:] <= pt2[:, :-1] * (1 + ORDER_TOLERANCE) ** 2
        sound = on_shell.all() and in_order.all() and pt2[:, 0].min() > 0 and squares.sum() < np.inf
    if sound and values[:, :, 0].min() >= 0:
        return
    check_finite(tensor, values)
    negative = np.argwhere(values[:, :, 0] < 0)
    if len(negative):
        raise _bad(tensor, values, (*negative[0], 0), "energies of 0 or more")
    if not on_shell.all():
        row, place = np.argwhere(~on_shell)[0]
        raise InputError(
            f"tensor '{tensor}', row {row}, constituent {place}: expected (E, px, py, pz) with E >= |p|, "
            f"came {_vector(values[row, place])}"
        )
    if not in_order.all():
        row, place = np.argwhere(~in_order)[0]
        after_padding = values[row, place, 0] == 0 and pt2[row, place] == 0
        expected = "zero padding only at the end" if after_padding else "constituents sorted by falling pT"
        raise InputError(
            f"tensor '{tensor}', row {row}: expected {expected}, came pT {np.sqrt(pt2[row, place]):.6g} GeV at "
            f"constituent {place} before pT {np.sqrt(pt2[row, place + 1]):.6g} GeV at constituent {place + 1}"
        )
    empty = pt2[:, 0] == 0
    if empty.any():
        raise InputError(
            f"tensor '{tensor}', row {int(np.argmax(empty))}: expected at least one constituent with pT > 0, "
            "came a jet with none"
        )


def _bad(tensor: str, values: Array, place: npt.ArrayLike, expected: str) -> InputError:
    index = tuple(int(number) for number in np.asarray(place))
    where = f"[{', '.join(map(str, index[1:]))}]" if len(index) > 1 else ""
    return InputError(
        f"tensor '{tensor}', row {index[0]}: expected {expected}, came {values[index]} at {where or 'it'}"
    )


def _vector(values: Array) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


_CHECKS: dict[str, Check] = {"finite": check_finite, "images": check_images, "constituents": check_constituents}
