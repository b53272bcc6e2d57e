from pathlib import Path

import numpy as np
import pytest

from retrain.data.files import read_all, read_jets, write_jets
from retrain.errors import DataError
from tests.retrain.jets import toy_jets

ak = pytest.importorskip("awkward")
uproot = pytest.importorskip("uproot")


@pytest.mark.parametrize("name", ["jets.parquet", "jets.root"])
def test_files_give_back_what_was_written(tmp_path: Path, name: str) -> None:
    jets = toy_jets(30)
    write_jets(tmp_path / name, jets)
    back = read_jets(tmp_path / name)
    for field in ("constituents", "is_top", "pt", "eta", "phi", "mass"):
        np.testing.assert_array_equal(getattr(back, field), getattr(jets, field))
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no temporary file stays


def test_folders_are_read_in_order_of_names(tmp_path: Path) -> None:
    write_jets(tmp_path / "b.parquet", toy_jets(4, seed=2))
    write_jets(tmp_path / "a.root", toy_jets(6, seed=1))
    jets = read_all([tmp_path])
    np.testing.assert_array_equal(jets.mass, np.concatenate([toy_jets(6, seed=1).mass, toy_jets(4, seed=2).mass]))


@pytest.mark.parametrize("suffix", [".parquet", ".root"])
def test_unreadable_files(tmp_path: Path, suffix: str) -> None:
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(b"not a jet file")
    with pytest.raises(DataError, match="broken"):
        read_jets(broken)
    with pytest.raises(DataError, match="no such file"):
        read_jets(tmp_path / f"absent{suffix}")


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.parquet or \.root"):
        write_jets(tmp_path / "jets.csv", toy_jets(2))


def test_missing_column_and_wrong_label(tmp_path: Path) -> None:
    jets = toy_jets(4)
    write_jets(tmp_path / "good.parquet", jets)
    record = ak.from_parquet(tmp_path / "good.parquet")
    ak.to_parquet(record[[name for name in record.fields if name != "jet_mass"]], tmp_path / "lacks.parquet")
    with pytest.raises(DataError, match="jet_mass"):
        read_jets(tmp_path / "lacks.parquet")
    ak.to_parquet(ak.with_field(record, np.array([0, 1, 2, 1]), "is_top"), tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=r"is_top must be 0 \(QCD\) or 1 \(top\), got 2"):
        read_jets(tmp_path / "labels.parquet")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no jets"):
        read_all([tmp_path])
