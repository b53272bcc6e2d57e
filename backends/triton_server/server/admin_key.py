"""The key of requests that change a server, in a file of the user who runs it: programs of that user find it there."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

ADMIN_HEADER = "triton-grpc-protocol-admin-key"
"""The header with the key. Triton puts this prefix before gRPC keys itself; HTTP uses the same for one rule."""
_LISTENS = "0A"
"""A listening socket's state in /proc/net/tcp, see proc_net_tcp of the kernel's documentation."""


def default_path() -> Path:
    """Where the key is unless another file is named. Raises OSError for a user without a home."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    try:
        return (Path(folder) if folder else Path.home() / ".config") / "triton-fpga" / "admin-key"
    except RuntimeError as error:
        raise OSError(f"no place for an admin key: {error}") from error


def read_or_make(path: Path) -> str:
    """The key in the file, a new one (mode 0600) where the file is missing.

    Raises OSError, also for a file that others may read or change: then they have the key as well.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".admin-key-") as stream:  # mode 0600
            stream.write(secrets.token_urlsafe(32) + "\n")
            stream.flush()
            with contextlib.suppress(FileExistsError):  # another server of this user was as early
                os.link(stream.name, path)
    with path.open() as stream:
        status = os.fstat(stream.fileno())
        key = stream.read().strip()
    if status.st_mode & 0o077 or status.st_uid not in (os.getuid(), 0):
        raise PermissionError(
            f"the admin key in {path} is open to others: expected mode 0600 and this user or root as its owner, found "
            f"mode {status.st_mode & 0o7777:04o} and user {status.st_uid}; remove the file, and a new key is made"
        )
    if not key:
        raise OSError(f"no key in {path}: remove the file, or write one into it")
    return key


def own_headers(port: int) -> dict[str, str]:
    """The header with this user's key, for a server of this user's on this machine; empty for any other.

    The key is shown to nobody else: every socket that listens on the port belongs to this user (Linux; else none does).
    """
    try:
        owners = _owners(port)
        if owners != {os.getuid()}:
            return {}
        return {ADMIN_HEADER: default_path().read_text().strip()}
    except OSError:
        return {}


def _owners(port: int) -> set[int]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, user, *_ = line.split()
                if state == _LISTENS and int(local.rpartition(":")[2], 16) == port:
                    found.add(int(user))
    return found
