"""Tag whole files: in chunks, in bounded memory, resumable, by one process or several.

Every finished chunk lies as its own file in `<output>.parts/` until all are there and the output is assembled from
them. An interrupt loses at most the chunks under way, and the same command goes on where it stopped. What can go wrong
with the input, the output and the server is found out before the first jet is sent.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from fpga_ops.calibration import SCALING_PARAMETER
from sonic_client.client import Client
from sonic_client.core.reply import Reply
from sonic_client.core.server_metrics import find_metrics, read_provenance
from sonic_client.core.url import resolve
from sonic_client.errors import ClientError, ConfigurationError, JetError, RequestError
from sonic_client.events.files import Source, open_source, readable
from sonic_client.events.output import check_target, enforce
from sonic_client.events.understanding import Understanding, judge, without_faults
from sonic_client.tag_job import InputFile, Job, Plan, describe, examine, expand, read_chunk
from sonic_client.tag_output import Summary, assemble, check_output, finish_parts, score_type, threshold_key
from sonic_client.tag_parts import Parts
from sonic_client.tag_wait import Say, meet_server

__all__ = ["Job", "Plan", "Progress", "Summary", "examine", "expand", "finish_parts", "run_job"]

Progress = Callable[[int], None]
"""Called with the number of events just finished."""
_ONE_JET = {"E": [[500.0]], "px": [[300.0]], "py": [[400.0]], "pz": [[0.0]]}
"""Asked first where the version that answers has to be known before a chunk is tagged."""


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
        parts.begin(describe(job, plan))
        check_output(job, plan, parts)
        missing = _left(plan, parts, say)
        finished = plan.entries - sum(plan.chunks[number].size for number in missing)
        if missing:
            with Client(job.url, options=job.client_options) as client:
                meet_server(client, job.patience, say)
                _check_scale(job, client)
                facts = _provenance(job) | _first_facts(job, client)
            parts.check_answered(facts, job.any_version)
        if started is not None:
            started(plan.entries)
        if done is not None and finished:
            done(finished)
        for number, answered in _tag_chunks(job, plan, missing, workers):
            for facts, _ in answered:
                parts.check_answered(facts, job.any_version)
            parts.check_kernels((by for _, by in answered), job.any_version)
            parts.commit(number)
            if done is not None:
                done(plan.chunks[number].size)
        return assemble(parts, job.output, finished, overwrite=overwrite)


class WorkerError(ClientError):
    """A process of a job ended before its work did."""


def _left(plan: Plan, parts: Parts, say: Say | None) -> list[int]:
    """Numbers of the chunks that are not tagged yet, or whose file was damaged since."""
    damaged = 0
    left = []
    for number, chunk in enumerate(plan.chunks):
        if not parts.part(number).is_file():
            left.append(number)
        elif parts.damaged(number, chunk.size):
            left.append(number)
            damaged += 1
    if damaged and say is not None:
        say(f"{damaged} finished chunks cannot be read any more and are tagged again")
    return left


def _check_scale(job: Job, client: Client) -> None:
    """A local model gives the network's own scores. Raises ConfigurationError where the service gives scaled ones."""
    if job.options.fallback is None:
        return
    with suppress(RequestError):  # not every server shows configurations
        parameters = client.config().get("parameters") or {}
        if dict(parameters.get(SCALING_PARAMETER) or {}).get("string_value") == "true":
            raise ConfigurationError(
                f"'{client.model}' scales its scores ({SCALING_PARAMETER}), a local model (--local-model) would not: "
                "their scores cannot stand in one column"
            )


Facts = dict[str, str]
"""What is known of what answered: version, precision, with working points also the scale of scores and thresholds."""
Answers = list[tuple[Facts, Facts]]
"""Of each that answered: what has to be one in the whole output, and what is only noted, as its device."""
_NOTED = ("version", "device", "precision", "kernel", "isa")


def _first_facts(job: Job, client: Client) -> Facts:
    """Facts of what answers now, by one made-up jet, before any work goes into a version without working points."""
    if not job.working_points:
        return {}
    replies: list[Reply] = []
    client.tag(_ONE_JET, label=job.label, answered=replies.append)
    return _facts(job, client, replies[0])


