"""Shared memory that this server's Python backend left behind, told apart by a prefix of its own."""

import os
import re
import shutil
import tempfile
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 - the kernel's own place, not a temporary file
_PREFIX = "tfpga"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-(\d+)-(\d+)-")


def make_prefix(tag: int) -> str:
    """A prefix for this server's regions that holds the owner: process id, its start time, and its PID namespace.

    ``tag`` tells apart several servers of one process.
    """
    return f"{_PREFIX}-{os.getpid()}-{_start_time(os.getpid())}-{_namespace()}-{tag}-"


def regions(prefix: str) -> list[Path]:
    """The regions in /dev/shm with this prefix."""
    return sorted(SHM.glob(f"{prefix}*")) if SHM.is_dir() else []


def clean(prefix: str) -> int:
    """Remove the regions with this prefix; returns how many there were. Call when the server has ended."""
    found = regions(prefix)
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def clean_stale() -> int:
    """Remove regions and run directories of dead owners (an owner that was killed could not do it itself)."""
    removed = 0
    for path in [*regions(_PREFIX + "-"), *Path(tempfile.gettempdir()).glob(f"{_PREFIX}-*")]:
        match = _NAME.match(path.name)
        if match is None or int(match[3]) != _namespace() or _start_time(int(match[1])) == int(match[2]):
            continue  # alive, or of another container, whose processes cannot be seen from here
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            removed += 1
        except OSError:
            continue  # another user's, or another start was faster
    return removed


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _start_time(pid: int) -> int:
    """The process's start in clock ticks since boot (field 22 of /proc/<pid>/stat), since pids are reused.

    -1 when it has ended, also while nobody has asked for its exit code.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])
