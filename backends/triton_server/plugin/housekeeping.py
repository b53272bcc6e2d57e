"""What an instance does once a second beside its requests, in a thread that does not end unnoticed."""

import contextlib
import threading
from collections.abc import Callable

PERIOD_S = 1.0
FAULTS = 3
"""Rounds that fail in a row before the instance ends: its device is no longer tested, and nobody would know."""


class Housekeeping:
    """Calls ``work`` every ``period_s`` seconds until ``close``.

    A round that ends by an exception is told to ``failed``, and the next one is tried. After FAULTS in a row
    ``give_up`` is called, which should end the process: the supervisor sees that, and starts it again.
    """

    def __init__(
        self, work: Callable[[], None], failed: Callable[[BaseException], None], give_up: Callable[[], None],
        period_s: float = PERIOD_S,
    ) -> None:  # fmt: skip
        self._work = work
        self._failed = failed
        self._give_up = give_up
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop, and wait for the present round."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        faults = 0
        while not self._stop.wait(self._period_s):
            try:
                self._work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it must not end the thread in silence
                faults += 1
                with contextlib.suppress(Exception):  # not even of a log that cannot be written
                    self._failed(error)
                if faults == FAULTS:
                    self._give_up()
            else:
                faults = 0
