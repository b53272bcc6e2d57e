"""What the device does next, out of the images of all requests that wait.

One image on all cores is answered soonest. When several wait, each gets its share of the cores, down to one: cores that
work alone never wait for each other, so more images are done per second. There is one launch at a time, and of the
threads that wait for a result, one makes it (it is also one of the workers while it waits for its end).
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
        outputs: Of each image that is done: its outputs, with a batch axis of 1.
        launched, done: Of the images.
        error: What went wrong.
    """

    __slots__ = ("arrays", "done", "error", "images", "launched", "outputs")

    def __init__(self, arrays: Sequence[Array], images: int) -> None:
        self.arrays, self.images = arrays, images
        self.outputs: list[list[Array]] = [[]] * images
        self.launched = self.done = 0
        self.error: Exception | None = None


Work = list[tuple[Request, int]]
"""Images of one launch: request and number within it."""


class Turns:
    """Gathers requests for launches.

    Args:
        launch: Runs so many images and returns when they are done; sets the `outputs` or the `error` of a request.
        lanes: Images that can be under way together.
        most: Images of one launch: more than `lanes` if each lane is one core and goes on by itself.
    """

    def __init__(self, launch: Callable[[Work], None], lanes: int, most: int) -> None:
        self._launch, self._lanes, self._most = launch, lanes, most
        self._waiting: deque[Request] = deque()
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._asleep = 0
        self._busy = self._closed = False

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def run(self, request: Request) -> None:
        """Wait until a request is done.

        Raises:
            DeviceError: The executable is closed, or the device failed.
            NotFiniteError: An input held NaN or an infinity.
        """
        with self._lock:
            if self._closed:
                raise DeviceError("the executable is closed")
            self._waiting.append(request)
            while request.done < request.images:
                if self._busy or not self._waiting:
                    self._sleep()
                    continue
                self._busy = True
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
                    self._busy = False
                    for owner, _ in work:
                        owner.done += 1
                    if self._asleep:
                        self._changed.notify_all()
        if request.error is not None:
            raise request.error

    def close(self) -> bool:
        """Refuse new requests and finish those that wait. False if that had been done before."""
        with self._lock:
            first, self._closed = not self._closed, True
            while self._busy or self._waiting:
                self._sleep()
        return first

    def _sleep(self) -> None:
        self._asleep += 1
        try:
            self._changed.wait()
        finally:
            self._asleep -= 1

    def _choose(self) -> Work:
        """Images for one launch, first come, first served."""
        head = self._waiting[0].images - self._waiting[0].launched
        count = self._lanes
        if self._most > self._lanes:
            # a batch stays together as far as it fills all lanes evenly: no lane is idle at the end
            count = min(max(count, head // self._lanes * self._lanes), self._most)
        work: Work = []
        while self._waiting and len(work) < count:
            request = self._waiting[0]
            work.append((request, request.launched))
            request.launched += 1
            if request.launched == request.images:
                self._waiting.popleft()
        return work
