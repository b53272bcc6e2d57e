"""What goes wrong at an operator's: each with a message, a failing exit code or health check, and the rest still up."""

from __future__ import annotations

import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.conftest import COMPOSE, ROOT, Docker, Stack, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@pytest.fixture
def stack(docker: Docker, environment: dict[str, str]) -> Iterator[Stack]:
    """A stack of one replica that each test starts wrongly in its own way."""
    trial = Stack(docker, f"tfpga{os.getpid()}bad", {**environment, "REPLICAS": "1"})
    try:
        yield trial
    finally:
        trial.down()
    assert trial.leftovers() == []


def health(stack: Stack, service: str) -> str:
    return str(stack.state(stack.containers(service)[0])["Health"]["Status"])


@pytest.mark.parametrize(("mode", "message"), [(0o755, "no model in /seed"), (0o700, "cannot read /seed")])
def test_a_missing_or_unreadable_repository(stack: Stack, tmp_path: Path, mode: int, message: str) -> None:
    source = tmp_path / "models"
    source.mkdir()
    source.chmod(mode)
    stack.env["MODEL_SOURCE"] = str(source)
    done = stack.up(check=False)
    assert done.returncode != 0
    assert message in stack.logs("seed")
    until(lambda: health(stack, "prometheus") == health(stack, "envoy") == "healthy", 60, "the others are up")


def test_a_port_in_use(stack: Stack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        overlay = tmp_path / "port.yaml"
        overlay.write_text(f'services: {{ envoy: {{ ports: !override ["127.0.0.1:{port}:8000"] }} }}\n')
        stack.files = (*COMPOSE, overlay)
        stack.compose("up", "-d", "--no-build", "--wait", "prometheus")
        done = stack.compose("up", "-d", "--no-build", "envoy", check=False)
    assert done.returncode != 0
    assert "address already in use" in done.stderr
    assert str(port) in done.stderr
    assert health(stack, "prometheus") == "healthy"


def test_a_replica_that_never_becomes_healthy(stack: Stack, tmp_path: Path) -> None:
    """A model file that is no model: the health check tells the reason, and a client that the model is not served."""
    model = tmp_path / "models" / "top_tagger"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.onnx").write_bytes(b"no model")
    for name in ("config.pbtxt", "labels.txt"):
        shutil.copy(ROOT / "model_repository" / "top_tagger" / name, model)
    stack.env["MODEL_SOURCE"] = str(tmp_path / "models")
    stack.compose("up", "-d", "--no-build")

    def told() -> str:
        log = stack.state(stack.containers("server")[0])["Health"]["Log"]
        return "".join(entry["Output"] for entry in log)

    until(lambda: "top_tagger" in told() and "refused" in told(), 120, "the health check names the model")
    assert health(stack, "server") != "healthy"
    until(lambda: health(stack, "prometheus") == health(stack, "envoy") == "healthy", 60, "the others are up")
    url = f"http://{stack.address('envoy', 8000)}/v2/models/top_tagger/infer"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, data=b'{"inputs": []}', timeout=10)
    assert refused.value.code in (400, 404, 503)
    assert b"top_tagger" in refused.value.read()
