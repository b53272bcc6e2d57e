"""Threads that nobody watches go on whatever happens in them, and it is told."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

log = logging.getLogger("triton_server")

PAUSE_S = 1.0
"""Between a fault and the next round."""


class ThreadState(StrEnum):
    """How one thread is."""

    RUNNING = "running"
    FAILED = "failed"
    """Its last round ended by an exception; the next one is tried."""
    OVERDUE = "overdue"
    """Its round takes longer than it may."""
    ENDED = "ended"
    """It is no longer there, and should be."""


@dataclass
class _Thread:
    thread: threading.Thread
    overdue_s: float
    beat: float
    faults: int = 0
    failed: bool = False
    last: str = ""
    done: threading.Event = field(default_factory=threading.Event)


class KeptThreads:
    """Runs functions again and again, each in a thread of its own, until ``stopped`` is set.

    A round that ends by an exception is logged and counted, and the next one follows after PAUSE_S. Until that has
    ended well the thread has failed, and what it says of the world is not to be believed.
    """

    def __init__(
        self, stopped: threading.Event, *, pause_s: float = PAUSE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._stopped = stopped
        self._pause_s = pause_s
        self._clock = clock
        self._threads: dict[str, _Thread] = {}
        self._lock = threading.Lock()

    def start(self, name: str, round_of_work: Callable[[], object], *, overdue_s: float = float("inf")) -> None:
        """Start a thread that calls ``round_of_work``, whose rounds should take at most ``overdue_s`` seconds."""
        thread = threading.Thread(target=self._run, args=(name, round_of_work), name=name, daemon=True)
        with self._lock:
            self._threads[name] = _Thread(thread, overdue_s, self._clock())
        thread.start()

    def count(self, name: str, error: BaseException) -> None:
        """Count a fault in a short-lived thread that belongs to the one of this name."""
        log.error("%s failed: %s: %s", name, type(error).__name__, error, exc_info=error)
        with self._lock:
            kept = self._threads.get(name)
            if kept is not None:
                kept.faults += 1
                kept.last = f"{type(error).__name__}: {error}"

    def state(self, name: str) -> ThreadState:
        """How the thread is."""
        with self._lock:
            return self._state(self._threads[name])

    @property
    def unsound(self) -> list[str]:
        """The threads that are not running as they should, each with its state."""
        with self._lock:
            states = {name: self._state(kept) for name, kept in self._threads.items()}
        return [f"{name}: {state}" for name, state in states.items() if state is not ThreadState.RUNNING]

    @property
    def beats(self) -> bool:
        """Whether each thread is there and comes round in time, be it with faults."""
        with self._lock:
            bad = (ThreadState.OVERDUE, ThreadState.ENDED)
            return not any(self._state(kept) in bad for kept in self._threads.values())

    def rows(self) -> list[dict[str, object]]:
        """Every thread, for a program: name, state, faults so far, and the last of them."""
        with self._lock:
            return [
                {"thread": name, "state": str(self._state(kept)), "faults": kept.faults, "last_fault": kept.last}
                for name, kept in self._threads.items()
            ]

    def join(self, timeout_s: float) -> None:
        """Wait for the threads to end, after ``stopped`` was set; at most ``timeout_s`` for each."""
        for kept in list(self._threads.values()):
            if kept.thread is not threading.current_thread():
                kept.thread.join(timeout_s)

    def _state(self, kept: _Thread) -> ThreadState:
        if self._stopped.is_set():
            return ThreadState.RUNNING  # they end, as they should
        if kept.thread.ident is not None and not kept.thread.is_alive():
            return ThreadState.ENDED
        if kept.failed:
            return ThreadState.FAILED
        return ThreadState.OVERDUE if self._clock() - kept.beat > kept.overdue_s else ThreadState.RUNNING

    def _run(self, name: str, round_of_work: Callable[[], object]) -> None:
        kept = self._threads[name]
        while not self._stopped.is_set():
            kept.beat = self._clock()
            try:
                round_of_work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the thread must not end of it
                with contextlib.suppress(Exception):  # not even of a log that cannot be written
                    self.count(name, error)
                kept.failed = True
                self._stopped.wait(self._pause_s)
            else:
                kept.failed = False
