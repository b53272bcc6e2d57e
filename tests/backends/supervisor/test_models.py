"""The table of models."""

from __future__ import annotations

import pytest

from tests.backends.supervisor.conftest import Clock, health, table
from triton_server.supervisor.models import FOR_GOOD, ModelState, ModelTable


@pytest.mark.parametrize(
    ("choice", "ready", "strictly", "degraded"),
    [("first", True, True, False), ("", True, True, False), ("spare", True, False, False), ("last", True, False, True)],
)
def test_the_last_resort_is_degraded_and_not_ready_under_a_strict_rule(
    choice: str, ready: bool, strictly: bool, degraded: bool
) -> None:
    models = table(health(state=ModelState.SERVING, choice=choice), health("other", state=ModelState.BUSY))
    assert models.ready() is ready
    assert models.ready(strict_device=True) is strictly
    assert {row["model"]: row["degraded"] for row in models.rows()} == {"tiny": degraded, "other": False}


@pytest.mark.parametrize("state", [s for s in ModelState if not s.serves])
def test_one_model_that_does_not_serve_is_enough(state: ModelState) -> None:
    assert not table(health(state=ModelState.SERVING), health("other", state=state)).ready()


def test_without_a_model_nothing_is_ready() -> None:
    assert not ModelTable().ready()


def test_a_quarantine_ends_with_its_time_or_with_new_files(clock: Clock) -> None:
    one = health(files=(("model.onnx", 1, 1),))
    models = table(one, clock=clock)
    models.quarantine(one, "it cannot be asked", clock.now + 60.0)
    assert models.refused == {"tiny": "it cannot be asked"}
    assert models.served == {"tiny"}
    assert models.in_quarantine(one.key, one.files)
    models.replace({one.key: one}, {}, {one.key}, ["tiny"])
    assert not models.supervised
    assert models.refused == {"tiny": "it cannot be asked"}, "it is told on"
    assert not models.in_quarantine(one.key, (("model.onnx", 1, 2),))
    models.quarantine(one, "it cannot be asked", clock.now + 60.0)
    clock.now += 61.0
    assert not models.in_quarantine(one.key, one.files)
    models.replace({one.key: one}, {}, {one.key}, ["tiny"])
    assert list(models.supervised) == [one.key]
    assert not models.refused


def test_what_was_unloaded_for_good_stays_so_until_somebody_loads_it(clock: Clock) -> None:
    one = health()
    models = table(one, clock=clock)
    models.quarantine(one, "it is wrong", FOR_GOOD)
    models.replace({}, {}, set(), ["tiny"])
    assert models.refused == {"tiny": "it is wrong"}
    assert not models.in_quarantine(one.key, one.files), "asked: it was loaded again"
    models.replace({one.key: one}, {}, {one.key}, ["tiny"])
    assert not models.refused
