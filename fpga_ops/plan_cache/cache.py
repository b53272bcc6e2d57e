"""Plans kept on disc, so that a model that was served before is ready without being imported and packed again.

An entry holds the plan of the vector engine, packed weights included, and what else is served of the file. It is found
by the SHA-256 of the model's file, and carries that of any external data; only a file that was imported without an
error gets one. It is arrays, then JSON that says what they are, then a check sum over all: nothing in it is executed
or unpickled. One that is damaged, or was made by other code, for another device or of other bytes, is made again.
It is no safetensors file: those have no check sum, and put arrays at multiples of 8 bytes, where the kernels' memory
begins at pages; the classes' JSON, which is most of the code here, would remain.

What `read` needs is imported here; numpy, which takes as long to import as an entry to read, by those who use it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
import logging
import os
import struct
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpga_ops import model_file
from fpga_ops.errors import FpgaOpsError
from fpga_ops.runtime import opencl
from fpga_ops.runtime.cache_directory import cache_directory, write_atomically
from fpga_ops.runtime.memory import region

if TYPE_CHECKING:
    from fpga_ops.importer.onnx_reader import Origin
    from fpga_ops.model_parts import Contents
    from fpga_ops.vector.plan import Plan

KINDS = ("cpu", "gpu")
"""Kinds of device whose plans are kept."""
MOST_BYTES = 1 << 30
"""Of all entries together; the least recently used are removed."""

SETTINGS = ("FPGA_OPS_WORKERS", "FPGA_OPS_ISA")
"""Environment variables that the vector engine reads when it loads a network."""

_ENDING = struct.Struct("<16sQ32s")
"""A mark, the length of the JSON, the SHA-256 of all bytes before it."""
_MARK = b"fpga_ops plan 1\n"
_PAGE = 4096

log = logging.getLogger("fpga_ops")


@dataclass(frozen=True)
class Request:
    """What a network is loaded for, as far as it is known before a device is opened; a plan says the rest itself.

    Attributes:
        device: The name that was asked for; None for the best.
        max_batch: Most images in one call.
    """

    device: str | None
    max_batch: int

    @property
    def keeps(self) -> bool:
        """Whether there may be a plan."""
        return self.device is None or keeps(self.device)

    def path(self, folder: Path, model: str) -> Path:
        """Where the entry of a model is, by the SHA-256 of its file."""
        settings = [os.environ.get(name, "") for name in SETTINGS]
        parts = [_code(), model, self.device or "", str(self.max_batch), *settings, *sorted(opencl.cpu_flags())]
        return folder / f"plan-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:24]}.bin"


@dataclass(frozen=True)
class Entry:
    """A sound entry, read.

    Attributes:
        header: What its arrays are.
        memory: They.
    """

    header: Any
    memory: memoryview


def keeps(device: str) -> bool:
    """Whether plans are kept for a device of that name."""
    return device.partition(":")[0] in KINDS


@cache
def _code() -> str:
    """Names the code that makes and reads plans."""
    package = Path(str(importlib.resources.files("fpga_ops")))
    digest = hashlib.sha256()
    for path in sorted((*package.rglob("*.py"), *package.rglob("kernels/**/*"))):
        if path.is_file():
            digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def read(path: str | Path, request: Request, cache_dir: Path | None) -> Entry | None:
    """The entry of a model's file; None if there is none that is sound and of these very bytes."""
    try:
        file = Path(path)
        folder = cache_directory(cache_dir)
        place = request.path(folder, model_file.sha256(model_file.read_model_file(file)))
        if not place.is_file():
            return None
    except (FpgaOpsError, OSError):
        return None  # the import says what is wrong with the file
    try:
        entry = _read_entry(place)
        sound = all(model_file.unchanged(file, model_file.Piece(**piece)) for piece in entry.header["external"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.info("the kept plan %s is damaged and is made again (%s)", place.name, error)
        return None
    if not sound:
        log.info("the kept plan %s is of other external data and is made again", place.name)
        return None
    with contextlib.suppress(OSError):  # a read-only cache
        os.utime(place)
    return entry


def _read_entry(place: Path) -> Entry:
    with place.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size < _ENDING.size:
            raise ValueError("it is truncated")
        memory = region(size)
        filled = 0
        while filled < size:
            count = stream.readinto(memory[filled:])
            if not count:
                raise ValueError("it is truncated")
            filled += count
    mark, length, digest = _ENDING.unpack(memory[-_ENDING.size :])
    # the size of a digest is counted off: it cannot cover itself
    if mark != _MARK or hashlib.sha256(memory[: -len(digest)]).digest() != digest:
        raise ValueError("its check sum is wrong")
    header = json.loads(bytes(memory[size - _ENDING.size - length : size - _ENDING.size]))
    if header["entry"] != place.name:
        raise ValueError("it is another entry under this name")
    return Entry(header, memory)


def restored(entry: Entry) -> tuple[Contents, Plan] | None:
    """What an entry holds; None if it is none that this code wrote."""
    from fpga_ops.model_parts import Contents
    from fpga_ops.plan_cache import serialise
    from fpga_ops.vector.plan import Plan

    try:
        contents = serialise.decode(entry.header["contents"], entry.memory)
        plan = serialise.decode(entry.header["plan"], entry.memory)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        log.info("a kept plan cannot be read and is made again (%s)", error)
        return None
    return (contents, plan) if isinstance(contents, Contents) and isinstance(plan, Plan) else None


def write(origin: Origin, request: Request, cache_dir: Path | None, contents: Contents, plan: Plan) -> None:
    """Keep a plan. Where it cannot be written, it is made again next time."""
    from fpga_ops.plan_cache import serialise

    folder = cache_directory(cache_dir)
    place = request.path(folder, origin.sha256)
    arrays = serialise.Arrays(_PAGE)
    header = {
        "entry": place.name,
        "external": [asdict(piece) for piece in origin.external],
        "contents": serialise.encode(contents, arrays),
        "plan": serialise.encode(plan, arrays),
    }
    text = json.dumps(header).encode()
    chunks = [*arrays.chunks, text, _ENDING.pack(_MARK, len(text), b"")[:-32]]
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    _make_room(folder, sum(len(chunk) for chunk in chunks))
    write_atomically(place, *chunks, digest.digest())


def _make_room(folder: Path, size: int) -> None:
    """Remove the entries that were not used for the longest time, until one of that size may come."""
    with contextlib.suppress(OSError):  # another process does the same
        # what a process left half-written when it was killed is among them
        entries = [(path, path.stat()) for path in folder.glob("plan-*")]
        room = MOST_BYTES - size
        for path, status in sorted(entries, key=lambda pair: -pair[1].st_mtime):
            room -= status.st_size
            if room < 0:
                path.unlink(missing_ok=True)
