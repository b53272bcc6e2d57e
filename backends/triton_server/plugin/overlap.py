"""While one batch computes, the next is taken from Triton, checked and sent to the device.

Triton brings a model's instance the next batch when ``execute`` returns. Here it returns at once, and the answers go
out from other threads, each through its request's own sender, which costs a message between the processes for each. So
it is worth it where the device leaves the processor alone, and where there is a next batch.

A client that is alone waits for its answer before it asks again: nothing computes when its batch comes. After some
such batches in turn, they are answered in the thread that brought them, but for one now and then, during which
another client can show.

Triton can no longer answer for an instance that dies then: it does not know what it had. The supervisor ends the whole
server with it, so that each client hears that its connection has ended (UNAVAILABLE, to be repeated).
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

CARRIERS = 3
"""One batch computes, one is checked and sent, one is answered."""
ALONE_AFTER = 8
"""Batches in turn that found nothing computing, after which the client counts as alone."""
LOOK_EVERY = 32
"""Of a client alone, each batch of this number is answered as if it were not."""


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
        self._in_turn = 0
        self._threads = [threading.Thread(target=self._carry, name="carrier", daemon=True) for _ in range(CARRIERS)]
        for thread in self._threads:
            thread.start()

    def take(self, requests: Sequence[Any]) -> list[Any] | None:
        """Take a batch; returns when it is the only one without answers, so that as much as can be waits in Triton.

        Returns:
            The answers in the order of the requests where the client is alone, or None: they are sent.
        """
        free = self._room.acquire(blocking=False)
        self._in_turn = self._in_turn + 1 if free else 0
        if self._in_turn > ALONE_AFTER and self._in_turn % LOOK_EVERY:
            try:
                return self._answer(requests)
            finally:
                self._room.release()
        self._batches.put(requests)
        if not free:
            self._room.acquire()
        return None

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
