"""Jets as physicists hold them -> the tensors that the models take, and scores back in the jets' own structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from sonic_client.errors import JetError

MAX_CONSTITUENTS = 200
"""Constituents that the model takes; of a longer jet the hardest in pT are kept."""

Bad = Literal["raise", "mask"]
"""What a jet that cannot be tagged does: raise JetError, or give a missing score."""

_CARTESIAN = (("E", "e", "energy", "t"), ("px", "x"), ("py", "y"), ("pz", "z"))
_CYLINDRICAL = (("pt",), ("eta",), ("phi",), ("mass", "m"))


@dataclass(frozen=True)
class JetBatch:
    """Flat jets, ready to be cut into tensors, and what is needed to give scores their structure back.

    counts: int64[J], constituents a jet; components: float64[4][sum(counts)], (E, px, py, pz) in GeV;
    good: bool[J], which jets can be sent; layout: the caller's structure.
    """

    counts: NDArray[np.int64]
    components: tuple[NDArray[np.float64], ...]
    good: NDArray[np.bool_]
    layout: _Layout

    def __len__(self) -> int:
        return len(self.counts)

    def chunks(self, jets: int) -> Iterator[NDArray[np.float32]]:
        """Tensors float32[<= jets, 200, 4] of the good jets in order; only one is made at a time."""
        offsets = np.concatenate([[0], np.cumsum(self.counts)])
        index = np.flatnonzero(self.good)
        for start in range(0, len(index), jets):
            chosen = index[start : start + jets]
            yield _pack(self.components, offsets, chosen)

    def restore(self, values: NDArray[np.float32]) -> Any:
        """One value (or one row) for each good jet -> the caller's structure; bad jets are masked."""
        return self.layout.restore(values, self.good)


@dataclass(frozen=True)
class _Layout:
    """How jets were arranged: `events` is jets an event for every level above (innermost last)."""

    levels: tuple[NDArray[np.int64], ...]
    present: NDArray[np.bool_] | None
    numpy: bool
    single: bool

    def restore(self, values: NDArray[np.float32], good: NDArray[np.bool_]) -> Any:
        if good.all():
            flat: Any = values
        elif self.numpy:
            flat = np.full((len(good), *values.shape[1:]), np.nan, values.dtype)
            flat[good] = values
        else:
            index = np.where(good, np.cumsum(good) - 1, -1)
            flat = ak.Array(
                ak.contents.IndexedOptionArray.simplified(
                    ak.index.Index64(index), ak.contents.NumpyArray(np.ascontiguousarray(values))
                )
            )
        if self.numpy:
            return flat[0] if self.single else flat
        if self.present is not None:
            index = np.where(self.present, np.cumsum(self.present) - 1, -1)
            flat = ak.Array(ak.contents.IndexedOptionArray.simplified(ak.index.Index64(index), ak.Array(flat).layout))
        for counts in reversed(self.levels):
            flat = ak.unflatten(flat, counts)
        if self.single:
            return flat[0]
        return ak.Array(flat)


def prepare(jets: Any, *, bad: Bad = "raise") -> JetBatch:
    """Read jets in any of these forms.

    - awkward array of constituents with fields (E, px, py, pz) or (pt, eta, phi[, mass]), of any depth: constituents
      innermost (`jets * var * {...}`, `events * var * var * {...}`), or one jet (`n * {...}`);
    - the same as a record or dict of jagged arrays, as uproot gives them;
    - numpy `[N, n, 4]` or `[n, 4]`, (E, px, py, pz), rows of zeros being padding.

    A missing (None) jet gets a missing score. A jet without constituents, with None, NaN or infinite components, or
    with a negative energy raises JetError, or is masked with `bad="mask"`.
    """
    if bad not in ("raise", "mask"):
        raise JetError(f"bad: expected 'raise' or 'mask', got {bad!r}")
    if isinstance(jets, (Mapping, ak.Array, ak.Record)):
        return _from_awkward(jets, bad)
    return _from_numpy(jets, bad)


