"""Writing scores and kept columns to ROOT, parquet or HDF5; what those cannot hold is found out beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.errors import ClientError, FileError
from sonic_client.events.arrow_types import plain_table
from sonic_client.events.files import SUFFIXES
from sonic_client.events.hdf5_output import PROVENANCE, Chunk, write_hdf5
from sonic_client.events.locations import is_remote, suffix_of
from sonic_client.events.missing import without_options


@dataclass(frozen=True)
class Nulls:
    """Where a nullable column has missing values: numbers or words, or whole lists (or records)."""

    values: bool = False
    lists: bool = False


def check_target(output: Path | str, overwrite: bool) -> None:
    """Raises FileError where nothing can be written. What exists is left as it is."""
    if is_remote(output) or "://" in str(output):
        raise FileError(f"{output}: outputs are written to local folders only; copy the file there afterwards")
    path = Path(output)
    if path.suffix not in SUFFIXES:
        raise FileError(f"{path}: expected a name ending in {', '.join(SUFFIXES)}")
    try:
        _check_place(path, overwrite)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error


def _check_place(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise FileError(f"{path} is a folder, not a file to write")
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists; choose another name or --overwrite")
    if not path.parent.is_dir():
        raise FileError(f"{path}: there is no folder {path.parent}")


def enforce(array: Any, kind: Any) -> Any:
    """An array of the same values, with options added or (where nothing is missing) left out.

    Raises FileError rather than lose a row: `ak.enforce_type` of awkward 2.14 loses those of empty lists.
    """
    kind = ak.types.from_datashape(kind, highlevel=False) if isinstance(kind, str) else kind
    nullable = "?" in str(kind) or "option[" in str(kind)
    try:
        result = ak.enforce_type(array, kind) if nullable else without_options(array)
    except ValueError as error:
        raise FileError(f"{array.type} cannot be taken as {kind}: {error}") from error
    if len(result) != len(array) or str(result.type.content) != str(kind):
        raise FileError(f"{array.type} cannot be taken as {kind}")
    return result


def find_nulls(chunks: Iterable[Chunk], names: Iterable[str]) -> dict[str, Nulls]:
    """Which of the nullable columns have missing values, looking at all of them."""
    found = {name: Nulls() for name in names}
    for chunk in chunks:
        for name, before in found.items():
            array = chunk[name]
            if _is_nullable(array) and before != Nulls(True, True):
                depth = _depth(array)
                here = [bool(ak.any(ak.is_none(array, axis=axis), axis=None)) for axis in range(depth)]
                found[name] = Nulls(before.values or here[-1], before.lists or any(here[:-1]))
    return found


def encode(chunk: Chunk, nulls: Mapping[str, Nulls], suffix: str) -> dict[str, Any]:
    """Columns as a kind of file can hold them.

    Parquet holds nulls. In ROOT and HDF5 a missing float is NaN; an integer or a boolean keeps its type, is 0 where it
    is missing, and has a column NAME_mask beside it, true there.

    Raises:
        FileError: Missing lists, missing words, or two columns of one name.
    """
    encoded: dict[str, Any] = {}
    for name, array in chunk.items():
        written = name.replace("/", "_") if suffix == ".root" else name
        columns = {written: array} if suffix == ".parquet" else _without_nulls(written, array, nulls.get(name, Nulls()))
        for key, values in columns.items():
            if key in encoded:
                raise FileError(f"two columns would be called '{key}'; keep fewer branches")
            encoded[key] = values
    return encoded


def _without_nulls(name: str, array: Any, nulls: Nulls) -> dict[str, Any]:
    if not _is_nullable(array):
        return {name: array}
    if nulls.lists:
        raise FileError(f"'{name}' ({array.type.content}) has missing lists, which only parquet can hold")
    plain = plain_kind(array.type.content)
    if not nulls.values:
        return {name: enforce(array, plain)}
    leaf = _leaf(plain)
    if not isinstance(leaf, ak.types.NumpyType) or leaf.primitive.startswith(("datetime", "timedelta")):
        raise FileError(
            f"'{name}' ({array.type.content}) has missing values that are no numbers: only parquet holds it"
        )
    dtype = np.dtype(leaf.primitive)
    missing = np.array(np.nan if dtype.kind in "fc" else 0, dtype)[()]
    columns = {name: enforce(ak.values_astype(ak.fill_none(array, missing, axis=-1), dtype), plain)}
    if dtype.kind not in "fc":
        columns[f"{name}_mask"] = enforce(ak.is_none(array, axis=-1), _with_leaf(plain, "bool"))
    return columns


def try_out(path: Path, sample: Mapping[str, Any], tree: str) -> None:
    """Write a few events to `path` and forget them. Raises FileError that names the column that cannot be written."""
    try:
        _try(path, sample, tree)
    except FileError as error:
        if isinstance(error.__cause__, OSError):  # it is not the columns that the disc refuses
            raise FileError(f"{path.parent}: {error}") from error
        for name, values in sample.items():
            try:
                _try(path, {name: values}, tree)
            except FileError as alone:
                raise FileError(
                    f"{path.suffix[1:]} files cannot hold '{name}' ({values.type.content}): {alone.__cause__}; keep "
                    "fewer branches, or write parquet"
                ) from alone
        raise FileError(f"{path}: {error}") from error


def _try(path: Path, sample: Mapping[str, Any], tree: str) -> None:
    try:
        _writers()[path.suffix](path, iter([sample]), tree, "")
        check_back(sample, _read_back(path, tree, sample))
    except FileError:
        raise
    except Exception as error:  # whatever a library says, it cannot be written
        raise FileError(f"cannot be written ({type(error).__name__}: {error})") from error
    finally:
        path.unlink(missing_ok=True)


def check_back(written: Chunk, back: Mapping[str, Any]) -> None:
    """Raises ValueError where what was read back is not what was written: libraries write more than they read."""
    for name, values in written.items():
        if name in back and (back[name] is values or ak.array_equal(back[name], values, equal_nan=True)):
            continue
        # Missing values lie in memory in several ways, which array_equal tells apart. In words NaN is equal to itself.
        if name not in back or repr(ak.to_list(back[name])) != repr(ak.to_list(values)):
            raise ValueError(f"'{name}' ({values.type.content}) does not come back as it was written")


def _read_back(path: Path, tree: str, sample: Chunk) -> Mapping[str, Any]:
    """What a written file holds, by the library that others will read it with."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = ak.from_arrow(pq.read_table(path, memory_map=False))
        return {name: rows[name] for name in sample}
    if path.suffix == ".root":
        import uproot

        with uproot.open(path) as file:
            return {name: file[tree][name].array() for name in sample}
    return sample  # HDF5 is written here by the column's type, with nothing left to a library


