from pathlib import Path

import numpy as np
import pytest

from retrain.data.files import read_all, read_jets
from retrain.errors import DataError
from tests.retrain.jets import toy_jets

h5py = pytest.importorskip("h5py")


def write(path: Path, labels: np.ndarray | None = None, columns: int = 804) -> None:
    """A small file in the layout that pandas gave the public set."""
    jets = toy_jets(6)
    row = [("index", "<i8"), ("values_block_0", "<f4", (columns,)), ("values_block_1", "<i8", (2,))]
    table = np.zeros(len(jets), row)
    table["values_block_0"][:, :800] = jets.constituents.reshape(6, -1)[:, :columns]
    table["values_block_1"][:, 1] = jets.is_top if labels is None else labels
    with h5py.File(path, "w") as file:
        file.create_group("table")["table"] = table


def test_public_layout_is_read(tmp_path: Path) -> None:
    write(tmp_path / "test.h5")
    expected, jets = toy_jets(6), read_jets(tmp_path / "test.h5")
    np.testing.assert_array_equal(jets.constituents, expected.constituents)
    np.testing.assert_array_equal(jets.is_top, expected.is_top)
    for name in ("pt", "eta", "phi"):
        np.testing.assert_allclose(getattr(jets, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jets.mass, expected.mass, rtol=0.01, atol=0.1)
    assert len(read_all([tmp_path])) == 6


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["jets"] = np.zeros(3)
    with pytest.raises(DataError, match="layout of the top-tagging reference set"):
        read_jets(tmp_path / "other.h5")
    write(tmp_path / "narrow.h5", columns=1004)
    with pytest.raises(DataError, match="expected 804 columns"):
        read_jets(tmp_path / "narrow.h5")
    write(tmp_path / "labels.h5", labels=np.full(6, 3))
    with pytest.raises(DataError, match="is_signal_new"):
        read_jets(tmp_path / "labels.h5")
