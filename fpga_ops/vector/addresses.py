"""Where an array's numbers lie in memory, for kernels that read and write them there."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_DATA = 2
"""Where numpy's C interface has an array's address: behind the two words that every object of CPython begins with."""
_WORDS = (ctypes.c_int64 * (1 << 44)).from_address(0)
"""The memory of the process."""


def _slow_address(array: npt.NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]  # numpy describes the whole dtype for it, in Python
    return address


def _fast_address(array: npt.NDArray[Any]) -> int:
    return _WORDS[(id(array) >> 3) + _DATA]


def _address_function() -> Callable[[npt.NDArray[Any]], int]:
    """How to get an array's address: from the object itself if it is there."""
    probe = np.zeros(3)
    fast = sys.implementation.name == "cpython" and _fast_address(probe) == _slow_address(probe)
    return _fast_address if fast else _slow_address


address = _address_function()
"""The address of an array's first number, in bytes."""
