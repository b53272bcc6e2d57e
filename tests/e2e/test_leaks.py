"""Half a minute of everything: memory, descriptors, threads and shared memory stay where they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import serving, write_model
from tests.e2e.soak import growth, soak

pytestmark = pytest.mark.server

MORE = "max_batch_size: 8"


def test_nothing_grows(tmp_path: Path, tiny_onnx: Path) -> None:
    repository = tmp_path / "models"
    for name in ("tiny", "other"):
        write_model(repository, name, tiny_onnx, more=MORE)
    with serving(repository) as service:
        soak(service, 8.0)  # allocators reach their working size
        grown = growth(soak(service, 25.0))
    assert grown["memory"] < 24 << 20
    assert grown["descriptors"] <= 4
    assert grown["threads"] <= 4
    assert grown["shared"] <= 2 << 20


def test_crashes_leave_nothing(tmp_path: Path, tiny_onnx: Path) -> None:
    repository = tmp_path / "models"
    for name in ("tiny", "other"):
        write_model(repository, name, tiny_onnx, more=MORE)
    with serving(repository) as service:
        grown = growth(soak(service, 25.0, crash_every_s=6.0))
    assert grown["descriptors"] <= 4
    assert grown["threads"] <= 4
    assert grown["shared"] <= 2 << 20
