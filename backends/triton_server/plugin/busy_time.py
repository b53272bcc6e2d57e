"""How long a device had work, of calls that overlap."""

import threading
import time
from collections.abc import Callable


class BusyTime:
    """Seconds in which at least one call was under way: none is counted twice. ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._until = 0.0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> float:
        """Of a call that has just ended and took so long, those that no call before it had."""
        with self._lock:
            now = self._clock()
            began = max(now - seconds, self._until)
            self._until = now
            return max(0.0, now - began)
