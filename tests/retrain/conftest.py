"""Files whose every test needs the training extra are not collected without it; `make test-training` installs it."""

from __future__ import annotations

from importlib.util import find_spec

TORCH = [
    "test_training.py",
    "test_rounding.py",
    "test_notebooks.py",
    "test_own_network.py",
    "test_tutorial.py",
    "test_served_weights.py",
]

collect_ignore = TORCH if find_spec("torch") is None else []
