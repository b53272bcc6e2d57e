"""HDF5: datasets with events first, in the layouts that are common for jets.

- `[N]` and `[N, n]` datasets, variable-length lists, compound datasets (`consts.pt`);
- `[N, n, 4]`: four columns, `name.E`, `name.px`, `name.py`, `name.pz`;
- pandas' frames (fixed and table), as the top-tagging reference set has them: their columns by name.

Groups within the one that is read are parts of the names: `jets/pt`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.errors import FileError

_MOMENTUM = ("E", "px", "py", "pz")


@dataclass(frozen=True)
class _Location:
    """Where a column's values are: a dataset's, or one field or one last index of it."""

    dataset: str
    field: str | None = None
    index: int | None = None


class Hdf5Source:
    """The columns of one length in a file, or in its group `tree`."""

    def __init__(self, path: Path, tree: str | None) -> None:
        import h5py

        self._file = h5py.File(path, "r")
        self._lengths: dict[str, int] = {}
        try:
            locations = dict(_columns(_group(path, self._file, tree)))
            self.entries = _choose_length(path, locations, self._length, tree)
        except BaseException:
            self._file.close()
            raise
        self.tree = tree or ""
        self._locations = {name: at for name, at in locations.items() if self._length(at) == self.entries}
        self.columns = list(self._locations)
        self.counters: list[str] = []

    def _length(self, at: _Location) -> int:
        if at.dataset not in self._lengths:  # a frame has hundreds of columns in one dataset
            self._lengths[at.dataset] = int(self._file[at.dataset].shape[0])
        return self._lengths[at.dataset]

    def read(self, columns: Sequence[str], start: int, stop: int) -> Any:
        """Awkward record array of some columns of the events [start, stop)."""
        datasets = {name: self._file[name] for name in {self._locations[name].dataset for name in columns}}
        values = {name: _slice(dataset, start, stop) for name, dataset in datasets.items()}
        fields = []
        for name in columns:
            at = self._locations[name]
            array, dtype = values[at.dataset], datasets[at.dataset].dtype
            if at.field is not None:
                array, dtype = array[at.field], dtype[at.field]
            if at.index is not None:
                array = array[..., at.index]
            fields.append(_awkward(array, _base(dtype)))
        # Not by ak.zip, which takes longer over hundreds of columns than reading them.
        return ak.Array(ak.contents.RecordArray(fields, list(columns), length=max(0, stop - start)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Hdf5Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _group(path: Path, file: Any, tree: str | None) -> Any:
    import h5py

    group = file.get(tree or "/")
    if isinstance(group, h5py.Group):
        return group
    groups = [name for name, item in file.items() if isinstance(item, h5py.Group)]
    raise FileError(f"{path}: there is no group '{tree}'; it holds {', '.join(groups[:8]) or 'none'}")


def _choose_length(
    path: Path, locations: dict[str, _Location], length: Callable[[_Location], int], tree: str | None
) -> int:
    """The one length of all columns, or of those that look like constituents."""
    lengths = {length(at) for at in locations.values()}
    if not lengths:
        raise FileError(f"{path}: it holds no datasets with events first")
    if len(lengths) == 1:
        return next(iter(lengths))
    momenta = {
        length(at) for name, at in locations.items()
        if name.rpartition(".")[2].rpartition("_")[2].rpartition("/")[2].lower() in ("px", "pt", "eta", "phi")
    }  # fmt: skip
    if len(momenta) == 1:
        return int(momenta.pop())
    where = f"group '{tree}'" if tree else "the file"
    raise FileError(
        f"{path}: {where} has datasets of the lengths {', '.join(map(str, sorted(lengths)[:8]))}, and it is not clear "
        "which are the events; name a group with --tree"
    )


def _columns(group: Any) -> Iterator[tuple[str, _Location]]:
    """All columns below a group."""
    import h5py

    for name, item in group.items():
        if isinstance(item, h5py.Group):
            frame = list(_frame(item))
            if frame:
                yield from frame
            else:
                yield from ((f"{name}/{inner}", at) for inner, at in _columns(item))
        elif isinstance(item, h5py.Dataset) and item.shape:
            if item.dtype.fields:
                for field, (dtype, *_) in item.dtype.fields.items():
                    if _is_read(dtype, item.ndim):
                        yield f"{name}.{field}", _Location(item.name, field)
            elif item.ndim == 3 and item.shape[2] == 4 and item.dtype.kind == "f":
                yield from ((f"{name}.{part}", _Location(item.name, None, i)) for i, part in enumerate(_MOMENTUM))
            elif _is_read(item.dtype, item.ndim):
                yield str(name), _Location(item.name)


def _is_read(dtype: Any, ndim: int) -> bool:
    """Whether a dataset or a field of this type is a column: numbers of any shape, one list or word a row."""
    import h5py

    if h5py.check_string_dtype(dtype) or dtype.kind in "SU" or _base(dtype) is not None:
        return ndim == 1
    return dtype.base.kind in "biuf"


def _frame(group: Any) -> Iterator[tuple[str, _Location]]:
    """The columns of a pandas frame, if the group is one."""
    import h5py

    table = group.get("table")
    if isinstance(table, h5py.Dataset) and table.dtype.fields:  # to_hdf(format="table")
        for field, (dtype, *_) in table.dtype.fields.items():
            names = _stored_names(table.attrs.get(f"{field}_kind"))
            if not dtype.shape:
                if field != "index":
                    yield (names[0] if names and len(names) == 1 else field), _Location(table.name, field)
            elif names is not None and len(names) == dtype.shape[-1]:
                yield from ((name, _Location(table.name, field, i)) for i, name in enumerate(names))
        return
    for key in group:  # to_hdf(format="fixed")
        if key.startswith("block") and key.endswith("_items"):
            values = group.get(key.replace("_items", "_values"))
            if isinstance(values, h5py.Dataset) and values.ndim == 2 and values.dtype.kind in "biuf":
                names = [name.decode() if isinstance(name, bytes) else str(name) for name in group[key][:]]
                yield from ((name, _Location(values.name, None, i)) for i, name in enumerate(names))


class _NamesOnly(pickle.Unpickler):
    """Reads lists and strings, and nothing that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no column name")


