"""The images' lock files hold what pyproject.toml asks for, in the versions of constraints.txt."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "docker" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lock"] = module
    spec.loader.exec_module(module)
    return module


lock = _load()


@pytest.mark.parametrize("name", [entry.name for entry in lock.LOCKS])
def test_a_lock_is_in_step(name: str) -> None:
    (entry,) = (entry for entry in lock.LOCKS if entry.name == name)
    text = (ROOT / "docker" / f"{name}.lock").read_text()
    assert lock.out_of_step(entry.wanted, lock.pinned(text), lock.constraints_of(entry)) == [], "run docker/lock.py"
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines
    assert all(" --hash=sha256:" in line for line in lines)


def test_a_lock_that_is_out_of_step_is_found() -> None:
    constraints = {"numpy": "1.26.4", "rich": "15.0.0"}
    wanted = ["numpy<2", "rich>=13", "intel-opencl-rt==2026.2.0; platform_system == 'Linux'", "h5py[mpi]>=3"]
    held = {"numpy": "1.26.4", "rich": "15.0.0", "intel-opencl-rt": "2026.2.0", "h5py": "3.16.0"}
    assert lock.out_of_step(wanted, held, constraints) == []
    assert lock.out_of_step(wanted, {**held, "numpy": "1.26.3"}, constraints) == ["numpy==1.26.4"]
    assert lock.out_of_step(wanted, {**held, "intel-opencl-rt": "2025.1"}, constraints) == [wanted[2]]
    assert lock.out_of_step([*wanted, "vector>=1.4"], held, constraints) == ["vector>=1.4"]


def test_names_are_compared_as_pip_does() -> None:
    assert lock.pinned("Awkward_cpp==57\nzope.event==6.2 # why\nnumpy==1.26.4 --hash=sha256:00\n# x==1\n") == {
        "awkward-cpp": "57",
        "zope-event": "6.2",
        "numpy": "1.26.4",
    }


def test_the_lock_for_nvidias_image_has_numpy_2_and_no_second_triton() -> None:
    held = lock.pinned((ROOT / "docker" / "server-py312.lock").read_text())
    assert held["numpy"].split(".")[0] == "2"
    assert "nvidia-pytriton" not in held
    assert lock.pinned((ROOT / "docker" / "server-py311.lock").read_text())["numpy"].startswith("1.26.")
