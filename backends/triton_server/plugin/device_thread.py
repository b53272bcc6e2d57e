"""Calls of a device that may never return, from threads of their own."""

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from fpga_ops.errors import DeviceError

Arrays = Mapping[str, npt.NDArray[Any]]
CALLS = 2
"""Calls at once: the device computes for one, and the other is prepared and sent."""


STEP_S = 0.25
"""A pause of the whole process counts as no more than that of a call's time."""


class TakenOutError(DeviceError):
    """The device was taken out of service before this call had its answer."""


class DeviceThreads:
    """Threads that call one device, so that a call that never returns can be given up."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._open: set[_Call] = set()
        self._ended = False
        for _ in range(CALLS):
            threading.Thread(target=self._work, name="device", daemon=True).start()

    def call(self, function: Callable[[Arrays], Any], inputs: Arrays, timeout_s: float) -> Any:
        """Call in a thread and wait. Raises what it raised, TimeoutError, or TakenOutError after `end`.

        While the process itself stands still (a paused container, a stopped machine) the device's time does, too.
        """
        call = _Call(function, inputs)
        self._open.add(call)
        self._calls.put(call)
        try:
            # Looked at after the call was put, while `end` says so before it lets the threads end.
            if self._ended:
                raise TakenOutError("the device was taken out of service")
            result, error = call.wait(timeout_s)
        finally:
            self._open.discard(call)
        if error is not None:
            raise error
        return result

    def end(self, *, abandon: bool = False) -> None:
        """Let the threads end when their calls have returned. ``abandon``: nobody waits for these any longer."""
        self._ended = True
        for _ in range(CALLS):
            self._calls.put(None)
        if abandon:
            for call in list(self._open):
                call.result.put((None, TakenOutError("the device hangs, and was taken out of service")))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.result.put((call.function(call.inputs), None))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who judges it
                call.result.put((None, error))
            del call  # it holds memory that is shared with the server


class _Call:
    """A function, its argument, and where the result, or what it raised, is waited for."""

    __slots__ = ("function", "inputs", "result")

    def __init__(self, function: Callable[[Arrays], Any], inputs: Arrays) -> None:
        self.function, self.inputs = function, inputs
        self.result: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def wait(self, timeout_s: float) -> tuple[Any, BaseException | None]:
        """The result, or what it raised. Raises TimeoutError."""
        left = timeout_s
        while left > 0:
            step = min(left, STEP_S)
            try:
                return self.result.get(timeout=step)
            except queue.Empty:
                left -= step
        raise TimeoutError(f"the device gave no answer in {timeout_s:g} s")
