"""The program in the middle of a `Link`: moves packets between two TUN devices, each some time late.

usage: python forward.py SERVER_HANDLE CLIENT_HANDLE LARGEST_PACKET

A line on stdin sets the round-trip time in ms; the answer on stdout is the bytes carried since the line before. The end
of stdin ends it. It needs the standard library alone, so that it starts fast.
"""

from __future__ import annotations

import collections
import json
import os
import selectors
import sys
import time


def forward(server: int, client: int, largest: int) -> None:
    """Move packets between the two ends, each half the round-trip time late, until stdin ends."""
    delay = 0.0
    other = {server: client, client: server}
    waiting: dict[int, collections.deque[tuple[float, bytes]]] = {end: collections.deque() for end in other}
    carried = dict.fromkeys(other, 0)
    selector = selectors.DefaultSelector()
    for handle in (*other, sys.stdin.fileno()):
        selector.register(handle, selectors.EVENT_READ)
    while True:
        first = min((queue[0][0] for queue in waiting.values() if queue), default=None)
        for key, _ in selector.select(None if first is None else max(0.0, first - time.monotonic())):
            if key.fd in other:
                _receive(key.fd, waiting[other[key.fd]], time.monotonic() + delay, largest)
                continue
            line = sys.stdin.readline()
            if not line:
                return
            delay = float(line) / 2e3
            sys.stdout.write(json.dumps({"to_server": carried[server], "to_client": carried[client]}) + "\n")
            sys.stdout.flush()
            carried = dict.fromkeys(other, 0)
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


def _receive(end: int, queue: collections.deque[tuple[float, bytes]], due: float, largest: int) -> None:
    for _ in range(64):
        try:
            queue.append((due, os.read(end, largest)))
        except BlockingIOError:
            return
        except OSError:  # the device is being taken down
            return


if __name__ == "__main__":
    forward(*map(int, sys.argv[1:]))
