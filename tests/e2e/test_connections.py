"""Clients that connect and say nothing: they cost at most a restart, where the system allows few open files."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.e2e.conftest import COMPLETE, Service, images, serving
from triton_server.supervisor.processes import open_files

pytestmark = pytest.mark.server

FILES = 600
"""What the service may open at most, connections among them."""
CONNECTIONS = 700


@pytest.fixture
def service(repository: Path) -> Iterator[Service]:
    with serving(repository, COMPLETE, under=["prlimit", f"--nofile={FILES // 2}:{FILES}"]) as started:
        yield started


@contextlib.contextmanager
def connections(url: str, count: int) -> Iterator[None]:
    """Hold so many."""
    address = urlsplit(url if "//" in url else f"//{url}")
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))
        yield


@pytest.mark.parametrize("port", ["http", "grpc", "metrics"])
def test_a_server_that_can_take_no_more_connections_is_restarted(service: Service, port: str) -> None:
    expected = service.infer("grpc", "tiny", images())
    with connections(service.urls[port], CONNECTIONS):
        service.wait_for(lambda: service.status()["restarts"])
        service.wait_ready()
        for kind in ("grpc", "http"):
            np.testing.assert_array_equal(service.infer(kind, "tiny", images()), expected)
    assert service.status()["restarts"] == {"full": 1}
    assert f"and may have {FILES}" in service.log.read_text(), "the limit is raised as far as it may be"


def test_the_health_end_point_answers_beside_idle_connections(service: Service) -> None:
    with connections(service.urls["health"], CONNECTIONS):
        for _ in range(5):
            assert service.get("/ready")[0] == 200
            assert open_files(service.process.pid) < FILES // 2
            time.sleep(0.2)
    assert not service.restarts()
