"""A watched server for the length of a with statement: what a program uses where a person has `triton-fpga serve`."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triton_server.server.server import TritonServer
from triton_server.supervisor.supervisor import Limits, Supervisor


@contextmanager
def watched(
    model_repository: str | os.PathLike[str], *, limits: Limits | None = None, **settings: Any
) -> Iterator[Supervisor]:
    """Start, watch, mend and in the end stop a server on free ports of loopback; ``settings`` are TritonServer's.

    The value is its supervisor, and ``supervisor.server`` has the addresses, which stay the same over restarts. Raises
    ServerNotFoundError or ServerStartError.
    """
    up = threading.Event()
    failures: list[BaseException] = []
    server = TritonServer(model_repository, share_ports=True, auto_complete=None, **settings)
    supervisor = Supervisor(server, limits=limits, watch_repository=False, on_ready=up.set)

    def run() -> None:
        try:
            supervisor.run()
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=run, name="supervisor")
    thread.start()
    try:
        up.wait()
        if failures:
            raise failures[0]
        yield supervisor
    finally:
        supervisor.stop()
        thread.join()
