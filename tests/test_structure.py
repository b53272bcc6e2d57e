"""The packages' modules import each other in one direction, wherever in a module the import stands."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".", "backends", "clients", "training", "benchmarks")
PACKAGES = ("fpga_ops", "triton_server", "sonic_client", "retrain", "triton_fpga_bench")


def modules() -> dict[str, Path]:
    """The file of each module by its dotted name."""
    found = {}
    for folder in FOLDERS:
        for package in PACKAGES:
            for path in (ROOT / folder / package).rglob("*.py"):
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ours that a file imports: at its top, in a function, or for types alone.

    A package's own `__init__` counts where a name of its is taken, not where a module below it is.
    """
    named = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= below & known.keys()
            if below - known.keys():
                named.add(node.module)
    return named & known.keys()


def test_there_is_no_circle_of_imports() -> None:
    known = modules()
    assert {name.partition(".")[0] for name in known} == set(PACKAGES)
    graph = {name: imports(path, known) for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("these import each other: " + " -> ".join(reversed(error.args[1])))
