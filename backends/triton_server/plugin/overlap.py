"""While one batch computes, the next is taken from Triton, checked and sent to the device.

Triton brings a model's instance the next batch when ``execute`` returns. Here it returns at once, and the answers go
out from other threads, each through its request's own sender, which costs a message between the processes for each. So
it is worth it where the device leaves the processor alone.

Triton can no longer answer for an instance that dies then: it does not know what it had. The supervisor ends the whole
server with it, so that each client hears that its connection has ended (UNAVAILABLE, to be repeated).
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

CARRIERS = 3
"""One batch computes, one is checked and sent, one is answered."""


class Overlap:
    """Answers batches in threads of its own.

    Args:
        answer: Makes the answers to a batch's requests, in their order. It must not raise.
        final: Flag with which a sender takes the last answer.
        failed: Is told what could not be sent.
    """

    def __init__(
        self, answer: Callable[[Sequence[Any]], list[Any]], final: int, failed: Callable[[Exception], None]
    ) -> None:
        self._answer = answer
        self._final = final
        self._failed = failed
        self._batches: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)
        self._threads = [threading.Thread(target=self._carry, name="carrier", daemon=True) for _ in range(CARRIERS)]
        for thread in self._threads:
            thread.start()

    def take(self, requests: Sequence[Any]) -> None:
        """Take a batch; returns when it is the only one without answers, so that as much as can be waits in Triton."""
        self._batches.put(requests)
        self._room.acquire()

    def close(self, timeout_s: float = 5.0) -> None:
        """Answer what was taken, then end the threads."""
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            thread.join(timeout_s)

    def _carry(self) -> None:
        while (requests := self._batches.get()) is not None:
            responses = self._answer(requests)
            self._room.release()
            for request, response in zip(requests, responses, strict=True):
                try:
                    request.get_response_sender().send(response, flags=self._final)
                except Exception as error:  # noqa: BLE001 - the next one shall be sent
                    self._failed(error)
            del requests, responses, request, response  # they hold shared memory
