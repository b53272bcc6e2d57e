"""How the jets of a file are put together from its columns: as lists, by links, from flat columns, by clustering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import awkward as ak
import numpy as np

from sonic_client.errors import JetError
from sonic_client.events.coordinates import Coordinates
from sonic_client.events.missing import without_options
from sonic_client.events.momenta import cartesian


@dataclass(frozen=True)
class Assembled:
    """Jets of some events.

    Attributes:
        jets: Records {E, px, py, pz} in GeV, constituents innermost: events x constituents, or events x jets x
            constituents.
        faults: What is wrong with some jets: booleans of the structure of the jets, and words for an error.
        columns: What else was found out about the jets, to be written beside their scores.
    """

    jets: Any
    faults: tuple[tuple[Any, str], ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


class Reading(Protocol):
    """A way to read jets. Frozen, picklable data."""

    @property
    def name(self) -> str:
        """The format, and the jets in it, in words."""

    @property
    def jets(self) -> str:
        """The collection of jets, if the format has several; else empty."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read."""

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the columns that are written beside the scores."""

    @property
    def unit(self) -> float:
        """GeV in the file's unit of energy."""

    def in_unit(self, unit: float) -> Reading:
        """The same with another unit of energy."""

    def pinned(self, events: Any) -> Reading:
        """The same, holding on to what it found in the first events."""

    def assemble(self, events: Any) -> Assembled:
        """The jets of some events. Raises JetError when columns contradict each other."""


@dataclass(frozen=True)
class Collection:
    """Four-momenta of one kind of candidates: component -> column, one list an event.

    `coordinates` are the systems that the columns make; None finds them.
    """

    components: Mapping[str, str]
    unit: float = 1.0
    valid: str | None = None
    coordinates: Coordinates | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read."""
        return (*self.components.values(), *(() if self.valid is None else (self.valid,)))

    def momenta(self, events: Any) -> Any:
        """Records {E, px, py, pz}; rows of zeros in rectangular columns, and those not valid, are padding and left out.

        Raises JetError when the columns have lists of different lengths.
        """
        arrays = {component: events[column] for component, column in self.components.items()}
        rectangular = "var" not in str(next(iter(arrays.values())).type)
        arrays = {component: ak.from_regular(array, axis=None) for component, array in arrays.items()}
        self._same_lengths(arrays)
        momenta = cartesian(arrays, self.unit, self.coordinates)
        if self.valid is not None:
            momenta = momenta[ak.from_regular(events[self.valid], axis=None) != 0]
        if rectangular:
            # Behind 0 in eta there is nothing to see, but padding has no energy in any coordinates.
            momenta = momenta[(momenta["E"] != 0) | (momenta["px"] != 0) | (momenta["py"] != 0) | (momenta["pz"] != 0)]
        return momenta

    def _same_lengths(self, arrays: Mapping[str, Any]) -> None:
        (first, reference), *others = arrays.items()
        for component, array in others:
            if array.ndim != reference.ndim:
                raise JetError(
                    f"'{self.components[component]}' ({array.type}) is nested otherwise than "
                    f"'{self.components[first]}' ({reference.type})"
                )
            for axis in range(1, reference.ndim):
                here, there = ak.num(reference, axis=axis), ak.num(array, axis=axis)
                different = ak.flatten(ak.fill_none(here, -1, axis=None) != ak.fill_none(there, -1, axis=None), None)
                if ak.any(different):
                    raise JetError(
                        f"'{self.components[component]}' has lists of other lengths than '{self.components[first]}'"
                    )


@dataclass(frozen=True)
class Nested:
    """Constituents as lists: one jet an event, or lists of jets' lists."""

    name: str
    collection: Collection
    jets: str = ""
    written: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read."""
        return self.collection.columns

    @property
    def unit(self) -> float:
        """GeV in the file's unit of energy."""
        return self.collection.unit

    def pinned(self, _events: Any) -> Nested:
        """The same."""
        return self

    def in_unit(self, unit: float) -> Nested:
        """The same with another unit of energy."""
        return replace(self, collection=replace(self.collection, unit=unit))

    def assemble(self, events: Any) -> Assembled:
        """The jets of some events. A missing list of constituents is a missing jet; one of jets is an error."""
        momenta = self.collection.momenta(events)
        return Assembled(whole(momenta, self.collection) if momenta["E"].ndim > 2 else momenta)


