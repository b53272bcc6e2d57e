"""The tables that say which test covers what: every test that they name exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`((?:e2e|backends|clients|docker|docs|benchmarks|retrain|fpga_ops)/[\w/]+\.py)(?:::(\w+))?`")
LOOSE = re.compile(r"`(test_\w+?)(?:\.\.\.|`)")


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("page", "least"), [("contributing/test-map.md", 20), ("explanation/threat-model.md", 10)])
def test_every_test_that_is_named_exists(page: str, least: int) -> None:
    text = (ROOT / "docs" / page).read_text()
    named = NAMED.findall(text)
    assert len(named) >= least, "the table is there"
    for file, test in named:
        path = ROOT / "tests" / file
        assert path.is_file(), f"{page} names {file}"
        assert not test or test in functions(path), f"{page} names {file}::{test}"
    assert not LOOSE.findall(text), "each test is named with its file"


def test_every_end_to_end_test_is_in_the_table() -> None:
    named = {file for file, _ in NAMED.findall((ROOT / "docs" / "contributing" / "test-map.md").read_text())}
    assert {f"e2e/{path.name}" for path in (ROOT / "tests" / "e2e").glob("test_*.py")} <= named
