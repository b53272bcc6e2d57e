"""Event files in and out: ROOT, parquet and HDF5, in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import awkward as ak
import numpy as np

from sonic_client.errors import ClientError, JetError

SUFFIXES = (".root", ".parquet", ".h5", ".hdf5")


class FileError(ClientError, OSError):
    """A file that cannot be read, or not be written."""


class Source(Protocol):
    """A file of events with named columns."""

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""

    @property
    def entries(self) -> int:
        """Number of events."""

    def read(self, columns: Sequence[str], start: int, stop: int) -> Any:
        """Awkward record array of some columns of the events [start, stop)."""


def open_source(path: Path, tree: str | None) -> Source:
    """Open `.root` (tree needed if there are several), `.parquet` or `.h5`. Raises FileError."""
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    kinds: dict[str, Any] = {".root": _RootSource, ".parquet": _ParquetSource, ".h5": _Hdf5Source, ".hdf5": _Hdf5Source}
    kind = kinds.get(path.suffix)
    if kind is None:
        raise FileError(f"{path}: expected a name ending in {', '.join(SUFFIXES)}")
    with readable(f"{path}: not a readable {path.suffix[1:]} file"):
        source: Source = kind(path, tree)
        return source


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


def select(columns: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The columns that match any of some shell patterns. Raises JetError for a pattern that matches none."""
    chosen: list[str] = []
    for pattern in patterns:
        matching = [name for name in columns if fnmatchcase(name, pattern)]
        if not matching:
            raise JetError(f"no branch matches '{pattern}'; there are {', '.join(columns)}")
        chosen += matching
    return list(dict.fromkeys(chosen))


class _RootSource:
    def __init__(self, path: Path, tree: str | None) -> None:
        import uproot

        self._file = uproot.open(path)
        trees = sorted({name for name, kind in self._file.classnames(cycle=False).items() if kind in _TREES})
        if tree is None and len(trees) == 1:
            tree = trees[0]
        if tree is None or tree not in trees:
            wanted = "a tree must be named with --tree" if tree is None else f"there is no tree '{tree}'"
            raise FileError(f"{path}: {wanted}; it holds {', '.join(trees) or 'none'}")
        self._tree = self._file[tree]
        names = [str(name) for name in self._tree.keys()]  # noqa: SIM118 - a tree is no mapping
        counters = {f"n{name}" for name in names}  # uproot's own: the lengths of the lists in the branch `name`
        self.columns = [name for name in names if name not in counters]
        self.entries = int(self._tree.num_entries)

    def read(self, columns: Sequence[str], start: int, stop: int) -> Any:
        return self._tree.arrays(list(columns), entry_start=start, entry_stop=stop)


_TREES = ("TTree", "ROOT::RNTuple", "TNtuple", "TNtupleD")


class _ParquetSource:
    def __init__(self, path: Path, _tree: str | None) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        self.columns = [str(name) for name in self._file.schema_arrow.names]
        self.entries = int(self._file.metadata.num_rows)
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)

    def read(self, columns: Sequence[str], start: int, stop: int) -> Any:
        """Only the row groups that hold these events are read."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        table = self._file.read_row_groups(list(range(first, last)), columns=list(columns))
        offset = int(self._starts[first])
        return ak.from_arrow(table.slice(start - offset, stop - start))


class _Hdf5Source:
    """Datasets of the file's root (or of the group `tree`), all with events first; `[N, n]` are padded lists."""

    def __init__(self, path: Path, tree: str | None) -> None:
        import h5py

        group = h5py.File(path, "r")[tree or "/"]
        self._data = {str(name): item for name, item in group.items() if isinstance(item, h5py.Dataset)}
        lengths = {len(item) for item in self._data.values() if item.shape}
        if len(lengths) != 1:
            raise FileError(f"{path}: expected datasets of one length, got lengths {sorted(lengths)}")
        self.columns = list(self._data)
        self.entries = int(lengths.pop())

    def read(self, columns: Sequence[str], start: int, stop: int) -> Any:
        import h5py

        fields = {}
        for name in columns:
            values = self._data[name][start:stop]
            ragged = h5py.check_vlen_dtype(self._data[name].dtype) is not None
            fields[name] = ak.Array([np.asarray(row) for row in values]) if ragged else ak.from_numpy(values)
        return ak.zip(fields, depth_limit=1)


def write(path: Path, chunks: Iterable[Any], tree: str) -> None:
    """Write record arrays one after the other into one file, which appears whole or not at all."""
    writers = {".root": _write_root, ".parquet": _write_parquet, ".h5": _write_hdf5, ".hdf5": _write_hdf5}
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        writers[path.suffix](temporary, iter(chunks), tree)
        temporary.replace(path)
    except (TypeError, ValueError) as error:
        raise FileError(f"{path}: cannot be written ({error}); keep fewer branches, or write parquet") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_root(path: Path, chunks: Iterator[Any], tree: str) -> None:
    import uproot

    with uproot.recreate(path) as file:
        target: Any = None
        for chunk in chunks:
            columns = {name: _plain(chunk[name]) for name in chunk.fields}
            if target is None:
                target = file.mktree(tree, {name: values.type.content for name, values in columns.items()})
            target.extend(columns)


def _write_parquet(path: Path, chunks: Iterator[Any], _tree: str) -> None:
    ak.to_parquet_row_groups(chunks, path)


def _write_hdf5(path: Path, chunks: Iterator[Any], _tree: str) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for chunk in chunks:
            for name in chunk.fields:
                values = _plain(chunk[name])
                if values.ndim > 2:
                    raise ValueError(f"column '{name}' is nested too deeply for HDF5 ({values.type})")
                if values.ndim == 1 or not _is_jagged(values):
                    rows = ak.to_numpy(values)
                    dtype = rows.dtype
                else:
                    rows = np.empty(len(values), object)
                    rows[:] = [np.asarray(row) for row in values]
                    dtype = h5py.vlen_dtype(ak.to_numpy(ak.flatten(values)).dtype)
                if name not in file:
                    file.create_dataset(
                        name, (0, *rows.shape[1:]), dtype, maxshape=(None, *rows.shape[1:]), chunks=True
                    )
                file[name].resize(len(file[name]) + len(rows), axis=0)
                file[name][-len(rows) :] = rows


def _is_jagged(values: Any) -> bool:
    return "var" in str(values.type)


def _plain(values: Any) -> Any:
    """Without missing values, which ROOT and HDF5 do not know: a missing score is NaN."""
    if "?" in str(values.type) or "option" in str(values.type):
        return ak.fill_none(values, np.nan, axis=-1)
    return values
