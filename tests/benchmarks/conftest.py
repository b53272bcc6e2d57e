"""The repository with tiny models that the client's tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.models import write_repository


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("models"))
