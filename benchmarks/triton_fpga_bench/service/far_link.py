"""A wide-area link between two private network namespaces, in user space: delay without the kernel's netem.

Packets travel through two TUN devices and this program, which holds each back for half the round-trip time. So TCP
handshakes, windows and HTTP/2 flow control all see the delay, as no proxy of connections could show it. Needs Linux,
/dev/net/tun and the rights of root (or CAP_NET_ADMIN and CAP_SYS_ADMIN).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sonic_client.errors import ConfigurationError

SERVER_ADDRESS = "198.18.0.1"
CLIENT_ADDRESS = "198.18.0.2"
"""Addresses of RFC 2544, reserved for benchmarks."""

_NEW_NETWORK = 0x40000000
_TUN_SETTINGS = 0x400454CA
_TUN_PLAIN = 0x1001
_SET_ADDRESS, _SET_PEER, _SET_FLAGS, _SET_MTU, _SET_QUEUE = 0x8916, 0x8918, 0x8914, 0x8922, 0x8943
_UP_AND_RUNNING = 0x41
_NAME = b"wan0"


def why_not() -> str:
    """Why there can be no link here; "" if there can."""
    if not sys.platform.startswith("linux") or not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    if os.geteuid() != 0:
        return "network namespaces need root"
    return ""


class Link:
    """Two namespaces, `server` and `client`, with a round-trip time between them; a context manager.

    Args:
        rtt_ms: Round-trip time that is added; `change` sets another.
        mtu: Largest packet, bytes.
    """

    def __init__(self, rtt_ms: float, mtu: int = 9000) -> None:
        self._rtt_ms = rtt_ms
        self._mtu = mtu
        self.server = self.client = -1
        self._forwarder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        reason = why_not()
        if reason:
            raise ConfigurationError(f"no wide-area link can be emulated here: {reason}")
        self.server, self.client = _new_namespace(), _new_namespace()
        ends = []
        for namespace, address, peer in (
            (self.server, SERVER_ADDRESS, CLIENT_ADDRESS),
            (self.client, CLIENT_ADDRESS, SERVER_ADDRESS),
        ):
            with inside(namespace):
                ends.append(_tun(address, peer, self._mtu))
        command = [
            sys.executable,
            str(Path(__file__).with_name("far_link_forwarder.py")),
            *map(str, (*ends, self._mtu)),
        ]
        self._forwarder = subprocess.Popen(
            command, pass_fds=ends, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for end in ends:
            os.close(end)
        self.change(self._rtt_ms)
        return self

    def change(self, rtt_ms: float) -> dict[str, int]:
        """Set another round-trip time; returns the bytes carried since the last change, `to_server` and `to_client`."""
        if self._forwarder is None or self._forwarder.stdin is None or self._forwarder.stdout is None:
            raise ConfigurationError("the link is not up; use it in a with statement")
        self._forwarder.stdin.write(f"{rtt_ms}\n")
        self._forwarder.stdin.flush()
        answer = self._forwarder.stdout.readline()
        if not answer:
            raise ConfigurationError("the program in the middle of the link ended")
        carried: dict[str, int] = json.loads(answer)
        return carried

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._forwarder is not None:
            try:
                self._forwarder.communicate(timeout=20)  # closes its stdin, which ends it
            except subprocess.TimeoutExpired:
                self._forwarder.kill()
                self._forwarder.communicate()
        os.close(self.server)
        os.close(self.client)


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """What this thread starts or connects meanwhile is in the namespace."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _call("setns", namespace, _NEW_NETWORK)
        yield
    finally:
        _call("setns", own, _NEW_NETWORK)
        os.close(own)


def _new_namespace() -> int:
    """A handle of a new network namespace, which lasts as long as the handle or a process inside."""
    made: list[int | OSError] = []

    def make() -> None:
        try:
            _call("unshare", _NEW_NETWORK)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise ConfigurationError(f"no network namespace can be made here ({made[0]})")
    return made[0]


def _tun(address: str, peer: str, mtu: int) -> int:
    """A TUN device in the present namespace: the end of the link, a handle to read and write packets."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUN_SETTINGS, struct.pack("16sH22x", _NAME, _TUN_PLAIN))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, host in ((_SET_ADDRESS, address), (_SET_PEER, peer)):
            fcntl.ioctl(control, request, struct.pack("16sHH4s8x", _NAME, socket.AF_INET, 0, socket.inet_aton(host)))
        for request, value in ((_SET_MTU, mtu), (_SET_QUEUE, 10_000)):
            fcntl.ioctl(control, request, struct.pack("16si12x", _NAME, value))
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH14x", _NAME, _UP_AND_RUNNING))
    return device


def _call(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
