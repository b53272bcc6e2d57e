"""A few seconds of everything: memory, descriptors, threads and shared memory stay where they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import COMPLETE, complete, serving, write_model
from tests.e2e.soak import growth, soak

pytestmark = pytest.mark.server


def test_nothing_grows(tmp_path: Path, tiny_onnx: Path) -> None:
    repository = tmp_path / "models"
    for name in ("tiny", "other"):
        write_model(repository, name, tiny_onnx, more=complete(tiny_onnx))
    with serving(repository, COMPLETE) as service:
        soak(service, 5.0)  # allocators reach their working size
        samples = soak(service, 16.0)
    assert len(samples) >= 5
    grown = growth(samples)
    assert grown["memory"] < 24 << 20
    assert grown["descriptors"] <= 4
    assert grown["threads"] <= 4
    assert grown["shared"] <= 2 << 20


def test_crashes_leave_nothing(tmp_path: Path, tiny_onnx: Path) -> None:
    repository = tmp_path / "models"
    for name in ("tiny", "other"):
        write_model(repository, name, tiny_onnx, more=complete(tiny_onnx))
    with serving(repository, COMPLETE) as service:
        samples = soak(service, 16.0, crash_every_s=4.0)
        assert service.restarts() >= 2
    grown = growth(samples)
    assert grown["descriptors"] <= 4
    assert grown["threads"] <= 4
    assert grown["shared"] <= 2 << 20
