"""Whether the server is up, and requests to start it again."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

BACKOFF_S = (0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Wait before the n-th start of a series; a series ends after CALM_S without one."""
CALM_S = 60.0
REMEMBERED = 50
"""Restarts that are told in detail; all are counted."""


@dataclass(frozen=True)
class Request:
    """Why somebody asks for a restart."""

    cause: str
    """One word: dead, hung, wrong, memory, full, stalled, reconfigured."""
    detail: str
    about: str = ""
    """The model, or the instance of it, that is at fault, where one is."""


@dataclass(frozen=True)
class Restart:
    """One restart, as it is told."""

    at: float
    """Seconds since the epoch."""
    cause: str
    detail: str
    outage_s: float


class Restarts:
    """A mailbox of requests, which are heard only while the server is up, and the count of its starts.

    Every start has a number, its generation. News that belongs to an earlier one is dropped: the server that it tells
    of has been replaced. ``clock`` gives seconds that never go back, ``wall_clock`` those since the epoch.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:  # fmt: skip
        self._clock = clock
        self._wall_clock = wall_clock
        self._condition = threading.Condition()
        self._requests: deque[Request] = deque()
        self._generation = 0
        self._up = False
        self._stopped = False
        self._counts: Counter[str] = Counter()
        self._done: deque[Restart] = deque(maxlen=REMEMBERED)
        self._series = 0
        self._came_up = 0.0
        self._went_down = 0.0

    @property
    def generation(self) -> int:
        """The number of the present start."""
        return self._generation

    @property
    def up(self) -> bool:
        """Whether the server has started and nobody restarts it."""
        return self._up

    @property
    def requests(self) -> list[Request]:
        """What was asked for and not yet done."""
        with self._condition:
            return list(self._requests)

    @property
    def due(self) -> bool:
        """Whether the server is about to be ended: a request is not yet done."""
        with self._condition:
            return self._up and bool(self._requests)

    @property
    def counts(self) -> dict[str, int]:
        """Restarts by cause."""
        with self._condition:
            return dict(self._counts)

    @property
    def done(self) -> list[Restart]:
        """The last restarts, the newest at the end."""
        with self._condition:
            return list(self._done)

    def is_present(self, generation: int) -> bool:
        """Whether news of this start is news of the server that is up now."""
        with self._condition:
            return self._up and generation == self._generation

    def ask(self, cause: str, detail: str, generation: int, about: str = "") -> None:
        """Ask for a restart because of something that was seen at the start ``generation``; ``about`` as in Request."""
        with self._condition:
            if self._up and not self._stopped and generation == self._generation:
                self._requests.append(Request(cause, detail, about))
                self._condition.notify_all()

    def wait(self) -> Request | None:
        """Wait for a request; None when ``stop`` was called."""
        with self._condition:
            self._condition.wait_for(lambda: self._requests or self._stopped)
            return None if self._stopped else self._requests[0]

    def stop(self) -> None:
        """Let ``wait`` return, and hear nothing any more."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def went_down(self, request: Request | None = None) -> None:
        """The server is ended: for a restart because of ``request``, or for good."""
        with self._condition:
            self._up = False
            self._went_down = self._clock()
            if request is not None:
                self._counts[request.cause] += 1
                if self._went_down - self._came_up > CALM_S:
                    self._series = 0

    def pause(self) -> float:
        """Seconds to wait before the next start of this series."""
        with self._condition:
            pause = BACKOFF_S[min(self._series, len(BACKOFF_S) - 1)]
            self._series += 1
            return pause

    def came_up(self, request: Request | None = None) -> float:
        """The server is there, with a new generation. Returns for how long it was away; ``request`` as above."""
        with self._condition:
            self._generation += 1
            self._requests.clear()
            self._up = True
            self._came_up = self._clock()
            outage = self._came_up - self._went_down if request is not None else 0.0
            if request is not None:
                self._done.append(Restart(self._wall_clock(), request.cause, request.detail, outage))
            return outage
