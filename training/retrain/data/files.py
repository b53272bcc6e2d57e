"""Jet files: parquet and ROOT, one row a jet, constituents as jagged float32 lists."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from retrain.data.reference_set import read_reference_set
from retrain.errors import DataError
from retrain.jets import MAX_CONSTITUENTS, Jets, concatenate

COMPONENTS = ("E", "px", "py", "pz")
CONSTITUENT_COLUMNS = tuple(f"constituent_{name}" for name in COMPONENTS)
JET_COLUMNS = ("jet_pt", "jet_eta", "jet_phi", "jet_mass")
LABEL_COLUMN = "is_top"
TREE = "jets"
SUFFIXES = (".parquet", ".root")
REFERENCE_SUFFIXES = (".h5", ".hdf5")


def write_jets(path: Path, jets: Jets) -> None:
    """Write jets to `.parquet` or `.root`; the file appears whole or not at all."""
    _require_known(path)
    columns = _columns(jets)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".parquet":
            import awkward as ak

            ak.to_parquet(ak.zip(columns, depth_limit=1), temporary, compression="zstd")
        else:
            import uproot

            with uproot.recreate(temporary, compression=uproot.LZMA(6)) as file:
                file[TREE] = columns
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_jets(path: Path) -> Jets:
    """Read and check one file that `write_jets` wrote (or one of the same columns), or `.h5` of the reference set."""
    if path.suffix not in REFERENCE_SUFFIXES:
        _require_known(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix in REFERENCE_SUFFIXES:
        return read_reference_set(path)
    wanted = [*CONSTITUENT_COLUMNS, *JET_COLUMNS, LABEL_COLUMN]
    try:
        record = _read_record(path, wanted)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable jet file with columns {', '.join(wanted)} ({error})") from error
    return _jets(record, path)


def read_all(paths: Iterable[Path]) -> Jets:
    """Read files, or all jet files of folders, in the order of their names."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(
                f for f in path.iterdir() if f.suffix in (*SUFFIXES, *REFERENCE_SUFFIXES) and not f.name.startswith(".")
            )
        else:
            files.append(path)
    return concatenate([read_jets(file) for file in files])


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


def _read_record(path: Path, wanted: list[str]) -> Any:
    import awkward as ak

    if path.suffix == ".parquet":
        record = ak.from_parquet(path, columns=wanted)
        missing = sorted(set(wanted) - set(record.fields))
        if missing:
            raise KeyError(f"no column {missing[0]}")
        return record
    import uproot

    with uproot.open(path) as file:
        if TREE not in file:
            raise KeyError(f"no tree {TREE!r}")
        return file[TREE].arrays(wanted)


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
