"""Where a file of events is: a path, or a URL that uproot reads."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

REMOTE = ("root://", "roots://", "xroot://", "http://", "https://", "s3://", "davs://")


def is_remote(location: str | Path) -> bool:
    """Whether it is a URL rather than a path."""
    return str(location).startswith(REMOTE)


def suffix_of(location: str | Path) -> str:
    """`.root` of a path or URL."""
    name = str(location)
    return PurePosixPath(name.partition("?")[0] if is_remote(name) else name).suffix
