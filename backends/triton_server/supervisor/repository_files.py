"""What of the files in a repository decides what is served."""

import contextlib
from pathlib import Path
from typing import TypeAlias

from triton_server.repository.admission import is_no_model

Files: TypeAlias = tuple[tuple[str, int, int], ...]
"""Path, size in bytes and time of change (ns) of each file."""


def fingerprints(repository: Path) -> dict[str, Files]:
    """By model: every file that decides what it serves."""
    found: dict[str, Files] = {}
    for model in sorted(repository.iterdir()):
        if is_no_model(model) or not model.is_dir():
            continue
        files = _facts(model, [model / "config.pbtxt", *model.glob("[0-9]*/*")])
        if files:
            found[model.name] = files
    return found


def version_files(version: Path) -> Files:
    """The same for one version."""
    return _facts(version, list(version.glob("*")))


def _facts(folder: Path, paths: list[Path]) -> Files:
    facts = []
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            status = path.stat()
            facts.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(facts)