def _from_numpy(jets: Any, bad: Bad) -> JetBatch:
    try:
        array = np.asarray(jets, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise JetError(
            f"constituents: expected numbers [N, n, 4], or an awkward array with fields, got {type(jets).__name__} "
            f"({error})"
        ) from error
    single = array.ndim == 2
    if single:
        array = array[None]
    if array.ndim != 3 or array.shape[2] != 4:
        raise JetError(f"constituents: expected [N, n, 4] as (E, px, py, pz), got {list(np.shape(jets))}")
    used = np.any(array != 0.0, axis=2)
    counts = used.sum(axis=1).astype(np.int64)
    components = tuple(np.ascontiguousarray(array[..., i][used]) for i in range(4))
    layout = _Layout((), None, numpy=True, single=single)
    return JetBatch(counts, components, _judge(counts, components, bad), layout)


def _from_awkward(jets: Any, bad: Bad) -> JetBatch:
    record, builder = _fields(jets)
    arrays = [_as_array(record[name], name) for name in builder.names]
    depth = arrays[0].ndim
    if any(array.ndim != depth for array in arrays):
        raise JetError(
            f"constituents: the fields have different depths: "
            f"{', '.join(f'{n}: {a.ndim}' for n, a in zip(builder.names, arrays, strict=True))}"
        )
    single = depth == 1
    if single:
        arrays = [array[np.newaxis] for array in arrays]
    levels: list[NDArray[np.int64]] = []
    while arrays[0].ndim > 2:
        counts = _counts(arrays[0], builder.names[0])
        for name, array in zip(builder.names, arrays, strict=True):
            if not np.array_equal(_counts(array, name), counts):
                raise JetError(f"constituents: {name} has other numbers of jets an event than {builder.names[0]}")
        levels.append(counts)
        arrays = [ak.flatten(array, axis=1) for array in arrays]
    present: NDArray[np.bool_] | None = None
    missing = ak.to_numpy(ak.is_none(arrays[0]))
    for array in arrays[1:]:
        missing = missing | ak.to_numpy(ak.is_none(array))
    if missing.any():
        present = ~missing
        arrays = [array[present] for array in arrays]
    counts = ak.to_numpy(ak.num(arrays[0], axis=1)).astype(np.int64)
    for name, array in zip(builder.names, arrays, strict=True):
        other = ak.to_numpy(ak.num(array, axis=1))
        if not np.array_equal(other, counts):
            jet = int(np.flatnonzero(other != counts)[0])
            raise JetError(f"constituents: jet {jet} has {counts[jet]} {builder.names[0]} but {other[jet]} {name}")
    flat = [_flat_numbers(array, name) for name, array in zip(builder.names, arrays, strict=True)]
    components = builder.components(flat)
    layout = _Layout(tuple(levels), present, numpy=False, single=single)
    return JetBatch(counts, components, _judge(counts, components, bad), layout)


@dataclass(frozen=True)
class _Fields:
    names: tuple[str, ...]
    cylindrical: bool

    def components(self, flat: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], ...]:
        if not self.cylindrical:
            return tuple(flat)
        pt, eta, phi = flat[:3]
        mass = flat[3] if len(flat) == 4 else np.zeros_like(pt)
        with np.errstate(over="ignore", invalid="ignore"):
            px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
            energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
        return energy, px, py, pz


def _fields(jets: Any) -> tuple[Any, _Fields]:
    """Which fields hold the momenta; a field `constituents` is looked into."""
    names = list(jets) if isinstance(jets, Mapping) else list(jets.fields)
    if "constituents" in names:
        return _fields(jets["constituents"])
    cartesian = [next((name for name in options if name in names), None) for options in _CARTESIAN]
    if all(name is not None for name in cartesian):
        return jets, _Fields(tuple(str(name) for name in cartesian), cylindrical=False)
    cylindrical = [next((name for name in options if name in names), None) for options in _CYLINDRICAL]
    if all(name is not None for name in cylindrical[:3]):
        return jets, _Fields(tuple(str(name) for name in cylindrical if name is not None), cylindrical=True)
    raise JetError(
        "constituents: expected fields E, px, py, pz, or pt, eta, phi and mass; got "
        + (", ".join(names) if names else "an array without fields (use numpy for [N, n, 4])")
    )


def _as_array(values: Any, name: str) -> Any:
    try:
        array = values if isinstance(values, ak.Array) else ak.Array(values)
    except (TypeError, ValueError) as error:
        raise JetError(f"constituents: {name} is no array ({error})") from error
    if array.ndim < 1 or array.fields:
        raise JetError(f"constituents: {name}: expected jagged numbers, got {array.type}")
    return array


def _counts(array: Any, name: str) -> NDArray[np.int64]:
    if ak.any(ak.is_none(array)):
        raise JetError(
            f"constituents: {name}: event {int(ak.argmax(ak.is_none(array)))} is None; expected a list of jets"
        )
    return np.asarray(ak.to_numpy(ak.num(array, axis=1)), dtype=np.int64)