@dataclass(frozen=True)
class Flat:
    """One jet an event in columns such as E_0, PX_0, PY_0, PZ_0, E_1, ...: `table` is [component][constituent]."""

    name: str
    table: tuple[tuple[str, ...], ...]
    unit: float = 1.0
    jets: str = ""
    written: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read."""
        return tuple(name for row in self.table for name in row)

    def pinned(self, _events: Any) -> Flat:
        """The same."""
        return self

    def in_unit(self, unit: float) -> Flat:
        """The same with another unit of energy."""
        return replace(self, unit=unit)

    def assemble(self, events: Any) -> Assembled:
        """The jets of some events; constituents that are zero in all components are padding."""
        names = ("E", "px", "py", "pz")
        stacked = {
            name: np.stack([_plain(events[column]) for column in row], axis=1)
            for name, row in zip(names, self.table, strict=True)
        }
        return Assembled(Collection({name: name for name in names}, self.unit).momenta(ak.zip(stacked, depth_limit=1)))


def _plain(column: Any) -> Any:
    """One number an event as numpy; missing ones are NaN."""
    layout = column.layout
    return layout.data if layout.is_numpy else ak.to_numpy(ak.fill_none(column, np.nan))


@dataclass(frozen=True)
class Linked:
    """Candidates of the event, and for each jet the numbers of its own.

    Attributes:
        name: Format and jets, in words.
        collection: The candidates.
        links: Column of the candidates' numbers: events x jets x n, or events x links if `jet` or `begin` is given.
        field: Member of the links that is the number, if they are records.
        key: Member of the links that names the collection that is pointed to, or without `field` a column beside them.
        target: What the key is of the collection in use, once the first events were seen; 0 is a link to nothing.
        jet: Column with the jet's number beside each link (CMS); -1 is a jet that was not kept.
        size: Column with one entry for each jet (its list's length counts), or the number of jets itself.
        begin: Column with the first link of each jet (podio), and `end` behind the last.
        end: See `begin`.
        jets: The collection of jets.
        written: Nothing besides the scores.
    """

    name: str
    collection: Collection
    links: str
    field: str | None = None
    key: str | None = None
    target: int | None = None
    jet: str | None = None
    size: str | None = None
    begin: str | None = None
    end: str | None = None
    jets: str = ""
    written: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read."""
        key = None if self.field is not None else self.key
        more = [name for name in (key, self.jet, self.size, self.begin, self.end) if name is not None]
        return tuple(dict.fromkeys([*self.collection.columns, self.links, *more]))

    @property
    def unit(self) -> float:
        """GeV in the file's unit of energy."""
        return self.collection.unit

    def in_unit(self, unit: float) -> Linked:
        """The same with another unit of energy."""
        return replace(self, collection=replace(self.collection, unit=unit))

    def pinned(self, events: Any) -> Linked:
        """The same, which from now on refuses links into another collection than the first of these events' links."""
        keys = np.unique(self._keys(events))
        return self if self.target is not None or not len(keys) else replace(self, target=int(keys[0]))

    def _keys(self, events: Any) -> Any:
        """The collections that links point into, those to nothing left out."""
        if self.key is None:
            return np.zeros(0, np.int64)
        keys = ak.to_numpy(ak.flatten(self._key_of_links(events), axis=None))
        return keys[keys != 0]

    def _key_of_links(self, events: Any) -> Any:
        if self.field is not None:
            return _integers(events[self.links][self.key], self.links)
        return _integers(events[self.key], str(self.key))

    def assemble(self, events: Any) -> Assembled:
        """The jets of some events; jets whose links cannot be followed are faults."""
        candidates, numbers = self._candidates(events)
        lost: tuple[tuple[Any, str], ...] = ()
        if self.jet is not None:
            numbers, lost = self._by_jet(events, numbers)
        elif self.begin is not None:
            numbers, lost = self._by_range(events, numbers)
        jets, faults = follow(candidates, numbers, f"'{self.links}'")
        return Assembled(jets, (*lost, *faults))

    def _candidates(self, events: Any) -> tuple[Any, Any]:
        """All that links may point to (events x n), and the links' numbers of it; -1 points to nothing."""
        numbers = self._numbers(events)
        if self.key is not None:
            into = {*np.unique(self._keys(events)).tolist(), *([] if self.target is None else [self.target])}
            if len(into) > 1:
                raise JetError(
                    f"'{self.links}' points into several collections ({', '.join(map(str, sorted(into)[:4]))}); only "
                    "links into one can be followed"
                )
            numbers = ak.where(self._key_of_links(events) == 0, -1, numbers)
        return whole(self.collection.momenta(events), self.collection), numbers

    def _numbers(self, events: Any) -> Any:
        links = events[self.links]
        return _integers(links if self.field is None else links[self.field], self.links)

    def _by_jet(self, events: Any, numbers: Any) -> tuple[Any, tuple[tuple[Any, str], ...]]:
        jet = _integers(events[self.jet], str(self.jet))
        if not ak.all(ak.num(jet, axis=1) == ak.num(numbers, axis=1)):
            raise JetError(f"'{self.jet}' and '{self.links}' have lists of different lengths")
        size = events[self.size]
        if ak.any(ak.is_none(size)):
            raise JetError(f"'{self.size}' is missing in event {int(ak.argmax(ak.is_none(size)))} of these")
        lengths = ak.num(size, axis=1) if size.ndim > 1 else _integers(size, str(self.size))
        counts = np.asarray(ak.to_numpy(lengths), dtype=np.int64)
        if (counts < 0).any():
            raise JetError(f"'{self.size}' is {counts.min()} in event {int(counts.argmin())} of these")
        event = np.repeat(np.arange(len(counts)), ak.to_numpy(ak.num(jet, axis=1)))
        flat, target = ak.to_numpy(ak.flatten(jet)), ak.to_numpy(ak.flatten(numbers))
        outside = (flat < -1) | (flat >= counts[event])
        used = ~outside & (flat >= 0)
        starts = np.cumsum(counts) - counts
        place = (starts[event] + flat)[used]
        order = np.argsort(place, kind="stable")
        sizes = np.bincount(place, minlength=int(counts.sum()))
        grouped = ak.unflatten(ak.unflatten(target[used][order], sizes), counts)
        broken = np.bincount(event[outside], minlength=len(counts)) > 0
        all_jets = ak.unflatten(np.repeat(broken, counts), counts)
        return grouped, ((all_jets, f"is in an event where '{self.jet}' points to a jet that is not there"),)

    def _by_range(self, events: Any, numbers: Any) -> tuple[Any, tuple[tuple[Any, str], ...]]:
        begin, end = _integers(events[self.begin], str(self.begin)), _integers(events[self.end], str(self.end))
        counts = ak.to_numpy(ak.num(begin, axis=1))
        if not np.array_equal(counts, ak.to_numpy(ak.num(end, axis=1))):
            raise JetError(f"'{self.begin}' and '{self.end}' have lists of different lengths")
        there = ak.num(numbers, axis=1)
        wrong = (begin < 0) | (end < begin) | (end > there)
        first = ak.to_numpy(ak.flatten(ak.where(wrong, 0, begin)))
        sizes = ak.to_numpy(ak.flatten(ak.where(wrong, 0, end - begin)))
        lengths = ak.to_numpy(there)
        offset = np.repeat(np.cumsum(lengths) - lengths, counts)
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        flat = ak.to_numpy(ak.flatten(numbers))[np.repeat(offset + first, sizes) + within]
        grouped = ak.unflatten(ak.unflatten(flat, sizes), counts)
        return grouped, ((wrong, f"has a range '{self.begin}', '{self.end}' that is not there"),)


def follow(candidates: Any, numbers: Any, links: str) -> tuple[Any, tuple[tuple[Any, str], ...]]:
    """Candidates (events x n) by their numbers (events x jets x m) -> jets, and what is wrong with some of them.

    A number outside the event's candidates, and a candidate that is in several jets or twice in one, are faults; the
    link is left out there, so that no other event's candidates are ever taken.
    """
    there = ak.num(candidates, axis=1)
    outside = (numbers < 0) | (numbers >= there)
    event_sizes = ak.to_numpy(there)
    starts = np.cumsum(event_sizes) - event_sizes
    place = ak.flatten(ak.where(outside, -1, numbers + starts), axis=None)
    place = ak.to_numpy(place)
    uses = np.bincount(place[place >= 0], minlength=int(event_sizes.sum()))
    shared = np.where(place >= 0, uses[place] > 1, False) if len(uses) else np.zeros(len(place), bool)
    jet_sizes = ak.to_numpy(ak.flatten(ak.num(numbers, axis=2)))
    jets_an_event = ak.to_numpy(ak.num(numbers, axis=1))

    def of_jets(flags: Any) -> Any:
        return ak.unflatten(ak.to_numpy(ak.any(ak.unflatten(flags, jet_sizes), axis=-1)), jets_an_event)

    bad = ak.to_numpy(ak.flatten(outside, axis=None))
    sizes = np.bincount(np.repeat(np.arange(len(jet_sizes)), jet_sizes)[~bad], minlength=len(jet_sizes))
    jets = ak.unflatten(ak.unflatten(ak.flatten(candidates)[place[~bad]], sizes), jets_an_event)
    return jets, (
        (of_jets(bad), f"has a link in {links} to a candidate that is not there"),
        (of_jets(shared), f"has a candidate that {links} gives to several jets, or twice"),
    )


def whole(candidates: Any, collection: Collection) -> Any:
    """Candidates of events, none of which lacks its list. Raises JetError: a missing list is not an empty one."""
    missing = ak.is_none(candidates)
    if ak.any(missing):
        name = next(iter(collection.components.values()))
        raise JetError(f"'{name}' is missing in event {int(ak.argmax(missing))} of these")
    return ak.drop_none(candidates, axis=0)  # at this level there is nothing to drop


def _integers(array: Any, name: str) -> Any:
    """Numbers that count or point, int64. Raises JetError for missing ones, and for any but integers."""
    for axis in range(array.ndim):
        if ak.any(ak.is_none(array, axis=axis), axis=None):
            raise JetError(f"'{name}' ({array.type}) has missing values, and links cannot be missing")
    array = without_options(array)
    kind = str(array.type).rpartition("* ")[2]
    if not kind.startswith(("int", "uint", "bool", "unknown")):
        raise JetError(f"'{name}' ({array.type}) holds no integers, and links are")
    return ak.values_astype(array, np.int64)


def joined(collections: Sequence[Collection], events: Any) -> Any:
    """Records {E, px, py, pz} of all collections, one list an event."""
    return ak.concatenate([whole(one.momenta(events), one) for one in collections], axis=1)
