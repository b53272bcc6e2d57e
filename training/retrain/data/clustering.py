"""FastJet, loaded on demand: it is GPL and therefore optional, and it must not write where programs read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from fpga_ops.runtime.terminal import standard_output_on_standard_error
from retrain.errors import MissingDependencyError


@cache
def load_fastjet() -> Any:
    """The `fastjet` module, its banner already printed, to standard error.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import awkward as ak
        import fastjet
        import vector
    except ImportError as error:
        raise MissingDependencyError(
            "clustering and N-subjettiness need fastjet: pip install 'triton-fpga[generator]'"
        ) from error
    vector.register_awkward()
    one = ak.zip({name: np.ones(1) for name in ("px", "py", "pz", "E")}, with_name="Momentum4D")
    with standard_output_on_standard_error():
        fastjet.ClusterSequence(ak.unflatten(one, [1]), fastjet.JetDefinition(fastjet.antikt_algorithm, 0.4))
    return fastjet


@contextmanager
def quiet_exclusive_jets() -> Iterator[None]:
    """Without the warning that fastjet 3.5 gives for exclusive jets of every algorithm, kT included."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dcut and exclusive jets", category=UserWarning)
        yield
