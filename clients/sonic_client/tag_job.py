"""What a job of tagging is, and what is found in its input before anything is sent or written."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sonic_client.core.masked import Bad
from sonic_client.core.working_points import check_efficiency
from sonic_client.errors import ConfigurationError, FileError, JetError
from sonic_client.events.files import Source, open_source, readable, select
from sonic_client.events.locations import is_remote, suffix_of
from sonic_client.events.output import check_target, plain_kind
from sonic_client.events.readings import Reading
from sonic_client.events.understanding import Choice, Understanding, choose_reading, understand
from sonic_client.options import Options
from sonic_client.tag_wait import PATIENCE

Location = Path | str


@dataclass(frozen=True)
class Job:
    """What to tag, with what, and where to put it. Picklable.

    Attributes:
        source: `.root` (a path or a URL), `.parquet` or `.h5`; or several of one kind, whose events follow each other.
        output: The same kinds, a path.
        url: Servers and model.
        tree: Tree in the ROOT file (group in HDF5); None takes the only one, or the events'.
        constituents: Prefix of the constituents' branches; None finds them.
        keep: Shell patterns of branches to copy to the output.
        score: Name of the output column.
        label: The class whose probability it is.
        bad: What a jet that cannot be tagged does: stop the job, or get a missing score.
        chunk: Events at a time.
        options: Of the client.
        jets: Collection of jets, such as FatJet; None takes the format's usual one.
        cluster: Jets to make of each event's candidates: `antikt:0.8`, with the least pT `antikt:0.8:200`.
        one_jet_per_event: Each event's candidates are one jet, although nothing in the file says so.
        unit: Unit of energies, GeV or MeV; None is the format's.
        any_version: Go on although another version of the model answers than at first.
        metrics: URL of the server's metrics, which say what kernel answers; None asks where Triton has them by default.
        patience: Seconds that a server which nobody reaches gets to appear.
        working_points: Efficiencies, each of which gives a column of flags: is the score above the version's threshold?
        card: Model card (or its folder) with the thresholds; None asks the server.
    """

    source: Location | Sequence[Location]
    output: Path
    url: str
    tree: str | None = None
    constituents: str | None = None
    keep: tuple[str, ...] = ()
    score: str = "top_score"
    label: str = "top"
    bad: Bad = "raise"
    chunk: int = 5000
    options: Options = field(default_factory=Options)
    jets: str | None = None
    cluster: str | None = None
    one_jet_per_event: bool = False
    unit: str | None = None
    any_version: bool = False
    metrics: str | None = None
    patience: float = PATIENCE
    working_points: tuple[float, ...] = ()
    card: Path | None = None

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigurationError(f"chunk: expected at least 1 event, got {self.chunk}")
        if self.label not in self.options.labels:
            raise ConfigurationError(f"no class '{self.label}'; the classes are {', '.join(self.options.labels)}")
        if not self.score.strip() or not self.score.isprintable():
            raise ConfigurationError(f"score: expected a name for the new column, got {self.score!r}")
        try:
            check_target(self.output, overwrite=True)
        except FileError as error:
            if "expected a name" in str(error):
                raise ConfigurationError(str(error)) from None
            raise
        self._check_sources()
        if len(set(self.flags)) != len(self.working_points):
            raise ConfigurationError("working points: each efficiency may be given once")
        if self.working_points and self.any_version:
            raise ConfigurationError("thresholds are one version's own: working points exclude --any-version")
        _ = self.choice

    def _check_sources(self) -> None:
        if not self.sources:
            raise ConfigurationError("expected the name of a file to tag")
        seen: set[str] = set()
        for source in self.sources:
            place = str(source) if is_remote(source) else str(Path(source).resolve())
            if place == str(self.output.resolve()):
                raise ConfigurationError(f"{self.output}: the output would replace the input")
            if place in seen:
                raise ConfigurationError(f"{source} is named twice: its events would be in the output twice")
            seen.add(place)
        kinds = {suffix_of(source) for source in self.sources}
        if len(kinds) > 1:
            raise ConfigurationError(f"files of one kind can follow each other, got {', '.join(sorted(kinds))}")

    @property
    def sources(self) -> tuple[Location, ...]:
        """The files, in order."""
        return (self.source,) if isinstance(self.source, (str, Path)) else tuple(self.source)

    @property
    def choice(self) -> Choice:
        """What the user said about the jets."""
        return Choice(self.constituents, self.jets, self.cluster, self.one_jet_per_event, self.unit)

    @property
    def client_options(self) -> Options:
        """The client's options, which know the metrics page."""
        return self.options if self.metrics is None else replace(self.options, metrics_url=self.metrics)

    @property
    def flags(self) -> dict[str, float]:
        """Columns of flags, and the efficiency of each: `top_score_wp30` of 0.3, `top_score_wp2p5` of 0.025."""
        for efficiency in self.working_points:
            check_efficiency(efficiency)
        return {f"{self.score}_wp{f'{100 * e:g}'.replace('.', 'p')}": e for e in self.working_points}

    @property
    def parts(self) -> Path:
        """Folder of the finished chunks."""
        return self.output.with_name(self.output.name + ".parts")


