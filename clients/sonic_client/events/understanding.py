"""What is in a file, found out before the first request: which jets, by which branches, how many, how hard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.core.masked import Bad
from sonic_client.errors import ConfigurationError, JetError
from sonic_client.events.branches import find_constituents
from sonic_client.events.clustering import Clustered, Definition
from sonic_client.events.files import Source, describe_names, readable
from sonic_client.events.formats import FORMATS
from sonic_client.events.formats.physlite import MEV
from sonic_client.events.momenta import WIDEST, too_wide
from sonic_client.events.readings import Assembled, Collection, Nested, Reading

SAMPLE = 200
"""Events that are looked at before anything is sent."""
HARDEST = 10_000.0
"""GeV. Jets with more pT were surely written in MeV: no collider of today makes them."""
SOFTEST = 1.0
"""GeV. Jets whose median pT is below were surely written in GeV and read as MeV."""
MOST_HEAVY, HEAVY = 0.05, 5.0
"""More than this fraction of constituents with an energy of this many times their momentum is no detector's: a proton
has that below 0.2 GeV. Energies or masses are of another unit than momenta then."""
UNITS = {"GeV": 1.0, "MeV": MEV}
_OF_EVENTS = ("cand", "pf", "eflow", "track", "tower")
_OBJECTS = re.compile(r"(ak\d+)?(jet|muon|mu|electron|ele?|tau|photon|lepton|lep|met)s?(ak\d+)?\d*", re.IGNORECASE)
"""How the names of what an event is made of end, none of which is a constituent of one jet."""


@dataclass(frozen=True)
class Choice:
    """What the user said about the jets; None and False leave it to the file.

    Attributes:
        constituents: Prefix of the constituents' branches.
        jets: Collection of jets, such as FatJet.
        cluster: Jet definition, such as `antikt:0.8`.
        one_jet_per_event: Each event's candidates are one jet, although nothing in the file says so.
        unit: GeV or MeV.
    """

    constituents: str | None = None
    jets: str | None = None
    cluster: str | None = None
    one_jet_per_event: bool = False
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit not in UNITS:
            raise ConfigurationError(f"unit: expected {' or '.join(UNITS)}, got '{self.unit}'")
        if self.cluster is not None:
            Definition.parse(self.cluster)
            if self.jets is not None or self.one_jet_per_event:
                raise ConfigurationError("clustering makes the jets: it excludes --jets and --one-jet-per-event")


@dataclass(frozen=True)
class Understanding:
    """What was found: for people, for `--json`, and for the manifest of a job.

    Attributes:
        format: Format and jets, in words.
        tree: Tree or group that was opened.
        events: In the whole file.
        branches: Those that make the jets.
        unit: Unit of energy in the file.
        sample: Events that the next three are of.
        jets_per_event: Mean.
        constituents_per_jet: Median.
        median_pt: GeV.
        files: How many files these events are in; the sample is of the first that holds any.
    """

    format: str
    tree: str
    events: int
    branches: tuple[str, ...]
    unit: str
    sample: int
    jets_per_event: float
    constituents_per_jet: float
    median_pt: float
    files: int = 1

    def lines(self) -> list[str]:
        """A few lines for a person."""
        shown = ", ".join(self.branches[:8]) + (f" and {len(self.branches) - 8} more" if len(self.branches) > 8 else "")
        return [
            f"{self.format}; {self.events} events"
            + (f" in '{self.tree}'" if self.tree else "")
            + (f" of {self.files} files" if self.files > 1 else ""),
            f"branches: {shown}",
            f"first {self.sample} events: {self.jets_per_event:.3g} jets an event, {self.constituents_per_jet:.3g} "
            f"constituents a jet, pT {self.median_pt:.4g} GeV (medians), energies in {self.unit}",
        ]


def choose_reading(source: Source, choice: Choice, location: str | Path = "the file") -> Reading:
    """How the jets of a file are to be read. Raises JetError when that is not clear, and says what would make it so."""
    reading = _choose(source, choice, location)
    return reading if choice.unit is None else reading.in_unit(UNITS[choice.unit])


def _choose(source: Source, choice: Choice, location: str | Path) -> Reading:
    names = [*source.columns, *source.counters]
    known = next((one for one in FORMATS if one.recognises(names)), None)
    if choice.cluster is not None:
        definition = Definition.parse(choice.cluster)
        collections = [] if known is None or choice.constituents is not None else known.candidates(names)
        if not collections:
            collections = [_by_prefix(source, choice.constituents)]
        label = known.name if known is not None else "candidates"
        return Clustered(f"{label}, clustered by {definition}", tuple(collections), definition)
    if choice.constituents is None and known is not None and not choice.one_jet_per_event:
        readings = list(known.readings(names))
        if choice.jets is not None:
            readings = [one for one in readings if one.jets == choice.jets] or _refuse_jets(readings, choice.jets)
        if readings:
            return readings[0]
        hint = "; or cluster them, --cluster antikt:0.8" if known.candidates(names) else ""
        article = "an" if known.name[0] in "AF" else "a"  # ATLAS, FCC
        raise JetError(f"{location}: this is {article} {known.name} file, and {known.otherwise}{hint}")
    if choice.jets is not None:
        raise JetError(f"--jets {choice.jets}: nothing in {location} ties constituents to collections of jets")
    collection = _by_prefix(source, choice.constituents)
    _check_tied(source, collection, choice, location)
    return Nested("constituents as lists", collection)


def _refuse_jets(readings: Sequence[Reading], wanted: str) -> list[Reading]:
    raise JetError(f"no jets '{wanted}' with constituents; {describe_names([one.jets for one in readings], wanted)}")


def _by_prefix(source: Source, prefix: str | None) -> Collection:
    coordinates = find_constituents(source.columns, prefix)
    components = coordinates.names
    one = next(iter(components.values()))
    stem = one[: len(one) - len(one.rpartition("_")[2].rpartition(".")[2].rpartition("/")[2])]
    valid = f"{stem}valid"
    return Collection(components, valid=valid if valid in source.columns else None, coordinates=coordinates)


def _check_tied(source: Source, collection: Collection, choice: Choice, location: str | Path) -> None:
    """Lists an event are jets only if the file is one of jets: not candidates beside several jets an event."""
    columns = list(collection.components.values())
    with readable(f"{location}: the first event cannot be read"):
        empty = source.read(columns, 0, 0)
    flat = [column for column in columns if empty[column].ndim < 2]
    if flat:
        raise JetError(
            f"{location}: '{flat[0]}' is one number an event, but constituents are lists; name the prefix of the right "
            f"branches with --constituents ({describe_names(source.columns, 'part_px')})"
        )
    if empty[columns[0]].ndim > 2 or choice.one_jet_per_event:
        return
    advice = (
        "if each event is one jet, say --one-jet-per-event; if these are candidates of whole events, cluster them: "
        "--cluster antikt:0.8"
    )
    stem = columns[0].lower()
    if any(word in stem for word in _OF_EVENTS):
        raise JetError(f"{location}: nothing in it ties '{columns[0]}' and its like to jets; {advice}")
    words = re.split(r"[_./:]+|(?<=[a-z0-9])(?=[A-Z])", columns[0].rpartition("/")[2])[:-1]
    if words and _OBJECTS.fullmatch(words[-1]):
        raise JetError(
            f"{location}: by its name '{columns[0]}' is of an event's objects, not of the constituents of a jet; look "
            "for the candidates that jets are made of, or if each event is one jet, say --one-jet-per-event"
        )
    others = [name for name in source.columns if "jet" in name.lower() and name not in columns]
    with readable(f"{location}: the first event cannot be read"):
        kinds = source.read(others, 0, 0) if others else None
    lists = [name for name in others if kinds is not None and kinds[name].ndim > 1 and name.lower().endswith("pt")]
    if lists:
        raise JetError(
            f"{location}: there are several jets an event ('{lists[0]}'), and nothing ties '{columns[0]}' and its like "
            f"to them; {advice}"
        )


def judge(assembled: Assembled, choice: Choice) -> Assembled:
    """With jets that are too wide, or too hard (unless the user has said the unit), as further faults."""
    wide = too_wide(assembled.jets)
    words = f"has constituents further than {WIDEST:g} from its axis: it is no jet"
    faults = [*assembled.faults, (wide, words)]
    if choice.unit is None:
        with np.errstate(all="ignore"):
            hard = _pt(assembled.jets) > HARDEST
        hard = ak.fill_none(hard, False, axis=-1)
        faults.insert(-1, (hard, f"has a pT above {HARDEST:g} GeV: is it in MeV? Say --unit MeV (or GeV if it is so)"))
        words = f"has constituents most of whose energies are more than {HEAVY:g} times their momenta: of another unit?"
        faults.insert(-1, (_mostly_heavy(assembled.jets), f"{words} Say --unit GeV if it is so"))
    return replace(assembled, faults=tuple(faults))


def _pt(jets: Any) -> Any:
    return np.hypot(ak.sum(jets["px"], axis=-1), ak.sum(jets["py"], axis=-1))


def without_faults(jets: Any, faults: tuple[tuple[Any, str], ...], bad: Bad, start: int) -> Any:
    """The jets, those with a fault being missing; or JetError about the first. `start` numbers the first event."""
    wrong = [(mask, words) for mask, words in faults if ak.any(mask, axis=None)]
    if not wrong:
        return jets
    if bad == "raise":
        mask, words = wrong[0]
        event = int(ak.argmax(ak.any(mask, axis=-1) if mask.ndim > 1 else mask))
        which = f" jet {int(ak.argmax(mask[event]))}" if mask.ndim > 1 else ""
        count = int(ak.sum(mask, axis=None))
        raise JetError(
            f"event {start + event}{which} {words}; {count} such jets (--bad mask gives them a missing score)"
        )
    good = ~wrong[0][0]
    for mask, _ in wrong[1:]:
        good = good & ~mask
    return ak.mask(jets, good)


def understand(source: Source, reading: Reading, choice: Choice, location: str | Path) -> tuple[Understanding, Reading]:
    """Look at the first events. Raises JetError for what cannot be jets, or is surely not in the unit assumed."""
    sample = min(SAMPLE, source.entries)
    with readable(f"{location}: the first {sample} events cannot be read"):
        events = source.read(list(reading.columns), 0, sample)
    reading = reading.pinned(events)
    assembled = judge(reading.assemble(events), choice)
    jets = assembled.jets
    lengths = ak.num(jets, axis=-1)
    sizes = _numbers(lengths)
    wide = _numbers(ak.mask(assembled.faults[-1][0], ~ak.is_none(lengths, axis=-1)))
    several = sizes > 1
    with np.errstate(all="ignore"):
        pts = _numbers(_pt(jets))
    pts = pts[np.isfinite(pts) & (pts > 0)]
    median = float(np.median(pts)) if len(pts) else 0.0
    if np.count_nonzero(wide & several) * 2 > np.count_nonzero(several):
        raise JetError(
            f"{location}: {np.count_nonzero(wide)} of the first {len(sizes)} jets ({reading.name}) have constituents "
            f"further than {WIDEST:g} from their axis, so they are no jets. If these are candidates of whole events, "
            "cluster them: --cluster antikt:0.8"
        )
    if choice.unit is None:
        _check_units(jets, median, reading, location)
    found = Understanding(
        reading.name, source.tree, source.entries, reading.columns,
        next((name for name, unit in UNITS.items() if unit == reading.unit), f"{reading.unit:g} GeV"), sample,
        len(sizes) / max(1, sample), float(np.median(sizes)) if len(sizes) else 0.0, median,
    )  # fmt: skip
    return found, reading


def _check_units(jets: Any, median: float, reading: Reading, location: str | Path) -> None:
    """Raises JetError where the jets' pT, or energies beside momenta, cannot be in the unit that is taken."""
    if median > HARDEST or 0 < median < SOFTEST:
        other = "MeV" if median > HARDEST else "GeV"
        raise JetError(
            f"{location}: the jets' median pT would be {median:.3g} GeV, so the file is probably in {other}; say "
            f"--unit {other} (or --unit {'GeV' if other == 'MeV' else 'MeV'} if it is so)"
        )
    flags = _numbers(_heavy(jets))
    heavy = np.count_nonzero(flags)
    if heavy > MOST_HEAVY * len(flags):
        raise JetError(
            f"{location}: {heavy} of the first {len(flags)} constituents ({reading.name}) have energies of more "
            f"than {HEAVY:g} times their momenta: energies or masses are in another unit than momenta, or none; "
            "name the right branches, such as --constituents part_:pt,eta,phi, or say --unit GeV if it is so"
        )


def _heavy(jets: Any) -> Any:
    """Which constituents have an energy of more than HEAVY times their momentum."""
    with np.errstate(all="ignore"):
        return jets["E"] > HEAVY * np.sqrt(jets["px"] ** 2 + jets["py"] ** 2 + jets["pz"] ** 2)


def _mostly_heavy(jets: Any) -> Any:
    """Which jets have more than half of their constituents so. The first events are judged more strictly."""
    heavy = ak.fill_none(_heavy(jets), False, axis=-1)
    return ak.fill_none(ak.sum(heavy, axis=-1) * 2 > ak.num(heavy, axis=-1), False, axis=-1)


def _numbers(values: Any) -> Any:
    return ak.to_numpy(ak.drop_none(ak.flatten(values, axis=None)))
