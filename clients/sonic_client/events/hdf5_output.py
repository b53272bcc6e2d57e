"""HDF5 output: a dataset for each column, in a file that is whole or known not to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import awkward as ak
import numpy as np

Chunk = Mapping[str, Any]
"""Columns of some events by name: awkward arrays, of the same types in every chunk."""
PROVENANCE = "provenance"
"""Name of what an output says of itself, as JSON: an object in ROOT, file metadata in parquet, an attribute in HDF5."""


def write_hdf5(path: Path, chunks: Iterator[Chunk], _tree: str, provenance: str) -> None:
    """Write chunks one after the other. Raises OSError where the disc refuses a byte, TypeError for other columns."""
    import h5py

    with _Disc(path) as disc, h5py.File(disc, "w") as file:
        if provenance:
            file.attrs[PROVENANCE] = provenance
        for chunk in chunks:
            if disc.refusal is not None:
                return
            for name, values in chunk.items():
                rows, dtype = _hdf5_rows(name, values)
                if name not in file:
                    file.create_dataset(
                        name, (0, *rows.shape[1:]), dtype, maxshape=(None, *rows.shape[1:]), chunks=True
                    )
                dataset = file[name]
                start = len(dataset)
                dataset.resize(start + len(rows), axis=0)
                if len(rows) and h5py.check_vlen_dtype(dtype) is not None:
                    # h5py's own assignment takes lists that all have one length for one row, and spreads it.
                    space = dataset.id.get_space()
                    space.select_hyperslab((start,), (len(rows),))
                    memory = h5py.h5s.create_simple((len(rows),))
                    dataset.id.write(memory, space, rows, h5py.h5t.py_create(dataset.dtype))
                elif len(rows):
                    dataset[start:] = rows


def _hdf5_rows(name: str, values: Any) -> tuple[Any, Any]:
    """Rows of a dataset, and its type: decided by the column's type, never by what a chunk happens to hold."""
    import h5py

    kind = values.type.content
    if isinstance(kind, ak.types.ListType) and kind.parameters.get("__array__") == "string":
        return np.array(ak.to_list(values), dtype=object).reshape(len(values)), h5py.string_dtype()
    if isinstance(kind, ak.types.ListType) and isinstance(kind.content, ak.types.NumpyType):
        base = np.dtype(kind.content.primitive)
        rows = np.empty(len(values), h5py.vlen_dtype(base))
        offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(values, axis=1)))]).astype(int)
        flat = ak.to_numpy(ak.flatten(values)).astype(base)
        for i in range(len(rows)):
            rows[i] = flat[offsets[i] : offsets[i + 1]]
        return rows, h5py.vlen_dtype(base)
    leaf = kind
    while isinstance(leaf, ak.types.RegularType):
        leaf = leaf.content
    if isinstance(leaf, ak.types.NumpyType) and np.dtype(leaf.primitive).kind in "biufc":
        rows = ak.to_numpy(values)
        return rows, rows.dtype
    raise TypeError(f"'{name}': HDF5 holds numbers, rectangular arrays, lists of numbers and words here, not {kind}")


class _Disc:
    """A file to write and read, which keeps what the disc refuses and raises it at the end.

    HDF5 (1.14) says nothing when it closes a file that could not be written, and ends the process a moment later.
    """

    def __init__(self, path: Path) -> None:
        self.refusal: OSError | None = None
        self._file = path.open("w+b", buffering=0)
        self._held: list[tuple[int, bytes]] = []
        """What was refused, by its place: so that HDF5 finds it again, and comes to its end."""
        self._place = self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._file.close()  # where a file server refuses
        except OSError as refusal:
            self.refusal = self.refusal or refusal
        if self.refusal is not None:
            raise self.refusal from error

    def seek(self, place: int, whence: int = 0) -> int:
        self._place = place + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        content = memoryview(data).cast("B")
        try:
            if self.refusal is None:
                self._file.seek(self._place)
                left = content
                while len(left):
                    left = left[self._file.write(left) :]
        except OSError as refusal:
            self.refusal = refusal
        if self.refusal is not None:
            self._held.append((self._place, bytes(content)))
        self._place += len(content)
        self._size = max(self._size, self._place)
        return len(content)

    def read(self, size: int) -> bytes:
        content = bytearray(size)
        self.readinto(content)
        return bytes(content)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._place)
        read = self._file.readinto(view) or 0
        view[read:] = bytes(len(view) - read)
        for place, content in self._held:
            first, last = max(place, self._place), min(place + len(content), self._place + len(view))
            if first < last:
                view[first - self._place : last - self._place] = content[first - place : last - place]
        self._place += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        try:
            self._file.truncate(size)
        except OSError as refusal:
            self.refusal = self.refusal or refusal
        self._size = size
        return size

    def flush(self) -> None:
        """Nothing is held back."""