def expand(names: Sequence[str]) -> tuple[Location, ...]:
    """Files by their names or by patterns such as `run*.root`, those of a pattern in the order of their names.

    Raises FileError for a pattern that nothing matches.
    """
    found: list[Location] = []
    for name in names:
        if is_remote(name):
            found.append(name)
        elif glob.has_magic(name) and not Path(name).exists():
            matching = sorted(glob.glob(name))  # noqa: PTH207 - Path.glob takes no absolute pattern
            if not matching:
                raise FileError(f"{name}: no file has such a name")
            found += [Path(one) for one in matching]
        else:
            found.append(Path(name))
    return tuple(found)


@dataclass(frozen=True)
class InputFile:
    """One of a job's files: how many events it holds, its size in bytes, and when it was changed; 0 of remote files."""

    location: Location
    entries: int
    size: int
    modified_ns: int

    def check_unchanged(self) -> None:
        """Raises FileError if the file is another one by now."""
        if identity(self.location) != (self.size, self.modified_ns):
            raise FileError(f"{self.location} changed while it was read; begin anew with --overwrite")


@dataclass(frozen=True)
class Chunk:
    """Events [start, stop) of one file: the unit of work. No chunk holds events of two files."""

    file: InputFile
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Events."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """What was found in the input, the same for every chunk."""

    files: tuple[InputFile, ...]
    chunks: tuple[Chunk, ...]
    tree: str
    reading: Reading
    keep: tuple[str, ...]

    @property
    def entries(self) -> int:
        """Events in all files."""
        return sum(file.entries for file in self.files)

    @property
    def written(self) -> tuple[str, ...]:
        """Columns that are written before the scores."""
        return (*self.keep, *self.reading.written)


def examine(job: Job) -> tuple[Plan, Understanding]:
    """Open the input, find the columns and look at the first events of each file. Sends nothing, writes nothing.

    Raises FileError or JetError: also for a file whose columns are not those of the first one.
    """
    first = job.sources[0]
    entries: list[int] = []
    found: Understanding | None = None
    before = [identity(location) for location in job.sources]
    with open_source(first, job.tree) as source:
        tree = source.tree
        keep = tuple(select(source, job.keep))
        reading = choose_reading(source, job.choice, first)
        _check_names(job, keep, reading)
        columns = list(dict.fromkeys([*reading.columns, *keep]))
        kinds = _kinds(source, columns, keep, first)
        entries.append(source.entries)
        if source.entries:
            found, reading = understand(source, reading, job.choice, first)
    for location in job.sources[1:]:
        with open_source(location, tree or None) as source:
            _check_same(source, columns, keep, kinds, location, first)
            entries.append(source.entries)
            if source.entries:
                understood, reading = understand(source, reading, job.choice, location)
                found = found or understood
    if found is None:
        raise JetError(f"{', '.join(map(str, job.sources))}: no events; nothing was written")
    files = tuple(InputFile(*each) for each in _described(job.sources, entries, before))
    chunks = tuple(
        Chunk(file, start, min(file.entries, start + job.chunk))
        for file in files
        for start in range(0, file.entries, job.chunk)
    )
    return Plan(files, chunks, tree, reading, keep), replace(found, events=sum(entries), files=len(files))


def _described(
    sources: Sequence[Location], entries: Sequence[int], before: Sequence[tuple[int, int]]
) -> list[tuple[Location, int, int, int]]:
    return [(place, count, *known) for place, count, known in zip(sources, entries, before, strict=True)]


def _check_names(job: Job, keep: Sequence[str], reading: Reading) -> None:
    ours = {job.score: "--score", **dict.fromkeys(job.flags, "--score")}
    written = [*keep, *reading.written, *ours]
    twice = sorted({name for name in written if written.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"the branch '{twice[0]}' is kept and written; choose another name with --score"
            if twice[0] in ours
            else f"the branch '{twice[0]}' is kept, and written for the clustered jets; do not keep it"
        )


def _kinds(source: Source, columns: Sequence[str], keep: Sequence[str], location: Location) -> dict[str, str]:
    """Types of columns, without reading an event; whether values can be missing matters only of those that are kept."""
    with readable(f"{location}: its branches cannot be read"):
        empty = source.read(columns, 0, 0)
    kinds = {name: empty[name].type.content for name in columns}
    return {name: str(kind if name in keep else plain_kind(kind)) for name, kind in kinds.items()}


def _check_same(
    source: Source,
    columns: Sequence[str],
    keep: Sequence[str],
    kinds: dict[str, str],
    location: Location,
    first: Location,
) -> None:
    missing = sorted(set(columns) - {*source.columns, *source.counters})
    if missing:
        raise FileError(f"{location}: there is no branch '{missing[0]}', which {first} has; tag it by itself")
    here = _kinds(source, columns, keep, location)
    for name, kind in kinds.items():
        if here[name] != kind:
            raise FileError(f"{location}: '{name}' is {here[name]}, and {kind} in {first}; tag it by itself")


def identity(location: Location) -> tuple[int, int]:
    """Size and time of the last change of a local file; zeros for others. Raises FileError."""
    if is_remote(location):
        return 0, 0
    try:
        stat = Path(location).stat()
    except OSError as error:
        words = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise FileError(f"{location}: {words}") from error
    return stat.st_size, stat.st_mtime_ns


def read_chunk(plan: Plan, source: Source, chunk: Chunk) -> Any:
    """Events of a chunk, from its opened file. Raises FileError."""
    columns = list(dict.fromkeys([*plan.reading.columns, *plan.keep]))
    where = f"{chunk.file.location}: events {chunk.start} to {chunk.stop}"
    with readable(f"{where} cannot be read"):
        events = source.read(columns, chunk.start, chunk.stop)
    chunk.file.check_unchanged()
    if len(events) != chunk.size:
        raise FileError(f"{where}: only {len(events)} could be read; is it being written?")
    return events


def describe(job: Job, plan: Plan) -> dict[str, Any]:
    """What makes chunks parts of one output, for their manifest."""
    return {
        "sources": [
            str(one.location) if is_remote(one.location) else str(Path(one.location).resolve()) for one in plan.files
        ],
        "entries": [one.entries for one in plan.files], "size": [one.size for one in plan.files],
        "modified_ns": [one.modified_ns for one in plan.files],
        "tree": plan.tree or job.tree, "model": job.url.rpartition("://")[2].partition("/")[2], "score": job.score,
        "label": job.label, "bad": job.bad, "chunk": job.chunk, "chunks": len(plan.chunks),
        "written": list(plan.written), "flags": job.flags, "jets": asdict(plan.reading),  # type: ignore[call-overload]
    }  # fmt: skip
