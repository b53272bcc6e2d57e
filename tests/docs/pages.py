"""The code blocks of a page, and what the comment before each says of it.

A block of tutorials and how-tos is `bash` or `python` and is run, by tests/docs/test_pages.py unless the comment on the
line before says more, or `text` and is output:

    <!-- needs: a server -->                  the shipped models are served at the ports that the page names
    <!-- background until: WORDS -->          a command that goes on; the next block runs when it has printed the words
    <!-- run by: tests/retrain/... -->        that test runs the block: it takes long, or more than `make test` has

Several are separated by " | ".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
USED = sorted([*(DOCS / "tutorials").glob("*.md"), *(DOCS / "how-to").glob("*.md")])
EVERY_DAY = "tests/docs/test_pages.py"
"""The test of the blocks that name none."""
_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One code block with the comment before it."""

    language: str
    text: str
    notes: dict[str, str]
    """What the comment says, by its first words."""

    @property
    def run_by(self) -> str:
        """The file of the test that runs it; empty for output."""
        return self.notes.get("run by", EVERY_DAY) if self.language in ("bash", "python") else ""


def blocks(page: Path) -> list[Block]:
    """The page's code blocks in order."""
    return [Block(m["language"], m["text"], _notes(m["note"] or "")) for m in _BLOCK.finditer(page.read_text())]


def _notes(text: str) -> dict[str, str]:
    parts = (part.partition(":") for part in text.split(" | ") if part)
    return {words.strip(): detail.strip() for words, _, detail in parts}


def paragraphs(page: Path) -> list[str]:
    """The page's running text: no code, tables, headings or lists' marks; a list's entry is a paragraph."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"\n\s*\n|\n(?=- |\d+\. )", text)
    return [part for part in parts if not part.lstrip().startswith(("|", "#", "<!--"))]
