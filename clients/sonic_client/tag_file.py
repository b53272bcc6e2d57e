"""Tag a whole file: in chunks, in bounded memory, resumable, by one process or several.

Every finished chunk lies as its own file in `<output>.parts/` until all are there and the output is assembled from
them. An interrupt loses at most the chunks under way, and the same command goes on where it stopped. What can go wrong
with the input, the output and the server is found out before the first jet is sent.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.client import Client
from sonic_client.core.reply import Reply
from sonic_client.core.server_metrics import read_provenance
from sonic_client.errors import ConfigurationError, JetError, RequestError
from sonic_client.events.files import FileError, Source, is_remote, open_source, readable, select
from sonic_client.events.jets import Bad
from sonic_client.events.output import check_target, encode, enforce, find_nulls, try_out, write
from sonic_client.events.readings import Reading
from sonic_client.events.understanding import Choice, Understanding, choose_reading, judge, understand, without_faults
from sonic_client.options import Options
from sonic_client.tag_parts import Parts
from sonic_client.tag_wait import PATIENCE, Say, meet_server

Progress = Callable[[int], None]
"""Called with the number of events just finished."""


@dataclass(frozen=True)
class Job:
    """What to tag, with what, and where to put it. Picklable.

    Attributes:
        source: `.root` (a path or a URL), `.parquet` or `.h5`.
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
    """

    source: Path | str
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

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigurationError(f"chunk: expected at least 1 event, got {self.chunk}")
        if self.label not in self.options.labels:
            raise ConfigurationError(f"no class '{self.label}'; the classes are {', '.join(self.options.labels)}")
        try:
            check_target(self.output, overwrite=True)
        except FileError as error:
            if "expected a name" in str(error):
                raise ConfigurationError(str(error)) from None
            raise
        if not is_remote(self.source) and self.output.resolve() == Path(self.source).resolve():
            raise ConfigurationError(f"{self.output}: the output would replace the input")
        _ = self.choice

    @property
    def choice(self) -> Choice:
        """What the user said about the jets."""
        return Choice(self.constituents, self.jets, self.cluster, self.one_jet_per_event, self.unit)

    @property
    def parts(self) -> Path:
        """Folder of the finished chunks."""
        return self.output.with_name(self.output.name + ".parts")


@dataclass(frozen=True)
class Summary:
    """What a job did."""

    output: str
    events: int
    jets: int
    tagged: int
    resumed_events: int


@dataclass(frozen=True)
class Plan:
    """What was found in the input, the same for every chunk."""

    entries: int
    tree: str
    reading: Reading
    keep: tuple[str, ...]
    identity: tuple[int, int]

    @property
    def written(self) -> tuple[str, ...]:
        """Columns that are written before the scores."""
        return (*self.keep, *self.reading.written)


def examine(job: Job) -> tuple[Plan, Understanding]:
    """Open the input, find the columns and look at the first events. Sends nothing, writes nothing.

    Raises FileError or JetError.
    """
    identity = _identity(job)
    with open_source(job.source, job.tree) as source:
        keep = tuple(select(source, job.keep))
        reading = choose_reading(source, job.choice, job.source)
        written = [*keep, *reading.written, job.score]
        twice = sorted({name for name in written if written.count(name) > 1})
        if twice:
            raise ConfigurationError(
                f"the branch '{twice[0]}' is kept and written; choose another name with --score"
                if twice[0] == job.score
                else f"the branch '{twice[0]}' is kept, and written for the clustered jets; do not keep it"
            )
        if source.entries == 0:
            raise JetError(f"{job.source} holds no events; nothing was written")
        understanding = understand(source, reading, job.choice, job.source)
        return Plan(source.entries, source.tree, reading, keep, identity), understanding


def run_job(
    job: Job,
    *,
    workers: int = 1,
    overwrite: bool = False,
    started: Progress | None = None,
    done: Progress | None = None,
    understood: Callable[[Understanding], None] | None = None,
    say: Say | None = None,
) -> Summary:
    """Do the job, or the rest of it.

    Args:
        job: What to do.
        workers: Processes. One is asynchronous already; more help when reading and sorting constituents is the limit.
        overwrite: Replace an output that exists, and forget an unfinished run.
        started: Called with the number of all events, after all checks.
        done: Called with the number of events just finished, at first with those of an earlier run.
        understood: Called with what was found in the input, before anything is written or sent.
        say: Called with words when something is waited for.
    """
    check_target(job.output, overwrite)
    plan, understanding = examine(job)
    if understood is not None:
        understood(understanding)
    with Parts(job.parts) as parts:
        if overwrite:
            parts.forget()
        parts.begin(_description(job, plan))
        _check_output(job, plan, parts)
        chunks = -(-plan.entries // job.chunk)
        missing = [number for number in range(chunks) if not parts.part(number).is_file()]
        finished = plan.entries - sum(_size(job, plan, number) for number in missing)
        if missing:
            with Client(job.url, options=job.options) as client:
                meet_server(client, job.patience, say)
            parts.check_answered(_provenance(job), job.any_version)
        if started is not None:
            started(plan.entries)
        if done is not None and finished:
            done(finished)
        for number, versions in _tag_chunks(job, plan, missing, workers):
            for version in versions:
                parts.check_answered({"version": version}, job.any_version)
            parts.commit(number)
            if done is not None:
                done(_size(job, plan, number))
        return _assemble(parts, job.output, finished)


def finish_parts(folder: Path, output: Path, *, overwrite: bool = False) -> Summary:
    """Write the finished chunks of a job, whatever its output was to be, to another file, without tagging anew.

    Raises FileError when chunks are missing, or the output cannot hold a column; the chunks stay then.
    """
    check_target(output, overwrite)
    if not (folder / "manifest.json").is_file():
        raise FileError(f"{folder}: there are no finished chunks (manifest.json)")
    with Parts(folder) as parts:
        return _assemble(parts, output, 0)


def _assemble(parts: Parts, output: Path, resumed: int) -> Summary:
    """One file of all parts, whose folder goes then."""
    job = parts.manifest.get("job", {})
    try:
        entries, size, score, names = job["entries"], job["chunk"], job["score"], [*job["written"], job["score"]]
        tree, missing_scores = job["tree"] or "scores", job["bad"] == "mask"
    except (KeyError, TypeError) as error:
        raise FileError(f"{parts.folder}: the manifest is of another version of this program ({error})") from error
    numbers = range(-(-entries // size))
    left = [number for number in numbers if not parts.part(number).is_file()]
    if left:
        raise FileError(
            f"{parts.folder}: {len(left)} of {len(numbers)} chunks are not tagged yet; repeat the command that began"
        )
    jets = tagged = 0
    for chunk in parts.read(numbers, names):
        jets += _jets_in(chunk[score])
        tagged += _jets_in(chunk[score]) - int(ak.sum(ak.is_none(chunk[score], axis=-1), axis=None))
    nullable = missing_scores or tagged < jets
    nulls = {} if output.suffix == ".parquet" else find_nulls(parts.read(numbers, names), names)

    def encoded() -> Iterator[Mapping[str, Any]]:
        for chunk in parts.read(numbers, names):
            scores = chunk[score] if nullable else enforce(chunk[score], _score_type(chunk[score], False))
            yield encode(chunk | {score: scores}, nulls, output.suffix)

    try:
        write(output, encoded(), tree)
    except FileError as error:
        error.add_note(
            f"all chunks are tagged and kept; `triton-fpga tag --finish {parts.folder} --out OTHER.parquet` writes "
            "them elsewhere or otherwise, without tagging anew"
        )
        raise
    parts.remove()
    return Summary(str(output), entries, jets, tagged, resumed)


def _score_type(scores: Any, nullable: bool) -> str:
    return "var * " * (int(scores.ndim) - 1) + ("?" if nullable else "") + "float32"


def _jets_in(scores: Any) -> int:
    return len(scores) if scores.ndim == 1 else int(ak.sum(ak.num(scores, axis=-1)))


def _check_output(job: Job, plan: Plan, parts: Parts) -> None:
    """Write the first events as if they were tagged: what the output cannot hold comes out before a jet is sent."""
    suffix = job.output.suffix
    with open_source(job.source, job.tree) as source:
        sample = _read(job, plan, source, 0, min(2, plan.entries))
        jets = judge(plan.reading.assemble(sample))
        shape = ak.num(jets.jets, axis=-1)
        scores = enforce(ak.values_astype(ak.fill_none(shape, 0, axis=-1), np.float32), _score_type(shape, False))
        chunk = {name: sample[name] for name in plan.keep} | dict(jets.columns) | {job.score: scores}
        parts.stored(0, chunk).unlink()
        nullable = [name for name in plan.keep if "?" in str(sample[name].type) or "option[" in str(sample[name].type)]
        nulls = {}
        if nullable and suffix != ".parquet":  # whether there are nulls at all, only the whole file tells
            starts = range(0, plan.entries, job.chunk)
            pieces = (source.read(nullable, start, min(plan.entries, start + job.chunk)) for start in starts)
            with readable(f"{job.source}: the branches to keep cannot be read"):
                nulls = find_nulls(pieces, nullable)
        encoded = encode(chunk, nulls, suffix)
    try_out(parts.folder / f"trial{suffix}", encoded, plan.tree or "scores")


def _read(job: Job, plan: Plan, source: Source, start: int, stop: int) -> Any:
    columns = list(dict.fromkeys([*plan.reading.columns, *plan.keep]))
    with readable(f"{job.source}: events {start} to {stop} cannot be read"):
        events = source.read(columns, start, stop)
    _check_unchanged(job, plan)
    if len(events) != stop - start:
        raise FileError(
            f"{job.source}: events {start} to {stop}: only {len(events)} could be read; is it being written?"
        )
    return events


def _tag_chunks(job: Job, plan: Plan, numbers: list[int], workers: int) -> Iterator[tuple[int, list[str]]]:
    """Numbers of chunks, as they are tagged and stored, and the model's versions that answered."""
    if not numbers:
        return
    if workers <= 1 or len(numbers) <= 1:
        with _Worker(job, plan) as worker:
            for number in numbers:
                yield number, worker.tag(number)
        return
    # gRPC does not survive a fork, so the workers are started afresh.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(numbers)), context, _start_worker, (job, plan)) as pool:
        queue = iter(numbers)
        pending: set[Future[tuple[int, list[str]]]] = {
            pool.submit(_worker_chunk, n) for n in itertools.islice(queue, 2 * workers)
        }
        try:
            while pending:
                ended, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
                    following = next(queue, None)
                    if following is not None:
                        pending.add(pool.submit(_worker_chunk, following))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """What a process keeps between chunks."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self._job = job
        self._plan = plan
        self._parts = Parts(job.parts)  # not entered: the folder is the first process's
        self._source = open_source(job.source, job.tree)
        self._client = Client(job.url, options=job.options)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._source.close()

    def tag(self, number: int) -> list[str]:
        """Read, tag and store one chunk; the versions that answered."""
        job, plan = self._job, self._plan
        start = number * job.chunk
        stop = start + _size(job, plan, number)
        events = _read(job, plan, self._source, start, stop)
        try:
            with readable(f"{job.source}: events {start} to {stop} make no sense"):
                assembled = judge(plan.reading.assemble(events))
                jets = without_faults(assembled.jets, assembled.faults, job.bad, start)
            versions: set[str] = set()

            def note(reply: Reply) -> None:
                versions.add(reply.model_version)

            scores = self._client.tag(jets, label=job.label, bad=job.bad, answered=note)
        except JetError as error:
            raise JetError(f"{job.source}, events from {start}: {error}") from error
        except RequestError as error:
            error.add_note(f"events {start} to {stop} of {job.source}; what is done is kept, the same command resumes")
            raise
        with readable(f"{job.source}: events {start} to {stop} cannot be stored"):
            columns = {name: events[name] for name in plan.keep} | dict(assembled.columns)
            columns[job.score] = enforce(scores, _score_type(scores, True))
            self._parts.stored(number, columns)
        return sorted(versions)


def _provenance(job: Job) -> dict[str, str]:
    """Version, precision and kernel that the server's metrics name; empty where they do not."""
    location = job.metrics
    if location is None:
        host, _, port = job.url.rpartition("://")[2].partition(",")[0].partition("/")[0].rpartition(":")
        if port not in ("8000", "8001"):
            return {}
        location = f"http://{host}:8002/metrics"
    model = job.url.rpartition("://")[2].partition("/")[2].partition("/")[0].partition(",")[0]
    labels = read_provenance(location, model)
    return {key: labels[key] for key in ("version", "precision", "kernel") if labels.get(key)}


