"""Where the real tritonserver is: the nvidia-pytriton wheel of this environment, or a system installation."""

import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from triton_server.errors import ServerNotFoundError

SYSTEM_ROOT = Path("/opt/tritonserver")
"""Where NVIDIA's containers keep the server; TRITON_SERVER_ROOT overrides it."""


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


def find_installation() -> Installation:
    """Find a server: TRITON_SERVER_ROOT if set, else the wheel in this environment, else /opt/tritonserver.

    Raises ServerNotFoundError, which says what was looked for and what to install.
    """
    root = os.environ.get("TRITON_SERVER_ROOT")
    if root:
        found = _from_root(Path(root), "system", stubs=None)
        if found is None:
            raise ServerNotFoundError(
                f"TRITON_SERVER_ROOT={root} holds no bin/tritonserver with backends/python; unset it or correct it"
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
        "no Triton server found: " + "; ".join(reasons) + '. Install it with: pip install ".[server]"'
    )


def check_numpy() -> None:
    """Refuse numpy 2 in the serving environment: this Triton's Python stub corrupts tensors silently with it."""
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        raise ServerNotFoundError("numpy is not installed here, and the fpga backend needs numpy < 2") from None
    if int(version.split(".")[0]) >= 2:
        raise ServerNotFoundError(
            f"the serving environment has numpy {version}; Triton's Python stub corrupts tensors silently with "
            'numpy 2. Expected numpy < 2: pip install "numpy<2" (a client may use numpy 2 in its own environment)'
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


def _from_root(root: Path, kind: str, stubs: Path | None) -> Installation | None:
    python = root / "backends" / "python"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    stub = (python if stubs is None else stubs / version) / "triton_python_backend_stub"
    binary = root / "bin" / "tritonserver"
    library = python / "libtriton_python.so"
    utils = python / "triton_python_backend_utils.py"
    if not all(path.is_file() for path in (binary, library, stub, utils)):
        return None
    libraries = [str(sysconfig.get_config_var("LIBDIR"))]
    wheel_libraries = root.parent.parent / "nvidia_pytriton.libs"
    if wheel_libraries.is_dir():
        libraries.append(str(wheel_libraries))
    if (root / "lib").is_dir():
        libraries.append(str(root / "lib"))
    return Installation(
        kind=kind,
        binary=binary,
        python_backend=library,
        stub=stub,
        utils=utils,
        caches=root / "caches",
        library_path=tuple(libraries),
    )
