"""The kernel ends a stub whose server has ended, even one that hangs and holds Python's lock, where no thread can look.

The one who starts the server keeps the writing end of a pipe, and closes it when the server has ended or dies with it.
"""

import fcntl
import os
import select
import signal


def hold(pipe: str | None) -> None:
    """Let the kernel send SIGKILL to this process when nobody holds the other end any more. None: there is no pipe."""
    if pipe is None:
        return
    # Opened anew: signal and owner belong to an open file, and all stubs inherit the same one.
    end = os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)
    poller = select.poll()
    poller.register(end, 0)
    if poller.poll(0):  # it was let go before it was held
        os._exit(1)
