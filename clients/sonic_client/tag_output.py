"""One file of all finished chunks, with the flags of working points and a note of where everything comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from sonic_client.errors import FileError
from sonic_client.events.files import open_source, readable
from sonic_client.events.output import check_back, check_target, encode, enforce, find_nulls, try_out, write
from sonic_client.events.understanding import SAMPLE, judge
from sonic_client.tag_job import Job, Plan, read_chunk
from sonic_client.tag_parts import Parts, read_stored

_TRIAL_BYTES = 4_000_000
"""Of kept columns in the trial before a job: enough to see what an output cannot hold."""


@dataclass(frozen=True)
class Summary:
    """What a job did; `provenance` is what the output itself says of where it comes from."""

    output: str
    events: int
    jets: int
    tagged: int
    resumed_events: int
    provenance: Mapping[str, Any] = field(default_factory=dict)


def finish_parts(folder: Path, output: Path, *, overwrite: bool = False) -> Summary:
    """Write the finished chunks of a job, whatever its output was to be, to another file, without tagging anew.

    Raises FileError when chunks are missing, or the output cannot hold a column; the chunks stay then.
    """
    check_target(output, overwrite)
    try:
        there = (folder / "manifest.json").is_file()
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror or error}") from error
    if not there:
        raise FileError(f"{folder}: there are no finished chunks (manifest.json)")
    with Parts(folder) as parts:
        return assemble(parts, output, 0, overwrite=overwrite)


def assemble(parts: Parts, output: Path, resumed: int, *, overwrite: bool = False) -> Summary:
    """One file of all parts, whose folder goes then. What stands at its place by now is replaced only with `overwrite`.

    Raises:
        FileError: Parts are missing or damaged, or the output cannot be written.
    """
    manifest = parts.manifest
    job = manifest.get("job", {})
    try:
        score, names = job["score"], [*job["written"], job["score"]]
        tree, missing_scores = _output_tree(job["tree"]), job["bad"] == "mask"
        numbers = range(job["chunks"])
        entries = sum(job["entries"])
        provenance = provenance_of(manifest)
    except (KeyError, TypeError) as error:
        raise FileError(f"{parts.folder}: the manifest is of another version of this program ({error})") from error
    left = [number for number in numbers if not parts.part(number).is_file()]
    if left:
        raise FileError(
            f"{parts.folder}: {len(left)} of {len(numbers)} chunks are not tagged yet; repeat the command that began"
        )
    thresholds = {flag: float(point["threshold"]) for flag, point in provenance["working_points"].items()}
    jets = tagged = 0
    for chunk in parts.read(numbers, names):
        jets += _jets_in(chunk[score])
        tagged += _jets_in(chunk[score]) - int(ak.sum(ak.is_none(chunk[score], axis=-1), axis=None))
    nullable = missing_scores or tagged < jets

    def flagged() -> Iterator[dict[str, Any]]:
        for chunk in parts.read(numbers, names):
            scores = chunk[score] if nullable else enforce(chunk[score], score_type(chunk[score], False))
            yield chunk | {score: scores} | flags_of(scores, thresholds)

    nulls = {} if output.suffix == ".parquet" else find_nulls(flagged(), [*names, *thresholds])
    try:
        write(
            output, (encode(chunk, nulls, output.suffix) for chunk in flagged()), tree, provenance, overwrite=overwrite
        )
    except FileError as error:
        error.add_note(
            f"all chunks are tagged and kept; `triton-fpga tag --finish {parts.folder} --out OTHER.parquet` writes "
            "them elsewhere or otherwise, without tagging anew"
        )
        raise
    parts.remove()
    return Summary(str(output), entries, jets, tagged, resumed, provenance)


def _output_tree(name: str | None) -> str:
    """The input's tree, without the number of its cycle: `Events` of `Events;1`."""
    return (name or "").partition(";")[0] or "scores"


