"""The event loop of all synchronous clients of this process, in a daemon thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from sonic_client.errors import ConfigurationError

T = TypeVar("T")


class Background:
    """An event loop that runs in a thread of its own, for as long as the process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sonic-client", daemon=True)
        self._thread.start()

    def is_here(self) -> bool:
        """Whether this is the loop's own thread."""
        return threading.current_thread() is self._thread

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let the loop do some work. Raises ConfigurationError in its own thread, which would wait for itself."""
        if self.is_here():
            work.close()
            raise ConfigurationError("a callback must not wait for the client in the client's own thread; use a future")
        return asyncio.run_coroutine_threadsafe(work, self._loop)


_shared: Background | None = None
_shared_lock = threading.Lock()


def loop() -> Background:
    """The process's loop, started if need be. Raises ConfigurationError in a process forked from one that uses it."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Background()
        elif _shared.pid != os.getpid():
            raise ConfigurationError(
                "this process was forked from one whose client was in use, which gRPC does not survive; "
                'use multiprocessing.get_context("spawn") (dask does), or make the first call after the fork'
            )
        return _shared


def present() -> Background | None:
    """The process's loop, if it was started and not in a process that this one was forked from."""
    return _shared if _shared is not None and _shared.pid == os.getpid() else None


def wait(future: Future[T]) -> T:
    """The future's result; Ctrl-C cancels the request instead of abandoning it."""
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        with suppress(CancelledError, TimeoutError):
            future.exception(timeout=2.0)
        raise
