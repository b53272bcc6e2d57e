"""What is said once in a process."""

from __future__ import annotations

import logging
from functools import cache


@cache
def warn_once(message: str) -> None:
    """Log a warning of the engine, unless this process has."""
    logging.getLogger("fpga_ops").warning("%s", message)