def _description(job: Job, plan: Plan) -> dict[str, Any]:
    """What makes chunks parts of one output."""
    return {
        "source": str(job.source) if is_remote(job.source) else str(Path(job.source).resolve()),
        "tree": plan.tree or job.tree,
        "model": job.url.rpartition("://")[2].partition("/")[2],
        "score": job.score,
        "label": job.label,
        "bad": job.bad,
        "chunk": job.chunk,
        "entries": plan.entries,
        "size": plan.identity[0],
        "modified_ns": plan.identity[1],
        "written": list(plan.written),
        "jets": asdict(plan.reading),  # type: ignore[call-overload]
    }


def _identity(job: Job) -> tuple[int, int]:
    """Size and time of the last change of a local file; zeros for others."""
    if is_remote(job.source):
        return 0, 0
    try:
        stat = Path(job.source).stat()
    except OSError as error:
        raise FileError(f"{job.source}: no such file") from error
    return stat.st_size, stat.st_mtime_ns


def _check_unchanged(job: Job, plan: Plan) -> None:
    if _identity(job) != plan.identity:
        raise FileError(f"{job.source} changed while it was read; begin anew with --overwrite")


def _size(job: Job, plan: Plan, number: int) -> int:
    return min(job.chunk, plan.entries - number * job.chunk)


_worker: _Worker | None = None


def _start_worker(job: Job, plan: Plan) -> None:
    global _worker
    _worker = _Worker(job, plan)


def _worker_chunk(number: int) -> tuple[int, list[str]]:
    if _worker is None:
        raise ConfigurationError("the worker was not started")
    return number, _worker.tag(number)
