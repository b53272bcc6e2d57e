"""What earlier releases called a module can still be imported, with a warning that names the new place."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

import fpga_ops.old_paths
import retrain.old_paths
import sonic_client.old_paths
import triton_server.old_paths

TABLES = (fpga_ops.old_paths, triton_server.old_paths, sonic_client.old_paths, retrain.old_paths)
MOVED = {old: new for table in TABLES for old, new in table.MOVED.items()}
NEEDS_TRAINING = {new for new in MOVED.values() if new.startswith("retrain.")}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_each_new_name_is_there_and_no_module_has_the_old_one(old: str, new: str) -> None:
    assert find_spec(new) is not None
    package, *rest = old.split(".")
    for folder in importlib.import_module(package).__path__:
        assert not Path(folder, *rest).with_suffix(".py").exists()
        assert not Path(folder, *rest, "__init__.py").exists()


@pytest.mark.parametrize("old", sorted(old for old, new in MOVED.items() if new not in NEEDS_TRAINING))
def test_an_old_name_gives_the_module_of_the_new_one(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"'{old}' is now '{MOVED[old]}'") as caught:
        found = importlib.import_module(old)
    assert found is importlib.import_module(MOVED[old])
    assert found.__name__ == MOVED[old]
    assert found.__spec__ is not None
    assert found.__spec__.name == MOVED[old]
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sonic_client.transports.base", "sonic_client.core.transports.base"),
        ("fpga_ops.bench.machine", "triton_fpga_bench.machine"),
    ],
)
def test_a_module_below_a_package_that_moved_is_not_loaded_twice(old: str, new: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"'{old}' is now '{new}'"):
        found = importlib.import_module(old)
    assert found is importlib.import_module(new)
    with pytest.raises(ModuleNotFoundError), warnings.catch_warnings(action="ignore"):
        importlib.import_module(f"{old.rpartition('.')[0]}.nothing")


def test_the_warning_is_of_the_line_that_imports() -> None:
    sys.modules.pop("fpga_ops.reference", None)
    with pytest.warns(DeprecationWarning, match="release 0.3") as caught:
        from fpga_ops.reference import ReferenceExecutable
    assert caught[0].filename == __file__
    assert ReferenceExecutable is importlib.import_module("fpga_ops.ir.reference").ReferenceExecutable


def test_a_package_that_was_a_module_still_has_its_names() -> None:
    import triton_server.server
    import triton_server.supervisor

    with pytest.warns(DeprecationWarning, match=r"triton_server\.supervisor\.supervisor\.Supervisor"):
        assert triton_server.supervisor.Supervisor.__name__ == "Supervisor"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        triton_server.server.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("module", "name", "place"),
    [
        ("fpga_ops.devices", "board_list", "fpga_ops.commands.devices"),
        ("fpga_ops.devices", "run", "fpga_ops.commands.devices"),
        ("fpga_ops.network", "IntegerNetwork", "fpga_ops.ir.network"),
    ],
)
def test_what_moved_out_of_a_module_is_found_there(module: str, name: str, place: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"'{module}.{name}' is now '{place}.{name}'"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(place), name)


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError), warnings.catch_warnings():
        importlib.import_module("fpga_ops.nothing")
