"""Every code block of the tutorials and how-tos runs, as the page has it, in a new folder with the checkout's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import EVERY_DAY, ROOT, USED, blocks, paragraphs
from tests.docs.running import read

NOTES = {"needs", "background until", "run by"}


@pytest.mark.parametrize("page", USED, ids=lambda page: page.stem)
def test_each_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        assert block.language in ("bash", "python", "text"), f"a block begins with {block.text[:40]!r}"
        assert block.notes.keys() <= NOTES, f"{page.name}: a note is none of {NOTES}: {block.notes}"
        assert block.notes.get("needs", "a server") == "a server"
        if test := block.notes.get("run by"):
            text = (ROOT / test).read_text()
            assert f'"{page.name}"' in text, f"{test} does not read {page.name}"
            assert f'"{test}"' in text, f"{test} does not say who it is"


@pytest.mark.parametrize("page", USED, ids=lambda page: page.stem)
def test_no_paragraph_is_long(page: Path) -> None:
    for paragraph in paragraphs(page):
        assert len(paragraph.split()) <= 90, paragraph


def runs_here(page: Path) -> bool:
    return any(block.run_by == EVERY_DAY for block in blocks(page))


@pytest.mark.server
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", list(filter(runs_here, USED)), ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    with read(page, tmp_path):
        pass
