"""Where the real tritonserver is: the nvidia-pytriton wheel of this environment, or a system installation."""

import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from triton_server.errors import ServerNotFoundError
from triton_server.server.abilities import Abilities, Ability, look, python_of

ROOT_VARIABLE = "TRITON_SERVER_ROOT"
"""Environment variable with the folder of the Triton to serve with, before the one of this environment."""
SYSTEM_ROOT = Path("/opt/tritonserver")
"""Where NVIDIA's containers keep the server; TRITON_SERVER_ROOT overrides it."""
MOST_NAMES = 12
"""Names of a folder's content that an error holds."""


@dataclass(frozen=True)
class Installation:
    """The files of one Triton installation that a run directory is assembled from."""

    kind: str
    """"wheel" or "system"."""
    binary: Path
    python_backend: Path
    """libtriton_python.so"""
    stub: Path
    utils: Path
    """triton_python_backend_utils.py"""
    caches: Path
    library_path: tuple[str, ...]
    """Folders for LD_LIBRARY_PATH."""

    @cached_property
    def abilities(self) -> Abilities:
        """What this Triton can do."""
        return look({"binary": self.binary, "python_backend": self.python_backend, "stub": self.stub})


def find_installation() -> Installation:
    """Find a server: TRITON_SERVER_ROOT if set, else the wheel in this environment, else /opt/tritonserver.

    Raises ServerNotFoundError, which says what was looked for and what to install.
    """
    root = os.environ.get(ROOT_VARIABLE)
    if root:
        found = _from_root(Path(root), "system", stubs=None)
        if found is None:
            raise ServerNotFoundError(
                f"TRITON_SERVER_ROOT={root} is no Triton server with the Python backend: {_what_lies_in(Path(root))}. "
                "Correct it, or unset it to use the server of this environment"
            )
        return found
    reasons: list[str] = []
    wheel = _wheel_root()
    if wheel is None:
        reasons.append("the nvidia-pytriton wheel is not installed in this environment")
    else:
        found = _from_root(wheel, "wheel", stubs=wheel / "python_backend_stubs")
        if found is not None:
            return found
        reasons.append(
            f"the nvidia-pytriton wheel has no stub for Python {sys.version_info[0]}.{sys.version_info[1]} "
            f"(it has {', '.join(sorted(p.name for p in (wheel / 'python_backend_stubs').glob('3.*')))})"
        )
    found = _from_root(SYSTEM_ROOT, "system", stubs=None)
    if found is not None:
        return found
    reasons.append(f"there is no {SYSTEM_ROOT}/bin/tritonserver")
    raise ServerNotFoundError(
        f"no Triton server found: {'; '.join(reasons)}. Install it with: pip install 'triton-fpga[server]' (Python "
        f"3.11 or 3.12), or let {ROOT_VARIABLE} name one"
    )


def check_python(installation: Installation) -> None:
    """Refuse a stub that is built for another Python: it would start and then find none of our packages.

    Raises ServerNotFoundError. A stub that does not tell which Python it is for is let through.
    """
    try:
        expected = python_of(installation.stub)
    except (OSError, ValueError) as error:
        raise ServerNotFoundError(f"cannot read Triton's Python stub {installation.stub}: {error}") from error
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if expected not in (None, here):
        raise ServerNotFoundError(
            f"Triton's Python stub {installation.stub} is built for Python {expected}, and this is Python {here} "
            f"({sys.executable}): it would not find the packages that are installed here. Install triton-fpga with "
            f"Python {expected}, or use a Triton whose stub is built for Python {here}"
        )


def check_numpy(installation: Installation) -> None:
    """Refuse numpy 2 in the serving environment where Triton's Python stub corrupts tensors silently with it.

    Raises ServerNotFoundError.
    """
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        raise ServerNotFoundError("numpy is not installed here, and the fpga backend needs it") from None
    if int(version.split(".")[0]) >= 2 and Ability.NUMPY_2 not in installation.abilities:
        raise ServerNotFoundError(
            f"the serving environment has numpy {version}, with which the Python stub of this Triton "
            f"({installation.stub}) corrupts tensors silently: expected numpy < 2, or Triton 2.52 or later. "
            'pip install "numpy<2" (a client may use numpy 2 in its own environment)'
        )


def backend_folder() -> Path:
    """The folder of the plugin (the one with model.py) that belongs to this package."""
    here = Path(str(files("triton_server"))).resolve()
    for folder in (here.parent / "fpga", here / "backends" / "fpga"):
        if (folder / "model.py").is_file():
            return folder
    raise ServerNotFoundError(f"the fpga backend (fpga/model.py) is not beside {here}; reinstall the package")


def _wheel_root() -> Path | None:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent / "tritonserver"
    return root if (root / "bin" / "tritonserver").is_file() else None


def _parts(root: Path, stubs: Path | None) -> dict[str, Path]:
    """The files of a server at ``root``, whether they are there or not."""
    python = root / "backends" / "python"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return {
        "binary": root / "bin" / "tritonserver",
        "python_backend": python / "libtriton_python.so",
        "stub": (python if stubs is None else stubs / version) / "triton_python_backend_stub",
        "utils": python / "triton_python_backend_utils.py",
    }


def _what_lies_in(root: Path) -> str:
    """What a folder that should hold a server has of one, and what else."""
    try:
        listed = sorted(path.name for path in root.iterdir())
    except OSError as error:
        return f"it is no folder that can be read ({error.strerror})"
    parts = _parts(root, None).values()
    missing = ", ".join(str(path.relative_to(root)) for path in parts if not _is_file(path))
    there = ", ".join(str(path.relative_to(root)) for path in parts if _is_file(path)) or "none of the files of one"
    backends = root / "backends"
    try:
        if "python" not in (names := sorted(path.name for path in backends.iterdir())):
            there += f" (backends: {', '.join(names) or 'none'})"
    except FileNotFoundError:
        pass
    except OSError as error:
        there += f" (backends: {error.strerror})"
    shown = ", ".join(listed[:MOST_NAMES]) + (", ..." if len(listed) > MOST_NAMES else "")
    return f"it lacks {missing}; it has {there}, and in all holds: {shown or 'nothing'}"


def _is_file(path: Path) -> bool:
    """Whether it is a file that can be looked at; one in a folder of somebody else is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _from_root(root: Path, kind: str, stubs: Path | None) -> Installation | None:
    parts = _parts(root, stubs)
    if not all(_is_file(path) for path in parts.values()):
        return None
    libraries = [str(sysconfig.get_config_var("LIBDIR"))]
    wheel_libraries = root.parent.parent / "nvidia_pytriton.libs"
    if wheel_libraries.is_dir():
        libraries.append(str(wheel_libraries))
    if (root / "lib").is_dir():
        libraries.append(str(root / "lib"))
    return Installation(kind=kind, caches=root / "caches", library_path=tuple(libraries), **parts)
