"""What the device does next, out of the images of all requests that wait.

One image that waits alone is answered soonest. When several wait, they go together, layer by layer: each core then
finds a layer's weights in its caches for all of them, and waits less for the other cores. There is one launch at a
time, and of the threads that wait for a result, one makes it (it is also one of the workers while it waits).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Lock
from typing import Any

import numpy.typing as npt

from fpga_ops.errors import DeviceError

Array = npt.NDArray[Any]


class Request:
    """Images that one caller waits for.

    Attributes:
        arrays: The inputs, each of all images.
        images: How many.
        scores: Where the head's output goes; None if the network's outputs are wanted.
        outputs: Of each image that is done: the network's outputs, with a batch axis of 1.
        launched, done: Of the images.
        error: What went wrong.
    """

    __slots__ = ("arrays", "done", "error", "images", "launched", "outputs", "scores")

    def __init__(self, arrays: Sequence[Array], images: int, scores: Array | None = None) -> None:
        self.arrays, self.images, self.scores = arrays, images, scores
        self.outputs: list[list[Array]] = [[]] * images
        self.launched = self.done = 0
        self.error: Exception | None = None


Work = list[tuple[Request, int]]
"""Images of one launch: request and number within it."""


class LaunchQueue:
    """Gathers requests for launches.

    Args:
        launch: Runs so many images and returns when they are done; sets the `outputs` or the `error` of a request.
        most: Images of one launch.

    Attributes:
        turn: Held by the thread that launches, and for ever after `close`. Who finds nobody in `waiting` may take it,
            launch, and give it back: release it, and call `wake` if some are `asleep`.
        waiting: Requests of which not all images are launched.
        asleep: Threads inside `run`.
        closed: True after `close`.
    """

    def __init__(self, launch: Callable[[Work], None], most: int) -> None:
        self._launch, self._most = launch, most
        self.turn = Lock()
        self.waiting: deque[Request] = deque()
        self.asleep = 0
        self.closed = False
        self._lock = Lock()
        self._changed = Condition(self._lock)

    def run(self, request: Request) -> None:
        """Wait until a request is done.

        Raises:
            DeviceError: The executable is closed, or the device failed.
            NotFiniteError: An input held NaN or an infinity.
        """
        with self._lock:
            if self.closed:
                raise DeviceError("the executable is closed")
            self.waiting.append(request)
            self.asleep += 1  # before the turn is tried: who holds it will see that somebody must be woken
            try:
                while request.done < request.images:
                    if self.waiting and self.turn.acquire(blocking=False):
                        self._serve()
                    else:
                        self._changed.wait()
            finally:
                self.asleep -= 1
        if request.error is not None:
            raise request.error

    def wake(self) -> None:
        """Tell those asleep that the turn is free."""
        with self._lock:
            self._changed.notify_all()

    def close(self) -> bool:
        """Refuse new requests and finish those that wait. False if that had been done before."""
        with self._lock:
            if self.closed:
                return False
            self.closed = True
            self.asleep += 1
            while self.waiting or not self.turn.acquire(blocking=False):
                self._changed.wait()
            self.asleep -= 1
        return True

    def _serve(self) -> None:
        """Make one launch; the lock and the turn are held, and the lock is let go meanwhile."""
        work = self._choose()
        self._lock.release()
        try:
            self._launch(work)
        except BaseException as error:
            for owner, _ in work:  # each raises it for itself
                owner.error = error if isinstance(error, Exception) else DeviceError("interrupted")
            if not isinstance(error, Exception):
                raise
        finally:
            self._lock.acquire()
            for owner, _ in work:
                owner.done += 1
            self.turn.release()
            if self.asleep > 1:
                self._changed.notify_all()

    def _choose(self) -> Work:
        """Images for one launch, first come, first served."""
        work: Work = []
        while self.waiting and len(work) < self._most:
            request = self.waiting[0]
            work.append((request, request.launched))
            request.launched += 1
            if request.launched == request.images:
                self.waiting.popleft()
        return work
