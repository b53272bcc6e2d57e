"""Event files: which kinds there are, how one is opened, and how its columns are chosen by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from sonic_client.errors import ClientError, FileError, JetError
from sonic_client.events.locations import is_remote, suffix_of

SUFFIXES = (".root", ".parquet", ".h5", ".hdf5")
_NAMES_SHOWN = 8


class Source(Protocol):
    """A file of events with named columns. Close it, or use it as a context manager."""

    columns: list[str]
    """Names of all columns but those of `counters`."""
    counters: list[str]
    """Columns that hold nothing but the lengths of other columns' lists; they can be read like any other."""
    entries: int
    """Number of events."""
    tree: str
    """Name of the tree, group or frame that was opened; empty where the kind of file has none."""

    def read(self, columns: Sequence[str], start: int, stop: int) -> Any:
        """Awkward record array of some columns of the events [start, stop)."""

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Source: ...

    def __exit__(self, *_: object) -> None: ...


def open_source(location: str | Path, tree: str | None) -> Source:
    """Open `.root` (a path, or what uproot can read by URL), `.parquet` or `.h5`.

    Args:
        location: The file.
        tree: Tree in the ROOT file, group in HDF5; None takes the only one, or the one that experiments call events.

    Raises:
        FileError: There is no such file, or it cannot be understood.
    """
    suffix = suffix_of(location)
    if suffix not in SUFFIXES:
        raise FileError(f"{location}: expected a name ending in {', '.join(SUFFIXES)}")
    if is_remote(location):
        if suffix != ".root":
            raise FileError(f"{location}: only ROOT files are read by URL; copy it here first")
    elif not Path(location).is_file():
        raise FileError(f"{location}: no such file")
    with readable(f"{location}: not a readable {suffix[1:]} file"):
        if suffix == ".root":
            from sonic_client.events.sources.root import RootSource

            return RootSource(location, tree)
        if suffix == ".parquet":
            from sonic_client.events.sources.parquet import ParquetSource

            return ParquetSource(Path(location))
        from sonic_client.events.sources.hdf5 import Hdf5Source

        return Hdf5Source(Path(location), tree)


@contextmanager
def readable(otherwise: str) -> Iterator[None]:
    """Whatever a library raises over a damaged file becomes a FileError that begins with `otherwise`.

    uproot has been seen to raise struct.error, IndexError, AssertionError, NotImplementedError and zlib.error.
    """
    try:
        yield
    except ClientError:
        raise
    except Exception as error:
        raise FileError(f"{otherwise} ({type(error).__name__}: {error})") from error


def select(source: Source, patterns: Sequence[str]) -> list[str]:
    """The columns that match any of some shell patterns; a counter only if it is named in full.

    Raises JetError for a pattern that matches none.
    """
    chosen: list[str] = []
    for pattern in patterns:
        exact = [name for name in (*source.columns, *source.counters) if name == pattern]
        matching = exact or [name for name in source.columns if fnmatchcase(name, pattern)]
        if not matching:
            raise JetError(f"no branch matches '{pattern}'; {describe_names(source.columns, pattern)}")
        chosen += matching
    return list(dict.fromkeys(chosen))


def describe_names(names: Sequence[str], wanted: str = "") -> str:
    """A few of many names, the nearest to `wanted` first: an experiment's file has thousands."""
    if not names:
        return "there are no branches"
    lower = {name.lower(): name for name in names}
    near = [lower[key] for key in difflib.get_close_matches(wanted.lower(), lower, _NAMES_SHOWN, 0.4)] if wanted else []
    near += [name for name in names if wanted and wanted.strip("*").lower() in name.lower()]
    shown = list(dict.fromkeys([*near, *sorted(names)]))[:_NAMES_SHOWN]
    left = len(set(names)) - len(shown)
    return "there are " + ", ".join(f"'{name}'" for name in shown) + (f" and {left} more" if left > 0 else "")