def write(
    path: Path,
    chunks: Iterable[Chunk],
    tree: str,
    provenance: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Write chunks one after the other into one file, which appears whole or not at all.

    Without `overwrite`, a file that appeared at `path` meanwhile stays. `provenance` is put beside the chunks, as JSON
    under the name `provenance`.
    """
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        _writers()[path.suffix](temporary, iter(chunks), tree, json.dumps(provenance) if provenance else "")
        check_target(path, overwrite)
        temporary.replace(path)
    except ClientError:
        raise
    except (TypeError, ValueError, OSError) as error:
        raise FileError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _writers() -> dict[str, Callable[[Path, Iterator[Chunk], str, str], None]]:
    return {".root": _write_root, ".parquet": _write_parquet, ".h5": write_hdf5, ".hdf5": write_hdf5}


def _write_root(path: Path, chunks: Iterator[Chunk], tree: str, provenance: str) -> None:
    import uproot

    with uproot.recreate(path) as file:
        target: Any = None
        for chunk in chunks:
            if target is None:
                taken = set(chunk)

                def counter(counted: str, taken: set[str] = taken) -> str:
                    """Uproot's name, unless a column has it: `njets` may be kept beside `jets`."""
                    return next(name for i in range(len(taken) + 1) if (name := f"n{'_' * i}{counted}") not in taken)

                kinds = {name: values.type.content for name, values in chunk.items()}
                for name, kind in kinds.items():  # uproot writes rectangles in lists so that nobody can read them
                    if isinstance(kind, ak.types.ListType) and not isinstance(kind.content, ak.types.NumpyType):
                        raise TypeError(f"'{name}': a list in a TTree holds numbers, not {kind.content}")
                target = file.mktree(tree, kinds, counter_name=counter)
            target.extend(dict(chunk))
        if provenance:
            file[PROVENANCE if tree != PROVENANCE else f"{PROVENANCE}_"] = provenance


def arrow_table(chunk: Chunk) -> Any:
    """A table of plain Arrow types, that any reader of parquet understands, the same for chunks of the same types."""
    return plain_table(ak.to_arrow_table(ak.zip(dict(chunk), depth_limit=1), extensionarray=False))


def _write_parquet(path: Path, chunks: Iterator[Chunk], _tree: str, provenance: str) -> None:
    import pyarrow.parquet as pq

    # Not through awkward's own writer: it notes how nulls lay in memory in the first row group, and reading the others
    # by that note loses theirs (awkward 2.14).
    writer: Any = None
    try:
        for chunk in chunks:
            table = arrow_table(chunk).replace_schema_metadata({PROVENANCE: provenance} if provenance else None)
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _depth(array: Any) -> int:
    """Levels of lists above the values, words being values."""
    kind, depth = array.type.content, 1
    while True:
        if isinstance(kind, ak.types.OptionType):
            kind = kind.content
        elif isinstance(kind, (ak.types.ListType, ak.types.RegularType)) and "__array__" not in kind.parameters:
            kind, depth = kind.content, depth + 1
        else:
            return depth


def _is_nullable(array: Any) -> bool:
    text = str(array.type)
    return "?" in text or "option[" in text


def plain_kind(kind: Any) -> Any:
    """A type without its options."""
    if isinstance(kind, ak.types.OptionType):
        return plain_kind(kind.content)
    if isinstance(kind, ak.types.ListType):
        return ak.types.ListType(plain_kind(kind.content), parameters=kind.parameters)
    if isinstance(kind, ak.types.RegularType):
        return ak.types.RegularType(plain_kind(kind.content), kind.size, parameters=kind.parameters)
    if isinstance(kind, ak.types.RecordType):
        return ak.types.RecordType([plain_kind(one) for one in kind.contents], kind.fields, parameters=kind.parameters)
    return kind


def _leaf(kind: Any) -> Any:
    while isinstance(kind, (ak.types.ListType, ak.types.RegularType)) and "__array__" not in kind.parameters:
        kind = kind.content
    return kind


def _with_leaf(kind: Any, primitive: str) -> Any:
    if isinstance(kind, ak.types.ListType):
        return ak.types.ListType(_with_leaf(kind.content, primitive))
    if isinstance(kind, ak.types.RegularType):
        return ak.types.RegularType(_with_leaf(kind.content, primitive), kind.size)
    return ak.types.NumpyType(primitive)


__all__ = ["SUFFIXES", "Chunk", "Nulls", "check_target", "encode", "find_nulls", "suffix_of", "try_out", "write"]
