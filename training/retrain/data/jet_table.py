"""Jets in memory: constituents, labels and jet kinematics, checked once when they are made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from retrain.errors import DataError

MAX_CONSTITUENTS = 200
LABELS = ("qcd", "top")


@dataclass(frozen=True)
class Jets:
    """Labelled jets.

    constituents: float32[N, 200, 4], (E, px, py, pz) in GeV, sorted by falling pT, padded with zeros;
    is_top: bool[N]; pt, mass in GeV, eta, phi of the jet: float32[N].
    """

    constituents: NDArray[np.float32]
    is_top: NDArray[np.bool_]
    pt: NDArray[np.float32]
    eta: NDArray[np.float32]
    phi: NDArray[np.float32]
    mass: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = self.constituents.shape
        if len(shape) != 3 or shape[1:] != (MAX_CONSTITUENTS, 4):
            raise DataError(f"constituents: expected [N, {MAX_CONSTITUENTS}, 4], got {list(shape)}")
        for field in fields(self):
            values = getattr(self, field.name)
            if len(values) != shape[0]:
                raise DataError(f"{field.name}: {len(values)} entries for {shape[0]} jets")
            if isinstance(values, np.ma.MaskedArray) and np.any(values.mask):
                raise DataError(f"{field.name}: expected no masked values; leave those jets out")
            if not np.all(np.isfinite(values)):
                raise DataError(f"{field.name}: contains NaN or infinite values")
        if shape[0] and not np.all(self.constituents[:, 0, 0] > 0.0):
            raise DataError("constituents: a jet without constituents")
        if np.any(self.constituents[..., 0] < 0.0):
            raise DataError("constituents: a negative energy")

    def __len__(self) -> int:
        return len(self.is_top)

    @property
    def labels(self) -> NDArray[np.int64]:
        """0 for QCD and 1 for top jets, int64[N], the order of the served labels."""
        labels: NDArray[np.int64] = self.is_top.astype(np.int64)
        return labels

    @property
    def multiplicity(self) -> NDArray[np.int64]:
        """Number of constituents of each jet (at most 200), int64[N]."""
        counts: NDArray[np.int64] = np.count_nonzero(self.constituents[..., 0] > 0.0, axis=1).astype(np.int64)
        return counts

    def take(self, index: NDArray[np.int64] | slice) -> Jets:
        """The jets of `index`, int64[n] or a slice, in its order."""
        return Jets(*(getattr(self, field.name)[index] for field in fields(self)))

    def require_both_classes(self) -> Jets:
        """These jets, or DataError when they cannot train or judge a tagger."""
        tops = int(np.count_nonzero(self.is_top))
        if len(self) == 0:
            raise DataError("no jets at all; expected QCD and top jets")
        if tops == 0 or tops == len(self):
            raise DataError(f"one class only: {tops} top and {len(self) - tops} QCD jets; both are needed")
        return self


def labelled_jets(constituents: NDArray[np.float32], is_top: NDArray[np.bool_]) -> Jets:
    """Jets whose kinematics are those of the sum of their constituents.

    Args:
        constituents: `float32[N, 200, 4]`, (E, px, py, pz) in GeV, sorted by falling pT, padded with zeros.
        is_top: `bool[N]`.
    """
    if constituents.ndim != 3 or constituents.shape[2] != 4:
        raise DataError(f"constituents: expected [N, {MAX_CONSTITUENTS}, 4], got {list(constituents.shape)}")
    energy, px, py, pz = np.moveaxis(constituents.sum(axis=1, dtype=np.float64), 1, 0)
    pt = np.hypot(px, py)
    eta = np.arcsinh(pz / np.where(pt > 0.0, pt, 1.0))
    mass = np.sqrt(np.maximum(energy**2 - pt**2 - pz**2, 0.0))
    kinematics = (values.astype(np.float32) for values in (pt, eta, np.arctan2(py, px), mass))
    return Jets(constituents.astype(np.float32, copy=False), is_top, *kinematics)


def concatenate(parts: Sequence[Jets]) -> Jets:
    """Several sets of jets as one; DataError when there is none."""
    if not parts:
        raise DataError("no jets at all; expected at least one file with jets")
    return Jets(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Jets)))


class Rows(Protocol):
    """Jets, or anything else of which some can be taken."""

    def __len__(self) -> int: ...

    def take(self, index: NDArray[np.int64] | slice) -> Self:
        """The rows of `index`, int64[n] or a slice, in its order."""


R = TypeVar("R", bound=Rows)


def shuffled(rows: R, seed: int) -> R:
    """The rows in a seeded random order."""
    return rows.take(np.random.default_rng(seed).permutation(len(rows)))


def arrays_digest(*arrays: NDArray[Any]) -> str:
    """The hexadecimal SHA-256 of what arrays hold, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
