"""The logs of measurements: dated, one table a page, its figures as JSON beside."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

LOGS = sorted((DOCS / "benchmarks").glob("*.md"))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line[1:-1].split("|")]


@pytest.mark.parametrize("page", LOGS, ids=lambda page: page.stem)
def test_a_log_has_a_date_and_one_table_with_its_json(page: Path) -> None:
    text = page.read_text()
    beginning, _, _ = text.partition("\n|")
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", beginning)
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) <= 1
    if not tables:
        return
    assert f"({page.stem}.json)" in text
    told = json.loads(page.with_suffix(".json").read_text())
    if "rows" in told:
        heading, _, *rows = map(cells, tables[0].splitlines())
        assert (told["columns"], told["rows"]) == (heading, rows)
        assert told["date"] in beginning
