"""What commands print: tables as wide as the terminal, or wide enough to break no name, and nothing of C++ on top."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

PIPED_WIDTH = 240
"""Columns where the output is a pipe or a file; rich takes 80, and breaks names to keep to them."""


def console(*, stderr: bool = False) -> Console:
    """A console for tables; `COLUMNS` sets another width, as everywhere."""
    made = Console(stderr=stderr)
    if not made.is_terminal and not os.environ.get("COLUMNS"):
        made.width = PIPED_WIDTH
    return made


@contextmanager
def standard_output_on_standard_error() -> Iterator[None]:
    """Also for what C++ writes, whose banner must not come where programs read: the descriptor itself is exchanged."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
