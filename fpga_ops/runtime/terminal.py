"""Where commands print their tables: as wide as the terminal, and wide enough to break no name where there is none."""

from __future__ import annotations

import os

from rich.console import Console

PIPED_WIDTH = 240
"""Columns where the output is a pipe or a file; rich takes 80, and breaks names to keep to them."""


def console(*, stderr: bool = False) -> Console:
    """A console for tables; `COLUMNS` sets another width, as everywhere."""
    made = Console(stderr=stderr)
    if not made.is_terminal and not os.environ.get("COLUMNS"):
        made.width = PIPED_WIDTH
    return made
