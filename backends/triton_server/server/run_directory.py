"""The run directory: the folder layout Triton wants, assembled at start so that git keeps only the plugin."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from triton_server.server.installation import Installation


def is_plain(path: str | Path) -> bool:
    """Whether a shell takes a path for what it is. Triton starts its stubs through one, and quotes nothing."""
    return re.fullmatch(r"[A-Za-z0-9_./,=:@%+~-]+", str(path)) is not None


def plain_path(run: Path, repository: Path) -> Path:
    """A path of the repository that Triton can take: its own, or a link in the run directory.

    A space or quote in it breaks the command line of a stub; letters beyond ASCII break where the locale is C.
    """
    if is_plain(repository):
        return repository
    link = run / "models"
    link.symlink_to(repository, target_is_directory=True)
    return link


def assemble(run: Path, installation: Installation, backend: Path, packages: Iterable[Path] = ()) -> Path:
    """Lay out ``<run>/backends/{python,fpga}`` and return the ``backends`` folder.

    libtriton_python.so must be a real file, since Triton refuses one that resolves outside the backend directory: it is
    hard-linked, or copied where the file system does not allow that. The stub is a symbolic link, because its RPATH is
    relative to where it really lies. The stub ignores PYTHONPATH but searches its own folder, so ``packages`` are
    linked there: it imports the very code that started it, installed or not.
    """
    backends = run / "backends"
    python = backends / "python"
    python.mkdir(parents=True, exist_ok=True)
    library = python / "libtriton_python.so"
    try:
        os.link(installation.python_backend, library)
    except OSError:
        shutil.copy2(installation.python_backend, library)
    (python / "triton_python_backend_stub").symlink_to(installation.stub)
    (python / "triton_python_backend_utils.py").symlink_to(installation.utils)
    for package in packages:
        (python / package.name).symlink_to(package, target_is_directory=True)
    (backends / "fpga").symlink_to(backend, target_is_directory=True)
    return backends
