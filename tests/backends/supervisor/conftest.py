"""Parts of the supervisor with a clock that the test sets."""

from __future__ import annotations

import numpy as np
import pytest

from triton_server.supervisor.models import ModelHealth, ModelTable
from triton_server.supervisor.probe import AskedInput, KnownAnswer
from triton_server.supervisor.restarts import Restarts


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def health(model: str = "tiny", version: str = "1", **facts: object) -> ModelHealth:
    known = KnownAnswer(model, version, (AskedInput("x", "FP32", np.zeros((1, 1), np.float32)),), "y", None)
    made = ModelHealth(known)
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def table(*healths: ModelHealth, clock: Clock | None = None) -> ModelTable:
    made = ModelTable(clock or Clock())
    made.replace({one.key: one for one in healths}, {}, {one.key for one in healths}, ())
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def restarts(clock: Clock) -> Restarts:
    """Of a server that is up."""
    made = Restarts(clock, clock)
    made.came_up()
    return made
