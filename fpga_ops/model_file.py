"""The bytes of a model: those of its file, and of the pieces of other files that it names. Knows nothing of ONNX."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from fpga_ops.errors import ModelError

MAX_FILE_BYTES = 2**31 - 1
"""Largest file and largest total of external data: what protobuf itself can hold."""


@dataclass(frozen=True)
class Piece:
    """External data of a model.

    Attributes:
        location: File, relative to the model's folder.
        offset: First byte.
        length: Bytes.
        sha256: Of these bytes.
    """

    location: str
    offset: int
    length: int
    sha256: str


def sha256(content: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_model_file(file: Path) -> bytes:
    """The bytes of a model's file.

    Raises:
        ModelError: It is missing, unreadable, empty or too large.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{file} is not a regular file; the path of an .onnx file is expected")
        if status.st_size > MAX_FILE_BYTES:
            raise ModelError(f"{file} has {status.st_size} bytes; at most {MAX_FILE_BYTES} are read")
        if status.st_size == 0:
            raise ModelError(f"{file} is empty")
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"cannot read a file of that name: {error}") from error


def find_external(file: Path, location: str) -> Path | None:
    """The file that a model calls `location`; None if that leads out of the model's folder.

    A model may be a link, and so may be its data, as in a store of blobs or a mounted volume: data is looked for beside
    the name of the model, then beside the file that it leads to, and must really be in one of these two folders.

    Raises:
        OSError, ValueError: It is no name of a file.
    """
    if not location or Path(location).is_absolute():
        return None
    folders = dict.fromkeys((file.parent.resolve(), file.resolve().parent))
    targets = [(folder / location).resolve() for folder in folders]
    inside = [target for target in targets if any(target.is_relative_to(folder) for folder in folders)]
    return next((target for target in inside if target.is_file()), inside[0] if inside else None)


def read_piece(target: Path, offset: int, length: int) -> bytes:
    """Bytes of a file; fewer if it ends before."""
    with target.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def unchanged(file: Path, piece: Piece) -> bool:
    """Whether a piece of external data holds the bytes it did."""
    try:
        target = find_external(file, piece.location)
        return target is not None and sha256(read_piece(target, piece.offset, piece.length)) == piece.sha256
    except (OSError, ValueError):
        return False
