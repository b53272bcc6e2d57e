"""The public top-tagging reference set (G. Kasieczka et al., doi:10.5281/zenodo.2603256), in its HDF5 layout.

A pandas table `/table/table`: `values_block_0` float32[804] holds E_0, PX_0, PY_0, PZ_0, ... E_199 ... PZ_199 and the
truth top quark's E, px, py, pz; `values_block_1` int[2] holds ttv (0 train, 1 test, 2 validation) and is_signal_new.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrain.data.jet_table import MAX_CONSTITUENTS, Jets, labelled_jets
from retrain.errors import DataError, MissingDependencyError

TABLE, CONSTITUENT_BLOCK, LABEL_BLOCK = "table/table", "values_block_0", "values_block_1"
CONSTITUENT_COLUMNS = 4 * MAX_CONSTITUENTS
TRUTH_COLUMNS = 4


def read_reference_set(path: Path, jets: slice = slice(None)) -> Jets:
    """Jets of a file of the reference set.

    Raises:
        DataError: The file cannot be read or has another layout.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("HDF5 files need h5py: pip install 'triton-fpga[client]'") from error
    try:
        with h5py.File(path) as file:
            rows = file[TABLE][jets]
            blocks, labels = rows[CONSTITUENT_BLOCK], rows[LABEL_BLOCK][:, 1]
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{path}: not in the layout of the top-tagging reference set ({error})") from error
    if blocks.ndim != 2 or blocks.shape[1] != CONSTITUENT_COLUMNS + TRUTH_COLUMNS:
        expected = CONSTITUENT_COLUMNS + TRUTH_COLUMNS
        raise DataError(f"{path}: {CONSTITUENT_BLOCK}: expected {expected} columns, got {list(blocks.shape[1:])}")
    if not np.all(np.isin(labels, (0, 1))):
        raise DataError(f"{path}: is_signal_new must be 0 (QCD) or 1 (top)")
    constituents = blocks[:, :CONSTITUENT_COLUMNS].reshape(-1, MAX_CONSTITUENTS, 4).astype(np.float32)
    return labelled_jets(constituents, labels.astype(bool))