def _flat_numbers(array: Any, name: str) -> NDArray[np.float64]:
    """All constituents of all jets; None becomes NaN, which is judged with the rest."""
    flat = ak.fill_none(ak.flatten(array, axis=1), np.nan)
    try:
        return np.asarray(ak.to_numpy(flat), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise JetError(f"constituents: {name}: expected numbers, got {array.type} ({error})") from error


MASS_SHELL_TOLERANCE = 1e-3
"""E may fall short of |p| by this fraction (single precision, detectors that quote both); the server has the same."""


def _judge(counts: NDArray[np.int64], components: tuple[NDArray[np.float64], ...], bad: Bad) -> NDArray[np.bool_]:
    """Which jets can be sent; raises JetError about the first that cannot, unless bad jets are to be masked."""
    limit = float(np.finfo(np.float32).max)
    finite = np.ones(len(components[0]), bool)
    for values in components:
        finite &= np.abs(values) <= limit  # False for NaN as well
    energy, px, py, pz = (np.where(finite, values, 0.0) for values in components)
    jet = np.repeat(np.arange(len(counts)), counts)

    def jets_with(constituents: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.asarray(np.bincount(jet[constituents], minlength=len(counts)) > 0)

    reasons = (
        (counts == 0, "has no constituents"),
        (jets_with(~finite), "has a None, NaN or infinite component"),
        (jets_with(energy < 0.0), "has a constituent of negative energy"),
        (
            jets_with(energy * (1.0 + MASS_SHELL_TOLERANCE) < np.sqrt(px * px + py * py + pz * pz)),
            "has a constituent with less energy than momentum (are the components in the order E, px, py, pz?)",
        ),
        (~jets_with((px != 0.0) | (py != 0.0)), "has no constituent with pT > 0"),
    )
    good = ~np.logical_or.reduce([mask for mask, _ in reasons])
    if bad == "raise" and not good.all():
        first = int(np.flatnonzero(~good)[0])
        reason = next(words for mask, words in reasons if mask[first])
        raise JetError(
            f"constituents: jet {first} (counted from 0, flattened) {reason}; expected at least one constituent with "
            f"finite E, px, py, pz in GeV; {np.count_nonzero(~good)} of {len(good)} jets are bad "
            "(bad='mask' gives those a missing score)"
        )
    return np.asarray(good)


def _pack(
    components: tuple[NDArray[np.float64], ...], offsets: NDArray[np.int64], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """float32[len(chosen), 200, 4], sorted by falling pT (stable), the 200 hardest kept, padded with zeros."""
    counts = offsets[chosen + 1] - offsets[chosen]
    row = np.repeat(np.arange(len(chosen)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    source = np.repeat(offsets[chosen], counts) + within
    px, py = components[1][source], components[2][source]
    order = np.lexsort((-(px * px + py * py), row))
    keep = within < MAX_CONSTITUENTS  # after sorting, `within` is the rank in pT, since rows stay together
    tensor = np.zeros((len(chosen), MAX_CONSTITUENTS, 4), np.float32)
    for i, values in enumerate(components):
        tensor[row[keep], within[keep], i] = values[source[order]][keep]
    return tensor


def prepare_images(images: Any, shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], bool]:
    """Jet images -> float32[N, planes, height, width], and whether a single image came.

    Takes `[N, planes, H, W]`, `[planes, H, W]`, `[N, H, W]` (the plane is repeated) or `[H, W]`.
    Raises JetError for another shape, and for NaN, infinite or negative pixels.
    """
    try:
        array = np.asarray(images, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise JetError(
            f"images: expected numbers [N, {', '.join(map(str, shape))}], got {type(images).__name__}"
        ) from error
    planes, height, width = shape
    single = array.shape in ((planes, height, width), (height, width))
    if single:
        array = array[None]
    if array.shape[1:] == (height, width):
        array = np.repeat(array[:, None], planes, axis=1)
    if array.shape[1:] != shape:
        raise JetError(
            f"images: expected [N, {planes}, {height}, {width}] or [N, {height}, {width}], got {list(np.shape(images))}"
        )
    finite = np.isfinite(array).all(axis=(1, 2, 3))
    if not finite.all():
        raise JetError(f"images: image {int(np.flatnonzero(~finite)[0])} has a NaN or infinite pixel")
    return np.ascontiguousarray(array), single
