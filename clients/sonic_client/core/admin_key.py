"""The admin key of a server on this machine that the same user runs, as `triton_server.server.admin_key` keeps it.

The client reads that file and needs nothing else of the server's packages.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from sonic_client.core.url import ServerUrl

ADMIN_HEADER = "triton-grpc-protocol-admin-key"
"""The header with the key: `triton_server.server.admin_key.ADMIN_HEADER`, which a test compares."""
_LISTENS = "0A"
"""A listening socket's state in /proc/net/tcp, see proc_net_tcp of the kernel's documentation."""


def with_own_key(url: ServerUrl, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of a request that only the server's owner may send: with the admin key where both are this user's.

    Others are refused by the server: they register no shared memory there, and do not see its repository index.
    """
    if url.protocol == "local" or url.tls or not url.is_loopback:
        return dict(headers)
    return {**own_headers(url.port), **headers}


def own_headers(port: int) -> dict[str, str]:
    """The header with this user's key, for a server of this user's on this machine; empty for any other.

    The key is shown to nobody else: every socket that listens on the port belongs to this user (Linux; else none does).
    """
    try:
        if {user for user, _ in listeners(port)} != {os.getuid()}:
            return {}
        folder = os.environ.get("XDG_CONFIG_HOME")
        path = (Path(folder) if folder else Path.home() / ".config") / "triton-fpga" / "admin-key"
        return {ADMIN_HEADER: path.read_text().strip()}
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return {}


def listeners(port: int) -> set[tuple[int, str]]:
    """User id and inode of every socket that listens on a TCP port of this machine (Linux; else none)."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, user, _, inode, *_ = line.split()
                if state == _LISTENS and int(local.rpartition(":")[2], 16) == port:
                    found.add((int(user), inode))
    return found
