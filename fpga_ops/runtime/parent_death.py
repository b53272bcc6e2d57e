"""A child process that must not outlive the one that started it: a driver that never returns would keep a core busy."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def end_with(parent: int) -> None:
    """Let the kernel end this process when ``parent``, the process that started it, has ended (Linux; else nothing).

    The signal comes with the end of the thread that started this process: that thread has to wait for it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it was asked for
        os._exit(1)
