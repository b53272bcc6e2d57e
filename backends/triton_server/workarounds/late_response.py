"""The last answer of each batch is sent after the batch: it wakes Triton's batcher, which may have slept in.

Triton 2.51 tells its batcher that an instance has finished a moment before the instance counts as free
(WaitForPayloadSlotAvailable). A batcher that looks in that moment sleeps for 500 ms, unless a request comes. Who waits
for an answer sends the next request when it has come: so one answer is kept until the instance is free.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any


class LateResponse:
    """Sends answers from a thread of its own, in order. ``failed`` is told what could not be sent."""

    def __init__(self, final: int, failed: Callable[[Exception], None]) -> None:
        self._final = final
        self._failed = failed
        self._answers: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="late response", daemon=True)
        self._thread.start()

    def keep_last(self, requests: Any, responses: list[Any]) -> list[Any]:
        """Take the last response out of those that ``execute`` returns, to send it in a moment."""
        self._answers.put((requests[-1].get_response_sender(), responses[-1]))
        return [*responses[:-1], None]

    def close(self) -> None:
        """Send what is left."""
        self._answers.put(None)
        self._thread.join(5.0)

    def _send(self) -> None:
        while (answer := self._answers.get()) is not None:
            sender, response = answer
            try:
                sender.send(response, flags=self._final)
            except Exception as error:  # noqa: BLE001 - the next one shall be sent
                self._failed(error)
            del answer, sender, response  # they hold shared memory
