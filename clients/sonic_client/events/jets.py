"""Jets as physicists hold them -> the tensors that the models take, and scores back in the jets' own structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from sonic_client.core.masked import (
    Bad,
    Masked,
    data_of,
    gather,
    holds_mask,
    make_masked,
    mask_of,
    real_numbers,
    split_mask,
)
from sonic_client.errors import JetError
from sonic_client.events.arrow_types import unsliced
from sonic_client.events.coordinates import EXPECTED, Coordinates, find_coordinates

MAX_CONSTITUENTS = 200
"""Constituents that the model takes; of a longer jet the hardest in pT are kept."""


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
        """float32[good] or [good, classes], a row for each good jet -> the caller's structure; bad jets are masked."""
        return self.layout.restore(values, self.good)


@dataclass(frozen=True)
class _Layout:
    """How jets were arranged.

    Attributes:
        levels: Jets an event, for every level above the jets, innermost last.
        present: Which jets are there; None: all, and numpy jets came without a mask.
        numpy: Whether scores are numpy, else awkward.
        single: Whether one jet came, without an axis of jets.
    """

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
            if self.present is not None:
                scored = self.present.copy()
                scored[self.present] = good
                every = np.full((len(scored), *flat.shape[1:]), np.nan, flat.dtype)
                every[self.present] = flat
                missing = np.broadcast_to(~scored.reshape(-1, *[1] * (every.ndim - 1)), every.shape)
                flat = make_masked(every, missing)
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

    - awkward array of constituents with fields (E, px, py, pz) or (pt, eta, phi[, mass or E]), or any other form of
      `events.coordinates`, of any depth: constituents innermost (`jets * var * {...}`, `events * var * var * {...}`),
      or one jet (`n * {...}`);
    - the same as a record or dict of jagged arrays, as uproot gives them, as a structured numpy array `[N, n]`, or as a
      table with these columns (pandas, polars, pyarrow), where lists are jets and numbers are one jet's constituents;
    - numpy `[N, n, 4]` or `[n, 4]`, (E, px, py, pz), rows of zeros being padding.

    A missing jet (None, or masked as a whole in a numpy masked array) gets a missing score. A jet without constituents,
    with None, masked, NaN or infinite components, or with a negative energy or pt raises JetError, or is masked with
    `bad="mask"`.
    """
    if bad not in ("raise", "mask"):
        raise JetError(f"bad: expected 'raise' or 'mask', got {bad!r}")
    jets = _named_columns(jets)
    if isinstance(jets, (Mapping, ak.Array, ak.Record)):
        return _from_awkward(jets, bad)
    if isinstance(jets, np.ndarray) and jets.dtype.names is not None:
        jets = _from_structured(jets)
    return _from_numpy(jets, bad)


def _named_columns(jets: Any) -> Any:
    """A table's columns by name (pandas, polars, pyarrow), since their order says nothing; anything else as it is."""
    names = getattr(jets, "column_names", None)
    names = getattr(jets, "columns", None) if names is None else names
    if names is None or isinstance(jets, (ak.Array, ak.Record, Mapping, np.ndarray)):
        return jets
    levels = getattr(getattr(jets, "index", None), "nlevels", 1)
    if levels > 1:
        raise JetError(
            f"constituents: the table has an index of {levels} levels, so its rows are constituents of many jets, and "
            "jets without any are lost; pass the awkward array it was made of, or lists: .groupby(level=0).agg(list)"
        )
    return {str(name): _column(jets[name]) for name in names}


def _column(values: Any) -> Any:
    """One column of a table, its lists as lists."""
    if type(values).__module__.startswith("pyarrow"):
        return values
    array = np.asarray(values)
    return list(array) if array.dtype == object else array


