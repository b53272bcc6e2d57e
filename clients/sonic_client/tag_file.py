"""Tag a whole file: in chunks, in bounded memory, resumable, by one process or several.

Every finished chunk lies as its own file in `<output>.parts/` until all are there and the output is assembled from
them. An interrupt loses at most the chunks under way, and the same command goes on where it stopped.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.client import Client
from sonic_client.errors import ConfigurationError, JetError, RequestError
from sonic_client.events.branches import find_constituents
from sonic_client.events.files import SUFFIXES, FileError, Source, open_source, readable, select, write
from sonic_client.events.jets import Bad
from sonic_client.options import Options

Progress = Callable[[int], None]
"""Called with the number of events just finished."""


@dataclass(frozen=True)
class Job:
    """What to tag, with what, and where to put it. Picklable.

    Attributes:
        source: `.root`, `.parquet` or `.h5`.
        output: The same kinds.
        url: Servers and model.
        tree: Tree in the ROOT file (group in HDF5); may be left out when there is one.
        constituents: Prefix of the constituents' branches; None finds them.
        keep: Shell patterns of branches to copy to the output.
        score: Name of the output column.
        label: The class whose probability it is.
        bad: What a jet that cannot be tagged does: stop the job, or get a missing score.
        chunk: Events at a time.
        options: Of the client.
    """

    source: Path
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

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigurationError(f"chunk: expected at least 1 event, got {self.chunk}")
        if self.output.suffix not in SUFFIXES:
            raise ConfigurationError(f"{self.output}: expected a name ending in {', '.join(SUFFIXES)}")
        if self.output.resolve() == self.source.resolve():
            raise ConfigurationError(f"{self.output}: the output would replace the input")

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
class Layout:
    """What was found in the input, the same for every chunk."""

    entries: int
    momenta: dict[str, str]
    keep: tuple[str, ...]
    size: int
    modified_ns: int


def examine(job: Job) -> Layout:
    """Open the input and find the columns. Raises FileError or JetError."""
    source = open_source(job.source, job.tree)
    momenta = find_constituents(source.columns, job.constituents)
    keep = tuple(select(source.columns, job.keep))
    if job.score in keep:
        raise ConfigurationError(f"the branch '{job.score}' is kept and written; choose another name with --score")
    with readable(f"{job.source}: the first event cannot be read"):
        first = source.read(list(momenta.values()), 0, min(1, source.entries))
    flat = [column for column in momenta.values() if first[column].ndim < 2]
    if flat:
        raise JetError(
            f"{job.source}: '{flat[0]}' is one number an event, but constituents are lists; name the prefix of the "
            f"right branches with --constituents (there are {', '.join(source.columns)})"
        )
    stat = job.source.stat()
    return Layout(source.entries, momenta, keep, stat.st_size, stat.st_mtime_ns)


def run_job(
    job: Job,
    *,
    workers: int = 1,
    overwrite: bool = False,
    started: Progress | None = None,
    done: Progress | None = None,
) -> Summary:
    """Do the job, or the rest of it.

    Args:
        job: What to do.
        workers: Processes. One is asynchronous already; more help when reading and sorting constituents is the limit.
        overwrite: Replace an output that exists, and forget an unfinished run.
        started: Called with the number of all events.
        done: Called with the number of events just finished, at first with those of an earlier run.
    """
    if job.output.exists() and not overwrite:
        raise FileError(f"{job.output} exists; choose another name or --overwrite")
    layout = examine(job)
    _prepare_parts(job, layout, overwrite)
    chunks = -(-layout.entries // job.chunk)
    missing = [number for number in range(chunks) if not _part(job, number).is_file()]
    finished = layout.entries - sum(_size(job, layout, number) for number in missing)
    if started is not None:
        started(layout.entries)
    if done is not None and finished:
        done(finished)
    for number in _tag_chunks(job, layout, missing, workers):
        if done is not None:
            done(_size(job, layout, number))
    counts = np.zeros(2, np.int64)

    def all_parts() -> Iterator[Any]:
        for number in range(chunks):
            part = ak.from_parquet(_part(job, number))
            flat = ak.flatten(part[job.score], axis=None) if part[job.score].ndim > 1 else part[job.score]
            counts[:] += (len(flat), len(flat) - int(ak.sum(ak.is_none(flat))))
            yield part

    if chunks == 0:
        raise JetError(f"{job.source} holds no events; nothing was written")
    write(job.output, all_parts(), job.tree or "scores")
    shutil.rmtree(job.parts)
    return Summary(str(job.output), layout.entries, int(counts[0]), int(counts[1]), finished)


def _tag_chunks(job: Job, layout: Layout, numbers: list[int], workers: int) -> Iterator[int]:
    """Numbers of chunks, as they are finished."""
    if workers <= 1 or len(numbers) <= 1:
        with Client(job.url, options=job.options) as client:
            source = open_source(job.source, job.tree)
            for number in numbers:
                _tag_chunk(job, layout, number, source, client)
                yield number
        return
    # gRPC does not survive a fork, so the workers are started afresh.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(numbers)), context, _start_worker, (job, layout)) as pool:
        queue = iter(numbers)
        pending: set[Future[int]] = {pool.submit(_worker_chunk, n) for n in itertools.islice(queue, 2 * workers)}
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


def _tag_chunk(job: Job, layout: Layout, number: int, source: Source, client: Client) -> None:
    """Read, tag and store one chunk."""
    start = number * job.chunk
    stop = start + _size(job, layout, number)
    with readable(f"{job.source}: events {start} to {stop} cannot be read"):
        events = source.read([*layout.momenta.values(), *layout.keep], start, stop)
    _check_unchanged(job, layout)
    if len(events) != stop - start:
        raise FileError(
            f"{job.source}: events {start} to {stop}: only {len(events)} could be read; is it being written?"
        )
    jets = {component: events[column] for component, column in layout.momenta.items()}
    try:
        scores = client.tag(jets, label=job.label, bad=job.bad)
    except JetError as error:
        raise JetError(f"{job.source}, events from {start}: {error}") from error
    except RequestError as error:
        error.add_note(f"events {start} to {stop} of {job.source}; what is done is kept, the same command resumes")
        raise
    columns = {name: events[name] for name in layout.keep} | {job.score: scores}
    target = _part(job, number)
    temporary = target.with_suffix(".tmp")
    ak.to_parquet(ak.zip(columns, depth_limit=1), temporary)
    temporary.replace(target)


def _prepare_parts(job: Job, layout: Layout, overwrite: bool) -> None:
    """Make the folder of parts, or check that the one that is there belongs to the same job on the same file."""
    described = {
        "source": str(job.source.resolve()),
        "tree": job.tree,
        "model": job.url.rpartition("://")[2].partition("/")[2],
        "score": job.score,
        "label": job.label,
        "bad": job.bad,
        "chunk": job.chunk,
        **asdict(layout),
        "keep": list(layout.keep),
    }
    manifest = job.parts / "manifest.json"
    if overwrite:
        shutil.rmtree(job.parts, ignore_errors=True)
    if manifest.is_file():
        there = json.loads(manifest.read_text())
        different = sorted(key for key in described if there.get(key) != described[key])
        if different:
            raise FileError(
                f"{job.parts} holds an unfinished run with other {', '.join(different)}; "
                "repeat that command, or begin anew with --overwrite"
            )
        return
    job.parts.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps(described, indent=2) + "\n")


def _check_unchanged(job: Job, layout: Layout) -> None:
    stat = job.source.stat()
    if (stat.st_size, stat.st_mtime_ns) != (layout.size, layout.modified_ns):
        raise FileError(f"{job.source} changed while it was read; begin anew with --overwrite")


def _part(job: Job, number: int) -> Path:
    return job.parts / f"{number:06d}.parquet"


def _size(job: Job, layout: Layout, number: int) -> int:
    return min(job.chunk, layout.entries - number * job.chunk)


@dataclass
class _Worker:
    """What a worker process keeps between chunks."""

    job: Job
    layout: Layout
    source: Source
    client: Client


_worker: _Worker | None = None


def _start_worker(job: Job, layout: Layout) -> None:
    global _worker
    _worker = _Worker(job, layout, open_source(job.source, job.tree), Client(job.url, options=job.options))


def _worker_chunk(number: int) -> int:
    if _worker is None:
        raise ConfigurationError("the worker was not started")
    _tag_chunk(_worker.job, _worker.layout, number, _worker.source, _worker.client)
    return number