def _facts(job: Job, client: Client, reply: Reply) -> Facts:
    facts = {"version": reply.model_version}
    said = reply.provenance
    if said["device"]:  # else nobody says anything of this answer
        facts |= {"precision": said["precision"], "temperature": said.get("temperature", "1.0")}
    for efficiency in job.working_points:
        point = client.working_point(efficiency, reply, label=job.label, card=job.card)
        facts |= {"temperature": repr(point.temperature), threshold_key(efficiency): repr(point.threshold)}
    return facts


def _by(reply: Reply) -> Facts:
    said = reply.provenance
    return {name: said[name] for name in _NOTED if said.get(name)}


def _tag_chunks(job: Job, plan: Plan, numbers: list[int], workers: int) -> Iterator[tuple[int, Answers]]:
    """Numbers of chunks, as they are tagged and stored, and what answered."""
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
        pending: set[Future[tuple[int, Answers]]] = {
            pool.submit(_worker_chunk, n) for n in itertools.islice(queue, 2 * workers)
        }
        try:
            while pending:
                ended, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in ended:
                    try:
                        yield future.result()
                    except BrokenProcessPool as error:
                        raise WorkerError(
                            "one of the job's processes was ended from outside, perhaps for want of memory (fewer "
                            "--workers or a smaller --chunk take less); what is done is kept, the same command resumes"
                        ) from error
                    following = next(queue, None)
                    if following is not None:
                        pending.add(pool.submit(_worker_chunk, following))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """What a process keeps between chunks: the client, and the file that the last one was of."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self._job = job
        self._plan = plan
        self._parts = Parts(job.parts)  # not entered: the folder is the first process's
        self._open: tuple[InputFile, Source] | None = None
        self._client = Client(job.url, options=job.client_options)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._open is not None:
            self._open[1].close()

    def _source(self, file: InputFile) -> Source:
        if self._open is None or self._open[0] != file:
            if self._open is not None:
                self._open[1].close()
                self._open = None
            self._open = (file, open_source(file.location, self._plan.tree or self._job.tree))
        return self._open[1]

    def tag(self, number: int) -> Answers:
        """Read, tag and store one chunk; what answered."""
        job, plan = self._job, self._plan
        chunk = plan.chunks[number]
        location, start, stop = chunk.file.location, chunk.start, chunk.stop
        events = read_chunk(plan, self._source(chunk.file), chunk)
        replies: dict[tuple[str, ...], Reply] = {}
        try:
            with readable(f"{location}: events {start} to {stop} make no sense"):
                assembled = judge(plan.reading.assemble(events), job.choice)
                jets = without_faults(assembled.jets, assembled.faults, job.bad, start)

            def note(reply: Reply) -> None:
                said = (str(reply.parameters.get(name, "")) for name in _NOTED)
                replies[reply.server, reply.model_version, *said] = reply

            scores = self._client.tag(jets, label=job.label, bad=job.bad, answered=note)
            answers = [(_facts(job, self._client, reply), _by(reply)) for reply in replies.values()]
        except JetError as error:
            raise JetError(f"{location}, events from {start}: {error}") from error
        except RequestError as error:
            error.add_note(f"events {start} to {stop} of {location}; what is done is kept, the same command resumes")
            raise
        with readable(f"{location}: events {start} to {stop} cannot be stored"):
            columns = {name: events[name] for name in plan.keep} | dict(assembled.columns)
            columns[job.score] = enforce(scores, score_type(scores, True))
            self._parts.stored(number, columns)
        return answers


def _provenance(job: Job) -> Facts:
    """Version, precision and kernel that the server's metrics name; empty where they do not."""
    servers, model, _ = resolve(job.url)
    page = job.metrics or find_metrics(servers[0])
    labels = read_provenance(page, model) if page else {}
    if not labels:
        return {}
    if "," in labels.get("version", ""):  # several are loaded, and the answers will say which it is
        del labels["version"]
    labels.setdefault("temperature", "1.0")
    return {key: labels[key] for key in ("version", "precision", "kernel", "temperature") if labels.get(key)}


_worker: _Worker | None = None


def _start_worker(job: Job, plan: Plan) -> None:
    global _worker
    _worker = _Worker(job, plan)


def _worker_chunk(number: int) -> tuple[int, Answers]:
    if _worker is None:
        raise ConfigurationError("the worker was not started")
    return number, _worker.tag(number)
