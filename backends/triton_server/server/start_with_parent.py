"""Becomes the server, which the kernel then kills when the process that started it dies, however that dies.

`python -I -S start_with_parent.py PARENT_PID SERVER ARGUMENTS`; imports nothing of ours, and starts in milliseconds.

The kernel's signal (PR_SET_PDEATHSIG) follows the thread that started this, which is why that thread waits for it.

Triton 2.51 reads nested JSON, and splits the body of a form, on the stack of a thread; at the usual 8 MiB a request of
0.6 MB ends it. The stack is only reserved, and becomes memory where it is used. So this costs address space, and is
left alone where that is limited (RLIMIT_AS) or counted (vm.overcommit_memory 2).
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
STACK = 512 << 20


def main() -> None:
    """Die with the parent, take a large stack, become the server."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with open("/proc/sys/vm/overcommit_memory") as mode:  # noqa: PTH123 - pathlib takes longer to import than all this
        strict = mode.read().strip() == "2"
    if not strict and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        resource.setrlimit(resource.RLIMIT_STACK, (STACK if hard == resource.RLIM_INFINITY else min(STACK, hard), hard))
    if os.getppid() == int(parent):
        os.execv(command[0], command)  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    main()
