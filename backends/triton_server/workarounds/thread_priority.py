"""The server's thread that runs an instance goes before all else on the machine, where the system lets it.

Triton 2.51 tells its batcher that an instance has finished a moment before the instance counts as free: see
late_response.py. That moment is a microsecond long, unless the instance's thread is displaced in it, as happens several
times a minute where all cores are busy. A thread of the class SCHED_RR is displaced by no ordinary one, and this one
does little: it hands a batch to the stub and its answers to the network.

Nothing in Triton tells which thread it is. While the stub executes, it waits in the stub's shared memory, where it did
not wait while the model loaded. Looking takes the right to trace the server, and the class takes root, CAP_SYS_NICE or
a limit `rtprio` of 1; without these all stays as it is.
"""

import os
from pathlib import Path

ATTEMPTS = 5
"""Calls in which the thread is looked for."""
_REGION_ARGUMENT = 2
"""Place of the name of the shared memory in the stub's command line."""
_FUTEX = {"x86_64": "202", "aarch64": "98"}
"""Number of the system call in which threads wait."""
_PRIVATE = 128
"""Flag of a futex that is not in shared memory (linux/futex.h)."""


class ThreadPriority:
    """Finds the thread, once. Make it while the model loads, and call `seek` while the stub executes.

    Attributes:
        sought: Whether it is worth calling `seek`.
    """

    def __init__(self) -> None:
        self._server = os.getppid()
        self._attempts = ATTEMPTS
        self.sought = True
        try:
            self._region = Path("/proc/self/cmdline").read_bytes().split(b"\0")[_REGION_ARGUMENT].decode()
            self._others = waiting(self._server, self._region)
        except (OSError, IndexError):  # IndexError: another version of Triton calls its stub otherwise
            self.sought = False

    def seek(self) -> int | None:
        """Let the thread go first if it is found; returns it."""
        self._attempts -= 1
        self.sought = self._attempts > 0
        try:
            found = waiting(self._server, self._region) - self._others
            if len(found) != 1:
                return None
            (thread,) = found
            # whatever it starts is ordinary again
            os.sched_setscheduler(thread, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        except OSError:
            self.sought = False
            return None
        self.sought = False
        return thread


def waiting(pid: int, region: str) -> set[int]:
    """The threads of a process that wait in a region of shared memory. Raises OSError without the right to look."""
    ranges = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith(f"/dev/shm/{region}"):  # noqa: S108 - compared, not opened
            start, end = line.split()[0].split("-")
            ranges.append(range(int(start, 16), int(end, 16)))
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            call = (thread / "syscall").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if call[0] != _FUTEX.get(os.uname().machine):
            continue
        if int(call[2], 16) & _PRIVATE == 0 and any(int(call[1], 16) in one for one in ranges):
            found.add(int(thread.name))
    return found
