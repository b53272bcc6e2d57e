"""Host memory that a device works in."""

from __future__ import annotations

import contextlib
import mmap
import sys

import numpy as np
import numpy.typing as npt

HUGE_PAGE = 1 << 21


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that start on a page, as USE_HOST_PTR wants them; on huge pages where the system gives them.

    An inference reads all weights once, in far more ordinary pages than a core holds translations of.
    """
    huge = sys.platform == "linux" and size >= HUGE_PAGE
    area = mmap.mmap(-1, size + (HUGE_PAGE if huge else mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        with contextlib.suppress(OSError):  # a kernel without them
            area.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(area, np.uint8)
    start = -whole.ctypes.data % (HUGE_PAGE if huge else mmap.PAGESIZE)
    return whole[start : start + size]
