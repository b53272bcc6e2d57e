"""The program in the middle of a `Link`: moves packets between two TUN devices, each some time late.

usage: python forward.py RTT_MS SERVER_HANDLE CLIENT_HANDLE

It needs the standard library alone, so that it starts fast.
"""

from __future__ import annotations

import collections
import json
import os
import selectors
import signal
import sys
import time


def forward(rtt_ms: float, server: int, client: int) -> None:
    """Move packets between the two ends, each half the round-trip time late, until SIGTERM; print the bytes moved."""
    delay = rtt_ms / 2e3
    other = {server: client, client: server}
    waiting: dict[int, collections.deque[tuple[float, bytes]]] = {end: collections.deque() for end in other}
    carried = dict.fromkeys(other, 0)
    selector = selectors.DefaultSelector()
    for end in other:
        selector.register(end, selectors.EVENT_READ)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    while not stopped:
        first = min((queue[0][0] for queue in waiting.values() if queue), default=None)
        pause = 0.2 if first is None else max(0.0, min(0.2, first - time.monotonic()))
        for key, _ in selector.select(pause):
            _receive(key.fd, waiting[other[key.fd]], time.monotonic() + delay)
        now = time.monotonic()
        for end, queue in waiting.items():
            while queue and queue[0][0] <= now:
                try:
                    carried[end] += os.write(end, queue[0][1])
                except BlockingIOError:
                    break
                except OSError:  # the end is gone or refuses this packet: lost, as on a real link
                    pass
                queue.popleft()
    sys.stdout.write(json.dumps({"to_server": carried[server], "to_client": carried[client]}))


def _receive(end: int, queue: collections.deque[tuple[float, bytes]], due: float) -> None:
    for _ in range(64):
        try:
            queue.append((due, os.read(end, 65535)))
        except BlockingIOError:
            return
        except OSError:  # the device is being taken down
            return


if __name__ == "__main__":
    forward(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
