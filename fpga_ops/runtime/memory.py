"""Host memory that a device works in."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HUGE_PAGE = 1 << 21


def region(size: int) -> memoryview:
    """Zeroed bytes that start on a page, as USE_HOST_PTR wants them; on huge pages where the system gives them.

    An inference reads all weights once, in far more ordinary pages than a core holds translations of.
    """
    huge = sys.platform == "linux" and size >= HUGE_PAGE
    page = HUGE_PAGE if huge else mmap.PAGESIZE
    area = mmap.mmap(-1, size + page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        with contextlib.suppress(OSError):  # a kernel without them
            area.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(area)) % page
    return memoryview(area)[start : start + size]


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """A `region` of `size` bytes as uint8[size]."""
    import numpy as np

    return np.frombuffer(region(size), np.uint8)


def give_back() -> None:
    """Return to the system what was freed; the C library would keep it for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
