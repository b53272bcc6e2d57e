"""Calls of a device that may never return, from a thread of their own."""

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


class DeviceThread:
    """One thread that calls the device, so that a call that never returns can be given up."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[Arrays], Any], Arrays] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="device", daemon=True).start()

    def call(self, function: Callable[[Arrays], Any], inputs: Arrays, timeout_s: float) -> Any:
        """Call in the thread and wait. Raises what it raised, or TimeoutError."""
        self._jobs.put((function, inputs))
        try:
            result, error = self._results.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"the device gave no answer in {timeout_s:g} s") from None
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """Let the thread end when its call returns."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, inputs = job
            try:
                self._results.put((function(inputs), None))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who judges it
                self._results.put((None, error))
