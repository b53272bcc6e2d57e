"""The finished chunks of a job, in a folder beside its output, until all are there.

`manifest.json` says what job they are of, and which version of the model answered; the folder belongs to one process at
a time. A chunk is written under another name and renamed when it is whole and its version is the job's.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import awkward as ak

from sonic_client.errors import ClientError, FileError
from sonic_client.events.files import readable
from sonic_client.events.output import Chunk, arrow_table

_MANIFEST = "manifest.json"
_LOCK = "lock"
_OURS = re.compile(r"lock|manifest\.json(\.tmp)?|\d{6,}\.(parquet|tmp)|trial\.\w+")
"""Names of what is in the folder."""


class VersionError(ClientError):
    """Another version of the model answers than the one that the job began with."""


class Parts:
    """The parts of one job; a context manager, inside which no other process can have them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = -1
        self._kernels: set[str] | None = None
        """Of an earlier run, until one of them answers again."""

    def __enter__(self) -> Self:
        """Take the folder, or make it. Raises FileError if another process has it, or it cannot be made."""
        path = self.folder / _LOCK
        while True:
            try:
                self.folder.mkdir(exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise FileError(f"{self.folder}: the folder of finished chunks cannot be made ({error})") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                raise FileError(f"{self.folder} is in use by {holder}: two jobs cannot write one output") from None
            except OSError as error:
                os.close(descriptor)
                raise FileError(
                    f"{path} cannot be locked ({error.strerror}); choose an output on another disc"
                ) from error
            except BaseException:
                os.close(descriptor)
                raise
            # Whoever had it before may have removed it just now.
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._lock = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        if not (self.folder / _MANIFEST).exists() and {one.name for one in self._files()} <= {_LOCK}:
            self.remove()  # nothing was ever begun
        os.close(self._lock)

    def _files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []

    def forget(self) -> None:
        """Remove everything but the lock. Raises FileError, and removes nothing, where there is what is not ours."""
        files = self._files()
        strange = sorted(file.name for file in files if not _OURS.fullmatch(file.name))
        if strange:
            raise FileError(
                f"{self.folder} holds {', '.join(strange[:4])}, no finished chunks: move that away, or choose another "
                "output"
            )
        for file in files:
            if file.name != _LOCK:
                file.unlink()

    def remove(self) -> None:
        """Remove the folder, as far as it is ours."""
        with suppress(OSError):
            for file in self._files():
                if _OURS.fullmatch(file.name):
                    file.unlink()
            self.folder.rmdir()

    # ---- the manifest

    @property
    def manifest(self) -> dict[str, Any]:
        """What is written about the job; empty for a job that is new. Raises FileError if it cannot be read."""
        path = self.folder / _MANIFEST
        if not path.is_file():
            return {}
        try:
            manifest = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FileError(f"{path} cannot be read ({error}); begin anew with --overwrite") from error
        if not isinstance(manifest, dict):
            raise FileError(f"{path} is no manifest; begin anew with --overwrite")
        return manifest

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest, which is at any time the old one or the new one."""
        temporary = self.folder / f"{_MANIFEST}.tmp"
        manifest = json.dumps(self.manifest | facts, indent=2) + "\n"
        try:
            temporary.write_text(manifest)
            temporary.replace(self.folder / _MANIFEST)
        except OSError as error:
            raise FileError(f"{self.folder}: the manifest cannot be written ({error.strerror or error})") from error

    def begin(self, job: Mapping[str, Any]) -> None:
        """Note a new job, or check that the parts that are there are of the same one. Raises FileError.

        A run that finished no chunk left nothing to keep.
        """
        there = self.manifest.get("job")
        if there is None or not any(file.suffix == ".parquet" for file in self._files()):
            self.forget()
            self.note(job=dict(job))
            return
        job = json.loads(json.dumps(job))
        different = sorted(key for key in {*job, *there} if there.get(key) != job.get(key))
        if different:
            raise FileError(
                f"{self.folder} holds an unfinished run with other {', '.join(different)}; "
                "repeat that command, or begin anew with --overwrite"
            )

    def check_answered(self, answered: Mapping[str, str], any_version: bool) -> None:
        """Note what answered, or compare with what did before. Raises VersionError."""
        before: dict[str, str] = self.manifest.get("answered", {})
        different = [key for key in answered if key in before and before[key] != answered[key]]
        if different and not any_version:
            words = ", ".join(f"{key} {before[key]} then, {answered[key]} now" for key in different)
            raise VersionError(
                f"{self.folder}: another model answers than the one that the finished chunks are of ({words}). Name "
                "the version in the server's URL (.../model/VERSION), begin anew with --overwrite, or mix them with "
                "--any-version"
            )
        if any(before.get(key) != value for key, value in answered.items()):
            self.note(answered=before | dict(answered))

    def check_kernels(self, answered_by: Iterable[Mapping[str, str]], any_version: bool) -> None:
        """Note which devices and kernels gave a chunk. Within a run another device may take over, with the same bits.

        Raises:
            VersionError: None of an earlier run answers any more.
        """
        noted: list[dict[str, str]] = self.manifest.get("answered_by", [])
        if self._kernels is None:
            self._kernels = {one["kernel"] for one in noted if "kernel" in one}
        answered_by = [dict(by) for by in answered_by]
        kernels = {by["kernel"] for by in answered_by if "kernel" in by}
        if self._kernels and kernels and not any_version:
            if not kernels & self._kernels:
                now, then = (", ".join(sorted(names)) for names in (kernels, self._kernels))
                raise VersionError(
                    f"{self.folder}: another kernel answers ({now}) than the finished chunks are of ({then}); begin "
                    "anew with --overwrite, or mix them with --any-version"
                )
            self._kernels = set()
        new = [by for number, by in enumerate(answered_by) if by not in noted and by not in answered_by[:number]]
        if new:
            self.note(answered_by=[*noted, *new])

    # ---- the parts

    def part(self, number: int) -> Path:
        """Where a chunk is when it is finished."""
        return self.folder / f"{number:06d}.parquet"

    def stored(self, number: int, chunk: Chunk) -> Path:
        """Write a chunk under another name. Columns are numbered: their names are in the manifest."""
        import pyarrow.parquet as pq

        temporary = self.part(number).with_suffix(".tmp")
        table = arrow_table({f"c{i}": values for i, values in enumerate(chunk.values())})
        pq.write_table(table.replace_schema_metadata(None), temporary, write_page_checksum=True)
        return temporary

    def damaged(self, number: int, rows: int) -> bool:
        """Whether a finished chunk cannot be read any more, as after a power failure; its file goes then."""
        try:
            columns = read_part(self.part(number), ["c0"])
            if len(columns["c0"]) == rows:
                return False
        except FileError:
            pass
        self.part(number).unlink()
        return True

    def commit(self, number: int) -> None:
        """Call a stored chunk finished."""
        self.part(number).with_suffix(".tmp").replace(self.part(number))

    def read(self, numbers: Sequence[int], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The chunks, in order."""
        return (read_part(self.part(number), names) for number in numbers)


def read_part(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The columns of one stored chunk. Raises FileError for a damaged one."""
    with readable(f"{path} is damaged; the command that began the job makes it again"):
        return read_stored(path, names)


def read_stored(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The same; raises what pyarrow raises."""
    import pyarrow.parquet as pq

    rows = ak.from_arrow(pq.read_table(path, memory_map=False, page_checksum_verification=True))
    return {name: rows[f"c{i}"] for i, name in enumerate(names)}