def _from_structured(jets: NDArray[Any]) -> NDArray[Any]:
    """A structured array `[N, n]` or `[n]` as plain (E, px, py, pz), masked where any component is."""
    coordinates = _coordinates(list(jets.dtype.names or ()))
    fields = {component: jets[name] for component, name in coordinates.names.items()}
    try:
        given = {component: real_numbers(data_of(values), np.float64) for component, values in fields.items()}
    except (TypeError, ValueError) as error:
        raise JetError(f"constituents: expected numbers in every field, got {jets.dtype} ({error})") from error
    array: NDArray[Any] = np.stack(coordinates.cartesian(given), axis=-1)
    if not holds_mask(jets):
        return array
    hidden = np.logical_or.reduce([mask_of(values) for values in fields.values()])
    return make_masked(array, np.repeat(hidden[..., None], 4, axis=-1))


def _from_numpy(jets: Any, bad: Bad) -> JetBatch:
    present: NDArray[np.bool_] | None = None
    in_part: NDArray[np.bool_] | None = None
    try:
        if holds_mask(jets):
            masked = gather(jets)
            array = real_numbers(masked.data, np.float64)
            if array.ndim in (2, 3):
                whole, in_part = split_mask(masked if array.ndim == 3 else masked[None], (1, 2))
                present = ~whole
        else:
            array = real_numbers(jets, np.float64)
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
    if present is not None and in_part is not None:
        array, in_part = array[present], in_part[present]
    used = np.any(array != 0.0, axis=2)
    counts = used.sum(axis=1).astype(np.int64)
    components = tuple(np.ascontiguousarray(array[..., i][used]) for i in range(4))
    layout = _Layout((), present, numpy=True, single=single)
    return JetBatch(counts, components, _judge(counts, components, bad, present, in_part), layout)


def _from_awkward(jets: Any, bad: Bad) -> JetBatch:
    record, coordinates = _fields(jets)
    names = tuple(coordinates.names.values())
    arrays = [_as_array(record[name], name) for name in names]
    depth = arrays[0].ndim
    if any(array.ndim != depth for array in arrays):
        raise JetError(
            f"constituents: the fields have different depths: "
            f"{', '.join(f'{n}: {a.ndim}' for n, a in zip(names, arrays, strict=True))}"
        )
    single = depth == 1
    if single:
        arrays = [array[np.newaxis] for array in arrays]
    arrays = [_unmasked(array) if isinstance(array, np.ma.MaskedArray) else array for array in arrays]
    levels: list[NDArray[np.int64]] = []
    while arrays[0].ndim > 2:
        counts = _counts(arrays[0], names[0])
        for name, array in zip(names, arrays, strict=True):
            if not np.array_equal(_counts(array, name), counts):
                raise JetError(f"constituents: {name} has other numbers of jets an event than {names[0]}")
        levels.append(counts)
        arrays = [ak.flatten(array, axis=1) for array in arrays]
    present: NDArray[np.bool_] | None = None
    missing = ak.to_numpy(ak.is_none(arrays[0]))
    for array in arrays[1:]:
        missing = missing | ak.to_numpy(ak.is_none(array))
    if missing.any():
        present = ~missing
        arrays = [array[present] for array in arrays]
    counts = np.asarray(ak.to_numpy(ak.num(arrays[0], axis=1)), dtype=np.int64)
    for name, array in zip(names, arrays, strict=True):
        other = ak.to_numpy(ak.num(array, axis=1))
        if not np.array_equal(other, counts):
            jet = int(np.flatnonzero(other != counts)[0])
            number = jet if present is None else int(np.flatnonzero(present)[jet])
            raise JetError(f"constituents: jet {number} has {counts[jet]} {names[0]} but {other[jet]} {name}")
    flat = [_flat_numbers(array, name) for name, array in zip(names, arrays, strict=True)]
    components = coordinates.cartesian(dict(zip(coordinates.names, flat, strict=True)))
    layout = _Layout(tuple(levels), present, numpy=False, single=single)
    return JetBatch(counts, components, _judge(counts, components, bad, present), layout)


def _fields(jets: Any) -> tuple[Any, Coordinates]:
    """Which fields hold the momenta; a field `constituents` is looked into."""
    names = list(jets) if isinstance(jets, Mapping) else list(jets.fields)
    if "constituents" in names:
        return _fields(jets["constituents"])
    return jets, _coordinates(names)


