"""One real Triton server with tiny models for all tests of the client; one that answers at once for a file of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sonic_client import Client
from tests.clients.fake_server import FakeTriton, serving
from tests.clients.jets import LAYOUT_JETS
from tests.clients.models import write_repository
from triton_server import TritonServer


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def triton(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, auto_complete=None) as server:
        yield server


@pytest.fixture(scope="session")
def grpc_url(triton: TritonServer) -> str:
    return f"triton+grpc://{triton.grpc_url}"


@pytest.fixture(scope="session")
def http_url(triton: TritonServer) -> str:
    return f"triton+http://{triton.http_url}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeTriton()) as (_, address):
        yield f"grpc://{address}/top_tagger"


@pytest.fixture(scope="module")
def expected(url: str) -> np.ndarray:
    """Scores of `LAYOUT_JETS`."""
    with Client(url) as client:
        return np.asarray(client.tag(LAYOUT_JETS))
