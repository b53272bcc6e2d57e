"""Parquet, through pyarrow; the members of structs, in lists or not, are columns: `jets.pt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.errors import FileError
from sonic_client.events.arrow_types import changes, innermost, plain_table


class ParquetSource:
    """A parquet file; only the row groups that hold the events asked for are read."""

    tree = ""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        # Awkward's own metadata say how nulls lay in memory at the first row group, and are taken for all others
        # (awkward 2.14): the plain Arrow types say all that is needed.
        self._schema = self._file.schema_arrow.remove_metadata()
        self._path = path
        self._steps: dict[str, tuple[str, ...]] = {}
        self._kinds: dict[str, Any] = {}
        for field in self._schema:
            for steps, kind in _members(field):
                self._steps.setdefault(".".join(steps), steps)
                self._kinds.setdefault(".".join(steps), kind)
        self.columns = list(self._steps)
        self.counters: list[str] = []
        self.entries = int(self._file.metadata.num_rows)
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self._held: tuple[tuple[int, tuple[str, ...]], Any] | None = None

    def read(self, columns: Sequence[str], start: int, stop: int) -> Any:
        """Awkward record array of some columns of the events [start, stop)."""
        for name in columns:
            if changes(self._kinds[name]):
                raise FileError(
                    f"{self._path}: '{name}' holds {self._kinds[name]}, which would not come out as it went in; keep "
                    "fewer branches, or cast it to numbers or words"
                )
        top = tuple(dict.fromkeys(self._steps[name][0] for name in columns))
        if start >= stop:
            rows = self._convert(self._schema.empty_table(), top)
        else:
            first = int(np.searchsorted(self._starts, start, side="right")) - 1
            last = int(np.searchsorted(self._starts, stop, side="left"))
            pieces = []
            for group in range(first, last):
                offset, end = int(self._starts[group]), int(self._starts[group + 1])
                pieces.append(self._row_group(group, top)[max(start, offset) - offset : min(stop, end) - offset])
            rows = pieces[0] if len(pieces) == 1 else ak.concatenate(pieces)
        fields = {}
        for name in columns:
            values = rows
            for step in self._steps[name]:
                values = values[step]
            fields[name] = values
        return ak.zip(fields, depth_limit=1)

    def _row_group(self, group: int, top: tuple[str, ...]) -> Any:
        """One row group as a whole; the last one is held, as small chunks ask for it again and again.

        It is converted whole and sliced afterwards, since a slice of an Arrow table loses the offset of its validity
        bits on the way into awkward 2.14: nulls would move to other rows.
        """
        key = (group, top)
        if self._held is None or self._held[0] != key:
            self._held = None
            self._held = (key, self._convert(self._file.read_row_group(group, columns=list(top)), top))
        return self._held[1]

    @staticmethod
    def _convert(table: Any, top: tuple[str, ...]) -> Any:
        table = plain_table(table.select(list(top)))
        batches = [ak.from_arrow(batch) for batch in table.combine_chunks().to_batches()]
        if not batches:
            return ak.from_arrow(table)
        return batches[0] if len(batches) == 1 else ak.concatenate(batches)

    def close(self) -> None:
        """Close the file."""
        self._held = None
        self._file.close()

    def __enter__(self) -> ParquetSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _members(field: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Names on the way to every value of an Arrow field, lists being passed through; and the values' types."""
    import pyarrow.types as kinds

    inside = innermost(field.type)
    if kinds.is_struct(inside):
        members = [member for i in range(inside.num_fields) for member in _members(inside.field(i))]
        return [((str(field.name), *steps), kind) for steps, kind in members]
    return [((str(field.name),), inside)]
