"""The one folder for everything that is kept: programs, verdicts, plans, the emulator, bitstreams, pyopencl's own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

from fpga_ops.errors import DeviceError
from fpga_ops.runtime.warn_once import warn_once


def user_cache() -> Path:
    """Where the user's cache is or would be: `fpga_ops` under `$XDG_CACHE_HOME` (`~/.cache`). Nothing is made.

    For a user without a home and without a name, as in a container, it is no absolute path.
    """
    try:
        return Path(platformdirs.user_cache_dir("fpga_ops"))
    except RuntimeError:  # platformdirs 4.14 says so; older ones give such a path
        return Path("~/.cache/fpga_ops")


def cache_directory(chosen: str | os.PathLike[str] | None = None) -> Path:
    """A folder that can be written: `chosen`, or the user's cache, or else a private one for temporary files.

    Raises:
        DeviceError: The chosen folder cannot be made, or not even a temporary one can.
    """
    if chosen is not None:
        folder = Path(chosen)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(f"cache directory {folder} cannot be made: {error.strerror}") from error
        return folder
    folder = user_cache()
    if folder.is_absolute():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
        except OSError:
            pass  # a read-only or missing home: the next choice
    return _temporary(tempfile.gettempdir())


@cache
def _temporary(base: str) -> Path:
    """A private folder: one for all processes of this user, or where somebody else took that name one of our own."""
    shared = Path(base) / f"fpga_ops-{os.getuid()}"
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        status = shared.lstat()
        if shared.is_dir() and not shared.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return shared
        own = Path(tempfile.mkdtemp(prefix="fpga_ops-", dir=base))
    except OSError as error:
        raise DeviceError(
            f"no cache folder can be written, neither {user_cache()} nor one in {base} ({error.strerror}): "
            "set XDG_CACHE_HOME to a folder that you can write"
        ) from error
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def write_atomically(path: Path, *content: bytes | memoryview) -> None:
    """Write a file that another process never sees half-written. A full or read-only disc costs only the cache."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.stem}-", delete=False) as stream:
            written = Path(stream.name)
            try:
                for chunk in content:
                    stream.write(chunk)
                stream.flush()
                written.replace(path)
            except OSError:
                written.unlink(missing_ok=True)
                raise
    except OSError as error:
        reason = error.strerror or error
        warn_once(f"{path.parent}: nothing can be kept ({reason}); compiled programs and plans are made anew each time")
