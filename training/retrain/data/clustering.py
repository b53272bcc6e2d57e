"""FastJet, loaded on demand: it is GPL and therefore optional, and it must not write where programs read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from retrain.errors import MissingDependencyError


def load_fastjet() -> Any:
    """The `fastjet` module as the client loads it, its banner already printed, to standard error.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        from sonic_client.errors import ConfigurationError
        from sonic_client.events import clustering
    except ImportError as error:
        raise MissingDependencyError(f"{error}: pip install 'triton-fpga[training]'") from error
    try:
        return clustering.load_fastjet()
    except ConfigurationError as error:
        raise MissingDependencyError(
            "clustering and N-subjettiness need fastjet: pip install 'triton-fpga[generator]'"
        ) from error


@contextmanager
def quiet_exclusive_jets() -> Iterator[None]:
    """Without the warning that fastjet 3.5 gives for exclusive jets of every algorithm, kT included."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dcut and exclusive jets", category=UserWarning)
        yield