def provenance_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What an output says of itself: files with their events, tree, model, what answered, and its working points.

    Raises FileError where a flag has no threshold: then no jet was tagged.
    """
    job, answered = manifest["job"], manifest.get("answered", {})
    points = {}
    for flag, efficiency in job["flags"].items():
        threshold = answered.get(threshold_key(efficiency))
        if threshold is None:
            raise FileError(f"the threshold of the working point {efficiency:g} is not known yet")
        points[flag] = {
            "efficiency": efficiency, "threshold": float(threshold), "temperature": float(answered["temperature"]),
            "label": job["label"],
        }  # fmt: skip
    facts = zip(job["sources"], job["entries"], job["size"], job["modified_ns"], strict=True)
    return {
        "sources": [dict(zip(("file", "events", "size", "modified_ns"), one, strict=True)) for one in facts],
        "tree": job["tree"], "model": job["model"], "score": job["score"],
        "label": job["label"],
        "answered": {key: value for key, value in answered.items() if not key.startswith("threshold ")},
        "answered_by": manifest.get("answered_by", []), "working_points": points,
    }  # fmt: skip


def threshold_key(efficiency: float) -> str:
    """What a working point's threshold is called among what answered."""
    return f"threshold {efficiency:g}"


def flags_of(scores: Any, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Whether each score is above a threshold, missing where the score is.

    Compared in double precision: a threshold rounded to the scores' float32 could move across a score.
    """
    exact = ak.values_astype(scores, np.float64)
    return {name: exact > np.float64(threshold) for name, threshold in thresholds.items()}


def score_type(scores: Any, nullable: bool) -> str:
    """The type of scores of the structure of others."""
    return "var * " * (int(scores.ndim) - 1) + ("?" if nullable else "") + "float32"


def _jets_in(scores: Any) -> int:
    return len(scores) if scores.ndim == 1 else int(ak.sum(ak.num(scores, axis=-1)))


def check_output(job: Job, plan: Plan, parts: Parts) -> None:
    """Write the first events as if they were tagged: what the output cannot hold comes out before a jet is sent."""
    suffix = job.output.suffix
    first = plan.chunks[0]
    with open_source(first.file.location, plan.tree or None) as source:
        sample = read_chunk(plan, source, type(first)(first.file, 0, min(SAMPLE, first.stop)))
    kept = ak.to_packed(sample[list(plan.keep)]).nbytes if plan.keep else 0
    if kept > _TRIAL_BYTES:  # images, say
        sample = sample[: max(2, len(sample) * _TRIAL_BYTES // kept)]
    jets = judge(plan.reading.assemble(sample), job.choice)
    shape = ak.num(jets.jets, axis=-1)
    scores = enforce(ak.values_astype(ak.fill_none(shape, 0, axis=-1), np.float32), score_type(shape, False))
    chunk = {name: sample[name] for name in plan.keep} | dict(jets.columns) | {job.score: scores}
    with readable(f"{first.file.location}: what is kept of it cannot be stored"):
        stored = parts.stored(0, chunk)
        check_back(chunk, read_stored(stored, list(chunk)))
        stored.unlink()
    chunk |= flags_of(scores, dict.fromkeys(job.flags, 0.5))
    nullable = [name for name in plan.keep if "?" in str(sample[name].type) or "option[" in str(sample[name].type)]
    nulls = {}
    if nullable and suffix != ".parquet":  # whether there are nulls at all, only the whole input tells
        nulls = find_nulls(_kept(plan, nullable), nullable)
    try_out(parts.folder / f"trial{suffix}", encode(chunk, nulls, suffix), _output_tree(plan.tree))


def _kept(plan: Plan, columns: list[str]) -> Iterator[Any]:
    for file in plan.files:
        with open_source(file.location, plan.tree or None) as source:
            for chunk in (one for one in plan.chunks if one.file == file):
                with readable(f"{file.location}: the branches to keep cannot be read"):
                    yield source.read(columns, chunk.start, chunk.stop)
