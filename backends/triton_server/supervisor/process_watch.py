"""Sees within milliseconds that the server or a stub has ended, and what the server uses up."""

import contextlib
import os
import time
from collections.abc import Callable

from triton_server.server.server import TritonServer
from triton_server.supervisor.limits import Limits
from triton_server.supervisor.processes import (
    Stub,
    any_ended,
    ended_by_itself,
    files_allowed,
    find_stubs,
    is_gone,
    look_at_stubs,
    open_files,
    private_bytes,
    state,
)
from triton_server.supervisor.reaped_stub import is_missed
from triton_server.supervisor.restarts import Restarts

DIED_S = 0.03
"""A stub that was killed counts as dead when Triton has not waited for it after this time."""
TOLD_S = 2.0
"""The same for one that ended by itself with exit code 0."""
FULL = 0.9
"""Share of the file descriptors that the server may open."""
AWAY_S = 0.02
"""Pause between two looks at whether the server is back."""


class ProcessWatch:
    """Asks for a restart when a process of the server has ended or stopped, or the server holds too much.

    ``served`` gives model and version of each that should answer, ``pause`` waits for so many seconds, or for the end.
    """

    def __init__(
        self, server: TritonServer, restarts: Restarts, limits: Limits, served: Callable[[], list[tuple[str, str]]],
        pause: Callable[[float], object] = time.sleep,
    ) -> None:  # fmt: skip
        self._server = server
        self._restarts = restarts
        self._limits = limits
        self._served = served
        self._pause = pause
        self._generation = -1
        self._pidfds: dict[int, tuple[int, Stub | None]] = {}
        """Descriptor of each process (os.pidfd_open): its id, and the stub, None for the server itself."""
        self._told: set[int] = set()
        """Processes of whose end, or stop, was told since the server started."""
        self._stopped: set[int] = set()
        """Processes that the round before found stopped: one look may meet what stops everything for a while."""

    def watch(self) -> None:
        """One round: look at everything, then wait up to ``watch_interval`` for the next end of a process."""
        if not self._restarts.up:
            self._pause(AWAY_S)
            return
        generation = self._restarts.generation
        if generation != self._generation:
            self._generation = generation
            self.close()
            self._told.clear()
        self._follow()
        before, self._stopped = self._stopped, set()
        for descriptor, (pid, stub) in list(self._pidfds.items()):
            if state(pid) == "T":
                self._stopped.add(pid)
                if pid in before:
                    self._forget(descriptor)
                    self._told.add(pid)
                    self._restarts.ask("hung", f"{_name(stub)} (process {pid}) is stopped", generation)
        self._look_at_limits(generation)
        for descriptor in any_ended(list(self._pidfds), self._limits.watch_interval):
            pid, stub = self._pidfds[descriptor]
            told = stub is not None and was_told_to_end(pid)
            self._forget(descriptor)
            self._told.add(pid)
            if told and stub is not None and not is_missed(self._server.control, stub, self._served()):
                continue
            about = "" if stub is None else stub.instance or self._without_stub()
            self._restarts.ask("dead", f"{_name(stub)} (process {pid}) has ended", generation, about)

    def has_ended(self, model: str) -> bool:
        """Whether a stub of the model has ended, or the server with it; from any thread."""
        server = self._server.pid
        if server is None or is_gone(server):
            return True
        followed = [pid for pid, stub in list(self._pidfds.values()) if stub is not None and stub.runs(model)]
        if any(map(is_gone, followed)):
            return True
        running, ended = look_at_stubs(server)
        return bool(ended) and not any(stub.runs(model) for stub in running)

    def close(self) -> None:
        """Forget all processes."""
        for descriptor in list(self._pidfds):
            self._forget(descriptor)

    def _follow(self) -> None:
        pid = self._server.pid
        wanted: dict[int, Stub | None] = {} if pid is None else {pid: None}
        if pid is not None:
            running, ended = look_at_stubs(pid)
            wanted.update({stub.pid: stub for stub in running})
            wanted.update({process: Stub(process, "") for process in ended})  # of a followed one this is not news
        known = {process for process, _ in self._pidfds.values()} | self._told
        if wanted.keys() - known:
            self._server.protect()
        for process in wanted.keys() - known:
            with contextlib.suppress(ProcessLookupError):
                self._pidfds[os.pidfd_open(process)] = (process, wanted[process])

    def _without_stub(self) -> str:
        """The model that is served and has no stub, where it is one."""
        stubs = find_stubs(self._server.pid or -1)
        models = {model for model, _ in self._served() if not any(stub.runs(model) for stub in stubs)}
        return models.pop() if len(models) == 1 else ""

    def _forget(self, descriptor: int) -> None:
        if self._pidfds.pop(descriptor, None) is not None:
            os.close(descriptor)

    def _look_at_limits(self, generation: int) -> None:
        pid = self._server.pid or -1
        held, limit = private_bytes(pid), self._limits.server_bytes
        if held > limit:
            detail = f"the server holds {held >> 20} MB, more than {limit >> 20}"
            self._restarts.ask("memory", detail, generation)
        files, allowed = open_files(pid), files_allowed()
        if files > FULL * allowed:
            detail = f"the server has {files} files and connections open, and may have {allowed}"
            self._restarts.ask("full", detail, generation)


def _name(stub: Stub | None) -> str:
    if stub is None:
        return "the server"
    return f"the stub of {stub.instance}" if stub.instance else "a stub that had just started"


def was_told_to_end(pid: int, told_s: float = TOLD_S) -> bool:
    """Triton waits for a stub that it ends itself, and never for one that died: that one stays a zombie.

    On a busy machine Triton is late. A stub that it told to end does so with 0, and one that died hardly ever: for the
    first it gets ``told_s`` seconds.
    """
    began = time.monotonic()
    while state(pid) == "Z":
        if time.monotonic() > began + (told_s if ended_by_itself(pid) else DIED_S):
            return False
        time.sleep(0.003)
    return True