def _stored_names(stored: Any) -> list[str] | None:
    """Column names as PyTables keeps them: a pickled list of strings."""
    if stored is None:
        return None
    try:
        names = _NamesOnly(io.BytesIO(bytes(stored))).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _base(dtype: Any) -> Any:
    """The number type of variable-length lists of numbers; None for others."""
    import h5py

    base = None if h5py.check_string_dtype(dtype) else h5py.check_vlen_dtype(dtype)
    return base if base is not None and np.dtype(base).kind in "biuf" else None


def _slice(dataset: Any, start: int, stop: int) -> Any:
    import h5py

    if h5py.check_string_dtype(dataset.dtype) is not None:
        return dataset.asstr("utf-8")[start:stop]  # whatever the file says: what is no UTF-8 is an error
    return dataset[start:stop]


@cache
def _turns_bytes(kind: Any) -> bool:
    """Whether h5py (3.16) gives lists of numbers in a foreign byte order as if they were in the machine's own."""
    import h5py

    with h5py.File("trial", "w", driver="core", backing_store=False) as file:
        lists = file.create_dataset("x", (1,), h5py.vlen_dtype(kind))
        lists[0] = np.ones(1, kind)
        return bool(lists[0][0] != 1)


def _awkward(values: Any, base: Any) -> Any:
    """The layout of an awkward array; `base` is what `_base` says of its type."""
    if base is not None:
        kind, native = np.dtype(base), np.dtype(base).newbyteorder("=")
        turned = kind != native and _turns_bytes(kind)
        rows = [np.asarray(row).byteswap() if turned else np.asarray(row, dtype=native) for row in values]
        flat = np.concatenate(rows).astype(native, copy=False) if rows else np.zeros(0, native)
        return ak.to_layout(ak.unflatten(flat, np.asarray([len(row) for row in rows], dtype=np.int64)))
    if values.dtype.kind in "OSU":
        words = [word.decode() if isinstance(word, bytes) else str(word) for word in values.tolist()]
        return ak.to_layout(ak.enforce_type(ak.Array(words), "string") if words else ak.Array([""])[:0])
    # Awkward takes numbers in the machine's own byte order only.
    numbers = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))
    return ak.contents.NumpyArray(numbers) if numbers.ndim == 1 else ak.to_layout(ak.from_numpy(numbers))
