"""Files of jets and of pixel maps: parquet and ROOT, one row an event, what varies in length as jagged lists."""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from retrain.data.jet_table import MAX_CONSTITUENTS, Jets, concatenate, labelled_jets
from retrain.data.pixelmaps import CELLS, PLANES, VIEWS, PixelMaps, concatenate_maps
from retrain.data.reference_set import read_reference_set
from retrain.errors import DataError

COMPONENTS = ("E", "px", "py", "pz")
CONSTITUENT_COLUMNS = tuple(f"constituent_{name}" for name in COMPONENTS)
JET_COLUMNS = ("jet_pt", "jet_eta", "jet_phi", "jet_mass")
LABEL_COLUMN = "is_top"
TREE, MAPS_TREE = "jets", "pixel_maps"
MAP_COLUMNS = ("hit_cell", "hit_charge", "label", "energy")  # cell: place in the flattened [2, 100, 80]
SUFFIXES = (".parquet", ".root")
REFERENCE_SUFFIXES = (".h5", ".hdf5")
ARRAY_SUFFIX = ".npz"


def write_jets(path: Path, jets: Jets) -> None:
    """Write jets to `.parquet` or `.root`; the file appears whole or not at all."""
    _require_known(path)
    _write(path, _columns(jets), TREE)


def write_maps(path: Path, maps: PixelMaps) -> None:
    """Write pixel maps to `.parquet` or `.root`, cells with charge only; the file appears whole or not at all."""
    import awkward as ak

    _require_known(path)
    flat = maps.charge.reshape(len(maps), -1)
    row, cell = np.nonzero(flat)
    counts = np.bincount(row, minlength=len(maps))
    values = (
        ak.unflatten(cell.astype(np.uint16), counts),
        ak.unflatten(flat[row, cell], counts),
        maps.label,
        maps.energy,
    )
    _write(path, dict(zip(MAP_COLUMNS, values, strict=True)), MAPS_TREE)


def read_maps(path: Path) -> PixelMaps:
    """Read and check one file that `write_maps` wrote.

    Raises:
        DataError: The file is of another kind, cannot be read, or holds cells that no map has.
    """
    import awkward as ak

    _require_known(path)
    record = _read(path, MAP_COLUMNS, MAPS_TREE)
    cells, charges = record[MAP_COLUMNS[0]], record[MAP_COLUMNS[1]]
    counts = ak.to_numpy(ak.num(cells))
    if not np.array_equal(ak.to_numpy(ak.num(charges)), counts):
        raise DataError(f"{path}: {MAP_COLUMNS[1]} has other list lengths than {MAP_COLUMNS[0]}")
    cell = ak.to_numpy(ak.flatten(cells)).astype(np.int64)
    if len(cell) and cell.max() >= VIEWS * PLANES * CELLS:
        raise DataError(f"{path}: {MAP_COLUMNS[0]} must be below {VIEWS * PLANES * CELLS}, got {cell.max()}")
    charge = np.zeros((len(counts), VIEWS * PLANES * CELLS), np.uint8)
    charge[np.repeat(np.arange(len(counts)), counts), cell] = ak.to_numpy(ak.flatten(charges))
    label, energy = (ak.to_numpy(record[name]) for name in MAP_COLUMNS[2:])
    return PixelMaps(charge.reshape(-1, VIEWS, PLANES, CELLS), label.astype(np.int64), energy.astype(np.float32))


