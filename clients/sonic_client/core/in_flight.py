"""How many requests may be under way at once: tasks wait for a place, a thread takes one if it is free."""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class InFlight:
    """Places for requests under way, in one event loop; who waits longest is served first.

    `acquire_now` and `release` suit any thread.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def acquire_now(self) -> bool:
        """Take a place, if one is free and nobody waits for it."""
        with self._lock:
            if self._free == 0 or self._waiting:
                return False
            self._free -= 1
            return True

    async def acquire(self) -> None:
        """Wait for a place."""
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                return
            ticket: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(ticket)
        try:
            await ticket
        except asyncio.CancelledError:
            with self._lock:
                given = ticket not in self._waiting
                if not given:
                    self._waiting.remove(ticket)
            if given:
                self.release()
            raise

    def release(self) -> None:
        """Give a place back: to who has waited longest, else it is free."""
        with self._lock:
            if self._waiting:
                self._loop.call_soon_threadsafe(_grant, self._waiting.popleft())
            else:
                self._free += 1

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *exception: object) -> None:
        self.release()


def _grant(ticket: asyncio.Future[None]) -> None:
    if not ticket.done():  # who was cancelled gives the place on
        ticket.set_result(None)
