"""A token that was once good."""

from __future__ import annotations

import runpy
from pathlib import Path

CREDENTIALS = Path(__file__).parents[2] / "docker" / "credentials.py"


def expired_token(secrets: Path) -> str:
    """Of yesterday, by the keys in a folder; `credentials.py token` makes none that is not good now."""
    made: str = runpy.run_path(str(CREDENTIALS))["token"](secrets, "alice", -1.0)
    return made