def _coordinates(names: list[str]) -> Coordinates:
    coordinates = find_coordinates(names)
    if coordinates is None:
        raise JetError(
            f"constituents: expected fields {EXPECTED}; got "
            + (", ".join(names) if names else "an array without fields (use numpy for [N, n, 4])")
        )
    return coordinates


def _as_array(values: Any, name: str) -> Any:
    """An awkward array, or a masked one of numpy's with its mask."""
    try:
        if not isinstance(values, (ak.Array, np.ma.MaskedArray)):
            values = ak.Array(_plain_lists(unsliced(values)))
    except (TypeError, ValueError) as error:
        raise JetError(f"constituents: {name} is no array ({error})") from error
    kind = values.dtype if isinstance(values, np.ma.MaskedArray) else values.type
    if values.ndim < 1 or (values.fields if isinstance(values, ak.Array) else values.dtype.names):
        raise JetError(f"constituents: {name}: expected jagged numbers, got {kind}")
    return values


def _unmasked(values: Masked) -> Any:
    """Awkward `[..., n]`, None where a jet is masked as a whole, and for each masked value of another."""
    whole, _ = split_mask(values, (values.ndim - 1,))
    inner = make_masked(values.data, mask_of(values) & ~whole[..., None])
    return ak.mask(ak.from_numpy(inner), ~whole)


def _plain_lists(values: Any) -> Any:
    """Lists (of lists) with masked arrays in them as plain lists: None for a jet masked as a whole, or a value."""
    if not holds_mask(values):
        return values
    if isinstance(values, np.ma.MaskedArray) and values.ndim == 1:
        hidden = mask_of(values)
        plain: list[Any] = data_of(values).tolist()
        return None if values.size and hidden.all() else [None if h else v for v, h in zip(plain, hidden, strict=True)]
    return [_plain_lists(value) for value in values]


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
        return real_numbers(ak.to_numpy(flat), np.float64)
    except (TypeError, ValueError) as error:
        raise JetError(f"constituents: {name}: expected numbers, got {array.type} ({error})") from error


MASS_SHELL_TOLERANCE = 1e-3
"""E may fall short of |p| by this fraction (single precision, detectors that quote both); the server has the same."""


def _judge(
    counts: NDArray[np.int64],
    components: tuple[NDArray[np.float64], ...],
    bad: Bad,
    present: NDArray[np.bool_] | None = None,
    in_part: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Which jets can be sent; raises JetError about the first that cannot, unless bad jets are to be masked.

    `present` says which of the caller's jets these are, `in_part` which of them a mask hides in part.
    """
    limit = float(np.finfo(np.float32).max)
    finite = np.ones(len(components[0]), bool)
    for values in components:
        finite &= np.abs(values) <= limit  # False for NaN as well
    # As they are sent: the ghosts of jet areas have 1e-100 GeV, and nothing of that is left in single precision.
    sent = (np.where(finite, values, 0.0).astype(np.float32) for values in components)
    energy, px, py, pz = (values.astype(np.float64) for values in sent)
    jet = np.repeat(np.arange(len(counts)), counts)

    def jets_with(constituents: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.asarray(np.bincount(jet[constituents], minlength=len(counts)) > 0)

    hidden = np.zeros(len(counts), bool) if in_part is None else in_part
    reasons = (
        (hidden, "is masked in part, and a jet is there or masked as a whole"),
        (counts == 0, "has no constituents"),
        (jets_with(~finite), "has a None, NaN or infinite component, or a negative pt"),
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
        number = first if present is None else int(np.flatnonzero(present)[first])
        raise JetError(
            f"constituents: jet {number} (counted from 0, flattened) {reason}; expected at least one constituent with "
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


def __getattr__(name: str) -> Any:
    if name == "prepare_images":
        from sonic_client.events.images import prepare_images

        return prepare_images
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