def _write(path: Path, columns: dict[str, Any], tree: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".parquet":
            import awkward as ak

            ak.to_parquet(ak.zip(columns, depth_limit=1), temporary, compression="zstd")
        else:
            import uproot

            with uproot.recreate(temporary, compression=uproot.LZMA(6)) as file:
                file[tree] = columns
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_jets(path: Path) -> Jets:
    """Read and check one file of jets.

    A file that `write_jets` wrote, or one of the same columns; `.h5` of the reference set; or `.npz` with
    `constituents` float32[N, 200, 4] (E, px, py, pz in GeV, falling pT, zeros behind) and `is_top`, where the jets'
    kinematics are those of the sums.
    """
    if path.suffix not in (*REFERENCE_SUFFIXES, ARRAY_SUFFIX):
        _require_known(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix in REFERENCE_SUFFIXES:
        return read_reference_set(path)
    if path.suffix == ARRAY_SUFFIX:
        return _read_arrays(path)
    return _jets(_read(path, (*CONSTITUENT_COLUMNS, *JET_COLUMNS, LABEL_COLUMN), TREE), path)


def read_all(paths: Iterable[Path]) -> Jets:
    """Read files, or all jet files of folders, in the order of their names."""
    return concatenate([read_jets(file) for file in _files(paths, (*SUFFIXES, *REFERENCE_SUFFIXES, ARRAY_SUFFIX))])


def read_all_maps(paths: Iterable[Path]) -> PixelMaps:
    """Read files of pixel maps, or all of folders, in the order of their names."""
    return concatenate_maps([read_maps(file) for file in _files(paths, SUFFIXES)])


def _files(paths: Iterable[Path], suffixes: tuple[str, ...]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(f for f in path.iterdir() if f.suffix in suffixes and not f.name.startswith("."))
        else:
            files.append(path)
    return files


def _require_known(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: expected a file name ending in {' or '.join(SUFFIXES)}")


def _columns(jets: Jets) -> dict[str, Any]:
    import awkward as ak

    counts = jets.multiplicity
    present = np.arange(MAX_CONSTITUENTS) < counts[:, None]
    columns: dict[str, Any] = {
        name: ak.unflatten(np.ascontiguousarray(jets.constituents[..., i][present]), counts)
        for i, name in enumerate(CONSTITUENT_COLUMNS)
    }
    for name, values in zip(JET_COLUMNS, (jets.pt, jets.eta, jets.phi, jets.mass), strict=True):
        columns[name] = np.ascontiguousarray(values)
    columns[LABEL_COLUMN] = np.ascontiguousarray(jets.is_top)
    return columns


def _read(path: Path, wanted: tuple[str, ...], tree: str) -> Any:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return _read_record(path, list(wanted), tree)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable file of {tree} with columns {', '.join(wanted)} ({error})") from error


def _read_record(path: Path, wanted: list[str], tree: str) -> Any:
    import awkward as ak

    if path.suffix == ".parquet":
        record = ak.from_parquet(path, columns=wanted)
        missing = sorted(set(wanted) - set(record.fields))
        if missing:
            raise KeyError(f"no column {missing[0]}")
        return record
    import uproot

    with uproot.open(path) as file:
        if tree not in file:
            raise KeyError(f"no tree {tree!r}")
        return file[tree].arrays(wanted)


def _read_arrays(path: Path) -> Jets:
    try:
        with np.load(path, allow_pickle=False) as archive:
            constituents, labels = archive["constituents"], archive[LABEL_COLUMN]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: expected arrays 'constituents' float32[N, {MAX_CONSTITUENTS}, 4] and '{LABEL_COLUMN}' ({error})"
        ) from error
    if not np.all(np.isin(labels, (0, 1))):
        raise DataError(f"{path}: {LABEL_COLUMN} must be 0 (QCD) or 1 (top)")
    return labelled_jets(constituents, labels.astype(bool))


def _jets(record: Any, path: Path) -> Jets:
    import awkward as ak

    labels = ak.to_numpy(record[LABEL_COLUMN])
    if not np.all(np.isin(labels, (0, 1))):
        raise DataError(f"{path}: {LABEL_COLUMN} must be 0 (QCD) or 1 (top), got {labels[~np.isin(labels, (0, 1))][0]}")
    counts = ak.to_numpy(ak.num(record[CONSTITUENT_COLUMNS[0]]))
    clipped = np.minimum(counts, MAX_CONSTITUENTS)
    present = np.arange(MAX_CONSTITUENTS) < clipped[:, None]
    constituents = np.zeros((len(labels), MAX_CONSTITUENTS, 4), np.float32)
    for i, name in enumerate(CONSTITUENT_COLUMNS):
        if not np.array_equal(ak.to_numpy(ak.num(record[name])), counts):
            raise DataError(f"{path}: {name} has other list lengths than {CONSTITUENT_COLUMNS[0]}")
        constituents[..., i][present] = ak.to_numpy(ak.flatten(record[name][:, :MAX_CONSTITUENTS]))
    kinematics = (ak.to_numpy(record[name]).astype(np.float32) for name in JET_COLUMNS)
    return Jets(constituents, labels.astype(bool), *kinematics)
