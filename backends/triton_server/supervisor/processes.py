"""Processes below the server, from /proc.

psutil has half of it (children, processor time, memory, open files) and not the rest (sessions, exit code of a zombie,
arguments' memory, kinds of stubs); its children take 3.7 ms of processor where these take 1.1, with 140 processes on
the machine, four times a second. It would save 25 lines.
"""

import contextlib
import os
import re
import resource
import select
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

STUB_NAME = "triton_python_backend_stub"
_COMMAND_LENGTH = 15
"""So much of a program's name the kernel keeps (TASK_COMM_LEN)."""
_INSTANCE_ARGUMENT = 8
"""Place of the instance's name in the stub's command line, as Triton's stub_launcher.cc writes it (2.51 to 2.72)."""


@dataclass(frozen=True)
class Stub:
    """The process that runs the plugin for one model instance (or, for a moment, for its auto-completion)."""

    pid: int
    instance: str
    """Triton's name of the instance: <model>_<group>_<number>; the model's own name during auto-completion."""

    def runs(self, model: str) -> bool:
        """Whether it is an instance of the model: `tiny_0` is one of tiny, `tiny_0_0` of tiny or of tiny_0."""
        return re.fullmatch(re.escape(model) + r"_\d+(_\d+)?", self.instance) is not None


def descendants(pid: int) -> list[int]:
    """Children of ``pid``, and theirs, from /proc/<pid>/task/*/children; empty when it is gone.

    Four times a second over the server's hundred threads: a file object for each would cost three times as much.
    """
    found: list[int] = []
    pending = [pid]
    while pending:
        tasks = f"/proc/{pending.pop()}/task"
        with contextlib.suppress(OSError):
            for task in Path(tasks).iterdir():
                with contextlib.suppress(OSError):  # the thread ended meanwhile
                    children = _read_numbers(f"{task}/children")
                    found += children
                    pending += children
    return found


def _read_numbers(path: str) -> list[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return [int(word) for word in os.read(descriptor, 1 << 16).split()]
    finally:
        os.close(descriptor)


def session_members(session: int) -> list[int]:
    """Processes of a session, from field 6 of /proc/<pid>/stat: also those whose parent has died."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def kill_and_wait(pids: Sequence[int], timeout_s: float = 5.0) -> None:
    """SIGKILL each process that is still there and wait until all are gone (zombies count as gone)."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + timeout_s
    while not all(map(is_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.005)


def state(pid: int) -> str:
    """The kernel's one-letter state of a process (R, S, D, T, Z), empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_gone(pid: int) -> bool:
    """Whether a process has ended: it was waited for, is yet to be, or is being removed."""
    return state(pid) in ("", "Z", "X")


def ended_by_itself(pid: int) -> bool:
    """Whether a process that nobody has waited for yet (state Z) ended with exit code 0."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] == "Z" and int(fields[49]) == 0  # exit_code of proc(5), as waitpid gives it


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, with its children that have ended; 0 when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(pid: int) -> float:
    """The same of a process and all below it."""
    return sum(cpu_seconds(member) for member in (pid, *descendants(pid)))


def private_bytes(pid: int) -> int:
    """Resident memory that a process shares with no file and no other process; 0 when there is none."""
    try:
        resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    except OSError:
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    """How many file descriptors a process has open; 0 when there is none."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a path for each would cost six times as much
    except OSError:
        return 0


def files_allowed() -> int:
    """How many file descriptors this process may have, and what it starts: the soft limit of RLIMIT_NOFILE."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def allow_files(wanted: int = 1 << 16) -> None:
    """Raise that limit as far as the system allows, up to ``wanted``: often it is 1024, which idle clients use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def hide_argument(pid: int, secret: str) -> bool:
    """Blot a secret out of the command line that every user of the machine can read; returns whether it is gone.

    Only for a process that has read its arguments. Its memory is open to its parent, unless a site forbids that.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end of proc(5)
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            memory.seek(start)
            memory.write(arguments.replace(secret.encode(), b"*" * len(secret.encode())))
        return secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def find_stubs(server_pid: int) -> list[Stub]:
    """The stubs of a server with the model and instance that each one runs."""
    return look_at_stubs(server_pid)[0]


def look_at_stubs(server_pid: int) -> tuple[list[Stub], list[int]]:
    """The same, and those that have ended and nobody has waited for: what they ran is not known any more."""
    running, ended = [], []
    for pid in descendants(server_pid):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if arguments == [b""] and _is_ended_stub(pid, server_pid):
            ended.append(pid)
        elif arguments[0].decode(errors="replace").endswith(STUB_NAME) and len(arguments) > _INSTANCE_ARGUMENT:
            running.append(Stub(pid, arguments[_INSTANCE_ARGUMENT].decode(errors="replace")))
    return running, ended


def _is_ended_stub(pid: int, server_pid: int) -> bool:
    try:
        command, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[::2]
    except OSError:
        return False
    own = fields.split()[:2] == ["Z", str(server_pid)]  # state and parent; a stub's children have its name
    return own and command.partition("(")[2] == STUB_NAME[:_COMMAND_LENGTH]


def any_ended(pidfds: Iterable[int], timeout_s: float) -> list[int]:
    """The process descriptors (os.pidfd_open) whose process ended, waiting at most ``timeout_s`` for the first."""
    poller = select.poll()
    for descriptor in pidfds:
        poller.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(max(0.0, timeout_s) * 1000)]
